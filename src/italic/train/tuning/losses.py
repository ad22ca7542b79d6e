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
    """

    tokens: Tensor
    mask: Tensor
    advantages: Tensor


def tilting_loss(logps: Tensor, known: Tensor, batch: Batch, beta: float) -> tuple[Tensor, Tensor]:
    """The loss of rollouts, and the divergence of each, [B], nats.

    logps, known: [M, V], log-probabilities of every next token, where there is one, under the policy and the reference,
    rollout by rollout. The gradient is, in the mean, that of beta KL(pi || p) - E[worth] (see `online`).
    """
    there = batch.mask.bool()
    divergence = (logps.exp() * (logps - known)).sum(dim=1)
    cost = torch.zeros_like(batch.mask).masked_scatter(there, divergence.detach())
    later = cost.flip(1).cumsum(1).flip(1) - cost
    others = (later.sum(dim=0) - later) / max(len(later) - 1, 1)
    drawn = logps.gather(1, batch.tokens[there][:, None])[:, 0]
    gains = (batch.advantages - beta * (later - others))[there]
    return (beta * divergence - gains * drawn).sum() / len(there), cost.sum(dim=1)


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
