from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from italic.evaluate.win_rates import (
    batch_win_rate,
    break_even,
    break_even_interval,
    paired_test,
    survival_time,
    uniform_curve,
    win_curve,
    wins,
)
from italic.laws.statistics import mean_interval

SCALES = (1.0, 2.0, 1.0, 0.5, 3.0)


def pools(rng, prompts=5, size=4000):
    """Pools of normal rewards, of a different spread for each prompt."""
    return [scale * rng.normal(size=size) for scale in SCALES[:prompts]]


def against_uniform(rng, budget, most, runs, prompts=5):
    """Sums of uniform best-of-`budget`, [R], and curves drawn apart from them, [R, most]."""
    rewards = pools(rng, prompts)
    ours = uniform_curve(rewards, rng, budget, runs)[:, -1]
    return ours, uniform_curve(rewards, rng, most, runs)


def test_wins():
    ours = np.array([1.0, 2.0, 3.0])
    assert wins(ours, np.array([0.5, 2.0, 4.0])).tolist() == [1, 0.5, 0]
    found = wins(ours, np.arange(24.0).reshape(3, 2, 4) / 4)
    assert found.shape == (3, 2, 4)
    assert found[0].tolist() == [[1, 1, 1, 1], [0.5, 0, 0, 0]]
    assert wins(ours, ours[:, None]).tolist() == [[0.5]] * 3


def test_equal_but_for_rounding():
    tenths = np.array([0.1 + 0.2 + 0.3, 0.1 + 0.2 - 0.3, 1.0])
    assert tenths[0] != 0.6
    assert tenths[1] != 0
    assert wins(tenths, np.array([0.6, 0.0, 2.0])).tolist() == [0.5, 0.5, 0]
    assert wins(1e-30 * tenths, 1e-30 * np.array([0.6, 0.0, 2.0])).tolist() == [0.5, 0.5, 0]
    assert wins(np.array([1.0, 1.0]), np.array([1 + 1e-8, 1 - 1e-8])).tolist() == [0, 1]
    low = -1e12
    assert wins(np.array([low, 1.0, 1.0]), np.array([1.0, 1.1, 0.9])).tolist() == [0, 0, 1], "one far off is no scale"


def test_infinities():
    ends = np.array([-np.inf, 0.0, np.inf, 1e308, -1e308])
    found = np.array([wins(np.full(5, end), ends) for end in ends])
    assert np.array_equal(found, np.where(ends[:, None] == ends, 0.5, ends[:, None] > ends))
    assert wins(np.zeros(2), np.zeros(2)).tolist() == [0.5, 0.5]


def test_the_batch_win_rate():
    ours = np.array([1.0, 1.0, 0.0, 3.0])
    theirs = np.array([[0.0, 2.0], [0.0, 0.0], [0.0, 1.0], [4.0, 5.0]])
    rate = batch_win_rate(ours, theirs, 0.9)
    plain = mean_interval(np.array([0.5, 1.0, 0.25, 0.0]), 0.9)
    assert rate == (plain.mean, max(plain.low, 0), min(plain.high, 1))
    assert batch_win_rate(ours, ours) == (0.5, 0.5, 0.5)
    assert batch_win_rate(ours[:1], theirs[:1]) == (0.5, 0, 1)


def test_the_uniform_curve_is_a_sum_of_running_maxima():
    rng = np.random.default_rng(0)
    rewards = pools(rng, 2, 50)
    curve = uniform_curve(rewards, np.random.default_rng(7), 30, 6)
    same = np.random.default_rng(7)
    drawn = [pool[same.integers(50, size=(6, 30))] for pool in rewards]
    expected = [[sum(d[c, :n].max() for d in drawn) for n in range(1, 31)] for c in range(6)]
    assert np.allclose(curve, expected, rtol=1e-12)
    assert np.all(np.diff(curve) >= 0)
    assert np.array_equal(curve, uniform_curve(rewards, np.random.default_rng(7), 30, 6))


def test_the_uniform_curve_has_the_law_of_a_maximum():
    pool = np.arange(10.0)
    curve = uniform_curve([pool], np.random.default_rng(1), 4, 40000)
    for n in (1, 4):
        law = np.diff((np.arange(11) / 10) ** n)
        counts = np.bincount(curve[:, n - 1].astype(int), minlength=10)
        assert stats.chisquare(counts, 40000 * law).pvalue > 0.001


