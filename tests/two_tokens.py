"""A policy of two tokens that can be enumerated: its objective exactly, and the trainer's gradients on its rollouts."""

from __future__ import annotations

import numpy as np
import torch

from italic.train.tuning.losses import Batch, tilting_loss

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


NO_CONTROL = torch.zeros(2), torch.zeros(2), torch.ones(2)


def rollouts(logits, worth, rows, noise):
    """Responses of the policy: their first tokens [B], tokens and mask [B, 2], and what they are worth [B]."""
    with torch.no_grad():
        first = torch.multinomial(logits[0].softmax(0), rows, replacement=True, generator=noise)
        second = torch.multinomial(logits[1].softmax(1)[first], 1, generator=noise)[:, 0]
    mask = torch.stack([torch.ones(rows), (first > 0).float()], dim=1)
    return first, torch.stack([first, second], dim=1), mask, torch.where(first > 0, worth[first, second], worth[0, 0])


def gradients(logits, known, worth, advantages, control=NO_CONTROL):
    """Gradients of the loss on batches of the policy's own rollouts: float64 [runs, parameters].

    advantages: of what rollouts are worth, [B], and their first tokens, [B], the advantages for a `Batch`. control: its
    kappa, eta and fades.
    """
    noise = torch.Generator().manual_seed(5)
    found = []
    for _ in range(RUNS):
        free = [part.clone().requires_grad_() for part in logits]
        first, tokens, mask, value = rollouts(logits, worth, ROWS, noise)
        batch = Batch(tokens, mask, advantages(value, first), *control)
        there = mask.bool()
        loss = tilting_loss(laws(free, first)[there], laws(known, first)[there], batch, BETA).loss
        found.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, free)]).double().numpy())
    return np.array(found)


def others(value):
    """The mean of the others' worth."""
    return (value.sum() - value) / (len(value) - 1)


def whole(value, first):
    """The advantages of whole responses, for a `Batch`."""
    return (value - others(value))[:, None]


def errors(found, wanted):
    """How many standard errors the mean of the runs is off, for each parameter."""
    return np.abs((found.mean(axis=0) - wanted) / (found.std(axis=0, ddof=1) / np.sqrt(RUNS) + 1e-7))


def worth_of(seed):
    worth = torch.randn(LETTERS, LETTERS, generator=torch.Generator().manual_seed(seed))
    worth[0] = worth[0, 0]
    return worth


def exact(logits, known, worth, prefix=True):
    free = [part.clone().requires_grad_() for part in logits]
    wanted = objective(free, known, worth, prefix)
    return torch.cat([-g.flatten() for g in torch.autograd.grad(wanted, free)]).double().numpy()
