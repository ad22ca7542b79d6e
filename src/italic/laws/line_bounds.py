"""Oracle baselines on a line: for each state, how large the value after the next step can be (methods/chernoff.md).

All take a `Line` and values, float64 [T + 1, m] in nats (`line.values`), and give baselines for `line.clipped`: float64
[T, m]. Where a baseline would be -inf it is the smallest finite value: there nothing of worth can be reached.
"""

from __future__ import annotations

import math

import numpy as np

from italic.laws.line import Array, Line

TILTS = np.geomspace(0.02, 200.0, 120)
"""Where Chernoff's bound is looked for; it holds at each of them."""


def quantiles(line: Line, value: Array, delta: float) -> Array:
    """The (1 - delta)-quantile of the next value, the optimal allocation: the smallest b, P(value > b | x) <= delta.

    Raises ValueError for a delta outside (0, 1).
    """
    _check_delta(delta)
    found = np.empty(line.means.shape)
    for t, after in enumerate(value[1:]):
        order = np.argsort(after, kind="stable")
        reached = np.cumsum(line.kernel(t)[:, order], axis=1)
        found[t] = after[order[np.minimum((reached < 1 - delta).sum(axis=1), len(order) - 1)]]
    return _finite(found, value)


def chernoff(line: Line, value: Array, delta: float, tilts: Array = TILTS) -> Array:
    """Chernoff's bound of that quantile: the least of (log E[exp(l value) | x] + log 1/delta) / l over the tilts l.

    Raises ValueError for a delta outside (0, 1).
    """
    _check_delta(delta)
    found = np.empty(line.means.shape)
    for t, after in enumerate(value[1:]):
        top = after.max()
        means = line.kernel(t) @ np.exp(tilts[:, None] * (after - top)).T
        bounds = top + (np.log(np.maximum(means, 1e-300)) - math.log(delta)) / tilts
        found[t] = np.minimum(bounds.min(axis=1), top)
    return _finite(found, value)


def highest(line: Line, value: Array, reach: float = 5.0) -> Array:
    """The largest next value within `reach` standard deviations of the step's mean, or in the cell nearest to it.

    reach = inf is the largest value of all, the same for every state of a step: a Gaussian step can go anywhere.
    """
    found = np.empty(line.means.shape)
    for t, after in enumerate(value[1:]):
        away = np.abs(line.means[t][:, None] - line.grid)
        near = (away <= reach * line.stds[t]) | (away <= away.min(axis=1, keepdims=True))
        found[t] = np.where(near, after, -np.inf).max(axis=1)
    return _finite(found, value)


def _check_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(f"delta={delta}: give a probability between 0 and 1")


def _finite(found: Array, value: Array) -> Array:
    return np.maximum(found, np.min(value, initial=np.inf, where=np.isfinite(value)))
