from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from italic.laws.statistics import chi_square, mean_interval, spearman, weighted_mean


def test_chi_square_as_scipy_has_it():
    counts, law = np.array([18, 32, 50]), np.array([0.2, 0.3, 0.5])
    fit, expected = chi_square(counts, law), stats.chisquare(counts, 100 * law)
    assert fit.statistic == pytest.approx(expected.statistic)
    assert fit.p_value == pytest.approx(expected.pvalue)
    assert fit.dof == 2


def test_rare_outcomes_are_pooled():
    law = np.array([0.9, 0.03, 0.03, 0.03, 0.01])
    counts = np.array([90, 1, 2, 4, 3])
    fit = chi_square(counts, law)
    pooled = stats.chisquare([6, 94], [7, 93])
    assert (fit.dof, fit.statistic) == (1, pytest.approx(pooled.statistic))
    assert chi_square(np.array([3, 1]), np.array([0.5, 0.5])) == (0.0, 0, 1.0)


def test_impossible_outcomes():
    law = np.array([0.5, 0.5, 0.0])
    assert chi_square(np.array([50, 50, 0]), law).p_value == 1
    assert chi_square(np.array([50, 50, 1]), law).p_value == 0


def test_p_values_are_uniform_under_the_law():
    rng = np.random.default_rng(0)
    law = rng.dirichlet(np.full(40, 0.3))
    p_values = [chi_square(rng.multinomial(2000, law), law).p_value for _ in range(400)]
    assert stats.kstest(p_values, "uniform").pvalue > 0.001


def test_mean_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    intervals = [mean_interval(rng.normal(3, 2, size=6), 0.9) for _ in range(2000)]
    assert np.mean([i.low <= 3 <= i.high for i in intervals]) == pytest.approx(0.9, abs=0.02)
    assert mean_interval(np.array([2.0])) == (2.0, -np.inf, np.inf)


@pytest.mark.parametrize("levels", [2, 5, 1000])
def test_spearman_as_scipy_has_it(levels):
    rng = np.random.default_rng(levels)
    for n in (3, 4, 8, 50):
        x, noise = rng.integers(levels, size=(2, n)) / 3
        for y in (noise, x + noise, -x):
            if len(set(x)) > 1 and len(set(y)) > 1:
                assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic)


def test_spearman_at_the_edges():
    x = np.array([-np.inf, 0.0, 2.0, np.inf])
    assert spearman(x, np.arange(4.0)) == 1
    assert spearman(x, -x) == -1
    for constant in (np.zeros(4), np.full(4, np.inf), np.full(4, 0.1)):
        assert np.isnan(spearman(x, constant))
        assert np.isnan(spearman(constant, x))
    assert np.isnan(spearman(np.array([1.0]), np.array([2.0])))
    assert np.isnan(spearman(np.array([]), np.array([])))


def test_a_weighted_mean_and_its_error():
    rng = np.random.default_rng(2)
    values = rng.normal(size=30)
    even = weighted_mean(values, np.full(30, 3.0))
    assert even == (pytest.approx(values.mean()), pytest.approx(stats.sem(values)))
    assert weighted_mean(np.array([2.0, 5.0]), np.array([2.0, 1.0])).mean == pytest.approx(3)
    weights = rng.integers(1, 9, size=12)
    found = [weighted_mean(1 + rng.normal(size=12) / np.sqrt(weights), weights) for _ in range(4000)]
    means, errors = np.array(found).T
    assert np.mean(errors**2) == pytest.approx(np.var(means), rel=0.1)
    one, none = weighted_mean(np.array([2.0]), np.array([3.0])), weighted_mean(np.zeros(0), np.zeros(0))
    assert (one.mean, np.isnan(one.error), np.isnan(none.mean), np.isnan(none.error)) == (2, True, True, True)


@pytest.mark.parametrize(
    "call",
    [
        lambda: chi_square(np.array([1, 2]), np.array([1.0])),
        lambda: chi_square(np.array([0]), np.array([1.0])),
        lambda: mean_interval(np.array([])),
        lambda: mean_interval(np.array([1.0]), 1.0),
        lambda: spearman(np.zeros(2), np.zeros(3)),
        lambda: spearman(np.array([0.0, np.nan]), np.zeros(2)),
        lambda: spearman(np.zeros(2), np.array([0.0, np.nan])),
    ],
)
def test_refusals(call):
    with pytest.raises(ValueError, match="of"):
        call()
