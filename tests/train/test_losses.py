from __future__ import annotations

import numpy as np
import pytest
import torch

from italic.laws.inference_aware import exponential, identity, log
from italic.laws.procedures import plain
from italic.train.tuning.losses import SFT_WEIGHT, Batch, bonbon_loss, qrpo_loss, tilting_loss
from italic.train.tuning.objective import Objective

LETTERS, BETA = 3, 0.7
RUNS, ROWS = 200, 512


def table(seed):
    """A policy over three responses of the first token 0, which ends, and nine of two tokens: logits of both steps."""
    noise = torch.Generator().manual_seed(seed)
    return torch.randn(LETTERS, generator=noise), torch.randn(LETTERS, LETTERS, generator=noise)


def laws(logits, first):
    """[B, 2, V]: the laws of the first token, and of the second after each first."""
    start, after = logits
    return torch.stack([start.log_softmax(0).expand(len(first), -1), after.log_softmax(1)[first]], dim=1)


def objective(logits, known, worth, prefix=True):
    """E[worth] - beta KL exactly; without `prefix` the second state's law is taken as given in the divergence."""
    start, after = logits[0].log_softmax(0), logits[1].log_softmax(1)
    start_known, after_known = known[0].log_softmax(0), known[1].log_softmax(1)
    joint = start.exp()[:, None] * after.exp()
    gained = (joint * worth).sum()
    going = start.exp() if prefix else start.exp().detach()
    later = (after.exp() * (after - after_known)).sum(1)
    return gained - BETA * ((start.exp() * (start - start_known)).sum() + going[1:] @ later[1:])


def estimates(logits, known, worth):
    """Gradients of the loss on batches of the policy's own rollouts: float64 [runs, parameters]."""
    noise = torch.Generator().manual_seed(5)
    found = []
    for _ in range(RUNS):
        free = [part.clone().requires_grad_() for part in logits]
        with torch.no_grad():
            first = torch.multinomial(logits[0].softmax(0), ROWS, replacement=True, generator=noise)
            second = torch.multinomial(logits[1].softmax(1)[first], 1, generator=noise)[:, 0]
        mask = torch.stack([torch.ones(ROWS), (first > 0).float()], dim=1)
        value = torch.where(first > 0, worth[first, second], worth[0, 0])
        others = (value.sum() - value) / (ROWS - 1)
        drawn = torch.stack([first, second], dim=1)
        loss, _ = tilting_loss(laws(free, first), laws(known, first), Batch(drawn, mask, value - others), BETA)
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, free)]).double().numpy())
    return np.array(found)


def worth_of(seed):
    worth = torch.randn(LETTERS, LETTERS, generator=torch.Generator().manual_seed(seed))
    worth[0] = worth[0, 0]
    return worth


def exact(logits, known, worth, prefix=True):
    free = [part.clone().requires_grad_() for part in logits]
    wanted = objective(free, known, worth, prefix)
    return torch.cat([-g.flatten() for g in torch.autograd.grad(wanted, free)]).double().numpy()


def test_the_gradient_is_that_of_the_objective() -> None:
    logits, known, worth = table(1), table(2), worth_of(3)
    found = estimates(logits, known, worth)
    error = found.std(axis=0, ddof=1) / np.sqrt(RUNS) + 1e-7
    right = exact(logits, known, worth)
    assert np.abs((found.mean(axis=0) - right) / error).max() < 4
    short = exact(logits, known, worth, prefix=False)
    assert np.abs((found.mean(axis=0) - short) / error).max() > 10


def test_the_divergence_is_exact() -> None:
    logits, known = table(1), table(2)
    first = torch.tensor([0, 1, 2])
    mask = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    drawn = torch.stack([first, torch.zeros(3, dtype=torch.long)], dim=1)
    batch = Batch(drawn, mask, torch.zeros(3))
    _, divergence = tilting_loss(laws(logits, first), laws(known, first), batch, 1.0)
    by_hand = []
    for row in range(3):
        steps = [(logits[0], known[0]), (logits[1][row], known[1][row])][: 1 + (row > 0)]
        by_hand.append(sum(float((a.softmax(0) * (a.log_softmax(0) - b.log_softmax(0))).sum()) for a, b in steps))
    assert divergence.tolist() == pytest.approx(by_hand, abs=1e-6)


def test_nothing_is_to_be_gained_at_the_reference_without_worth() -> None:
    found = estimates(table(1), table(1), torch.zeros(LETTERS, LETTERS))
    assert np.abs(found).max() < 1e-6


@pytest.mark.parametrize("transform", [identity(), log(), exponential(5.0)], ids=lambda t: t.name)
def test_qrpo_is_at_rest_where_the_policy_is_the_tilt(transform) -> None:
    """Of references that stand evenly, each beside the others, the tilt's log-ratios are what the loss asks for."""
    aim = Objective("", transform, 0.3, 1.0, False, plain())
    rewards = np.random.default_rng(0).normal(size=12)
    worth = torch.from_numpy(aim.own(rewards))
    weights = torch.exp(worth / aim.beta)
    ratios = torch.log(weights / weights.mean())
    loss = qrpo_loss(aim.beta, aim.log_z(11))
    assert float(loss(ratios[None], ratios[None], worth[None])) == pytest.approx(0, abs=1e-12)
    assert float(loss(ratios[None] + 0.1, ratios[None], worth[None])) == pytest.approx(0.01, abs=1e-9)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_bonbon_aims_at_what_best_of_n_makes_of_the_log_ratio(n) -> None:
    """log(BoN / p) at quantile u is log n + (n - 1) log u; the mean over the best less the mean over the worst."""
    u = (np.arange(2_000_000) + 0.5) / 2_000_000
    ratio = np.log(n) + (n - 1) * np.log(u)
    margin = float(np.mean(ratio * n * u ** (n - 1)) - np.mean(ratio * n * (1 - u) ** (n - 1)))
    worth = torch.arange(n, dtype=torch.float64)[None]
    ratios = torch.full((1, n), 7.0, dtype=torch.float64)  # those in the middle do not matter
    ratios[0, -1], ratios[0, 0] = margin, 0.0
    logps = torch.full((1, n), -3.0, dtype=torch.float64)
    assert float(bonbon_loss(n)(ratios, logps, worth)) == pytest.approx(3 * SFT_WEIGHT, abs=1e-4)
    ratios[0, 0] = -1.0
    assert float(bonbon_loss(n)(ratios, logps, worth)) == pytest.approx(3 * SFT_WEIGHT + 1 - SFT_WEIGHT, abs=1e-2)
