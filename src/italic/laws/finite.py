"""Exact laws on a finite set: what a method should sample from, when every response can be listed.

m outcomes; p: float64 [m], their probabilities under the model, sum 1; r: float64 [m], their rewards, -inf allowed.
Every law is a float64 [m] of sum 1.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Law = NDArray[np.float64]

_REACH_DOWN, _REACH_UP, _MESH = -40.0, 5.0, 0.25
"""The trapezoid rule of `soft_best_of_n`: its error is of order exp(-pi^2 / mesh), 7e-18, its ends of exp(-40)."""


def tilt(p: Law, r: NDArray[np.float64], beta: float) -> Law:
    """The tilted law p exp(r / beta) / Z. Raises ValueError if every reward of positive probability is -inf."""
    present = p > 0
    top = np.max(r[present], initial=-np.inf)
    if top == -np.inf:
        raise ValueError("nothing to tilt: every reward is -inf")
    weights = np.where(present, p * np.exp(np.minimum((r - top) / beta, 0.0)), 0.0)
    return np.asarray(weights / weights.sum())


def best_of_n(p: Law, r: NDArray[np.float64], n: int) -> Law:
    """The first drawn among the best of n independent draws: p/q ((F + q)^n - F^n), q = P(r), F = P(below r)."""
    value = np.unique(r, return_inverse=True)[1]
    q = np.bincount(value, weights=p)
    up_to = np.minimum(np.cumsum(q), 1.0)
    chance = np.diff(up_to**n, prepend=0.0)
    return np.asarray(np.divide(p, q[value], where=p > 0, out=np.zeros_like(p)) * chance[value])


def worst_of_n(p: Law, r: NDArray[np.float64], n: int) -> Law:
    """The first drawn among the worst of n independent draws."""
    return best_of_n(p, -r, n)


def soft_best_of_n(p: Law, r: NDArray[np.float64], n: int, beta: float) -> Law:
    """One of n independent draws, chosen with probability proportional to w = exp(r / beta).

    P(y) = n p(y) E[w(y) / (w(y) + S)], S the weight of the other n - 1 draws. With 1/x = int_0^inf exp(-s x) ds it is
    n p(y) int_0^inf w(y) exp(-s w(y)) phi(s)^(n-1) ds, where phi(s) = E_p[exp(-s w)]. In t = log(s w(y)) the integrand
    is smooth and falls off like exp(t) and exp(-exp(t)): the trapezoid rule is exact to rounding, whatever the range of
    r. Outcomes of reward -inf are chosen, in proportion to p, only if all n draws are such.
    """
    levels, value = np.unique(r / beta, return_inverse=True)
    q = np.bincount(value, weights=p)
    none = levels == -np.inf
    chance = np.where(none, q**n, 0.0)
    t = np.arange(_REACH_DOWN, _REACH_UP, _MESH)
    for i in np.flatnonzero(~none):
        exponent = t[:, None] + (levels - levels[i])[None, :]
        short = np.exp(np.minimum(exponent, 700.0))
        log_phi = np.log1p(np.maximum(np.expm1(-short) @ q, -1 + 1e-16))
        chance[i] = n * q[i] * _MESH * np.sum(np.exp(t - np.exp(t) + (n - 1) * log_phi))
    return np.asarray(np.divide(p, q[value], where=p > 0, out=np.zeros_like(p)) * chance[value])


def entropy(p: Law) -> float:
    """-sum p log p, nats."""
    present = p[p > 0]
    return float(-np.sum(present * np.log(present)))


def kl(p: Law, q: Law) -> float:
    """KL(p || q) = sum p log(p / q), nats; inf where p has an outcome that q has not."""
    present = p > 0
    if np.any(q[present] == 0):
        return float("inf")
    return float(np.sum(p[present] * np.log(p[present] / q[present])))


def total_variation(p: Law, q: Law) -> float:
    """Half the sum of |p - q|: the largest difference of the two probabilities of any event."""
    return float(np.abs(p - q).sum() / 2)
