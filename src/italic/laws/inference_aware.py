"""Alignment to a model's use: the best policy for best-of-n, worst-of-n or any calibrated procedure (2412.19792).

In the quantile u of the reward under the reference everything is one-dimensional. A policy is a density f on [0, 1],
with F(u) = int_0^u f and KL = int f log f. Used through a procedure (g, G) against a reference that is used through a
rival procedure (g', G'), it wins with probability W = 1 - int G(F(u)) g'(u) du. A change of F changes W by
-int g(F) g' dF, so that the best policy of a given KL is f = exp(Phi / beta) / Z with

    Phi'(v) = g'(v) g(F(v)),

a fixed point. One draw against one draw: Phi = u. Best-of-n: n^2 (v F(v))^(n-1), whose solution is unique, as W is then
concave in f; worst-of-n is not concave. Where KL -> 0, Phi -> u^(2n-1), and 1 - (1-u)^(2n-1) for the worst. Derived
here; the paper has the exponentials exp(t u) and -exp(-t u).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from italic.laws.procedures import (
    WEIGHT,
    Array,
    Function,
    Procedure,
    U,
    V,
    integrate,
    integrate_back,
    interpolated,
)
from italic.laws.quantile import MOST_EXPONENT, Counts, averaged, exp_table, log_table

MOST_KL = 20.0
"""The largest KL that the grid can hold, nats."""
CHANGE, ROUNDS = 1e-9, 600
"""The fixed point is found when Phi and F change by less; most rounds."""
PERFECT = 1e-9
"""A policy that loses no more often than this is not tried to be bettered."""
LARGEST, SHRINK, GROW, LEAST = 0.5, 0.5, 1.1, 0.002
"""How far Phi is moved at once: less after a change that is no smaller than the one before, else more."""
STARTS = (-20.0, 20.0)
"""Exponents of two of the starts."""
ROWS = 256
"""Rows of a table that are made at once."""


@dataclass(frozen=True, eq=False)
class Transform:
    """Phi, a transform of the quantile. gap: float64 [m], Phi(1) - Phi on the grid; top: Phi(1).

    function: Phi at quantiles, float64 [n]. tables: of k, float64 [k + 1], the estimate of Phi for each number of wins
    among k reference rewards.
    """

    name: str
    gap: Array
    top: float
    function: Function
    tables: Callable[[int], Array]

    def __call__(self, quantile: Array) -> Array:
        """Phi at quantiles, float64 [n]."""
        return self.function(quantile)

    @property
    def values(self) -> Array:
        """Phi on the grid: float64 [m]."""
        return self.top - self.gap

    def estimate(self, counts: Counts) -> Array:
        """Phi(C) from how rewards stand among k reference rewards: float64 [n]; a tie is half a win."""
        return averaged(self.tables(counts.k), counts)


def identity() -> Transform:
    """Phi = u: the best where the model is used for one draw. Its estimate, the mid-rank, is unbiased."""
    return Transform("identity", V, 1.0, lambda u: np.asarray(u), _kept(lambda k: np.arange(k + 1) / k))


def log() -> Transform:
    """Phi = log u: f = N u^(N-1), N = 1 + 1/beta, so that the policy imitates best-of-N (2407.06057)."""

    def function(u: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(u))

    return Transform("log", -np.log(U), 0.0, function, _kept(log_table))


def exponential(t: float) -> Transform:
    """exp(t u) for t > 0 and -exp(-|t| u) for t < 0, both (exp(t u) - 1) / (exp(t) - 1) when scaled to range 1.

    Raises ValueError for t = 0 and |t| > 600.
    """
    if not 0 < abs(t) <= MOST_EXPONENT:
        raise ValueError(f"an exponent of {t}: 0 < |t| <= {MOST_EXPONENT:g} was expected")
    whole = math.expm1(t)
    return Transform(
        f"exp({t:g} u)" if t > 0 else f"-exp({t:g} u)",
        np.expm1(-t * V) / math.expm1(-t),
        1.0,
        lambda u: np.expm1(t * u) / whole,
        _kept(lambda k: (exp_table(k, t) - 1) / whole),
    )


def fixed_point(procedure: Procedure, kl: float, rival: Procedure | None = None) -> Transform:
    """The transform whose tilt has the largest win rate of all policies of this KL, nats, scaled to range 1.

    rival: how the reference is used, the same procedure unless given. Its estimate from k reference rewards is the mean
    of Phi(u) over u ~ Beta(wins + 1, k - wins + 1), which is the law of a reference draw's quantile given its wins: on
    the reference's responses it has the least squared error, and policies trained on it win more often than on
    Phi(mid-rank) or on unbiased estimates of polynomials close to Phi, whose noise costs more than their bias saves.

    Phi' = g'(v) g(F(v)) is iterated from several starts, F at the given KL, and the best is kept: for worst-of-n it is
    a stationary point, not surely the optimum. Raises ValueError if no start converges, or the KL cannot be reached.
    """
    against = (rival or procedure).density(U)
    weak = integrate_back(against * procedure.density(U))
    least, best = math.inf, weak
    for start in (weak / weak[0], V, *(exponential(t).gap for t in STARTS)):
        policy = _iterated(procedure, against, start, kl)
        if policy is not None:
            lost = float((procedure.cdf(policy[1]) * against) @ WEIGHT)
            least, best = min((least, best), (lost, policy[0]), key=lambda pair: pair[0])
            if least < PERFECT:
                break
    if least == math.inf:
        raise ValueError(f"no fixed point of {procedure.name} at KL {kl:g} was found in {ROUNDS} rounds")
    values = 1 - best
    return Transform("fixed point", best, 1.0, interpolated(values), _kept(lambda k: posterior_means(values, k)))


def posterior_means(values: Array, k: int) -> Array:
    """The mean over u ~ Beta(s + 1, k - s + 1) of what has these values on the grid, s = 0..k: float64 [k + 1].

    Raises ValueError if k < 1.
    """
    if k < 1:
        raise ValueError(f"{k} reference rewards")
    log_u, log_v, means = np.log(U), np.log(V), []
    for start in range(0, k + 1, ROWS):
        wins = np.arange(start, min(start + ROWS, k + 1))[:, None]
        log_law = wins * log_u + (k - wins) * log_v
        law = np.exp(log_law - log_law.max(axis=1, keepdims=True)) * WEIGHT
        means.append(law @ values / law.sum(axis=1))
    return np.concatenate(means)


class Tilt(NamedTuple):
    """The policy f = exp(Phi / beta) / Z. density, cdf: f and F on the grid, float64 [m]; kl: nats; log_z: log Z.

    draws_per_accept: max f, what a draw costs by rejection of reference draws with probability exp((Phi - max)/beta).
    """

    transform: Transform
    beta: float
    kl: float
    density: Array
    cdf: Array
    log_z: float
    draws_per_accept: float


def tilt(transform: Transform, beta: float) -> Tilt:
    """The policy of a transform at a beta. Raises ValueError for beta <= 0, or if its KL is beyond the grid's 20."""
    if not beta > 0:
        raise ValueError(f"a beta of {beta}")
    moment = _moment(transform.gap, 1 / beta)
    if moment.kl > MOST_KL:
        raise ValueError(f"a beta of {beta:g}: its KL is above {MOST_KL:g}, the largest that can be computed")
    density = np.exp(-np.minimum(transform.gap / beta, 800.0)) / moment.z
    upto = integrate(density)
    upto = upto / upto[-1]
    log_z = transform.top / beta + math.log(moment.z)
    return Tilt(transform, beta, moment.kl, density, upto, log_z, float(density.max()))


