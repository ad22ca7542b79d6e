"""What the next draws of each prompt will be worth, judged by the draws so far: the estimates behind an allocation.

`gains(draws)` is the way in. Its estimators:

- kde: a Gaussian kernel density for each prompt, bandwidth by Scott's rule, as in 2505.12050.
- normal: a normal law for each prompt; mean and scale are integrated out, the prompts' scales have a common law.
- tail: generalised Pareto tails (`laws/tails.py`).
- discrete: rewards on a common list of values, such as right and wrong; each prompt's probabilities around common ones.
- auto: discrete if most draws have a value that other prompts have too. Else normal or tail, by the evidence: how well
  each foretells the topmost draws of all prompts from those below them.

Rewards of -inf, and draws whose score is missing, are draws that were of no use. A prompt with no other draws comes
first: a useful one gains it half a quantile, or the range of all rewards, or as much more as makes its gain the
largest. A prompt with a reward of +inf gains nothing by further ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, get_args

import numpy as np

from italic.laws.allocation import TINY, Array, Counts, Curves, Cuts, Gains, Several, Sum, deviations
from italic.laws.tails import Moments, Tails, common_scale, distinct, tail_sizes, tails

Estimator: TypeAlias = Literal["auto", "tail", "normal", "kde", "discrete"]
ESTIMATORS: tuple[Estimator, ...] = get_args(Estimator)
Units: TypeAlias = Literal["reward", "quantile"]
UNITS: tuple[Units, ...] = get_args(Units)

NODES = 40
"""Nodes of the quadrature above the best."""
ENOUGH = 20
"""A normal law is thought of from so many draws a prompt on, in the mean."""
ALIKE, GROUPS = 40, 8
"""Prompts that are enough to say what they have in common, and how many groups of alike prompts there are at most."""
CUTS = 16
"""Values at which the common law of discrete rewards is fitted, at most."""


def gains(
    draws: Array,
    estimator: Estimator = "auto",
    units: Units = "reward",
    length: Array | None = None,
    best: Array | None = None,
) -> Gains:
    """What further draws of K prompts are worth, from those so far: float64 [K, n], padded with NaN.

    units: reward, or quantile: the probability that a draw is worse than the best, which makes prompts comparable whose
    rewards have different scales. length: float64 [K], how long the responses of each prompt are. What prompts have in
    common is then estimated from those with responses of about the same length, `ALIKE` at least: all together may be
    of several kinds. best: float64 [K], what is to be exceeded, -inf where there is nothing yet, if some of the draws
    were made elsewhere and only tell of the laws; without it, the largest of a prompt's draws. Raises ValueError for an
    unknown estimator or unit.
    """
    if estimator not in ESTIMATORS or units not in UNITS:
        raise ValueError(f"the estimator {estimator} in units of {units}")
    above = _above(draws, estimator, units, length)
    return above if best is None else Sum((above, _between(draws, best, units)))


def _above(draws: Array, estimator: Estimator, units: Units, length: Array | None) -> Gains:
    """What exceeding the largest of its draws is worth to each prompt, judged by prompts of about the same length."""
    parts = [np.arange(len(draws))]
    if length is not None:
        parts = np.array_split(np.argsort(length, kind="stable"), min(max(1, len(draws) // ALIKE), GROUPS))
    if len(parts) == 1 or any(not np.isfinite(draws[part]).any() for part in parts):
        return _gains(draws, estimator, units)
    return Several.of(parts, [_gains(draws[part], estimator, units) for part in parts])


def _between(draws: Array, best: Array, units: Units) -> Cuts:
    """What exceeding the best is worth up to the largest of the draws, where the draws themselves tell of the law.

    Of m + 1 draws in no order each is as likely as any other to be the next one: between two neighbours of which the
    upper is exceeded or reached by c, the probability to exceed is c / (m + 1) in the mean. Nothing yet is as far below
    all rewards as these are apart.
    """
    finite = np.isfinite(draws)
    if not finite.any():
        nothing = np.zeros((len(draws), 1))
        return Cuts(nothing, nothing, nothing + 1, np.ones(len(draws)))
    lowest, highest = float(draws[finite].min()), float(draws[finite].max())
    span = highest - lowest or 1.0
    ranked = np.sort(np.clip(draws, lowest - span, highest + span), axis=1)  # NaN last
    m = (~np.isnan(draws)).sum(axis=1)[:, None]
    floor = np.maximum(best, lowest - span)[:, None]
    there = ~np.isnan(ranked) & (ranked > floor)
    reached = np.where(there, m - np.arange(ranked.shape[1]), 0).astype(np.float64)
    lower = np.maximum(np.pad(ranked, ((0, 0), (1, 0)), constant_values=lowest - span)[:, :-1], floor)
    step = np.where(there, ranked - lower if units == "reward" else 1 / (m + 1), 0.0)
    return Cuts(step, reached, np.maximum(m + 1 - reached, 1.0), np.ones(len(draws)))


def _gains(draws: Array, estimator: Estimator, units: Units) -> Gains:
    k = len(draws)
    perfect = np.any(draws == np.inf, axis=1)
    seen = np.where(perfect[:, None], np.nan, draws)
    finite = np.isfinite(seen)
    if not finite.any():
        return _nothing(k)
    drawn, scored = (~np.isnan(seen)).sum(axis=1), finite.sum(axis=1)
    lost = (scored == 0) & ~perfect
    lowest, highest = float(seen[finite].min()), float(seen[finite].max())
    if estimator == "discrete" or (estimator == "auto" and highest > lowest and _shared(seen)):
        return _discrete(seen, units, perfect)
    useful = np.where(scored == drawn, 1.0, (scored + 0.5) / (drawn + 0.5))
    seen = np.where(finite, seen, np.nan)
    seen[scored == 0, 0] = lowest
    values, novelty = distinct(seen)
    law: Law | None
    if estimator == "kde":
        law = Kernels.fit(seen)
    elif estimator == "normal":
        law = Normals.fit(seen, values)
    else:
        law = _likeliest(seen, values, normal=estimator == "auto")
    if law is None:
        law = Kernels(seen, np.zeros(k))
    share = np.where(perfect, 0.0, useful * (1.0 if estimator == "kde" else novelty.share))[:, None]
    fade = np.where(lost | (estimator == "kde"), 1.0, novelty.fade)
    x, w = _unit_nodes()
    if units == "quantile":
        above = (law.exceeding(np.zeros((k, 1))).first * share) * (1 - x)
        width = above[:, :1] / (1 - x[0]) * w
        worth = _first_worth(np.sum(above * width, axis=1), useful, lost, 0.5)
        above[lost], width[lost] = useful[lost, None], worth * w
        return Curves(above, width, fade)
    scale = law.scale[:, None]
    first, second = law.exceeding(4 * scale * (x / (1 - x)))
    first, second, width = first * share, second * share**2, 4 * scale * (w / (1 - x) ** 2)
    worth = _first_worth(np.sum(first * width, axis=1), useful, lost, highest - lowest or 1.0)
    first[lost], width[lost] = useful[lost, None], worth * w
    if estimator == "kde":
        return Curves(first, width, fade)
    second[lost] = first[lost] * (1.5 / (drawn[lost, None] + 1.5))
    over, under = _beta(first, second)
    return Cuts(width, over, under, fade)


def _first_worth(gain: Array, useful: Array, lost: np.ndarray[tuple[int], np.dtype[np.bool_]], least: float) -> Array:
    """What a useful draw is worth to the prompts that have none, float64 [L, 1], given the gains of the others."""
    return np.asarray(np.maximum(least, gain[~lost].max(initial=0.0) / useful[lost])[:, None])


def known(laws: Array, best: Array) -> Curves:
    """The gains where the laws are known: laws, float64 [K, m], equally likely rewards; best: float64 [K]."""
    ranked = np.sort(laws, axis=1)
    k, m = ranked.shape
    lower = np.concatenate([np.minimum(best, ranked[:, 0])[:, None], ranked[:, :-1]], axis=1)
    step = np.maximum(ranked - np.maximum(lower, best[:, None]), 0.0)
    above = np.broadcast_to((m - np.arange(m)) / m, ranked.shape)
    return Curves(above, step, np.ones(k))


class Law(Protocol):
    """A law of the rewards of each of K prompts, as far as it concerns what exceeds the best so far."""

    @property
    def scale(self) -> Array:
        """About how much the best is exceeded by: float64 [K], positive."""

    def exceeding(self, beyond: Array) -> Moments:
        """P(R > best + beyond), which may itself be uncertain; beyond: float64 [K, Q]."""


@dataclass(frozen=True, eq=False)
class Kernels:
    """Gaussian kernel densities: draws float64 [K, n] padded with NaN, bandwidth float64 [K], 0 where unknown."""

    draws: Array
    bandwidth: Array

    @classmethod
    def fit(cls, draws: Array) -> Kernels:
        """Scott's rule: the standard deviation times m^(-1/5) for m draws."""
        m = (~np.isnan(draws)).sum(axis=1)
        return cls(draws, deviations(draws) * m**-0.2)

    @property
    def scale(self) -> Array:
        return np.maximum(self.bandwidth, TINY)

    def exceeding(self, beyond: Array) -> Moments:
        from scipy.special import ndtr

        there = ~np.isnan(self.draws)
        x = np.where(there, self.draws, -np.inf)
        width = np.where(self.bandwidth > 0, self.bandwidth, 1.0)[:, None]
        above = np.empty(beyond.shape)
        for q in range(beyond.shape[1]):
            far = (x - x.max(axis=1, keepdims=True) - beyond[:, q, None]) / width
            above[:, q] = ndtr(far).sum(axis=1) / there.sum(axis=1)
        above[self.bandwidth == 0] = 0.0
        return Moments(above, above**2)


