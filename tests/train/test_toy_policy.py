"""Gradient ascent on a softmax policy whose outcomes can be listed: each training objective ends at its known optimum.

Gradients are exact, E_pi[(A - E_pi[A]) ...] for the logits, so that what is tested is the objective and its optimum.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from italic.laws import finite
from italic.laws.inference_aware import exponential, fixed_point, identity, log, tilt_at, win_rate
from italic.laws.procedures import best_of_n, discrete_win_rate, worst_of_n

N = 4


def problem(m=40, seed=0, ties=False):
    """A reference p, rewards r, and the mass at or below each reward."""
    rng = np.random.default_rng(seed)
    p, r = rng.dirichlet(np.ones(m)), rng.normal(size=m)
    if ties:
        r = np.round(r, 0)
    upto = np.array([p[r <= x].sum() for x in r])
    below = np.array([p[r < x].sum() for x in r])
    return p, r, upto, below


def ascend(p, reward, beta, steps=400, rate=1.0):
    """Natural gradient ascent of E_pi[reward] - beta KL(pi || p) over the logits, from the reference.

    The gradient for the logits is pi (A - E_pi[A]), A = reward - beta log(pi / p), a row of advantages weighted with
    pi; divided by the Fisher information pi it is the advantage itself.
    """
    logits = np.log(p)
    for _ in range(steps):
        log_pi = log_softmax(logits)
        signal = reward - beta * (log_pi - np.log(p))
        advantage = signal - np.exp(log_pi) @ signal
        logits = logits + rate / max(beta, 1.0) * advantage
    return np.exp(log_softmax(logits))


def plain_ascent(p, reward, beta):
    """The same optimum by an optimiser that knows the ordinary gradient alone."""

    def loss(logits):
        log_pi = log_softmax(logits)
        pi = np.exp(log_pi)
        signal = reward - beta * (log_pi - np.log(p))
        return -(pi @ signal), -pi * (signal - pi @ signal)

    found = minimize(loss, np.log(p), jac=True, method="L-BFGS-B", options={"maxiter": 5000, "gtol": 1e-10, "ftol": 0})
    return np.exp(log_softmax(found.x))


@pytest.mark.parametrize("ties", [False, True], ids=["no ties", "ties"])
@pytest.mark.parametrize("climb", [ascend, plain_ascent], ids=["natural", "plain"])
def test_the_lower_bound_of_variational_best_of_n(climb, ties):
    """(N-1) E[log F] - KL(pi || p) is largest at p F^(N-1) / Z, F = P(reward <= r) or any other positive quantile."""
    p, _, upto, below = problem(ties=ties)
    for quantile in (upto, (upto + below) / 2):
        optimum = finite.tilt(p, np.log(quantile), 1 / (N - 1))
        assert optimum == pytest.approx(p * quantile ** (N - 1) / (p @ quantile ** (N - 1)))
        found = climb(p, (N - 1) * np.log(quantile), 1.0)
        assert finite.kl(found, optimum) < 1e-6


@pytest.mark.parametrize("climb", [ascend, plain_ascent], ids=["natural", "plain"])
def test_the_exact_reward_gives_best_of_n_itself(climb):
    """Without ties: E[log BoN / p] - KL(pi || p) = -KL(pi || BoN)."""
    p, r, upto, below = problem()
    reward = np.log((upto**N - below**N) / p)
    assert logsumexp(reward + np.log(p)) == pytest.approx(0, abs=1e-12)
    found, law = climb(p, reward, 1.0), finite.best_of_n(p, r, N)
    assert finite.kl(found, law) < 1e-6
    assert finite.total_variation(found, finite.tilt(p, np.log(upto), 1 / (N - 1))) > 0.005


def test_the_exact_reward_with_ties_shares_a_value_in_proportion():
    p, r, upto, below = problem(ties=True)
    reward = np.log((upto**N - below**N) / (upto - below))
    assert finite.kl(ascend(p, reward, 1.0), finite.best_of_n(p, r, N)) < 1e-6
    own_mass = np.log(((below + p) ** N - below**N) / p)
    assert logsumexp(own_mass + np.log(p)) < -0.05, "(F + p(y))^N - F^N is no law where rewards are equal"


def factors(logits, size):
    first, second = log_softmax(logits[:size]), log_softmax(logits[size:])
    return first, second, first[:, None] + second[None, :]


def test_a_factorised_policy_reaches_the_backward_projection():
    """Two tokens, drawn apart: ascent ends where the mean-field projection of the best-of-N law does."""
    size, rng = 6, np.random.default_rng(3)
    p, r = rng.dirichlet(np.ones(size**2)), rng.normal(size=size**2)
    below = np.array([p[r < x].sum() for x in r])
    reward = np.log(((below + p) ** N - below**N) / p).reshape(size, size)
    log_p, target = np.log(p).reshape(size, size), np.log(finite.best_of_n(p, r, N)).reshape(size, size)

    def ascent(start):
        logits = start.copy()
        for _ in range(3000):
            first, second, joint = factors(logits, size)
            signal = reward - (joint - log_p)
            a, b = signal @ np.exp(second), np.exp(first) @ signal
            logits = logits + 0.3 * np.concatenate([a - np.exp(first) @ a, b - np.exp(second) @ b])
        return logits

    def divergence(logits):
        joint = factors(logits, size)[2]
        return float(np.sum(np.exp(joint) * (joint - target)))

    starts = [np.zeros(2 * size), *rng.normal(size=(6, 2 * size))]
    trained = [ascent(start) for start in starts]
    projected = [minimize(divergence, start, method="BFGS", options={"gtol": 1e-6}).x for start in starts]
    assert min(map(divergence, trained)) == pytest.approx(min(map(divergence, projected)), abs=1e-6)
    ours = np.exp(factors(min(trained, key=divergence), size)[2])
    theirs = np.exp(factors(min(projected, key=divergence), size)[2])
    assert ours == pytest.approx(theirs, abs=1e-3)
    assert divergence(trained[0]) > 0.05, "the best-of-N law is no product"


@pytest.mark.parametrize("procedure", [best_of_n(4), worst_of_n(4)], ids=lambda procedure: procedure.name)
def test_training_on_the_fixed_point_wins_as_often_as_the_analysis_says(procedure):
    """400 outcomes of unequal probability, calibrated by mid-ranks: the win rate is the continuum's within .005."""
    p, r, upto, below = problem(m=400, seed=5)
    quantile, won = (upto + below) / 2, {}
    sign = -1 if procedure.name.startswith("worst") else 1
    for transform in (fixed_point(procedure, 0.5), identity(), log(), exponential(5 * sign)):
        policy = tilt_at(transform, 0.5)
        found = ascend(p, transform(quantile) / policy.beta, 1.0, steps=200, rate=0.5)
        assert finite.kl(found, p) == pytest.approx(0.5, abs=0.02)
        won[transform.name] = discrete_win_rate(found, p, r, procedure)
        assert won[transform.name] == pytest.approx(win_rate(policy, procedure), abs=0.005)
    assert max(won, key=won.get) == "fixed point"
