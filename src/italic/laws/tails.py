"""The upper tail of a prompt's rewards, estimated from a few draws of it and of the other prompts.

Only what may exceed the best draw so far matters, and few draws tell about it. So a tail is described by two numbers,
as extreme value theory has it for any smooth law: the excess over a high threshold u is of a generalised Pareto law,

    P(R > t | R > u) = (1 + xi (t - u) / sigma)^(-1/xi),

with a shape xi (below 0: an upper end, 0: exponential, above 0: a power law) and a scale sigma. The threshold is the
(k+1)-th largest of m draws, so that P(R > u) is (k+1)/(m+1) on average whatever the law. Whether a good best is luck or
the end of what there is depends on numbers that are hardly known, so nothing is plugged in: shape and scale are
integrated out on a grid, and what the other prompts say is the prior. The scales of prompts are log-normal around a
common one, fitted by expectation-maximisation; their shapes lie around a common one, which all of them inform. Of few
draws the threshold is low, and there the excess is generalised Pareto only roughly: scales are then taken to lie
further apart, without which a prompt of modest best would be believed to have been unlucky.

Rewards that repeat within a prompt come from a list with an end: few possible answers, or a table that is drawn from
again and again. The tail is fitted to the different values, and a draw counts as far as it will be a new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from italic.laws.allocation import TINY, Array, Counts

SHAPES = np.array([-1.0, -0.8, -0.6, -0.45, -0.3, -0.2, -0.1, 0.0, 0.1, 0.2, 0.35])
SHAPE_MEAN, SHAPE_SD = -0.1, 0.3
"""The common shape before any draw is seen."""
APART = 0.1
"""How far the shapes of prompts lie apart: a standard deviation."""
SCALES = 24
"""Nodes of the grid in log sigma."""
VARIANCE, WEIGHT = 0.25, 4.0
"""The variance of the log-scales of prompts before any draw is seen, and how many prompts that is worth."""
ROUGH = 1.0
"""That variance is larger by this over the square of the number of values of a tail."""
STEPS, ASKED = 3, 128
"""Steps of expectation-maximisation, and about how many prompts are asked in each where there are more."""
BLOCK = 64
"""Prompts at a time: what is computed for them stays in the processor's cache."""
PARTS = (1.0, 0.6)
"""A tail is the largest half of m different values, or the largest m^0.6 where those are fewer."""


class Novelty(NamedTuple):
    """How many draws will be new values: float64 [K] each. share: the probability that the next one is; fade: the
    factor by which that falls with each draw."""

    share: Array
    fade: Array


def distinct(draws: Array) -> tuple[Array, Novelty]:
    """The different finite values of each prompt, largest first: float64 [K, n], padded with -inf; and the novelty.

    The probability of a new value is the smaller of two estimates: the share of draws whose value was seen once (Good,
    doi:10.1093/biomet/40.3-4.237), and (A - D) / A for D different values of A equally likely ones, where 1 / A is the
    share of equal pairs among the draws of all prompts that have more than one value.
    """
    k, n = draws.shape
    ranked = -np.sort(-np.where(np.isfinite(draws), draws, -np.inf), axis=1)
    there = np.isfinite(ranked)
    repeat = np.zeros(ranked.shape, dtype=np.bool_)
    repeat[:, 1:] = (ranked[:, 1:] == ranked[:, :-1]) & there[:, 1:]
    if not repeat.any():
        return ranked, Novelty(np.ones(k), np.ones(k))
    count = there.sum(axis=1)
    alone = there & ~repeat
    alone[:, :-1] &= ~repeat[:, 1:]
    place = np.broadcast_to(np.arange(n), ranked.shape)
    earlier = place - np.maximum.accumulate(np.where(repeat, 0, place), axis=1)
    different = count - repeat.sum(axis=1)
    varied = different > 1
    pairs, equal = np.sum((count * (count - 1) / 2)[varied]), np.sum(np.where(there, earlier, 0)[varied])
    size = pairs / equal if equal else np.inf
    once = (alone.sum(axis=1) + 0.5) / (count + 0.5)
    left = np.maximum(1 - different / size, 0.5 / (count + 0.5))
    share = np.minimum(1.0, np.minimum(once, left))
    return -np.sort(-np.where(repeat, -np.inf, ranked), axis=1), Novelty(share, np.full(k, 1 - 1 / size))


class Moments(NamedTuple):
    """The first two moments of a probability that is not known: float64 [K, Q] each."""

    first: Array
    second: Array


class Common(NamedTuple):
    """The law of the logarithm of the prompts' scales: normal, with this mean and variance."""

    mean: float
    variance: float