def test_missing_scores_are_never_the_best():
    rng = np.random.default_rng(2)
    curve = uniform_curve([np.array([np.nan, 1.0]), np.array([2.0])], rng, 30, 50)
    assert set(np.unique(curve)) == {-np.inf, 3.0}
    assert np.all(curve[:, -1] == 3)
    lost = uniform_curve([np.array([np.inf]), np.array([-np.inf, np.nan])], rng, 3, 2)
    assert np.all(lost == -np.inf)


@pytest.mark.parametrize("budget", [1, 20, 120])
def test_one_prompt_wins_as_often_as_its_share_of_the_draws(budget):
    curve = budget / (budget + np.arange(1.0, 301))
    assert break_even(curve, 1) == budget
    rng = np.random.default_rng(budget)
    ours, uniform = rng.random((3000, budget)).max(axis=1), np.maximum.accumulate(rng.random((3000, 300)), axis=1)
    assert np.max(np.abs(win_curve(wins(ours, uniform)) - curve)) < 0.04
    lasting = survival_time(ours, uniform, 0.999)
    assert lasting.low <= curve.sum() <= lasting.high


def test_uniform_against_itself():
    rng = np.random.default_rng(3)
    ours, uniform = against_uniform(rng, 120, 300, 2000)
    rate = batch_win_rate(ours, uniform[:, 119])
    assert rate.low <= 0.5 <= rate.high
    assert 0.04 < rate.high - rate.low < 0.05
    even = break_even_interval(wins(ours, uniform), 120, rng)
    assert even.low <= 120 <= even.high
    assert even.low < even.mean < even.high
    assert even.high - even.low < 20


def test_half_as_much_again():
    rng = np.random.default_rng(4)
    ours, uniform = against_uniform(rng, 180, 480, 2000)
    even = break_even_interval(wins(ours, uniform), 120, rng, resamples=300)
    assert even.low <= 180 <= even.high
    assert even.mean == pytest.approx(180, rel=0.05)
    assert batch_win_rate(ours, uniform[:, 119]).low > 0.5


def test_rewards_without_a_difference_cost_nothing_and_gain_nothing():
    rng = np.random.default_rng(5)
    rewards = [np.array([0.0, 0.1]), np.array([0.2, 0.3, 0.3])]
    ours, uniform = uniform_curve(rewards, rng, 60, 400)[:, -1], uniform_curve(rewards, rng, 120, 400)
    even = break_even_interval(wins(ours, uniform), 60, rng, resamples=100)
    assert even == (60, 60, 60)


@pytest.mark.parametrize(
    ("curve", "budget", "expected"),
    [
        ([0.9, 0.6, 0.4, 0.1], 2, 2.5),
        ([0.9, 0.7, 0.4], 1, 2 + 2 / 3),
        ([0.9, 0.5, 0.1], 7, 2),
        ([0.9, 0.5, 0.5, 0.5, 0.1], 3, 3),
        ([0.9, 0.5, 0.5, 0.5, 0.1], 2.5, 2.5),
        ([0.9, 0.5, 0.5, 0.5, 0.1], 1, 2),
        ([0.9, 0.5, 0.5, 0.5, 0.1], 9, 4),
        ([0.9, 0.5, 0.5 + 1e-14], 9, 3),
        ([0.5, 0.5], 1, 1),
        ([0.9, 0.8, 0.51], 2, math.inf),
        ([1.0], 2, math.inf),
        ([0.4, 0.2], 2, 0.5 / 0.6),
        ([0.0], 2, 0.5),
        ([0.9, 0.4, 0.6, 0.1], 1, 2),
        ([0.9, 0.4, 0.7, 0.1], 1, 3 + 0.05 / 0.45),
        ([0.3, 0.9], 1, math.inf),
    ],
    ids=[f"{i:02}" for i in range(16)],
)
def test_break_even(curve, budget, expected):
    assert break_even(np.array(curve), budget) == pytest.approx(expected)


def test_noise_makes_one_crossing_and_little_bias():
    rng = np.random.default_rng(6)
    exact = 50 / (50 + np.arange(1.0, 201))
    found = [break_even(np.clip(exact + rng.normal(0, 0.03, size=200), 0, 1), 50) for _ in range(200)]
    assert np.mean(found) == pytest.approx(50, abs=1.5)


@pytest.mark.parametrize("runs", [25, 200])
def test_the_interval_covers_as_often_as_it_says(runs):
    rng = np.random.default_rng(runs)
    covered = []
    for _ in range(80):
        ours, uniform = against_uniform(rng, 20, 80, runs)
        even = break_even_interval(wins(ours, uniform), 20, rng, resamples=200)
        covered.append(even.low <= 20 <= even.high)
    assert 0.85 <= np.mean(covered) <= 1


