"""Estimates of functions of a quantile against their exact means, and against the plug-ins, which the tests reject."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from scipy.stats import binom

from italic.laws.quantile import (
    Counts,
    averaged,
    counts,
    exp_moment,
    exp_truncation,
    log_floor,
    log_quantile,
    log_truncation,
    log_waiting,
    loss_moments,
    mid_rank,
    moments,
    own_counts,
)

LAWS = {"no ties": (0.37, 0.0), "ties": (0.25, 0.3), "all tied": (0.0, 1.0), "never wins": (0.0, 0.2)}
"""P(a reference reward is below), P(it is equal)."""


def every_count(k, wins, ties):
    """All counts among k that are possible, and their trinomial probabilities."""
    pairs = [(s, t) for s in range(k + 1) for t in range(k + 1 - s)]
    s, t = np.array(pairs).T
    rest = 1 - wins - ties
    chance = binom.pmf(s, k, wins) * binom.pmf(t, k - s, min(ties / (1 - wins), 1.0) if rest > 0 else 1.0)
    return Counts(s, t, k), chance


def simulated(law, k, size=1_000_000):
    """Distinct counts of a million references, and how often each came."""
    wins, ties = law
    drawn = np.random.default_rng(0).multinomial(k, [wins, ties, 1 - wins - ties], size=size)
    found, times = np.unique(drawn[:, 0] * (k + 1) + drawn[:, 1], return_counts=True)
    return Counts(found // (k + 1), found % (k + 1), k), times / size


def is_unbiased(estimates, truth, shares, size=1_000_000, slack=0.0):
    """Whether the weighted mean is the truth within three standard errors."""
    mean = shares @ estimates
    error = math.sqrt(shares @ (estimates - mean) ** 2 / size)
    return abs(mean - truth) <= 3 * error + slack


def test_counts():
    reference = np.array([3.0, -np.inf, 1.0, 1.0, np.inf])
    found = counts(reference, np.array([1.0, -np.inf, np.inf, 2.0, 0.0]))
    assert found.wins.tolist() == [1, 0, 4, 3, 1]
    assert found.ties.tolist() == [2, 1, 1, 0, 0]
    assert mid_rank(found) == pytest.approx(np.array([2, 0.5, 4.5, 3, 1]) / 5)
    own = own_counts(reference)
    assert own.k == 4
    assert own.wins.tolist() == [3, 0, 1, 1, 4]
    assert own.ties.tolist() == [0, 0, 1, 1, 0]


def test_own_counts_leave_each_one_out():
    reference = np.random.default_rng(0).integers(5, size=20).astype(float)
    own = own_counts(reference)
    for i, reward in enumerate(reference):
        apart = counts(np.delete(reference, i), np.array([reward]))
        assert (own.wins[i], own.ties[i]) == (apart.wins[0], apart.ties[0])


def test_moments_are_symmetric_polynomials():
    k = 6
    found, _ = every_count(k, 0.3, 0.3)
    estimates, losses = moments(found, k), loss_moments(found, k)
    for row, (wins, ties) in enumerate(zip(found.wins, found.ties, strict=True)):
        scores = [Fraction(1)] * wins + [Fraction(1, 2)] * ties + [Fraction(0)] * (k - wins - ties)
        for m in range(k + 1):
            subsets = list(combinations(range(k), m))
            mean = sum(math.prod([scores[i] for i in some], start=Fraction(1)) for some in subsets) / len(subsets)
            lost = sum(math.prod([1 - scores[i] for i in some], start=Fraction(1)) for some in subsets) / len(subsets)
            assert estimates[row, m] == pytest.approx(float(mean), rel=1e-13)
            assert losses[row, m] == pytest.approx(float(lost), rel=1e-13)


@pytest.mark.parametrize("law", LAWS.values(), ids=LAWS)
@pytest.mark.parametrize("k", [1, 7, 30])
def test_exact_means(law, k):
    """Over all counts, with their probabilities: the means are C^m, the truncated series, to rounding."""
    found, chance = every_count(k, *law)
    c = law[0] + law[1] / 2
    assert chance.sum() == pytest.approx(1)
    assert chance @ mid_rank(found) == pytest.approx(c, rel=1e-12)
    assert chance @ moments(found, k) == pytest.approx(c ** np.arange(k + 1), rel=1e-11)
    assert chance @ loss_moments(found, k) == pytest.approx((1 - c) ** np.arange(k + 1), rel=1e-11)
    m = np.arange(1, k + 1)
    assert chance @ log_quantile(found) == pytest.approx(-np.sum((1 - c) ** m / m), rel=1e-11)
    assert chance @ log_quantile(found) - math.log(c) == pytest.approx(log_truncation(np.array([c]), k)[0], abs=1e-12)
    for t in (-12.0, -0.5, 0.0, 3.0, 12.0):
        x, ahead = (c, 1.0) if t > 0 else (1 - c, math.exp(t))
        series = ahead * sum((abs(t) * x) ** j / math.factorial(j) for j in range(k + 1))
        mean = chance @ exp_moment(found, t)
        assert mean == pytest.approx(series, rel=1e-11)
        assert -1e-9 * math.exp(max(t, 0)) <= math.exp(t * c) - mean <= exp_truncation(t, k) * (1 + 1e-9) + 1e-12


@pytest.mark.parametrize("law", [LAWS["no ties"], LAWS["ties"]], ids=["no ties", "ties"])
def test_a_million_references(law):
    """The estimates are within three standard errors of the truth, and the plug-ins are not."""
    k, t, m = 100, 10.0, 7
    c = law[0] + law[1] / 2
    found, shares = simulated(law, k)
    rank = mid_rank(found)
    assert is_unbiased(rank, c, shares)
    assert is_unbiased(moments(found, m)[:, m], c**m, shares)
    assert not is_unbiased(rank**m, c**m, shares)
    for sign in (1, -1):
        assert is_unbiased(exp_moment(found, sign * t), math.exp(sign * t * c), shares)
        assert not is_unbiased(np.exp(sign * t * rank), math.exp(sign * t * c), shares)
    assert is_unbiased(log_quantile(found), math.log(c), shares)
    assert not is_unbiased(log_floor(found), math.log(c), shares)


def test_the_plug_in_exponential_is_high_by_an_eighth():
    found, chance = every_count(100, 0.5, 0.0)
    assert chance @ np.exp(10 * mid_rank(found)) / math.exp(5) == pytest.approx(1.13, abs=0.01)


@pytest.mark.parametrize(("k", "bias"), [(100, 0.56), (300, 0.18)])
def test_the_floored_logarithm_is_high(k, bias):
    wins = np.arange(k + 1)
    found = Counts(wins, np.zeros_like(wins), k)
    chance = binom.pmf(wins, k, 0.01)
    assert chance @ log_floor(found) - math.log(0.01) == pytest.approx(bias, abs=0.006)
    assert chance @ log_quantile(found) - math.log(0.01) == pytest.approx(log_truncation(np.array([0.01]), k)[0])


@pytest.mark.parametrize("c", [0.01, 0.3, 1.0])
def test_waiting_is_exactly_unbiased(c):
    draws = np.random.default_rng(1).geometric(c, size=1_000_000)
    values, times = np.unique(draws, return_counts=True)
    assert is_unbiased(log_waiting(values), math.log(c), times / len(draws), slack=1e-12)
    assert log_waiting(np.array([1, 2, 3, 4])) == pytest.approx([0, -1, -1.5, -11 / 6], abs=1e-12)


def test_the_logarithm_is_a_difference_of_harmonic_numbers():
    k = 1000
    harmonic = np.concatenate([[0], np.cumsum(1 / np.arange(1, k + 1))])
    wins = np.arange(k + 1)
    found = Counts(wins, np.zeros_like(wins), k)
    assert log_quantile(found) == pytest.approx(harmonic - harmonic[k], abs=1e-12)
    series = -loss_moments(found, k)[:, 1:] @ (1 / np.arange(1, k + 1))
    assert log_quantile(found) == pytest.approx(series, abs=1e-11)


def test_truncations():
    c = np.array([0.0, 1e-3, 0.2, 0.9, 1.0])
    for k in (1, 20):
        m = np.arange(k + 1, 30_000)
        tail = np.sum((1 - c[1:, None]) ** m / m, axis=1)
        assert log_truncation(c, k)[1:] == pytest.approx(tail, abs=1e-12)
        assert log_truncation(c, k)[0] == np.inf
    for t in (-7.0, 7.0):
        tail = sum(7.0**j / math.factorial(j) for j in range(9, 80))
        assert exp_truncation(t, 8) == pytest.approx(tail * math.exp(min(t, 0)), rel=1e-10)
    assert exp_truncation(10.0, 100) < 1e-10


def test_large_tables_stay_finite():
    rng = np.random.default_rng(2)
    wins = rng.integers(0, 1001, 500)
    ties = rng.integers(0, 1001 - wins)
    found = Counts(wins, ties, 1000)
    estimates = moments(found, 1000)
    assert np.all((estimates >= 0) & (estimates <= 1))
    assert np.all(np.diff(estimates, axis=1) <= 1e-15)
    values = exp_moment(found, 600.0)
    assert np.all(np.isfinite(values))
    assert np.all(values <= math.exp(600.0) * (1 + 1e-12))
    assert exp_moment(found, 3.0) == pytest.approx(np.exp(3 * mid_rank(found)), rel=0.01)


def test_averaging_is_over_fair_coins():
    table = np.random.default_rng(3).normal(size=9)
    found = averaged(table, Counts(np.array([0, 2, 3]), np.array([8, 3, 0]), 8))
    assert found == pytest.approx([binom.pmf(np.arange(9), 8, 0.5) @ table, table[2:6] @ [1, 3, 3, 1] / 8, table[3]])


SOME = Counts(np.array([1]), np.array([0]), 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: counts(np.zeros(0), np.zeros(1)),
        lambda: counts(np.array([np.nan]), np.zeros(1)),
        lambda: counts(np.zeros((2, 2)), np.zeros(1)),
        lambda: counts(np.zeros(2), np.array([np.nan])),
        lambda: own_counts(np.zeros(1)),
        lambda: moments(SOME, 4),
        lambda: loss_moments(SOME, -1),
        lambda: averaged(np.zeros(3), SOME),
        lambda: exp_moment(SOME, 601.0),
        lambda: exp_truncation(math.nan, 3),
        lambda: exp_truncation(1.0, 0),
        lambda: log_truncation(np.array([1.5]), 3),
        lambda: log_truncation(np.array([0.5]), 0),
        lambda: log_waiting(np.array([0])),
    ],
)
def test_refusals(call):
    with pytest.raises(ValueError, match=r"of|from|reference|after"):
        call()