def tilt_at(transform: Transform, kl: float) -> Tilt:
    """The policy of a transform at a KL, nats.

    Raises ValueError for kl <= 0 and for one that no beta reaches: a transform that is constant over the top share q of
    quantiles has a KL below log 1/q.
    """
    return tilt(transform, math.exp(-_log_rate(transform.gap, kl, 0.0)))


def kl_of(transform: Transform, beta: float) -> float:
    """KL(f || reference) of a transform at a beta, nats: E_f[Phi] / beta - log Z. Raises ValueError as `tilt` does."""
    return tilt(transform, beta).kl


def win_rate(policy: Tilt | Array, procedure: Procedure, rival: Procedure | None = None) -> float:
    """How often the policy used through the procedure beats the reference used through the rival: W in [0, 1].

    policy: a tilt, or F on the grid, float64 [m]. rival: the same procedure unless given.
    """
    upto = policy.cdf if isinstance(policy, Tilt) else policy
    return 1 - float((procedure.cdf(upto) * (rival or procedure).density(U)) @ WEIGHT)


class Row(NamedTuple):
    """What a transform gives at a KL, nats, and what it costs."""

    transform: str
    win_rate: float
    kl: float
    beta: float
    draws_per_accept: float


def compare(
    procedure: Procedure, kl: float, transforms: Sequence[Transform], rival: Procedure | None = None
) -> list[Row]:
    """What transforms give at the same KL, nats, in their order. Raises ValueError if one cannot reach it."""
    rows = []
    for transform in transforms:
        policy = tilt_at(transform, kl)
        won = win_rate(policy, procedure, rival)
        rows.append(Row(transform.name, won, policy.kl, policy.beta, policy.draws_per_accept))
    return rows