@dataclass(frozen=True, eq=False)
class Normals:
    """Normal laws whose parameters are not known: log-scale normal, mean normal given the scale.

    mean, log_scale, variance (of the log-scale), best: float64 [K]; count: int64 [K], draws behind the mean. evidence:
    as of `Tails`, by the plugged-in parameters, less the two that were fitted.
    """

    mean: Array
    log_scale: Array
    variance: Array
    best: Array
    count: Counts
    evidence: float

    @classmethod
    def fit(cls, draws: Array, values: Array) -> Normals | None:
        """From draws, float64 [K, n] padded with NaN, and their different values; None if all deviations are 0."""
        m = (~np.isnan(draws)).sum(axis=1)
        mean, deviation = np.nanmean(draws, axis=1), deviations(draws)
        noise = 0.5 / np.maximum(m - 1, 1)
        good = deviation > 0
        logs = np.log(np.where(good, deviation, 1.0)) + noise  # which is how much too small it is on average
        common = common_scale(logs[good], noise[good])
        if common is None:
            return None
        trust = np.where(good, 1 / noise, 0.0)
        variance = 1 / (trust + 1 / common.variance)
        log_scale = (trust * logs + common.mean / common.variance) * variance
        return cls(mean, log_scale, variance, values[:, 0], m, _evidence(values, mean, log_scale, m))

    @property
    def scale(self) -> Array:
        deviation = np.exp(self.log_scale)
        return np.asarray(deviation / np.maximum(1.0, (self.best - self.mean) / deviation))

    def exceeding(self, beyond: Array) -> Moments:
        from scipy.special import ndtr

        x, w = np.polynomial.hermite_e.hermegauss(7)
        w = np.outer(w, w) / w.sum() ** 2
        scale = np.exp(self.log_scale[:, None] + np.sqrt(self.variance)[:, None] * x)[:, :, None]
        middle = self.mean[:, None, None] + scale * x / np.sqrt(self.count)[:, None, None]
        first, second = np.empty(beyond.shape), np.empty(beyond.shape)
        for q in range(beyond.shape[1]):
            above = ndtr((middle - (self.best + beyond[:, q])[:, None, None]) / scale)
            first[:, q] = np.sum(w * above, axis=(1, 2))
            second[:, q] = np.sum(w * above**2, axis=(1, 2))
        return Moments(first, second)


