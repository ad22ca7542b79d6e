"""Muon for the matrices of a decoder, AdamW for the rest, as one optimiser."""

from __future__ import annotations

import copy

import pytest
import torch

from italic.train.tuning.optimizer import Both, Muon, optimizer
from tiny_decoders import decoder

RATE = 1e-3
OTHERS = ("embed", "wte", "wpe", "lm_head", "norm", "ln_", "bias")


def stepped(network, opt, seed, steps=3):
    """After some steps along random gradients."""
    luck = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        for p in network.parameters():
            p.grad = torch.randn(p.shape, generator=luck)
        opt.step()
        opt.zero_grad()
    return [p.detach().clone() for p in network.parameters()]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_embeddings_norms_and_biases_are_not_muons(kind):
    network = decoder(kind)
    names = {id(p): name for name, p in network.named_parameters()}
    both = optimizer(network, RATE, half=False)
    muon, adam = ([names[id(p)] for p in group["params"]] for group in both.param_groups)
    assert sorted(muon + adam) == sorted(names.values())
    assert muon
    assert not any(part in name for part in OTHERS for name in muon)
    assert all(any(part in name for part in OTHERS) for name in adam)


def test_a_step_has_the_directions_of_the_gradient_and_adamws_size():
    """All singular values of a step are about alike, and its root mean square is 0.2 of the rate, as AdamW's is."""
    network = decoder("llama")
    matrix = next(p for p in network.parameters() if p.ndim == 2 and p.shape[0] != p.shape[1] and p.shape[0] < 200)
    before = matrix.detach().clone()
    luck = torch.Generator().manual_seed(0)
    for p in network.parameters():
        p.grad = torch.randn(p.shape, generator=luck)
    gradient = matrix.grad.clone()
    optimizer(network, RATE, half=False).step()
    step = before - matrix.detach()
    u, s, v = torch.linalg.svd(gradient, full_matrices=False)
    assert s.max() / s.min() > 1.5
    turned = u.T @ step @ v.T
    heights = turned.diagonal()
    assert heights.min() > 0.5 * heights.max()
    assert (turned - torch.diag(heights)).abs().max() < 0.1 * heights.max()
    assert float(step.square().mean().sqrt()) == pytest.approx(0.2 * RATE, rel=0.2)


def test_what_it_remembers_is_all_that_it_needs():
    one, other = decoder("llama"), decoder("llama")
    first = optimizer(one, RATE, half=False)
    stepped(one, first, seed=1)
    state = copy.deepcopy(first.state_dict())
    other.load_state_dict(one.state_dict())
    second = optimizer(other, RATE, half=False)
    second.load_state_dict(state)
    for group in second.param_groups:
        group["lr"] = RATE / 2
    for group in first.param_groups:
        group["lr"] = RATE / 2
    forgetful = copy.deepcopy(other)
    expected = stepped(one, first, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(expected, stepped(other, second, seed=2), strict=True))
    fresh = optimizer(forgetful, RATE / 2, half=False)
    assert not all(torch.equal(a, b) for a, b in zip(expected, stepped(forgetful, fresh, seed=2), strict=True))


def test_a_schedule_reaches_all_parts():
    network = decoder("llama")
    both = optimizer(network, RATE, half=False)
    assert isinstance(both, Both)
    schedule = torch.optim.lr_scheduler.LambdaLR(both, lambda step: 0.0)
    assert schedule.get_last_lr() == [0.0, 0.0]
    before = [p.detach().clone() for p in network.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, stepped(network, both, seed=3), strict=True))


def test_it_is_pytorchs_muon_but_for_bfloat16():
    """Three steps of both on the same gradients, of a wide, a tall and a square matrix."""
    shapes, luck = ((8, 24), (24, 8), (16, 16)), torch.Generator().manual_seed(4)
    ours, theirs = ([torch.nn.Parameter(torch.zeros(shape)) for shape in shapes] for _ in range(2))
    options = {"weight_decay": 0.0, "momentum": 0.9, "adjust_lr_fn": "match_rms_adamw"}
    steppers = Muon(ours, RATE, half=False), torch.optim.Muon(theirs, lr=RATE, **options)
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn(one.shape, generator=luck)
            other.grad = one.grad.clone()
        for stepper in steppers:
            stepper.step()
    for one, other in zip(ours, theirs, strict=True):
        assert (one - other).detach().norm() < 0.03 * other.detach().norm()
