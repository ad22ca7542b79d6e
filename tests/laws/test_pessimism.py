"""The threshold and the weights of pessimism: the equation, its ends, and what the weights are the optimum of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq

from italic.laws.finite import kl, total_variation
from italic.laws.pessimism import log_weights, threshold
from italic.laws.weights import effective_sample_size

INF, NAN = np.inf, np.nan
EXACT = 1e-12
SPREAD = st.floats(-8, 8)
VALUES = st.one_of(SPREAD, st.integers(-2, 2).map(float), st.sampled_from([-INF, NAN]))


def excess(rewards, beta, found, p):
    return p @ np.maximum((rewards - found) / beta, 0.0) - 1


def optimum(p, rewards, beta):
    """The chi-square regularised optimum of a law p, by a search for its threshold."""
    low = (p @ rewards - beta) - 1.0
    found = brentq(lambda t: excess(rewards, beta, t, p), low, rewards.max(), xtol=1e-15, rtol=1e-14)
    law = p * np.maximum((rewards - found) / beta, 0.0)
    return found, law / law.sum()


def chi(law, p):
    return float(np.sum((law - p) ** 2 / p))


def objective(law, p, rewards, beta, factor=0.5):
    return float(law @ rewards - factor * beta * chi(law, p))


@pytest.mark.parametrize(
    ("beta", "found", "weights"),
    [(1.0, -0.5, [0.5, 1.5]), (0.5, 0.0, [0, 2]), (0.25, 0.5, [0, 2]), (4.0, -3.5, [0.875, 1.125])],
    ids=str,
)
def test_by_hand(beta, found, weights):
    rewards = np.array([0.0, 1.0])
    assert threshold(rewards, beta) == found
    assert np.exp(log_weights(rewards, beta)) == pytest.approx(np.array(weights), abs=EXACT)


@pytest.mark.parametrize("beta", [0.01, 0.1, 0.7, 3.0, 100.0])
@pytest.mark.parametrize("n", [1, 2, 5, 16, 300])
def test_the_threshold_solves_its_equation(n, beta):
    rng = np.random.default_rng(n)
    for rewards in (rng.normal(size=n), rng.integers(0, 3, n) / 2, rng.standard_cauchy(n), np.full(n, 0.3)):
        found = threshold(rewards, beta)
        size = np.abs([*rewards[rewards > found], found]).max() / beta
        assert abs(excess(rewards, beta, found, np.full(n, 1 / n))) <= EXACT * max(1.0, size / 1000)
        assert found == pytest.approx(optimum(np.full(n, 1 / n), rewards, beta)[0], abs=1e-9 * max(1.0, beta * size))
        assert np.exp(log_weights(rewards, beta)).mean() == pytest.approx(1, abs=EXACT)
        assert beta * (1 - EXACT) <= rewards.max() - found <= n * beta * (1 + EXACT) + EXACT


@given(
    st.lists(VALUES, min_size=1, max_size=20).filter(lambda x: not np.all(np.isnan(x))),
    st.floats(-12, 12).map(lambda x: 10.0**x),
    st.sampled_from([0.0, -1e6, 1e6]),
)
def test_the_weights_have_mean_one(rewards, beta, offset):
    """Whatever beta is beside the rewards, and over the rewards that are there."""
    rewards = np.array(rewards) + offset
    weights = np.exp(log_weights(rewards, beta))
    there = ~np.isnan(rewards)
    assert weights[there].mean() == pytest.approx(1, abs=EXACT)
    assert not weights[~there].any()
    assert not weights[rewards == -INF].any() or rewards[there].max() == -INF
    assert np.all(np.diff(weights[there][np.argsort(rewards[there])]) >= 0), "a larger reward has no smaller weight"
    found = threshold(rewards, beta)
    if found > -INF:
        lost = 1e-15 * np.abs([*rewards[rewards > -INF], found]).max() / beta
        assert np.maximum((rewards - found) / beta, 0)[there] == pytest.approx(weights[there], abs=10 * lost + EXACT)


@given(st.lists(VALUES, min_size=1, max_size=9), st.floats(0.1, 10), st.randoms(use_true_random=False))
def test_order_place_and_unit_do_not_matter(rewards, beta, random):
    rewards = np.array([*rewards, 0.0])
    expected = np.exp(log_weights(rewards, beta))
    order = random.sample(range(len(rewards)), len(rewards))
    assert np.exp(log_weights(rewards[order], beta)) == pytest.approx(expected[order], abs=EXACT)
    assert np.exp(log_weights(rewards + 32, beta)) == pytest.approx(expected, abs=1e-11)
    assert np.array_equal(np.exp(log_weights(8 * rewards, 8 * beta)), expected)
    assert threshold(8 * rewards, 8 * beta) == 8 * threshold(rewards, beta)
    assert np.array_equal(np.exp(log_weights(np.array([NAN, *rewards]), beta))[1:], expected), "missing is left out"


def test_the_lowest_reward_counts_and_weighs_nothing():
    assert threshold(np.array([1.0, -INF]), 0.5) == 0, "one of two, so it has to be twice as far above"
    assert threshold(np.array([1.0, NAN]), 0.5) == 0.5
    assert np.exp(log_weights(np.array([1.0, -INF, NAN]), 0.5)).tolist() == [2, 0, 0]
    assert threshold(np.array([-INF, NAN, -INF]), 1.0) == -INF
    assert log_weights(np.array([-INF, NAN, -INF]), 1.0).tolist() == [0, -INF, 0]


@pytest.mark.parametrize("beta", [5e-324, 1e-300, 1.0, 1e300])
def test_no_reward_is_too_large(beta):
    for rewards in (np.array([1e308, -1e308, 1e308]), np.array([3.0, -1e308, 3.0]), np.array([-1e308, -INF, -1e308])):
        weights = np.exp(log_weights(rewards, beta))
        assert weights.mean() == pytest.approx(1, abs=EXACT)
        assert weights[0] == weights[2]


def test_the_ends_of_beta():
    rewards = np.array([0.2, 1.0, -3.0, 1.0, 0.9])
    assert np.exp(log_weights(rewards, 1e9)) == pytest.approx(np.ones(5), abs=1e-8)
    assert np.exp(log_weights(rewards, 0.03)) == pytest.approx(np.array([0, 2.5, 0, 2.5, 0]), abs=EXACT)
    assert np.exp(log_weights(rewards, 1e-300)).tolist() == [0, 2.5, 0, 2.5, 0]
    assert log_weights(np.full(4, -7.0), 0.1).tolist() == [0] * 4


@pytest.mark.parametrize(
    ("rewards", "beta", "message"),
    [
        ([0.0], 0.0, "beta is 0.0"),
        ([0.0], -1.0, "beta is -1.0"),
        ([0.0], INF, "positive and finite"),
        ([0.0], NAN, "positive and finite"),
        ([], 1.0, "no reward"),
        ([NAN, NAN], 1.0, "no reward"),
        ([0.0, INF, NAN], 1.0, "a reward of inf"),
    ],
    ids=str,
)
@pytest.mark.parametrize("function", [threshold, log_weights], ids=lambda f: f.__name__)
def test_what_has_no_answer(function, rewards, beta, message):
    with pytest.raises(ValueError, match=message):
        function(np.array(rewards), beta)


def laws():
    """Laws of shares of 1,000, rewards with ties, and betas that give all, some and one of them a weight."""
    rng = np.random.default_rng(3)
    for beta in (0.05, 0.3, 1.0, 5.0):
        for m in (2, 6, 12):
            counts = 1 + rng.multinomial(1000 - m, rng.dirichlet(np.ones(m)))
            yield counts, rng.integers(-4, 5, m) / 2 + rng.choice([0, 0.01], m), beta


def test_as_many_draws_as_there_are():
    """Draws in exact proportion to a law have that law's threshold and, summed up, its optimum."""
    for counts, rewards, beta in laws():
        p = counts / counts.sum()
        found, law = optimum(p, rewards, beta)
        drawn = np.repeat(rewards, counts)
        assert threshold(drawn, beta) == pytest.approx(found, abs=EXACT)
        weights = np.exp(log_weights(drawn, beta))
        summed = np.bincount(np.repeat(np.arange(len(p)), counts), weights) / len(drawn)
        assert summed == pytest.approx(law, abs=EXACT)