def _evidence(values: Array, mean: Array, log_scale: Array, count: Counts) -> float:
    """The log-density of the topmost values given the one below them, of all prompts."""
    from scipy.special import log_ndtr

    top = np.minimum.reduce(tail_sizes(values))
    inside = np.arange(values.shape[1]) < top[:, None]
    edge = values[np.arange(len(values)), np.minimum(top, values.shape[1] - 1)]
    scale = np.exp(log_scale)
    z = np.where(inside, values - mean[:, None], 0.0) / scale[:, None]
    density = np.where(inside, -(z**2) / 2 - np.log(2 * np.pi) / 2 - log_scale[:, None], 0.0).sum(axis=1)
    tail = top * log_ndtr(np.where(top > 0, mean - edge, 0.0) / scale)
    return float(np.sum(density - tail - top / count))


def _likeliest(draws: Array, values: Array, *, normal: bool) -> Law | None:
    """The tails, or the normal law, that best foretell the topmost values."""
    sizes = tail_sizes(values)
    top = np.minimum.reduce(sizes)
    found: list[Tails | Normals | None] = [tails(values, size, top) for size in sizes]
    chosen = max((law for law in found if law is not None), key=lambda law: law.evidence, default=None)
    enough = np.mean(np.isfinite(values).sum(axis=1)) >= ENOUGH
    rival = Normals.fit(draws, values) if normal and enough else None
    if rival is not None and (chosen is None or rival.evidence > chosen.evidence):
        return rival
    return chosen