def _kept(table: Callable[[int], Array]) -> Callable[[int], Array]:
    """The same tables, the latest of which are made once and cannot be written to. They raise ValueError for k < 1."""

    def made(k: int) -> Array:
        if k < 1:
            raise ValueError(f"{k} reference rewards")
        values = table(k)
        values.setflags(write=False)
        return values

    return functools.lru_cache(maxsize=16)(made)


class _Moment(NamedTuple):
    """Of exp(-rate gap) / z: its KL and the variance of rate * gap, which is dKL / dlog(rate)."""

    kl: float
    variance: float
    z: float


def _moment(gap: Array, rate: float) -> _Moment:
    cost = np.minimum(rate * gap, 800.0)
    share = np.exp(-cost) * WEIGHT
    z = float(share.sum())
    if z == 0:
        return _Moment(math.inf, 0.0, z)
    mean = float(share @ cost) / z
    return _Moment(-mean - math.log(z), float(share @ (cost - mean) ** 2) / z, z)


def _log_rate(gap: Array, kl: float, guess: float) -> float:
    """log(1 / beta) at which exp(-gap / beta) / Z has this KL: Newton in the logs, within a bracket."""
    flat = float(WEIGHT[gap == 0].sum())
    largest = min(MOST_KL, -math.log(flat)) if flat > 0 else MOST_KL
    if not 0 < kl < largest:
        raise ValueError(f"a KL of {kl:g} nats: this transform reaches more than 0 and less than {largest:.6g}")
    low, high, at = -700.0, 700.0, guess
    for _ in range(300):
        moment = _moment(gap, math.exp(at))
        if abs(moment.kl - kl) <= 1e-13 * max(1.0, kl) or high - low < 1e-13:
            break
        low, high = (low, at) if moment.kl > kl else (at, high)
        step = 5.0 if moment.kl < kl else -5.0
        if 0 < moment.kl < math.inf and moment.variance > 0:
            step = min(max(math.log(kl / moment.kl) * moment.kl / moment.variance, -5.0), 5.0)
        after = at + step
        at = after if low < after < high else (low + high) / 2
    return at


def _iterated(procedure: Procedure, against: Array, gap: Array, kl: float) -> tuple[Array, Array] | None:
    """The gap and F at a fixed point near this start, or None."""
    move, rate, change, before = LARGEST, 0.0, math.inf, np.zeros_like(U)
    for _ in range(ROUNDS):
        rate = _log_rate(gap, kl, rate)
        density = np.exp(-np.minimum(math.exp(rate) * gap, 800.0))
        upto = integrate(density)
        upto = upto / upto[-1]
        after = integrate_back(against * procedure.density(upto))
        if not after[0] > 0:
            return None
        after = after / after[0]
        last, change = change, float(np.abs(after - gap).max())
        if max(change, float(np.abs(upto - before).max()) / move) < CHANGE:
            return gap, upto
        move = max(move * SHRINK, LEAST) if change >= last else min(move * GROW, LARGEST)
        gap, before = (1 - move) * gap + move * after, upto
    return None
