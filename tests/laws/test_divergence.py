"""The closed forms for best-of-n against the exact law."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from italic.laws import finite
from italic.laws.best_of_n import kl_bound, kl_estimate, win_rate


def test_the_values_of_the_source():
    p, r = np.full(10, 0.1), np.arange(10.0)
    assert finite.kl(finite.best_of_n(p, r, 64), p) == pytest.approx(2.2935, abs=5e-5)
    assert kl_bound(64) == pytest.approx(3.1745, abs=5e-5)
    assert kl_estimate(64, 0.1) == pytest.approx(2.2946, abs=5e-5)


@given(st.integers(1, 6), st.integers(1, 200), st.integers(0, 2**32 - 1), st.booleans())
def test_the_bound_holds(m, n, seed, ties):
    rng = np.random.default_rng(seed)
    p = rng.dirichlet(np.ones(m))
    r = rng.integers(0, 3, m).astype(float) if ties else rng.normal(size=m)
    law = finite.best_of_n(p, r, n)
    assert finite.kl(law, p) <= kl_bound(n) + 1e-12
    below = (r[:, None] > r) + 0.5 * (r[:, None] == r)
    assert law @ below @ p <= win_rate(n) + 1e-12


@pytest.mark.parametrize("n", [1, 2, 16])
def test_a_reward_without_atoms_attains_both(n):
    m = 20_000
    p, r = np.full(m, 1 / m), np.arange(m, dtype=float)
    law = finite.best_of_n(p, r, n)
    assert finite.kl(law, p) == pytest.approx(kl_bound(n), abs=2e-3)
    assert law @ ((np.arange(m) + 0.5) / m) == pytest.approx(win_rate(n), abs=1e-3)


def test_the_estimate_at_its_limits():
    assert kl_estimate(16, 0.0) == kl_bound(16)
    assert kl_estimate(16, 1e-12) == pytest.approx(kl_bound(16), abs=1e-9)
    assert kl_estimate(16, 1.0) == 0
    assert kl_estimate(10**6, 0.25) == pytest.approx(np.log(4))
    assert kl_estimate(1, 0.3) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("call", [lambda: kl_bound(0), lambda: win_rate(0), lambda: kl_estimate(4, 1.5)])
def test_refusals(call):
    with pytest.raises(ValueError, match="of"):
        call()
