"""Procedures on finite sets: every tuple of draws, the laws of `finite`, and the continuum that they come near to."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from italic.laws import finite
from italic.laws.inference_aware import fixed_point, identity, tilt_at, win_rate
from italic.laws.procedures import best_of_n, calibrated, discrete_procedure, discrete_win_rate, plain, worst_of_n

KINDS = {
    "best": (best_of_n, lambda rewards: np.argmax(rewards)),
    "worst": (worst_of_n, lambda rewards: np.argmin(rewards)),
}


def enumerated(p, r, n, choose):
    """The law of a choice among n draws, by every tuple."""
    law = np.zeros(len(p))
    for rows in product(range(len(p)), repeat=n):
        law[rows[choose(r[list(rows)])]] += np.prod(p[list(rows)])
    return law


def beaten(ours, theirs, r):
    """How often ours wins, over all pairs, equal rewards counting half."""
    return float(ours @ ((r[:, None] > r) + 0.5 * (r[:, None] == r)) @ theirs)


@st.composite
def problems(draw):
    """(pi, p, r): up to 5 outcomes, some impossible under one law, many tied, some of reward -inf."""
    m = draw(st.integers(1, 5))
    laws = [np.array(draw(st.lists(st.sampled_from([0.0, 0.1, 0.5, 1.0]), min_size=m, max_size=m))) for _ in range(2)]
    pi, p = ((law + 1e-3 * (law.sum() == 0)) / (law + 1e-3 * (law.sum() == 0)).sum() for law in laws)
    return pi, p, np.array(draw(st.lists(st.sampled_from([-np.inf, 0.0, 0.5, 1.0]), min_size=m, max_size=m)))


@settings(deadline=None, max_examples=60)
@given(problems(), st.sampled_from(sorted(KINDS)), st.integers(1, 4), st.integers(1, 3))
def test_laws_and_win_rates_by_every_tuple(problem, kind, n, others):
    pi, p, r = problem
    make, choose = KINDS[kind]
    ours, theirs = enumerated(pi, r, n, choose), enumerated(p, r, others, choose)
    assert discrete_procedure(pi, r, make(n)) == pytest.approx(ours, abs=1e-12)
    assert discrete_procedure(pi, r, make(n)) == pytest.approx(getattr(finite, f"{kind}_of_n")(pi, r, n), abs=1e-12)
    assert discrete_win_rate(pi, p, r, make(n), make(others)) == pytest.approx(beaten(ours, theirs, r), abs=1e-12)
    same = enumerated(p, r, n, choose)
    assert discrete_win_rate(pi, p, r, make(n)) == pytest.approx(beaten(ours, same, r), abs=1e-12)
    assert discrete_win_rate(p, p, r, make(n)) == pytest.approx(0.5)
    assert discrete_procedure(pi, r, plain()) == pytest.approx(pi, abs=1e-12)


def test_a_procedure_of_quadrature_on_a_finite_set():
    """The second best of 4, as a density, against every tuple."""
    rng = np.random.default_rng(0)
    p, r = rng.dirichlet(np.ones(4)), np.array([0.3, 0.1, 0.3, 0.9])
    second = calibrated("second of 4", lambda u: 12 * u**2 * (1 - u))
    law = np.zeros(3)
    for rows in product(range(4), repeat=4):
        value = np.sort(r[list(rows)])[2]
        law[np.searchsorted([0.1, 0.3, 0.9], value)] += np.prod(p[list(rows)])
    found = discrete_procedure(p, r, second)
    assert [found[1], found[0] + found[2], found[3]] == pytest.approx(law, abs=1e-6)
    assert found[0] / found[2] == pytest.approx(p[0] / p[2])


@pytest.mark.parametrize("procedure", [plain(), best_of_n(4), worst_of_n(3)], ids=lambda procedure: procedure.name)
def test_many_outcomes_come_near_to_the_continuum(procedure):
    m = 4000
    p, r = np.full(m, 1 / m), np.arange(m, dtype=float)
    for transform in (identity(), fixed_point(procedure, 0.5)):
        policy = tilt_at(transform, 0.5)
        pi = finite.tilt(p, transform((r + 0.5) / m), policy.beta)
        assert finite.kl(pi, p) == pytest.approx(0.5, abs=2e-4)
        assert discrete_win_rate(pi, p, r, procedure) == pytest.approx(win_rate(policy, procedure), abs=5e-4)


def test_refusals():
    with pytest.raises(ValueError, match="of shape"):
        discrete_procedure(np.ones(1), np.zeros(2), plain())
    with pytest.raises(ValueError, match="NaN"):
        discrete_win_rate(np.ones(1), np.ones(1), np.array([np.nan]), plain())
