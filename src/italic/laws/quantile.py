"""The quantile C of a reward among K reference rewards, and unbiased estimates of functions of it.

C = P(reference < r) + P(reference = r) / 2. Without ties the number of wins S among K reference rewards is binomial, so
that any table b of K + 1 numbers estimates one function of C without bias, the polynomial whose Bernstein coefficients
it is: E[b_S] = sum_s b_s binom(K, s) C^s (1-C)^(K-s). The table binom(s, m) / binom(K, m) estimates C^m, and power
series follow. A tie is half a win: if each is broken by a fair coin, the wins are binomial again, with the same C, and
the mean over the coins (`averaged`) is as unbiased and less noisy. For C^m that mean is the m-th elementary symmetric
polynomial of the K scores 1, 1/2 and 0, over binom(K, m), for it is linear in each score. Derived for the calibrated
rewards of 2412.19792 and 2407.06057, which plug the mean score in.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST_EXPONENT = 600.0
"""The largest |t| of exp(t C)."""


class Counts(NamedTuple):
    """How n rewards stand among k reference rewards: wins, int64 [n], are strictly below; ties, int64 [n], equal."""

    wins: Integers
    ties: Integers
    k: int


def counts(reference: Array, rewards: Array) -> Counts:
    """How rewards, float64 [n], stand among the reference's, float64 [K] in any order; infinities rank as such.

    Raises ValueError for no reference rewards, for arrays that are no vectors, and for NaN.
    """
    ranked = _ranked(reference, 1)
    if rewards.ndim != 1 or np.any(np.isnan(rewards)):
        raise ValueError(f"rewards of shape {rewards.shape}, {int(np.isnan(rewards).sum())} of them NaN")
    below = np.searchsorted(ranked, rewards, side="left")
    return Counts(below, np.searchsorted(ranked, rewards, side="right") - below, len(ranked))


def own_counts(reference: Array) -> Counts:
    """How each of the reference rewards, float64 [K], stands among the K - 1 others: for training on them.

    Raises ValueError for fewer than two, for an array that is no vector, and for NaN.
    """
    ranked = _ranked(reference, 2)
    below = np.searchsorted(ranked, reference, side="left")
    return Counts(below, np.searchsorted(ranked, reference, side="right") - below - 1, len(ranked) - 1)


def mid_rank(counts: Counts) -> Array:
    """C_hat = (wins + ties / 2) / k: float64 [n], unbiased for C (2412.19792). Its variance is at most C(1-C)/k."""
    return (counts.wins + counts.ties / 2) / counts.k


def averaged(table: Array, counts: Counts) -> Array:
    """The mean of table[wins + H], H the heads of `ties` fair coins: float64 [n, ...] of table, float64 [k+1, ...].

    Raises ValueError for a table of another length.
    """
    if len(table) != counts.k + 1:
        raise ValueError(f"a table of {len(table)} entries for counts among {counts.k}")
    found = np.empty((len(counts.wins), *table.shape[1:]))
    present, level = np.bincount(counts.ties, minlength=1), table
    for ties, rows in enumerate(present.tolist()):
        if ties:
            level = (level[:-1] + level[1:]) / 2
        if rows == len(found):
            return np.asarray(level[counts.wins])
        if rows:
            here = counts.ties == ties
            found[here] = level[counts.wins[here]]
    return found


def moments(counts: Counts, order: int) -> Array:
    """Unbiased estimates of C^0, ..., C^order: float64 [n, order + 1].

    Without ties the m-th is binom(wins, m) / binom(k, m). Raises ValueError unless 0 <= order <= k: k draws say nothing
    of higher powers.
    """
    if not 0 <= order <= counts.k:
        raise ValueError(f"moments up to {order} from {counts.k} reference rewards")
    return averaged(_powers(counts.k, order), counts)


def loss_moments(counts: Counts, order: int) -> Array:
    """Unbiased estimates of (1-C)^0, ..., (1-C)^order: float64 [n, order + 1]. Raises ValueError as `moments` does."""
    return moments(Counts(counts.k - counts.wins - counts.ties, counts.ties, counts.k), order)


def exp_moment(counts: Counts, t: float) -> Array:
    """An estimate of exp(t C): float64 [n], short of it by `exp_truncation` at most in the mean, and exact at t = 0.

    The series of exp(t C) in C for t > 0, and of e^t exp(|t| (1-C)) in 1-C for t < 0, to its term k with unbiased
    moments: all terms are positive, so nothing cancels. Raises ValueError unless |t| <= 600.
    """
    return averaged(exp_table(counts.k, t), counts)


def exp_table(k: int, t: float) -> Array:
    """The estimate of exp(t C) for 0, ..., k wins and no ties: float64 [k + 1]. Raises ValueError as `exp_moment`."""
    size, wins = _exponent(t), np.arange(k + 1.0)
    term, total = np.ones(k + 1), np.ones(k + 1)
    for m in range(1, k + 1):
        term = term * np.maximum(wins - (m - 1), 0.0) * (size / (m * (k - m + 1)))
        total += term
    return total if t >= 0 else total[::-1] * math.exp(t)


def exp_truncation(t: float, k: int) -> float:
    """How far the mean of `exp_moment` falls short at most: sum_{m>k} |t|^m / m!, times e^t if t < 0.

    Attained at C = 1 for t > 0, at C = 0 for t < 0. In parts of the largest exp(t C) it is P(Poisson(|t|) > k), either
    way. Raises ValueError unless |t| <= 600 and k >= 1.
    """
    from scipy.special import gammainc

    size = _exponent(t)
    if k < 1:
        raise ValueError(f"{k} reference rewards")
    return math.exp(max(t, 0.0)) * float(gammainc(k + 1, size))


def log_quantile(counts: Counts) -> Array:
    """An estimate of log C: float64 [n], its mean too high by `log_truncation`, never below -H_k.

    The series log C = -sum_m (1-C)^m / m to its term k with unbiased moments. Without ties it is H_wins - H_k, H the
    harmonic numbers (compare 2407.06057, which plugs in a floored rank: `log_floor`).
    """
    return averaged(log_table(counts.k), counts)


def log_table(k: int) -> Array:
    """The estimate of log C for 0, ..., k wins and no ties, H_wins - H_k: float64 [k + 1]."""
    steps = 1 / np.arange(k, 0, -1.0)
    return np.concatenate([[0.0], -np.cumsum(steps)])[::-1]


def log_truncation(quantile: Array, k: int) -> Array:
    """How far the mean of `log_quantile` is above log C: sum_{m>k} (1-C)^m / m of C, float64 [n]; inf at C = 0.

    To an absolute error of about 1e-15. Raises ValueError for what is no quantile or k < 1.
    """
    if k < 1 or not np.all((quantile >= 0) & (quantile <= 1)):
        raise ValueError(f"quantiles outside [0, 1], or {k} reference rewards")
    rest, series = 1 - quantile, np.zeros_like(quantile)
    for m in range(k, 0, -1):
        series = rest * (1 / m + series)
    with np.errstate(divide="ignore"):
        return np.maximum(-np.log(quantile) - series, 0.0)


def log_floor(counts: Counts) -> Array:
    """log((S + 1) / (k + 1)), S = wins + ties / 2: float64 [n], the plug-in of 2407.06057, biased either way."""
    return np.asarray(np.log((counts.wins + counts.ties / 2 + 1) / (counts.k + 1)))


def log_waiting(draws: Integers) -> Array:
    """-H_(T-1) of T, int64 [n], the reference draws up to and with the first whose reward is <= r: float64 [n].

    Its mean is log P(reference <= r) exactly, for E[H_(T-1)] = sum_j P(T > j) / j. Raises ValueError for T < 1.
    """
    from scipy.special import digamma

    if np.any(draws < 1):
        raise ValueError(f"the first hit after {int(draws.min())} draws")
    return np.asarray(-(digamma(draws.astype(np.float64)) + np.euler_gamma))


def _ranked(reference: Array, least: int) -> Array:
    if reference.ndim != 1 or len(reference) < least or np.any(np.isnan(reference)):
        raise ValueError(
            f"{int(np.isnan(reference).sum())} of the reference rewards of shape {reference.shape} are NaN; give a "
            f"vector of at least {least} without NaN"
        )
    return np.sort(reference)


def _powers(k: int, order: int) -> Array:
    """binom(s, m) / binom(k, m) for s = 0..k and m = 0..order: float64 [k + 1, order + 1]."""
    wins, m = np.arange(k + 1.0)[:, None], np.arange(order)
    factors = np.maximum(wins - m, 0.0) / (k - m)
    return np.concatenate([np.ones((k + 1, 1)), np.cumprod(factors, axis=1)], axis=1)


def _exponent(t: float) -> float:
    if not abs(t) <= MOST_EXPONENT:
        raise ValueError(f"an exponent of {t}: |t| <= {MOST_EXPONENT:g} was expected")
    return abs(t)