def test_many_draws_tend_to_the_optimum():
    rng = np.random.default_rng(4)
    for counts, rewards, beta in laws():
        p, away = counts / counts.sum(), []
        for n in (100, 10_000, 1_000_000):
            seen = rng.multinomial(n, p)
            weights = np.exp(log_weights(np.repeat(rewards, seen), beta))
            summed = np.bincount(np.repeat(np.arange(len(p)), seen), weights, minlength=len(p)) / n
            away.append(total_variation(summed, optimum(p, rewards, beta)[1]))
        assert away[2] < 0.01
        assert away[2] < away[0] + 1e-10


def test_no_other_law_has_a_larger_objective():
    """Nor one near it: every other law is worse by beta/2 of its own chi-square distance at least."""
    rng = np.random.default_rng(5)
    for counts, rewards, beta in laws():
        p = counts / counts.sum()
        law = optimum(p, rewards, beta)[1]
        most = objective(law, p, rewards, beta)
        for spread in (0.1, 1.0, 30.0):
            for far in (1.0, 0.1, 0.001):
                other = (1 - far) * law + far * rng.dirichlet(np.full(len(p), spread))
                worse = most - objective(other, p, rewards, beta)
                assert worse >= beta / 2 * np.sum((other - law) ** 2 / p) - EXACT * (1 + beta * chi(other, p))


@pytest.mark.parametrize(("factor", "better"), [(0.25, 0.5), (1.0, 2.0)])
def test_another_factor_has_another_optimum(factor, better):
    """The penalty is beta/2 chi-square: with another factor the law of another beta is better."""
    p, rewards, beta = np.array([0.2, 0.3, 0.4, 0.1]), np.array([0.0, 1.0, -1.0, 2.0]), 1.5
    law, other = optimum(p, rewards, beta)[1], optimum(p, rewards, better * beta)[1]
    assert objective(other, p, rewards, beta, factor) > objective(law, p, rewards, beta, factor) + 0.01
    assert objective(other, p, rewards, beta) < objective(law, p, rewards, beta) - 0.01


def test_how_far_it_can_go():
    """chi^2 is at most Var(r) / beta^2, equal if every draw has a weight; KL is at most log(1 + chi^2)."""
    equal = 0
    for counts, rewards, beta in laws():
        drawn, p = np.repeat(rewards, counts), counts / counts.sum()
        found = log_weights(drawn, beta)
        law = optimum(p, rewards, beta)[1]
        most = drawn.var() / beta**2
        assert chi(law, p) <= most * (1 + EXACT) + EXACT
        assert effective_sample_size(found) == pytest.approx(1000 / (1 + chi(law, p)))
        assert kl(law, p) <= np.log1p(most) + EXACT
        if found.min() > -INF:
            equal += 1
            assert chi(law, p) == pytest.approx(most)
    assert equal >= 3
