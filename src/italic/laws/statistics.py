"""Whether samples fit a law, and how far a mean can be trusted."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Fit(NamedTuple):
    """A chi-square test: the statistic, its degrees of freedom, and the probability of one as large under the law."""

    statistic: float
    dof: int
    p_value: float


def chi_square(counts: NDArray[np.integer], law: NDArray[np.float64], least: float = 5.0) -> Fit:
    """Test observed counts, integers [m], against the law's probabilities, float64 [m].

    Outcomes are pooled, the rarest first, until every cell is expected `least` times. An outcome that the law excludes
    gives p-value 0. Raises ValueError for shapes that differ, or for no counts.
    """
    from scipy.special import chdtrc

    total = int(counts.sum())
    if counts.shape != law.shape or total == 0:
        raise ValueError(f"{total} counts of shape {counts.shape} against a law of shape {law.shape}")
    if np.any(counts[law == 0] > 0):
        return Fit(math.inf, 0, 0.0)
    order = np.argsort(law, kind="stable")
    order = order[law[order] > 0]
    expected, observed = law[order] * total, counts[order].astype(np.float64)
    edges, held = [0], 0.0
    for i, share in enumerate(expected):
        held += share
        if held >= least:
            edges.append(i + 1)
            held = 0.0
    starts = edges[:-1] if len(edges) > 1 else [0]
    cells, seen = np.add.reduceat(expected, starts), np.add.reduceat(observed, starts)
    dof = len(cells) - 1
    statistic = float(np.sum((seen - cells) ** 2 / cells))
    return Fit(statistic, dof, float(chdtrc(dof, statistic)) if dof else 1.0)


class Interval(NamedTuple):
    """An estimate and the ends of its confidence interval."""

    mean: float
    low: float
    high: float


def mean_interval(values: NDArray[np.float64], level: float = 0.95) -> Interval:
    """The mean of independent values, float64 [n], with Student's confidence interval.

    The ends are -inf and inf for a single value. Raises ValueError without values or for a level outside (0, 1).
    """
    from scipy.special import stdtrit

    n = len(values)
    if n == 0 or not 0 < level < 1:
        raise ValueError(f"a {level} interval of {n} values")
    mean = float(np.mean(values))
    if n == 1:
        return Interval(mean, -math.inf, math.inf)
    half = float(stdtrit(n - 1, (1 + level) / 2)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half)


class Mean(NamedTuple):
    """A weighted mean and its standard error."""

    mean: float
    error: float


def weighted_mean(values: NDArray[np.float64], weights: NDArray[np.float64]) -> Mean:
    """The mean of independent values, float64 [n], with positive weights [n], and its standard error.

    The error allows for values of unequal variance: n / (n - 1) sum(w^2 (x - mean)^2) / sum(w)^2 is its square. It is
    NaN for one value, as the mean is for none.
    """
    n, total = len(values), float(weights.sum())
    if n == 0:
        return Mean(math.nan, math.nan)
    mean = float(values @ weights) / total
    if n == 1:
        return Mean(mean, math.nan)
    return Mean(mean, math.sqrt(n / (n - 1) * float(np.sum((weights * (values - mean)) ** 2))) / total)


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Spearman's rank correlation of pairs, float64 [n] each; equals share their mean rank, infinities rank as such.

    NaN if one side is constant. Raises ValueError for shapes that differ and for NaN.
    """
    if x.shape != y.shape or np.any(np.isnan(x)) or np.any(np.isnan(y)):
        raise ValueError(f"a rank correlation of shapes {x.shape} and {y.shape}, or of NaN")
    a, b = _centred_ranks(x), _centred_ranks(y)
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale > 0 else math.nan


def _centred_ranks(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Twice the mid-ranks less their mean: whole numbers, so that a constant gives zeros."""
    _, group, count = np.unique(x, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    return np.asarray((2 * last - count)[group] - len(x), dtype=np.float64)
