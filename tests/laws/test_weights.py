from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from italic.core.keys import Key
from italic.laws.statistics import chi_square
from italic.laws.weights import effective_sample_size, gumbel, log_mean_exp, systematic

INF, NAN = np.inf, np.nan


def test_gumbel_chooses_in_proportion():
    log_weights = np.array([1000.0, 1001.0, 999.5, -np.inf])
    uniforms = Key(0).uniform(4 * 50_000).reshape(-1, 4)
    counts = np.bincount(np.argmax(gumbel(log_weights, uniforms), axis=1), minlength=4)
    weights = np.exp(log_weights - 1000)
    assert chi_square(counts, weights / weights.sum()).p_value > 1e-4
    assert chi_square(counts, np.array([0.3, 0.5, 0.2, 0])).p_value < 1e-12


def test_gumbel_keeps_what_is_missing():
    assert np.isnan(gumbel(np.array([np.nan, 0.0]), np.array([0.5, 0.5]))).tolist() == [True, False]


def test_effective_sample_size():
    assert effective_sample_size(np.full(7, -1e9)) == pytest.approx(7)
    assert effective_sample_size(np.array([0.0, -1e9, -np.inf])) == pytest.approx(1)
    assert effective_sample_size(np.array([0.0, np.nan, 0.0])) == pytest.approx(2)
    assert effective_sample_size(np.log([1.0, 3.0])) == pytest.approx(16 / 10)
    assert effective_sample_size(np.array([-np.inf, np.nan])) == 0
    assert effective_sample_size(np.array([])) == 0
    assert effective_sample_size(np.array([np.inf, 0.0, np.inf, -np.inf])) == 2, "infinite weights are all there is"


GROUPS = np.array([[[0.0, 0.0, 0.0], [0.0, -1e9, -INF]], [[NAN, 5.0, 5.0], [NAN, -INF, NAN]]])


def test_the_last_axis_is_that_of_a_group():
    """[2, 2, 3]: each group by itself, however far apart their weights are."""
    assert effective_sample_size(GROUPS) == pytest.approx(np.array([[3, 1], [2, 0]]))
    found = log_mean_exp(GROUPS)
    assert found == pytest.approx(np.array([[0, -np.log(3)], [5 + np.log(2 / 3), -INF]]))
    for function in (effective_sample_size, log_mean_exp):
        alone = [[float(function(group)) for group in half] for half in GROUPS]
        assert np.array_equal(function(GROUPS), alone)
        assert function(GROUPS.transpose(2, 0, 1)).shape == (3, 2)


def test_log_mean_exp():
    assert log_mean_exp(np.log([1.0, 3.0])) == pytest.approx(np.log(2))
    assert log_mean_exp(np.array([1e300, 1e300])) == 1e300
    assert log_mean_exp(np.array([-1e300])) == -1e300
    assert log_mean_exp(np.array([0.0, NAN])) == pytest.approx(np.log(0.5)), "a missing weight counts as zero"
    assert log_mean_exp(np.array([-INF, -INF])) == -INF


def test_systematic_takes_each_row_its_expected_number_of_times():
    """Exactly, on average over the offset; and each time that number rounded up or down."""
    rng, points = np.random.default_rng(0), (np.arange(4000) + 0.5) / 4000
    for weights in (rng.dirichlet(np.ones(7)), np.array([0.5, 0, 0.25, 0.125, 0.125]), np.ones(4) / 4, np.ones(1)):
        n = len(weights)
        with np.errstate(divide="ignore"):
            log_weights = np.log(weights) + 300
        taken = systematic(np.tile(log_weights, (len(points), 1)), points)
        counts = (taken[:, :, None] == np.arange(n)).sum(axis=1)
        assert np.all(counts.sum(axis=1) == n)
        assert np.all(np.diff(taken, axis=1) >= 0)
        assert np.all((counts >= np.floor(n * weights - 1e-9)) & (counts <= np.ceil(n * weights + 1e-9)))
        assert counts.mean(axis=0) == pytest.approx(n * weights, abs=n / 4000)
        assert not counts[:, weights == 0].any()


@given(
    st.lists(st.one_of(st.floats(-800, 800), st.just(-INF), st.just(NAN)), min_size=1, max_size=9),
    st.floats(0.001, 0.999),
)
def test_systematic_never_takes_what_has_no_weight(log_weights, uniform):
    log_weights = np.array(log_weights)
    if not np.any(log_weights > -INF):
        return
    taken = systematic(log_weights, np.array(uniform))
    assert taken.shape == log_weights.shape
    assert taken.dtype == np.int64
    assert np.all(log_weights[taken] > -INF)


def test_systematic_groups_do_not_mix():
    rng = np.random.default_rng(1)
    log_weights, uniforms = 30 * rng.normal(size=(3, 50, 6)), rng.random((3, 50))
    taken = systematic(log_weights, uniforms)
    assert taken.shape == (3, 50, 6)
    for i in range(3):
        for j in range(50):
            assert np.array_equal(taken[i, j], systematic(log_weights[i, j], uniforms[i, j]))
