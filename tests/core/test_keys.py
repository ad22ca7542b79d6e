from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from italic.core.keys import Key, mix, uniforms

KEYS = st.integers(0, 2**63 - 1).map(Key)
NAMES = st.one_of(st.text(max_size=8), st.integers(-(2**70), 2**70))


def passes(u):
    """Numbers in (0, 1) that a Kolmogorov-Smirnov test takes for uniform."""
    assert u.min() > 0
    assert u.max() < 1
    return stats.kstest(u, "uniform").pvalue > 1e-4


def test_the_generator_is_what_it_was():
    """Changing these numbers changes every answer that anyone has recorded."""
    assert mix(np.array([1234567], dtype=np.uint64)).tolist() == [6457827717110365317]
    assert Key(0).at("a", 1).state == 6440823615554900705
    assert Key(7).seeds(2).tolist() == [9930526697332428214, 16100258269418735617]
    u = uniforms(np.array([1, 2], dtype=np.uint64), np.array([0, 5]))
    assert u.tolist() == [0.3681895156516695, 0.050316155877808744]


def test_the_ends_of_the_interval_are_out():
    """The two seeds whose 64 bits at position 0 are all 0 and all 1 (found by running `mix` backwards)."""
    extremes = np.array([14258097010372255221, 2295574122455614247], dtype=np.uint64)
    assert mix(mix(extremes)).tolist() == [0, 2**64 - 1]
    assert uniforms(extremes, np.zeros(2, dtype=np.int64)).tolist() == [2.0**-54, 1 - 2.0**-53]


@pytest.mark.parametrize(
    ("seeds", "positions"),
    [
        (np.arange(20_000, dtype=np.uint64), np.zeros(20_000, dtype=np.int64)),
        (np.full(20_000, 3, dtype=np.uint64), np.arange(20_000)),
        (Key(1).seeds(20_000), np.zeros(20_000, dtype=np.int64)),
        (np.arange(20_000, dtype=np.uint64) << np.uint64(40), np.arange(20_000)),
    ],
    ids=["neighbouring seeds", "positions of one seed", "row seeds", "high bits"],
)
def test_uniform(seeds, positions):
    u = uniforms(seeds, positions)
    assert passes(u)
    serial = stats.spearmanr(u[:-1], u[1:])
    assert abs(serial.statistic) < 0.03


def test_neighbours_are_independent():
    """Chi-square on the unit square: the numbers of one row against the next position, the next seed, the next key."""
    n = 40_000
    seeds, zero = Key(2).seeds(n), np.zeros(n, dtype=np.int64)
    here = uniforms(seeds, zero)
    others = {
        "next position": uniforms(seeds, zero + 1),
        "far position": uniforms(seeds, zero + 4096),
        "next seed": uniforms(seeds + np.uint64(1), zero),
        "mixed seed": uniforms(mix(seeds), zero),
        "next key": uniforms(Key(3).seeds(n), zero),
        "child key": uniforms(Key(2).at("child").seeds(n), zero),
    }
    for name, there in others.items():
        table = np.histogram2d(here, there, bins=10, range=[[0, 1], [0, 1]])[0]
        assert stats.chisquare(table.ravel()).pvalue > 1e-4, name


def test_rows_of_a_batch_and_steps_of_a_row_do_not_collide():
    seeds = np.repeat(Key(4).seeds(500), 200)
    positions = np.tile(np.arange(200), 500)
    assert len(np.unique(uniforms(seeds, positions))) == 100_000


@given(KEYS, st.integers(0, 50), st.integers(0, 50))
def test_more_rows_never_change_the_others(key, a, b):
    few, many = sorted((a, b))
    assert np.array_equal(key.seeds(many)[:few], key.seeds(few))
    assert np.array_equal(key.uniform(many)[:few], key.uniform(few))


@given(KEYS, st.lists(NAMES, max_size=4), st.lists(NAMES, max_size=4))
def test_a_path_is_a_name(key, one, other):
    assert key.at(*one) == key.at(*one)
    assert (key.at(*one) == key.at(*other)) == (one == other)


def test_names_are_not_confused():
    key = Key(0)
    names = [("a", "b"), ("ab",), ("b", "a"), (1,), ("1",), (1, 2), (12,), ("i1",), ("",), ("", ""), (-1,)]
    assert len({key.at(*name) for name in names}) == len(names)
    assert len({Key(seed).at("x") for seed in (0, 1, -1, 2**64)}) == 4


def test_uniform_and_generator_of_a_key():
    assert passes(Key(5).uniform(20_000))
    assert passes(Key(5).generator().random(20_000))
    assert Key(5).generator().random() == Key(5).generator().random()
    assert abs(np.corrcoef(Key(5).uniform(20_000), uniforms(Key(5).seeds(20_000), np.zeros(20_000, int)))[0, 1]) < 0.03


def test_mix_is_a_bijection_that_spreads_bits():
    values = np.arange(100_000, dtype=np.uint64)
    assert len(np.unique(mix(values))) == 100_000
    flipped = mix(values) ^ mix(values ^ np.uint64(1))
    share = np.unpackbits(flipped.view(np.uint8)).mean()
    assert share == pytest.approx(0.5, abs=0.005)