def test_an_interval_may_be_open():
    rng = np.random.default_rng(8)
    ours, uniform = against_uniform(rng, 40, 40, 200)
    even = break_even_interval(wins(ours, uniform), 40, rng)
    assert even.low < 40
    assert even.high == math.inf
    assert break_even_interval(np.ones((3, 4)), 2, rng) == (math.inf, math.inf, math.inf)
    assert break_even_interval(np.array([[1.0, 0.0]]), 2, rng) == (1.5, 0, math.inf)


def test_the_interval_is_that_of_resampled_rows():
    rng = np.random.default_rng(9)
    ours, uniform = against_uniform(rng, 20, 80, 100)
    won = wins(ours, uniform)
    quick = break_even_interval(won, 20, np.random.default_rng(0), 0.8, 4000)
    plain = [break_even(win_curve(won[rng.integers(100, size=100)]), 20) for _ in range(1500)]
    assert quick.low == pytest.approx(np.quantile(plain, 0.1), rel=0.03)
    assert quick.high == pytest.approx(np.quantile(plain, 0.9), rel=0.03)
    assert quick == break_even_interval(won, 20, np.random.default_rng(0), 0.8, 4000)
    assert quick.mean == break_even(win_curve(won), 20)


def test_survival_counts_the_budgets_that_do_not_exceed():
    uniform = np.array([[0.0, 1.0, 2.0, 3.0], [0.0, 0.1 + 0.2, 0.3, 5.0], [1.0, 1.0, 1.0, 1.0]])
    ours = np.array([2.0, 0.3, 0.0])
    assert survival_time(ours, uniform) == mean_interval(np.array([3.0, 3.0, 0.0]))
    assert survival_time(np.full(3, 9.0), uniform) == (4, 4, 4)
    copies = np.stack([uniform, uniform + 1], axis=1)
    assert survival_time(ours, copies) == mean_interval(np.array([2.5, 1.5, 0.0]))


def test_the_zero_of_the_survival_time_is_not_the_budget():
    rng = np.random.default_rng(10)
    ours, uniform = against_uniform(rng, 120, 1000, 4000)
    cut, long = survival_time(ours, uniform[:, :240], 0.999), survival_time(ours, uniform, 0.999)
    assert cut.low > 120
    assert 128 < cut.mean < 139
    assert cut.mean + 15 < long.mean
    assert break_even(win_curve(wins(ours, uniform)), 120) == pytest.approx(120, rel=0.05)


@pytest.mark.parametrize("n", [1, 2, 5, 12, 13, 60, 300])
def test_paired_test_as_scipy_has_it(n):
    rng = np.random.default_rng(n)
    theirs = rng.normal(size=n)
    ours = theirs + rng.normal(0.3, 1, size=n)
    found = paired_test(ours, theirs, rng, 0.9)
    assert found.difference == mean_interval(ours - theirs, 0.9)
    assert found.signed_rank == pytest.approx(stats.wilcoxon(ours - theirs).pvalue)
    if n == 1:
        assert found.sign_flip == 1
    elif n <= 13:
        every = stats.permutation_test((ours - theirs,), np.sum, permutation_type="samples", n_resamples=np.inf)
        assert found.sign_flip == pytest.approx(every.pvalue, abs=1e-12 if n <= 12 else 0.015)
    else:
        normal = abs(np.sum(ours - theirs)) / np.linalg.norm(ours - theirs)
        assert found.sign_flip == pytest.approx(2 * stats.norm.sf(normal), abs=0.015)


def test_pairs_that_do_not_differ():
    rng = np.random.default_rng(11)
    same = rng.normal(size=9)
    assert paired_test(same, same, rng) == ((0, 0, 0), 1, 1)
    assert paired_test(same, same * (1 + 1e-15), rng) == ((0, 0, 0), 1, 1)
    some = np.where(np.arange(9) < 4, same, same + 1 + rng.random(9))
    found = paired_test(some, same, rng)
    assert (found.signed_rank, found.sign_flip) == (pytest.approx(2 / 2**5), pytest.approx(2 / 2**5))