def common_scale(logs: Array, noise: Array) -> Common | None:
    """What the prompts' scales have in common, from their logarithms, float64 [m], known up to noise variances [m].

    Expectation-maximisation, with a prior on the variance; None without any prompt.
    """
    if not len(logs):
        return None
    variance, mean = VARIANCE, 0.0
    for _ in range(8):
        trust = 1 / (noise + variance)
        mean = float(np.sum(trust * logs) / np.sum(trust))
        kept = variance * trust
        squares = (kept * (logs - mean)) ** 2 + kept * noise
        variance = float((np.sum(squares) + WEIGHT * VARIANCE) / (len(logs) + WEIGHT))
    return Common(mean, variance)


def _common_law(excess: Array, size: Counts) -> Common | None:
    """The common law of the mean excesses of tails of `size` values; None without any above its threshold."""
    from scipy.special import digamma, polygamma

    some = np.flatnonzero(excess[:, 0] > 0)
    some = some[:: max(1, len(some) // ASKED)]
    excess, size = excess[some], size[some]
    k = size.astype(np.float64)
    means = excess.sum(axis=1) / k  # were they exponential, the noise of their logarithms would be trigamma
    common = common_scale(np.log(means) - (digamma(k) - np.log(k)), polygamma(1, k))
    if common is None:
        return None
    for _ in range(STEPS):
        sigma, weight, evidence = _posterior(excess, size, 0 * size, common)
        weight *= _shapes(evidence)[:, :, None]
        logs = np.log(sigma) - np.log1p(-SHAPES)[:, None]
        mean = float(np.sum(weight * logs)) / len(some)
        squares = float(np.sum(weight * (logs - mean) ** 2))
        common = Common(mean, (squares + WEIGHT * VARIANCE) / (len(some) + WEIGHT))
    return Common(common.mean, common.variance + ROUGH / float(np.mean(k)) ** 2)


@dataclass(frozen=True, eq=False)
class Tails:
    """What is believed of each prompt's tail: excesses over a threshold are generalised Pareto.

    sigma, weight: float64 [K, X, S], of sum 1 over shapes and scales. shape: float64 [X]. above: float64 [K], best draw
    less threshold. over, under: float64 [K], the beta law of P(R > threshold). evidence: log-density of the excesses of
    the topmost values, nats, of all prompts together.
    """

    sigma: Array
    weight: Array
    shape: Array
    above: Array
    over: Array
    under: Array
    evidence: float

    @property
    def scale(self) -> Array:
        """The mean by which the best is exceeded, roughly: float64 [K]."""
        local = np.maximum(self.sigma + self.shape[None, :, None] * self.above[:, None, None], 0.0)
        return np.asarray(np.maximum(np.sum(self.weight * local, axis=(1, 2)), TINY))

    def exceeding(self, beyond: Array) -> Moments:
        """P(R > best + beyond) under the posterior; beyond: float64 [K, Q]."""
        first, second = np.empty(beyond.shape), np.empty(beyond.shape)
        heavy = np.flatnonzero(self.weight.max(axis=(0, 2)) > 1e-4)
        shape = self.shape[heavy][None, :, None]
        for some in _blocks(len(beyond)):
            sigma, weight = self.sigma[some, heavy], self.weight[some, heavy]
            excess = self.above[some, None] + beyond[some]
            for q in range(beyond.shape[1]):
                with np.errstate(over="ignore", invalid="ignore"):
                    survival = np.exp(-_exponents(excess[:, q, None, None] / sigma, shape))
                part = weight * survival
                first[some, q] = np.sum(part, axis=(1, 2))
                second[some, q] = np.einsum("kxs,kxs->k", part, survival)
        total = self.over + self.under
        rate = self.over / total
        return Moments(first * rate[:, None], second * (rate * (self.over + 1) / (total + 1))[:, None])


def tails(values: Array, size: Counts, top: Counts) -> Tails | None:
    """The posterior of the tails of `size` values each; values: float64 [K, n], different, largest first.

    The evidence is of the `top` largest, given those of the tail that are below them: int64 [K] each, size below the
    number of values. None if no prompt has two different values: nothing is known about any scale.
    """
    m = np.isfinite(values).sum(axis=1)
    most = max(int(size.max(initial=0)), 1)
    rows = np.arange(len(values))
    threshold = values[rows, np.minimum(size, np.maximum(m - 1, 0))]
    inside = np.arange(most) < size[:, None]
    with np.errstate(invalid="ignore"):
        excess = np.where(inside, values[:, :most] - threshold[:, None], 0.0)
    common = _common_law(excess, size)
    if common is None:
        return None
    blocks = _blocks(len(values))
    parts = [_posterior(excess[some], size[some], 0 * top[some], common) for some in blocks]
    sigma, weight, all_of_it = (np.concatenate(part) for part in zip(*parts, strict=True))
    given = np.concatenate([_posterior(excess[some], size[some], top[some], common)[2] for some in blocks])
    weight *= _shapes(all_of_it)[:, :, None]
    evidence = _pooled(all_of_it) - _pooled(given)
    over = (size + 1).astype(np.float64)
    return Tails(sigma, weight, SHAPES, excess[:, 0], over, np.maximum(m - size, 1.0).astype(np.float64), evidence)


def _posterior(excess: Array, size: Counts, hidden: Counts, common: Common) -> tuple[Array, Array, Array]:
    """The scales of a grid, and their posterior weights given the shape, float64 [K, X, S] each; the log-evidence of
    the excesses, [K, X].

    excess: float64 [K, n], largest first, 0 beyond `size`. Of the `hidden` largest it is only known that they are above
    the next, int64 [K] each.
    """
    seen, places = size - hidden, np.arange(excess.shape[1])
    known = places >= hidden[:, None]
    times = known + np.where(places == hidden[:, None], hidden[:, None], 0)
    excess = excess * known
    means = np.sum(times * excess, axis=1) / np.maximum(seen, 1)
    log_sigma, cell = _grid(means, seen, np.max(excess, axis=1), common)
    sigma, shape = np.exp(np.clip(log_sigma, -695, 695)), SHAPES[None, :, None]
    log = -((log_sigma - np.log1p(-shape) - common.mean) ** 2) / (2 * common.variance) + np.log(cell)
    log -= seen[:, None, None] * log_sigma
    for place in np.flatnonzero(known.any(axis=0)):
        exponent = _exponents(excess[:, place, None, None] / sigma, shape)
        log -= (times[:, place, None, None] + known[:, place, None, None] * shape) * exponent
    evidence, weight = _marginal(log)
    return sigma, weight, evidence


def _blocks(k: int) -> list[slice]:
    return [slice(start, start + BLOCK) for start in range(0, k, BLOCK)]


def _marginal(log: Array) -> tuple[Array, Array]:
    """The log of the sum over scales, float64 [K, X], and each scale's part of it, [K, X, S]."""
    top = log.max(axis=2, keepdims=True)
    part = np.exp(log - top)
    total = part.sum(axis=2, keepdims=True)
    return (top + np.log(total))[:, :, 0], part / total


def _pooled(evidence: Array) -> float:
    """The log-evidence of all prompts together, which have one shape in common."""
    log = evidence.sum(axis=0) - (SHAPES - SHAPE_MEAN) ** 2 / (2 * SHAPE_SD**2) + np.log(np.gradient(SHAPES))
    return float(log.max() + np.log(np.sum(np.exp(log - log.max()))))


def _grid(means: Array, counts: Counts, largest: Array, common: Common) -> tuple[Array, Array]:
    """Nodes in log sigma where the posterior is, float64 [K, X, S], and the width of their cells, [K, X, 1].

    A tail with an end, of shape below 0, is at least as long as the largest excess: sigma > -shape * largest.
    """
    trust = 1 / (counts + 1 / common.variance)
    own = np.where(means > 0, np.log(np.where(means > 0, means, 1.0)), common.mean)
    centre = (own * counts + common.mean / common.variance) * trust
    spread = np.sqrt(trust)[:, None]
    middle = centre[:, None] + np.log1p(-SHAPES)
    with np.errstate(divide="ignore"):
        least = np.log(np.maximum(-SHAPES, 0) * largest[:, None])
    low = np.maximum(middle - 4 * spread, least)
    high = np.maximum(middle + 5 * spread, low + 2 * spread)
    cell = (high - low)[:, :, None] / SCALES
    return low[:, :, None] + cell * (np.arange(SCALES) + 0.5), cell


def _exponents(ratio: Array, shape: Array) -> Array:
    """-log P(excess > ratio * sigma): log(1 + shape * ratio) / shape, infinite beyond an end; float64 [K, X, S].

    shape: float64 [1, X, 1].
    """
    exact = shape[0, :, 0] == 0.0
    values = np.maximum(shape * ratio, -1.0)
    with np.errstate(divide="ignore"):
        np.log1p(values, out=values)
    values /= np.where(shape == 0.0, 1.0, shape)
    values[:, exact] = ratio[:, exact]
    return values


def _shapes(evidence: Array) -> Array:
    """The posterior of each prompt's shape, float64 [K, X], from the log-evidence of each, [K, X].

    All prompts inform the common shape; a prompt's own is around that, and its own evidence counts once more.
    """
    own = evidence - evidence.max(axis=1, keepdims=True)
    cell = np.gradient(SHAPES)
    pooled = own.sum(axis=0) - (SHAPES - SHAPE_MEAN) ** 2 / (2 * SHAPE_SD**2) + np.log(cell)
    pooled = np.exp(pooled - pooled.max())
    near = np.exp(-((SHAPES[:, None] - SHAPES) ** 2) / (2 * APART**2)) * cell[:, None]
    population = (near / near.sum(axis=0)) @ (pooled / pooled.sum())
    weight = population * np.exp(own)
    return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def tail_sizes(values: Array) -> list[Counts]:
    """How many of each prompt's different values make its tail: int64 [K] for each of `PARTS`."""
    m = np.isfinite(values).sum(axis=1)
    return [np.clip(np.ceil(np.minimum(m / 2, m**p)), 0, np.maximum(m - 1, 0)).astype(np.int64) for p in PARTS]
