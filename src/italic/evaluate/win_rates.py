"""How a method compares with uniform best-of-N over batches of prompts.

A method shares a budget of draws over a batch of prompts; its score is the sum over the batch of the best rewards. A
run is one batch done once. Three figures compare a method, at B draws a prompt, with uniform best-of-N, which takes N
draws of every prompt:

- the batch win rate at N = B: how often the method's sum is the larger, an equal one counting half (2505.12050);
- the break-even budget N*: the N at which the win rate is 1/2. Uniform best-of-B has N* = B, and N*/B is what the
  method is worth in draws, whatever the batch size. This is the figure to prefer;
- the expected survival time: the mean of the N up to which uniform does not exceed the method (2505.12050).

The survival time is the mean of a skewed variable, and N* is close to its median; so the survival time of uniform
best-of-B against itself is above B, and depends on where the budgets end and on what is no merit of a method. By
simulation, B = 120, batches of 5, rewards without ties: 133 for normal rewards if the budgets end at 240 = 2 B (132 to
135 for uniform, exponential and log-normal ones), 165 if they end at 1500 (151, 167 and 185), and in batches of 20
128 and 129. For one prompt it is sum_N B / (B + N), which has no limit. Equal sums count as survival, which also adds:
with budgets to 240 normal rewards rounded to halves give 143, but 120 if equal sums ended it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from italic.laws.statistics import Interval, mean_interval

Array = NDArray[np.float64]

TOLERANCE = 1e-9
"""Sums this close, in parts of their scale, are equal."""

HALF = 1e-12
"""A win rate this close to 1/2 is 1/2."""

EXACT = 12
"""Pairs up to which all signs are enumerated."""

CELLS = 4_000_000
"""Numbers that are held at once in resampling, at most."""


def wins(ours: Array, theirs: Array) -> Array:
    """1 where ours is larger, 1/2 where they are equal, 0 where it is smaller: float64 of the shape of theirs.

    ours: float64 [R], one sum of rewards a run. theirs: float64 [R, ...], the sums that run r's is compared with. Sums
    that are equal in truth may differ in their last bits, so two finite numbers count as equal if they differ by no
    more than 1e-9 of their scale: the larger of their magnitudes and of the median magnitude of all that is given,
    zeros and infinities left out. An infinity equals itself alone. Raises ValueError for shapes that do not fit, no
    runs and NaN.
    """
    _check_runs(ours, theirs)
    missing = int(np.isnan(ours).sum() + np.isnan(theirs).sum())
    if missing:
        raise ValueError(f"{missing} of {ours.size + theirs.size} sums are NaN")
    mine = ours.reshape(-1, *[1] * (theirs.ndim - 1))
    return np.where(_equal(mine, theirs), 0.5, np.where(mine > theirs, 1.0, 0.0))


def batch_win_rate(ours: Array, theirs: Array, level: float = 0.95) -> Interval:
    """How often ours wins, an equal sum counting half, with a confidence interval over runs (2505.12050).

    ours: float64 [R]. theirs: float64 [R], or [R, C] if each run meets C independent copies of its rival, which are
    averaged first. Student's interval, cut to [0, 1]; it has no width if all runs agree, and is [0, 1] for one run.
    Raises ValueError for shapes that do not fit, no runs, NaN, or a level outside (0, 1).
    """
    if theirs.ndim > 2:
        raise ValueError(f"rivals of shape {theirs.shape}: [R] or [R, C] was expected")
    won = wins(ours, theirs)
    rate = mean_interval(won.reshape(len(won), -1).mean(axis=1), level)
    return Interval(rate.mean, max(rate.low, 0.0), min(rate.high, 1.0))


def uniform_curve(rewards: Sequence[Array], rng: np.random.Generator, most: int, copies: int) -> Array:
    """What uniform best-of-N reaches on one batch for N = 1..most: float64 [copies, most].

    rewards: for each of the K prompts of the batch a pool of rewards, float64 [n_k], from which draws are taken with
    replacement. Entry [c, N - 1] is the sum over prompts of the best of the first N draws of copy c, so that a row
    never falls. NaN, a missing score, counts as -inf, and a sum with a -inf in it is -inf. Raises ValueError for no
    prompts, a pool that is empty or no vector, or most or copies below 1.
    """
    if len(rewards) == 0 or most < 1 or copies < 1:
        raise ValueError(f"{copies} copies of best-of-{most} for {len(rewards)} prompts")
    total, lost = np.zeros((copies, most)), np.zeros((copies, most), dtype=bool)
    for k, pool in enumerate(rewards):
        if pool.ndim != 1 or len(pool) == 0:
            raise ValueError(f"the pool of prompt {k} of {len(rewards)} has shape {pool.shape}")
        scores = np.where(np.isnan(pool), -np.inf, pool)
        best = scores[rng.integers(len(scores), size=(copies, most))]
        np.maximum.accumulate(best, axis=1, out=best)
        lost |= best == -np.inf
        with np.errstate(invalid="ignore"):
            total += best
    total[lost] = -np.inf
    return total


def win_curve(wins_by_n: Array) -> Array:
    """The win rate against uniform best-of-N for N = 1, 2, ...: float64 [N].

    wins_by_n: float64 [R, N], what each run wins against each N, between 0 and 1. Raises ValueError for another shape,
    no entries, or an entry that is no rate.
    """
    if wins_by_n.ndim != 2 or wins_by_n.size == 0:
        raise ValueError(f"wins of shape {wins_by_n.shape}: [R, N] was expected")
    _check_rates(wins_by_n)
    return np.asarray(wins_by_n.mean(axis=0), dtype=np.float64)


def break_even(curve: Array, budget: float) -> float:
    """N*, the uniform budget in draws a prompt at which the win rate is 1/2.

    curve: float64 [N], the win rate against uniform best-of-1, 2, ..., which falls with N but for noise; the closest
    curve that never rises (isotonic regression) stands in for it, so that there is one crossing. N* is interpolated
    between the last N above 1/2 and the first below. If the curve is 1/2 on a stretch, it is the point of the stretch
    closest to `budget`, the method's own draws a prompt. inf if the curve ends above 1/2: larger than every N
    considered. Below 1/2 from the start it is interpolated from a rate of 1 at N = 0, and so between 1/2 and 1. Raises
    ValueError if the curve is no vector, is empty or holds what is no rate, or for a budget that is not positive.
    """
    if curve.ndim != 1 or len(curve) == 0:
        raise ValueError(f"a curve of shape {curve.shape}: [N] was expected")
    _check_rates(curve)
    if not 0 < budget < math.inf:
        raise ValueError(f"a budget of {budget} draws a prompt")
    return _crossing(curve, budget)


def _crossing(curve: Array, budget: float) -> float:
    from scipy.optimize import isotonic_regression

    fall = np.concatenate([[1.0], isotonic_regression(curve, increasing=False).x])
    last = int(np.count_nonzero(fall > 0.5 + HALF)) - 1
    level = int(np.count_nonzero(np.abs(fall - 0.5) <= HALF))
    if level:
        return float(min(max(budget, last + 1), last + level))
    if last == len(curve):
        return math.inf
    return last + float((fall[last] - 0.5) / (fall[last] - fall[last + 1]))


def break_even_interval(
    wins_by_n: Array, budget: float, rng: np.random.Generator, level: float = 0.95, resamples: int = 1000
) -> Interval:
    """N* of all runs, and its percentile interval by resampling runs.

    wins_by_n: float64 [R, N], a row a run, as for `win_curve`. Rows must be independent: where several runs share the
    prompts of a batch, and what is said shall hold for other batches, average the runs of a batch to one row. `high`
    is inf where the data leave open whether N* is among the N considered. For one run the ends are 0 and inf. Raises
    ValueError as `win_curve` and `break_even` do, for fewer than 1 resamples, or a level outside (0, 1).
    """
    mean = break_even(win_curve(wins_by_n), budget)
    runs, most = wins_by_n.shape
    if resamples < 1 or not 0 < level < 1:
        raise ValueError(f"a {level} interval of {resamples} resamples")
    if runs == 1:
        return Interval(mean, 0.0, math.inf)
    size = max(1, CELLS // max(runs, most))
    found: list[float] = []
    for start in range(0, resamples, size):
        times = rng.multinomial(runs, np.full(runs, 1 / runs), size=min(size, resamples - start))
        found += [_crossing(curve, budget) for curve in times.astype(np.float64) @ wins_by_n / runs]
    found.sort()
    tail = (1 - level) / 2 * (resamples - 1)
    return Interval(mean, found[math.floor(tail)], found[resamples - 1 - math.floor(tail)])


def survival_time(ours: Array, uniform: Array, level: float = 0.95) -> Interval:
    """The expected survival time: the mean over runs of the largest N up to which uniform best-of-N does not exceed
    ours (2505.12050), with Student's interval.

    ours: float64 [R]. uniform: float64 [R, N], or [R, C, N] with C copies a run, which are averaged: the running sums
    of `uniform_curve`, drawn apart from ours. An equal sum, as in `wins`, does not exceed; 0 if the first draws do. A
    run that is not exceeded counts as N, the largest budget considered, so the mean is cut there and depends on it.
    Uniform best-of-B against itself has a survival time above B (the top of this file): prefer `break_even`. Raises
    ValueError for shapes that do not fit, no runs, NaN, or a level outside (0, 1).
    """
    if uniform.ndim not in (2, 3):
        raise ValueError(f"curves of shape {uniform.shape}: [R, N] or [R, C, N] was expected")
    lasting = np.count_nonzero(wins(ours, uniform), axis=-1)
    return mean_interval(lasting.reshape(len(ours), -1).mean(axis=1), level)


class Paired(NamedTuple):
    """A paired comparison: ours less theirs, and two-sided p-values of the differences lying evenly about 0."""

    difference: Interval
    signed_rank: float
    sign_flip: float


def paired_test(
    ours: Array, theirs: Array, rng: np.random.Generator, level: float = 0.95, resamples: int = 9999
) -> Paired:
    """Compare two methods on the same prompts or batches, float64 [n] each, in the same order.

    The difference is a mean with Student's interval; the p-values are those of Wilcoxon's signed-rank test and of the
    mean under random signs. Differences of 0, up to the tolerance of `wins`, are left out of both tests; if there is no
    other both are 1. Signs are enumerated up to 12 differences, beyond that drawn `resamples` times. Raises ValueError
    for shapes that differ, no pairs, numbers that are not finite, fewer than 1 resamples, or a level outside (0, 1).
    """
    if ours.shape != theirs.shape:
        raise ValueError(f"pairs of shapes {ours.shape} and {theirs.shape}")
    _check_runs(ours, theirs)
    if resamples < 1:
        raise ValueError(f"a test of {resamples} resamples")
    wrong = int(np.sum(~np.isfinite(ours) | ~np.isfinite(theirs)))
    if wrong:
        raise ValueError(f"{wrong} of {len(ours)} pairs are not finite")
    difference = np.where(_equal(ours, theirs), 0.0, ours - theirs)
    interval = mean_interval(difference, level)
    rest = difference[difference != 0]
    if len(rest) == 0:
        return Paired(interval, 1.0, 1.0)
    from scipy.stats import wilcoxon

    return Paired(interval, float(wilcoxon(rest).pvalue), _sign_flip(rest, rng, resamples))


def _sign_flip(values: Array, rng: np.random.Generator, resamples: int) -> float:
    """The probability of a sum as far from 0, if the signs of the values, float64 [n], are those of fair coins."""
    n = len(values)
    least = abs(float(values.sum())) - TOLERANCE * float(np.abs(values).sum())
    if n <= EXACT:
        signs = 1.0 - 2.0 * (np.arange(2**n)[:, None] >> np.arange(n) & 1)
        return float(np.mean(np.abs(signs @ values) >= least))
    size, extreme = max(1, CELLS // n), 0
    for start in range(0, resamples, size):
        signs = 1.0 - 2.0 * rng.integers(2, size=(min(size, resamples - start), n), dtype=np.int8)
        extreme += int(np.count_nonzero(np.abs(signs @ values) >= least))
    return (1 + extreme) / (1 + resamples)


def _equal(a: Array, b: Array) -> NDArray[np.bool_]:
    """Where a equals b up to rounding, as `wins` says."""
    sizes = np.abs(np.concatenate([a.ravel(), b.ravel()]))
    sizes = sizes[(sizes > 0) & (sizes < np.inf)]
    middle = len(sizes) // 2
    typical = float(np.partition(sizes, middle)[middle]) if len(sizes) else 0.0
    with np.errstate(invalid="ignore", over="ignore"):
        gap = np.abs(a - b)
    scale = np.maximum(np.maximum(np.abs(a), np.abs(b)), typical)
    return np.asarray((a == b) | ((gap < np.inf) & (gap <= TOLERANCE * scale)), dtype=np.bool_)


def _check_runs(ours: Array, theirs: Array) -> None:
    if ours.ndim != 1 or theirs.ndim < 1 or theirs.shape[0] != len(ours) or theirs.size == 0:
        raise ValueError(f"sums of shape {ours.shape} against {theirs.shape}: [R] and [R, ...] were expected")


def _check_rates(rates: Array) -> None:
    wrong = int(np.count_nonzero(~((rates >= 0) & (rates <= 1))))
    if wrong:
        raise ValueError(f"{wrong} of {rates.size} win rates are outside [0, 1]")
