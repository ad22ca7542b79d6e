"""What the trainers make small, as functions of log-probabilities alone.

B rows, L the longest response, V the vocabulary; P prompts with a group of responses each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

Offline: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of log(pi / p), log pi and worth of responses, [P, group] each: the loss."""

SFT_WEIGHT = 0.005
"""The share of imitation in BoNBoN's loss, as in its paper."""


class Batch(NamedTuple):
    """Rollouts of the policy itself. tokens, mask: [B, L], those drawn, and 1.0 where there are any. advantages: each
    token's credit, [B, L] (see `credit`), or for all tokens the worth less the mean of the prompt's others, [B, 1].
    kappa, eta, fades: [L], how noise is taken out of that (see `controls`).
    """

    tokens: Tensor
    mask: Tensor
    advantages: Tensor
    kappa: Tensor
    eta: Tensor
    fades: Tensor


class Tilted(NamedTuple):
    """loss: of the rollouts. divergence: of each, [B], nats. gains, surprise, before: of each token, [B, L], its
    advantage less what it costs in later divergence, log(pi / p) less the mean of that in its state, and the sum of
    that over the tokens before; 0 where there is no token.
    """

    loss: Tensor
    divergence: Tensor
    gains: Tensor
    surprise: Tensor
    before: Tensor


def tilting_loss(logps: Tensor, known: Tensor, batch: Batch, beta: float) -> Tilted:
    """The loss of rollouts. Its gradient is, in the mean, that of beta KL(pi || p) - E[worth] (see `online`).

    logps, known: [M, V], log-probabilities of every next token, where there is one, under the policy and the reference,
    rollout by rollout.
    """
    there = batch.mask.bool()
    ratios, picks = logps - known, batch.tokens[there][:, None]
    divergence = (logps.exp() * ratios).sum(dim=1)
    drawn, ratio = logps.gather(1, picks)[:, 0], ratios.gather(1, picks)[:, 0]
    cost, surprise = (
        torch.zeros_like(batch.mask).masked_scatter(there, of_tokens.detach())
        for of_tokens in (divergence, ratio - divergence)
    )
    later = cost.flip(1).cumsum(1).flip(1) - cost
    others = (later.sum(dim=0) - later) / max(len(later) - 1, 1)
    gains = (batch.advantages - beta * (later - others)) * batch.mask
    before = (surprise.cumsum(1) - surprise) * batch.mask
    left = gains - onwards(batch.kappa * surprise, batch.fades) - batch.eta * before
    price = (beta - batch.kappa).expand_as(batch.mask)[there]
    loss = (price * divergence - left[there] * drawn).sum() / len(there)
    return Tilted(loss, cost.sum(dim=1), gains, surprise, before)


def onwards(values: Tensor, fades: Tensor) -> Tensor:
    """Each token's value and those of the later ones, which fade by `fades`, [L], behind each token: [B, L]."""
    sums, found = torch.zeros_like(values[:, 0]), torch.empty_like(values)
    for t in reversed(range(values.shape[1])):
        found[:, t] = sums = values[:, t] + fades[t] * sums
    return found


def qrpo_loss(beta: float, log_z: float) -> Offline:
    """The mean of (worth / beta - log Z - log(pi / p))^2 (2507.08068)."""

    def loss(ratios: Tensor, logps: Tensor, worth: Tensor) -> Tensor:
        return ((worth / beta - log_z - ratios) ** 2).mean()

    return loss


def bonbon_loss(n: int) -> Offline:
    """alpha SFT(best) + (1 - alpha) (log-ratio of the best - that of the worst - (n - 1) H_(n-1))^2 over groups of n,
    alpha = 0.005 (2406.00832).
    """
    target = (n - 1) * float(np.sum(1 / np.arange(1, n)))

    def loss(ratios: Tensor, logps: Tensor, worth: Tensor) -> Tensor:
        first, last = worth.argmax(dim=1, keepdim=True), worth.argmin(dim=1, keepdim=True)
        margin = (ratios.gather(1, first) - ratios.gather(1, last))[:, 0]
        imitation = -logps.gather(1, first).mean()
        return SFT_WEIGHT * imitation + (1 - SFT_WEIGHT) * ((margin - target) ** 2).mean()

    return loss


def log_laws(logits: Tensor, temperature: float) -> Tensor:
    """Log-probabilities, float32, of logits [..., V] at a temperature."""
    logits = logits.float()
    return torch.log_softmax(logits if temperature == 1 else logits / temperature, dim=-1)
