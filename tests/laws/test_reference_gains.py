"""Gains over a best that is not the largest of the draws: some were made elsewhere, and tell of the law alone."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from italic.laws.allocation import allocate
from italic.laws.reward_laws import ESTIMATORS, UNITS, gains, known

NAN, INF = float("nan"), float("inf")
COUNTS = np.arange(12)
REFERENCES = np.array([[1.0, 2.0, 4.0, 8.0]])
EVERY = pytest.mark.parametrize("estimator", ESTIMATORS)
BOTH = pytest.mark.parametrize("units", UNITS)


def marginal(draws, best=None, estimator="auto", units="reward", counts=COUNTS):
    best = None if best is None else np.asarray(best, dtype=np.float64)
    return gains(draws, estimator, units, best=best).marginal(np.arange(len(draws)), counts)


@EVERY
@BOTH
def test_the_largest_of_the_draws_is_what_is_exceeded_if_nothing_is_said(estimator, units):
    draws = np.random.default_rng(0).normal(size=(6, 20))
    assert np.array_equal(marginal(draws, draws.max(axis=1), estimator, units), marginal(draws, None, estimator, units))


@pytest.mark.parametrize("estimator", ["auto", "tail"])
def test_many_references_are_the_law(estimator):
    """Uniform and exponential rewards, 4,000 references, and a best anywhere: the exact gains."""
    rng = np.random.default_rng(1)
    draws = np.stack([rng.random(4000), rng.exponential(size=4000), rng.random(4000)])
    best = np.array([0.5, 1.0, 0.0])
    t = np.linspace(0, 40, 4_000_001)
    found = marginal(draws, best, estimator)
    for row, f in ((0, np.minimum(t, 1)), (1, 1 - np.exp(-t)), (2, np.minimum(t, 1))):
        above = t >= best[row]
        exact = [np.sum((f**j * (1 - f))[above]) * (t[1] - t[0]) for j in COUNTS]
        assert found[row] == pytest.approx(exact, rel=0.06, abs=2e-3), row
    assert found[0] != pytest.approx(found[2], rel=0.2)


def test_quantiles_of_many_references():
    draws = np.random.default_rng(2).normal(size=(2, 3000)) * [[1], [50]]
    best = np.quantile(draws, 0.7, axis=1)
    found = marginal(draws, best, "tail", "quantile")
    exact = [(1 - 0.7 ** (j + 1)) / (j + 1) - (1 - 0.7 ** (j + 2)) / (j + 2) for j in COUNTS]
    assert found == pytest.approx(np.tile(exact, (2, 1)), rel=0.03)


@pytest.mark.parametrize("j", [0, 1, 3])
def test_of_few_references_every_order_with_the_next_draws_is_as_likely(j):
    """P(j draws do not exceed a reward, and the next does), in the mean over the places where they fall."""
    inner = marginal(REFERENCES, [1.5], "kde")[0, j] - marginal(REFERENCES, None, "kde")[0, j]
    mean = sum(
        step * np.mean([outcome(places, reached) for places in product(*(range(5 + i) for i in range(j + 1)))])
        for step, reached in ((0.5, 3), (2.0, 2), (4.0, 1))
    )
    assert inner == pytest.approx(mean, rel=1e-12)


def outcome(places, reached):
    """Whether only the last of the draws that fall at these places, from the largest down, is among the `reached`."""
    return all((place < reached) == (last == len(places)) for last, place in enumerate(places, start=1))


def test_known_laws_are_the_limit():
    """Each reference 50 times: as good as known, up to the largest."""
    law = np.random.default_rng(3).normal(size=(3, 12))
    best = np.array([-0.5, 0.0, 0.3])
    many = np.repeat(law, 50, axis=1)
    inner = marginal(many, best, "kde") - marginal(many, None, "kde")
    assert inner == pytest.approx(known(law, best).marginal(np.arange(3), COUNTS), rel=0.02, abs=1e-4)


@EVERY
@BOTH
def test_it_does_not_increase_whatever_the_rewards(estimator, units):
    rng = np.random.default_rng(4)
    for case in range(20):
        draws = rng.choice([-INF, -1.0, 0.0, 0.5, 2.0, INF, *rng.normal(size=6)], size=(5, 9))
        draws[rng.random(draws.shape) < 0.2] = NAN
        draws[:, 0] = np.where(np.isnan(draws[:, 0]), 0.0, draws[:, 0])
        found = marginal(draws, rng.choice([-INF, -1.0, 0.25, 3.0, INF], size=5), estimator, units)
        assert np.isfinite(found).all(), case
        assert (found >= 0).all()
        assert (np.diff(found, axis=1) <= 1e-12 * (1 + found[:, :1])).all(), case


def test_nothing_yet_comes_first_and_the_best_there_can_be_last():
    draws = np.tile(np.linspace(0, 1, 11), (3, 1))
    assert allocate(gains(draws, "tail", best=np.array([-INF, INF, 0.9])), 2).tolist() == [2, 0, 0]
    assert np.all(marginal(np.full((2, 3), -INF), [-INF, -INF]) == 0)
