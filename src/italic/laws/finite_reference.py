"""What is lost when the quantiles of rewards are known from k reference rewards a prompt alone (2412.19792).

For a prompt the k rewards cut [0, 1] into k + 1 pieces, whose lengths are a draw from the uniform Dirichlet law. A
reward in the piece above s of them has the transformed reward b_s, so that the policy's density is exp(b_s / beta) / Z
there: constant over each piece. This is for rewards that are drawn once and kept. A policy that is trained against new
reference rewards at every step sees the mean of b_s alone, so that unbiased estimates then lose nothing. Derived here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from italic.laws.inference_aware import Transform, tilt_at, win_rate
from italic.laws.procedures import Array, Procedure

CELLS = 500_000
"""Pieces that are drawn in all, about."""
FEWEST = 400
"""Prompts that are drawn at least."""
POINTS = 8
"""Points a piece of the Gauss-Legendre rule: exact for best- and worst-of-n to n = 8."""


class FiniteLoss(NamedTuple):
    """win_rate: with k reference rewards a prompt, and its standard error; exact: with the quantiles known."""

    win_rate: float
    error: float
    exact: float

    @property
    def loss(self) -> float:
        """How much the win rate falls short of that with known quantiles."""
        return self.exact - self.win_rate


def plug_in(transform: Transform, k: int) -> Array:
    """Phi(wins / k) for 0, ..., k wins: float64 [k + 1]; Phi((wins + 1) / (k + 1)) if Phi(0) is not finite.

    Raises ValueError if k < 1.
    """
    if k < 1:
        raise ValueError(f"{k} reference rewards")
    wins = np.arange(k + 1)
    values = transform(wins / k)
    return values if np.isfinite(values[0]) else transform((wins + 1) / (k + 1))


def loss_of_finite(
    transform: Transform, procedure: Procedure, kl: float, k: int, rng: np.random.Generator, table: Array | None = None
) -> FiniteLoss:
    """The win rate of a policy that is trained to its optimum on estimates from k fixed reference rewards a prompt.

    table: float64 [k + 1], the reward for each number of wins, the transform's estimate unless given. beta is such that
    the KL, nats, is right on average over prompts; 500,000 / (k + 1) prompts are drawn, but 400 at least. Raises
    ValueError for k < 1, a table of another length, or a KL that this k cannot reach: the sum of 1/j to k at most.
    """
    if k < 1:
        raise ValueError(f"{k} reference rewards")
    rewards = transform.tables(k) if table is None else table
    if rewards.shape != (k + 1,) or not np.all(np.isfinite(rewards)):
        raise ValueError(f"a table of shape {rewards.shape} for {k} reference rewards, or one that is not finite")
    spread = float(np.ptp(rewards))
    if spread == 0:
        raise ValueError("estimates that are all the same")
    rewards = (rewards - rewards.max()) / spread
    pieces = rng.standard_exponential((max(FEWEST, CELLS // (k + 1)), k + 1))
    pieces /= pieces.sum(axis=1, keepdims=True)
    weights = np.exp(_rate(pieces, -rewards, kl) * rewards)
    mass = pieces * weights / (pieces @ weights)[:, None]
    lost = _lost(pieces, mass, procedure)
    exact = win_rate(tilt_at(transform, kl), procedure)
    return FiniteLoss(1 - float(lost.mean()), float(lost.std(ddof=1)) / math.sqrt(len(lost)), exact)


def _rate(pieces: Array, gap: Array, kl: float) -> float:
    """1/beta at which the KL is right on average over the prompts; gap: of estimates of range 1."""
    from scipy.optimize import brentq

    def excess(log_rate: float) -> float:
        cost = math.exp(log_rate) * gap
        weights = np.exp(-cost)
        z = pieces @ weights
        return float(np.mean(-(pieces @ (weights * cost)) / z - np.log(z))) - kl

    low, high = -12.0, 12.0
    largest = excess(high) + kl
    if not excess(low) < 0 < largest - kl:
        raise ValueError(f"a KL of {kl:g} nats: {pieces.shape[1] - 1} reference rewards reach at most {largest:.4g}")
    return math.exp(float(brentq(excess, low, high, xtol=1e-9)))


def _lost(pieces: Array, mass: Array, procedure: Procedure) -> Array:
    """int G(F(u)) g(u) du of each prompt: float64 [prompts]; F is linear over each piece."""
    nodes, weights = np.polynomial.legendre.leggauss(POINTS)
    start, below = np.cumsum(pieces, axis=1) - pieces, np.cumsum(mass, axis=1) - mass
    lost = np.zeros(len(pieces))
    for node, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        upto, u = np.clip(below + node * mass, 0.0, 1.0), np.clip(start + node * pieces, 0.0, 1.0)
        lost += weight * np.einsum("pk,pk,pk->p", pieces, procedure.cdf(upto), procedure.density(u))
    return lost
