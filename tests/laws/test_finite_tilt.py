"""The tilt by estimates from k references: its divergence and price against random pieces, and its limits."""

from __future__ import annotations

import numpy as np
import pytest

from italic.laws.finite_tilt import beta_at, mean_tilt
from italic.laws.inference_aware import exponential, fixed_point, identity, log, tilt, tilt_at
from italic.laws.procedures import best_of_n, worst_of_n

TRANSFORMS = (identity(), log(), exponential(10), exponential(-5), fixed_point(best_of_n(4), 1.0))


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: t.name)
@pytest.mark.parametrize("k", [1, 2, 8, 40])
def test_means_over_random_pieces(transform, k):
    """200,000 prompts: within four standard errors; the errors are rough where 1/z has heavy tails."""
    table, beta = transform.tables(k), 2 * tilt_at(transform, 1.0).beta
    pieces = np.random.default_rng(k).dirichlet(np.ones(k + 1), size=200_000)
    cost = (table.max() - table) / beta
    weights = np.exp(-cost)
    z = pieces @ weights
    kl = -(pieces @ (weights * cost)) / z - np.log(z)
    found = mean_tilt(table, beta)
    for exact, drawn in ((found.kl, kl), (found.draws_per_accept, 1 / z)):
        assert abs(exact - drawn.mean()) < 4 * drawn.std() / np.sqrt(len(drawn)) + 1e-12


def test_one_reference_in_closed_form():
    """k = 1 and weights (w, 1): E[1/z] = log(1/w) / (1 - w)."""
    assert mean_tilt(np.array([0.0, 1.0]), 0.5).draws_per_accept == pytest.approx(2 / (1 - np.exp(-2)), rel=1e-12)
    assert mean_tilt(np.zeros(5), 1.0) == pytest.approx((0, 1), abs=1e-12)


@pytest.mark.parametrize("transform", TRANSFORMS, ids=lambda t: t.name)
def test_beta_at_is_the_inverse(transform):
    for k, kl in ((4, 0.5), (64, 0.01), (64, 1.0), (64, 3.0)):
        table = transform.tables(k)
        assert mean_tilt(table, beta_at(table, kl)).kl == pytest.approx(kl, rel=1e-6)


@pytest.mark.parametrize("transform", [*TRANSFORMS, fixed_point(worst_of_n(4), 1.0)], ids=lambda t: t.name)
def test_many_references_are_known_quantiles(transform):
    policy, table = tilt_at(transform, 1.0), transform.tables(20_000)
    found = mean_tilt(table, policy.beta)
    assert found.kl == pytest.approx(1, abs=0.005)
    assert found.draws_per_accept == pytest.approx(policy.draws_per_accept, rel=0.02)
    assert beta_at(table, 1.0) == pytest.approx(policy.beta, rel=0.02)


def test_the_price_of_the_identity_is_unbiased():
    """Its 1/z has the mean of known quantiles whatever k."""
    policy = tilt(identity(), 0.2)
    for k in (1, 3, 50):
        assert mean_tilt(identity().tables(k), 0.2).draws_per_accept == pytest.approx(policy.draws_per_accept, rel=1e-9)


def test_few_references_fall_short_of_the_divergence():
    best = TRANSFORMS[-1]
    assert mean_tilt(best.tables(64), tilt_at(best, 1.0).beta).kl == pytest.approx(0.627, abs=0.001)


@pytest.mark.parametrize(
    ("what", "why"),
    [
        (lambda: mean_tilt(np.arange(3.0), 0.0), "a beta of 0"),
        (lambda: mean_tilt(np.zeros(1), 1.0), "shape"),
        (lambda: mean_tilt(np.array([0, np.inf]), 1.0), "not finite"),
        (lambda: beta_at(np.zeros(3), 1.0), "all the same"),
        (lambda: beta_at(np.arange(5.0), 2.1), r"4 reference rewards reach more than 1e-08, less than 2\.083"),
        (lambda: beta_at(np.arange(5.0), 0.0), "more than"),
    ],
)
def test_what_cannot_be_is_refused(what, why):
    with pytest.raises(ValueError, match=why):
        what()