@pytest.mark.parametrize("n", [8, 40])
def test_the_other_side_has_the_other_sign(n):
    rng = np.random.default_rng(n)
    ours, theirs = rng.normal(size=(2, n))
    one, other = (paired_test(a, b, np.random.default_rng(0)) for a, b in ((ours, theirs), (theirs, ours)))
    mean, low, high = one.difference
    assert other.difference == pytest.approx((-mean, -high, -low))
    assert (one.signed_rank, one.sign_flip) == (pytest.approx(other.signed_rank), pytest.approx(other.sign_flip))
    level = paired_test(np.concatenate([ours, theirs]), np.concatenate([theirs, ours]), rng)
    assert (level.difference.mean, level.sign_flip) == (pytest.approx(0, abs=1e-12), 1)
    assert level.signed_rank == pytest.approx(1)


def test_p_values_are_uniform_where_nothing_differs():
    rng = np.random.default_rng(12)
    found = [paired_test(*rng.normal(size=(2, 20)), rng, resamples=199) for _ in range(400)]
    for p_values in np.array([(p.signed_rank, p.sign_flip) for p in found]).T:
        assert stats.kstest(p_values, "uniform").pvalue > 0.001


RNG = np.random.default_rng(0)
TWO = np.zeros(2)


@pytest.mark.parametrize(
    ("call", "numbers"),
    [
        (lambda: wins(TWO, np.zeros(3)), r"\(2,\) against \(3,\)"),
        (lambda: wins(np.zeros((2, 2)), np.zeros((2, 2))), r"\(2, 2\) against"),
        (lambda: wins(np.zeros(0), np.zeros(0)), r"\(0,\) against \(0,\)"),
        (lambda: wins(TWO, np.zeros((2, 0))), r"against \(2, 0\)"),
        (lambda: wins(TWO, np.array([0.0, np.nan])), "1 of 4 sums"),
        (lambda: batch_win_rate(TWO, np.zeros((2, 1, 1))), r"\(2, 1, 1\)"),
        (lambda: batch_win_rate(TWO, TWO, 1.0), "1.0 interval of 2"),
        (lambda: uniform_curve([], RNG, 2, 1), "1 copies of best-of-2 for 0 prompts"),
        (lambda: uniform_curve([TWO], RNG, 0, 1), "best-of-0"),
        (lambda: uniform_curve([TWO], RNG, 2, 0), "0 copies"),
        (lambda: uniform_curve([TWO, np.zeros(0)], RNG, 2, 1), r"prompt 1 of 2 has shape \(0,\)"),
        (lambda: uniform_curve([np.zeros((2, 2))], RNG, 2, 1), r"shape \(2, 2\)"),
        (lambda: win_curve(TWO), r"shape \(2,\)"),
        (lambda: win_curve(np.zeros((0, 2))), r"shape \(0, 2\)"),
        (lambda: win_curve(np.array([[0.5, np.nan]])), "1 of 2 win rates"),
        (lambda: break_even(np.zeros((1, 2)), 2), r"shape \(1, 2\)"),
        (lambda: break_even(np.zeros(0), 2), r"shape \(0,\)"),
        (lambda: break_even(np.array([1.5, 0.2]), 2), "1 of 2 win rates"),
        (lambda: break_even(TWO, 0), "budget of 0"),
        (lambda: break_even(TWO, math.inf), "budget of inf"),
        (lambda: break_even_interval(np.zeros((2, 2)), 2, RNG, 0.0), "0.0 interval of 1000 resamples"),
        (lambda: break_even_interval(np.zeros((2, 2)), 2, RNG, resamples=0), "of 0 resamples"),
        (lambda: break_even_interval(TWO, 2, RNG), r"shape \(2,\)"),
        (lambda: survival_time(TWO, TWO), r"shape \(2,\)"),
        (lambda: survival_time(TWO, np.zeros((3, 2))), r"against \(3, 2\)"),
        (lambda: survival_time(TWO, np.zeros((2, 2)), -1.0), "-1.0 interval"),
        (lambda: paired_test(TWO, np.zeros(3), RNG), r"\(2,\) and \(3,\)"),
        (lambda: paired_test(np.zeros(0), np.zeros(0), RNG), r"\(0,\)"),
        (lambda: paired_test(np.zeros((2, 2)), np.zeros((2, 2)), RNG), r"\(2, 2\)"),
        (lambda: paired_test(TWO, np.array([0.0, -np.inf]), RNG), "1 of 2 pairs"),
        (lambda: paired_test(TWO, TWO, RNG, 2.0), "2.0 interval"),
        (lambda: paired_test(TWO, TWO, RNG, resamples=0), "0 resamples"),
    ],
    ids=[f"{i:02}" for i in range(32)],
)
def test_refusals(call, numbers):
    with pytest.raises(ValueError, match=numbers):
        call()