def _shared(draws: Array) -> bool:
    """Whether most finite draws have a value that another prompt has too."""
    finite = np.isfinite(draws)
    row = np.broadcast_to(np.arange(len(draws))[:, None], draws.shape)[finite]
    _, value = np.unique(draws[finite], return_inverse=True)
    pairs = np.unique(np.stack([value, row]), axis=1)
    common = np.bincount(pairs[0]) > 1
    return bool(common[value].mean() > 0.5)


def _discrete(draws: Array, units: Units, perfect: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Gains:
    """Rewards on the list of all values seen. The probability of a value or more is beta, around a common one."""
    finite = np.isfinite(draws)
    list_of = np.unique(draws[finite])
    seen = np.where(draws == -np.inf, list_of[0], draws)
    at_least = np.stack([(seen >= value).sum(axis=1) for value in list_of], axis=1).astype(np.float64)
    drawn = (~np.isnan(seen)).sum(axis=1).astype(np.float64)[:, None]
    part = at_least[drawn[:, 0] > 0] / drawn[drawn[:, 0] > 0]
    common = np.clip(part.mean(axis=0), 0.5 / (drawn.sum() + 1), 1 - 0.5 / (drawn.sum() + 1))
    size = _concentration(at_least, drawn, common)
    over, under = at_least + size * common, drawn - at_least + size * (1 - common)
    step = np.broadcast_to(np.diff(list_of, prepend=list_of[0]), over.shape)
    if units == "quantile":
        share = np.diff(over / (over + under), axis=1, append=0.0) * -1
        step = np.concatenate([np.zeros((len(draws), 1)), (share[:, 1:] + share[:, :-1]) / 2], axis=1)
    beyond = (at_least == 0) & ~perfect[:, None]
    return Cuts(np.where(beyond, step, 0.0), np.where(beyond, over, 0.0), under, np.ones(len(draws)))


def _concentration(at_least: Array, drawn: Array, common: Array) -> float:
    """How many draws the common law is worth: the likeliest of a grid, given the prompts and a prior around 1."""
    from scipy.special import betaln

    if len(common) == 1:
        return 1.0
    cuts = np.unique(np.linspace(1, len(common) - 1, min(CUTS, len(common) - 1)).round().astype(np.int64))
    above, under, p = at_least[:, cuts], drawn - at_least[:, cuts], common[cuts]
    sizes = np.exp(np.linspace(-3, 5, 17))
    fits = [
        np.sum(betaln(above + s * p, under + s * (1 - p)) - betaln(s * p, s * (1 - p))) / len(cuts) - np.log(s) ** 2 / 2
        for s in sizes
    ]
    return float(sizes[int(np.argmax(fits))])


def _beta(first: Array, second: Array) -> tuple[Array, Array]:
    """The beta laws with these first two moments: a, 0 where the mean is 0, and b, of the shape of the moments."""
    spread = np.maximum(second - first**2, first * 1e-12)
    with np.errstate(divide="ignore", invalid="ignore"):
        size = first * (1 - first) / spread - 1
    size = np.clip(np.nan_to_num(size, nan=1e6, posinf=1e6), 1e-3, 1e6)
    return np.where(first > 1e-15, first * size, 0.0), np.maximum((1 - first) * size, 1e-9)


def _unit_nodes() -> tuple[Array, Array]:
    x, w = np.polynomial.legendre.leggauss(NODES)
    return (x + 1) / 2, w / 2


def _nothing(k: int) -> Curves:
    """No draw is worth anything, as far as one knows."""
    return Curves(np.zeros((k, 1)), np.zeros((k, 1)), np.ones(k))
