"""The exact laws against brute force: every tuple of draws, weighted by its probability."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from italic.laws import finite

INF = float("inf")


def enumerate_law(p, n, chosen):
    """The law of a choice among n draws: chosen(rows) gives float64 [n], how likely each of the drawn is the answer."""
    law = np.zeros(len(p))
    for rows in product(range(len(p)), repeat=n):
        law += np.prod(p[list(rows)]) * np.bincount(rows, weights=chosen(list(rows)), minlength=len(p))
    return law


@st.composite
def problems(draw):
    """(p, r, n): up to 5 outcomes, some impossible, some tied, some of reward -inf, over small and huge ranges."""
    m = draw(st.integers(1, 5))
    weights = np.array(draw(st.lists(st.floats(0, 1), min_size=m, max_size=m))) + 1e-12
    scale = draw(st.sampled_from([1.0, 50.0, 1e6]))
    rewards = st.one_of(st.floats(-1, 1), st.sampled_from([0.0, 1.0, -INF]))
    r = scale * np.array(draw(st.lists(rewards, min_size=m, max_size=m)))
    return weights / weights.sum(), r, draw(st.integers(1, 4))


@settings(deadline=None, max_examples=60)
@given(problems())
def test_best_and_worst_of_n(problem):
    p, r, n = problem
    first_best = enumerate_law(p, n, lambda rows: np.eye(n)[np.argmax(r[rows])])
    first_worst = enumerate_law(p, n, lambda rows: np.eye(n)[np.argmin(r[rows])])
    assert np.allclose(finite.best_of_n(p, r, n), first_best, atol=1e-12)
    assert np.allclose(finite.worst_of_n(p, r, n), first_worst, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(problems(), st.sampled_from([0.1, 1.0, 7.0]))
def test_soft_best_of_n(problem, beta):
    p, r, n = problem

    def softmax(rows):
        if np.max(r[rows]) == -INF:
            return np.eye(n)[0]
        weights = np.exp((r[rows] - np.max(r[rows])) / beta)
        return weights / weights.sum()

    assert np.allclose(finite.soft_best_of_n(p, r, n, beta), enumerate_law(p, n, softmax), atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(problems())
def test_one_draw_is_the_model(problem):
    p, r, _ = problem
    for law in (finite.best_of_n(p, r, 1), finite.worst_of_n(p, r, 1), finite.soft_best_of_n(p, r, 1, 1.0)):
        assert np.allclose(law, p, atol=1e-12)


def random_problem(m=30):
    rng = np.random.default_rng(0)
    return rng.dirichlet(np.ones(m)), rng.normal(size=m)


def test_soft_best_of_n_at_its_limits():
    p, r = random_problem()
    assert finite.total_variation(finite.soft_best_of_n(p, r, 16, 1e-6), finite.best_of_n(p, r, 16)) < 1e-12
    assert finite.total_variation(finite.soft_best_of_n(p, r, 16, 1e8), p) < 1e-7
    tilted = finite.tilt(p, r, 1.0)
    distances = [finite.total_variation(finite.soft_best_of_n(p, r, n, 1.0), tilted) for n in (100, 200, 400, 100_000)]
    assert distances[0] / distances[1] == pytest.approx(2, rel=0.05)
    assert distances[1] / distances[2] == pytest.approx(2, rel=0.05)
    assert distances[3] < 1e-5


@pytest.mark.parametrize("spread", [1.0, 1e3, 1e9])
def test_soft_best_of_n_is_a_law_for_any_range_of_rewards(spread):
    p, r = random_problem()
    law = finite.soft_best_of_n(p, spread * r, 1000, 1.0)
    assert law.min() >= 0
    assert law.sum() == pytest.approx(1, abs=1e-11)


def test_tilt():
    p, r = np.array([0.5, 0.3, 0.2]), np.array([0.0, np.log(2), -INF])
    assert finite.tilt(p, r, 1.0) == pytest.approx([5 / 11, 6 / 11, 0])
    assert finite.tilt(p, 1e6 * r, 1.0) == pytest.approx([0, 1, 0])
    assert finite.tilt(np.array([0.0, 1.0]), np.array([9.0, 1.0]), 1.0) == pytest.approx([0, 1])
    with pytest.raises(ValueError, match="-inf"):
        finite.tilt(p, np.full(3, -INF), 1.0)


def test_divergences():
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.5, 0.25])
    assert finite.entropy(p) == pytest.approx(np.log(2))
    assert finite.kl(p, q) == pytest.approx(0.5 * np.log(2))
    assert finite.kl(q, p) == INF
    assert finite.kl(p, p) == 0
    assert finite.total_variation(p, q) == pytest.approx(0.25)
