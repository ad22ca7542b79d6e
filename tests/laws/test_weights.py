from __future__ import annotations

import numpy as np
import pytest

from italic.core.keys import Key
from italic.laws.statistics import chi_square
from italic.laws.weights import effective_sample_size, gumbel


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
