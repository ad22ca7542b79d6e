"""Gains against their formulas, the allocation against all allocations and against handing out draws one by one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betaln

from italic.laws import allocation
from italic.laws.allocation import (
    Curves,
    Cuts,
    allocate,
    allocate_cost,
    by_deviation,
    by_upper_confidence,
    deviations,
    expected_best,
    levelled,
)

NAN, INF = float("nan"), float("inf")


class Listed:
    """Gains from a table, float64 [K, J]; nothing beyond it."""

    def __init__(self, table):
        self.table = np.asarray(table, dtype=np.float64)

    def __len__(self):
        return len(self.table)

    def marginal(self, rows, counts):
        padded = np.pad(self.table, ((0, 0), (0, max(0, counts.max() + 1 - self.table.shape[1]))))
        return padded[rows][:, counts]


def falling(rng, k, j, levels=None):
    """Gains that do not increase, of few different values if `levels` is given: ties, plateaus and zeros."""
    table = rng.exponential(size=(k, j)) if levels is None else rng.integers(levels, size=(k, j)).astype(np.float64)
    return -np.sort(-table, axis=1)


def value(table, given_to):
    return sum(table[i, :n].sum() for i, n in enumerate(given_to))


def best_of_all(table, budget):
    k = len(table)
    every = (given_to for given_to in product(range(budget + 1), repeat=k) if sum(given_to) == budget)
    return max(value(table, given_to) for given_to in every)


def one_by_one(table, budget, drawn):
    """The next draw goes where it is worth most, of equals where fewer were made, then to the earlier prompt."""
    out = np.zeros(len(table), dtype=int)
    for _ in range(budget):
        next_gain = [row[n] if n < len(row) else 0.0 for row, n in zip(table, out, strict=True)]
        out[min(range(len(table)), key=lambda i: (-next_gain[i], drawn[i] + out[i], i))] += 1
    return out


# -- gains


def random_curves(rng, k=5, q=6):
    return Curves(rng.random((k, q)) ** 3, rng.exponential(size=(k, q)), rng.uniform(0.5, 1, k))


def random_cuts(rng, k=5, v=6):
    over, under = rng.gamma(1.0, size=(2, k, v)) * np.exp(rng.normal(size=(2, k, v)))
    return Cuts(
        rng.exponential(size=(k, v)), np.where(rng.random((k, v)) < 0.2, 0, over), under, rng.uniform(0.5, 1, k)
    )


def test_curves_are_their_sum():
    rng = np.random.default_rng(0)
    curves = random_curves(rng)
    curves.above[0, :2] = 0.0, 1.0
    rows, counts = np.array([3, 0, 3]), np.array([0, 1, 7, 2])
    for row, found in zip(rows, curves.marginal(rows, counts), strict=True):
        above, width, fade = curves.above[row], curves.width[row], curves.fade[row]
        wanted = [fade**j * np.sum(width * above * (1 - above) ** j) for j in counts]
        unfaded = [np.sum(width * above * (1 - above) ** j) for j in counts]
        assert found == pytest.approx(wanted, rel=1e-12)
        assert found != pytest.approx(unfaded, rel=1e-3)


def test_curves_that_have_ended():
    """Where the next draw surely exceeds, or repeats, nothing is left for the one after it."""
    ended = Curves(np.ones((2, 1)), np.ones((2, 1)), np.array([1.0, 0.0]))
    assert np.array_equal(ended.marginal(np.arange(2), np.arange(3)), [[1, 0, 0], [1, 0, 0]])


def test_cuts_are_beta_moments():
    rng = np.random.default_rng(1)
    cuts = random_cuts(rng)
    rows, counts = np.array([4, 1, 1, 0]), np.arange(60)
    for row, found in zip(rows, cuts.marginal(rows, counts), strict=True):
        a, b, step, fade = cuts.over[row], cuts.under[row], cuts.step[row], cuts.fade[row]
        a, b, step = a[a > 0], b[a > 0], step[a > 0]
        wanted = [fade**j * np.sum(step * np.exp(betaln(a + 1, b + j) - betaln(a, b))) for j in counts]
        certain = [fade**j * np.sum(step * a / (a + b) * (b / (a + b)) ** j) for j in counts]
        assert found == pytest.approx(wanted, rel=1e-10)
        assert found[:1] == pytest.approx(certain[:1])
        assert found[1] < 0.99 * certain[1], "E S (1 - S) is less than that of the mean"


@pytest.mark.parametrize("first", [1, 7, 40])
@pytest.mark.parametrize("kind", ["curves", "cuts"])
def test_later_gains_are_those_of_a_longer_call(kind, first):
    gains = (random_curves if kind == "curves" else random_cuts)(np.random.default_rng(first))
    rows = np.array([2, 0, 4])
    whole = gains.marginal(rows, np.arange(60))
    assert np.allclose(gains.marginal(rows, np.arange(first, first + 20)), whole[:, first : first + 20], rtol=1e-10)


def test_expected_best_is_the_sum_of_gains():
    gains, best = Listed([[3.0, 1.0, 0.5], [2.0, 2.0, 0.0]]), np.array([10.0, -1.0])
    assert np.array_equal(expected_best(gains, best, 3), [[10, 13, 14, 14.5], [-1, 1, 3, 3]])
    rng = np.random.default_rng(2)
    for some in (random_curves(rng), random_cuts(rng)):
        assert np.array_equal(expected_best(some, np.arange(5.0), 0), np.arange(5.0)[:, None])
        assert expected_best(some, np.zeros(5), 4)[:, 4] == pytest.approx(
            some.marginal(np.arange(5), np.arange(4)).sum(axis=1)
        )


# -- a budget of draws


@st.composite
def problems(draw):
    """(table, budget, drawn): up to 4 prompts, up to 8 draws; gains of few values, so that many are equal."""
    k, budget = draw(st.integers(1, 4)), draw(st.integers(0, 8))
    gain = st.sampled_from([0.0, 0.5, 1.0, 2.0]) if draw(st.booleans()) else st.floats(0, 1)
    rows = [sorted(draw(st.lists(gain, min_size=8, max_size=8)), reverse=True) for _ in range(k)]
    return np.array(rows), budget, np.array(draw(st.lists(st.integers(0, 9), min_size=k, max_size=k)))


@given(problems())
def test_no_allocation_is_better(problem):
    table, budget, drawn = problem
    found = allocate(Listed(table), budget, drawn)
    assert found.sum() == budget
    assert value(table, found) == pytest.approx(best_of_all(table, budget), rel=1e-12)
    assert np.array_equal(found, one_by_one(table, budget, drawn))


def test_allocations_that_are_near_it_are_worse():
    """Even shares, and shares by the first gain, are no optimum: the comparison with all allocations tells."""
    rng, worse = np.random.default_rng(3), {"even": 0, "first": 0, "drawn": 0}
    for _ in range(50):
        table, drawn = falling(rng, 3, 8), rng.integers(9, size=3)
        most = best_of_all(table, 6)
        firsts = np.repeat(table[:, :1], 8, axis=1) / np.arange(1, 9)
        neighbours = {"even": [2, 2, 2], "first": one_by_one(firsts, 6, drawn), "drawn": levelled(drawn, 6)}
        for name, other in neighbours.items():
            worse[name] += value(table, other) < most - 1e-9
    assert min(worse.values()) > 25


@pytest.mark.parametrize("levels", [None, 3, 40], ids=["different", "few-values", "many-values"])
def test_allocate_is_handing_out_one_by_one(levels):
    rng = np.random.default_rng(4)
    for budget in (1, 3, 10, 31, 100, 400):
        k = int(rng.integers(1, 40))
        table, drawn = falling(rng, k, 100, levels), rng.integers(0, 30, size=k)
        assert np.array_equal(allocate(Listed(table), budget, drawn), one_by_one(table, budget, drawn))


def test_a_long_plateau_is_followed_to_its_end():
    """Draws of equal worth go where fewer were made, however many that are."""
    flat, drawn = Listed(np.ones((4, 1000))), np.array([0, 60, 60, 60])
    assert allocate(flat, 70, drawn).tolist() == [63, 3, 2, 2]
    assert allocate(flat, 70).tolist() == [18, 18, 17, 17]


@pytest.mark.parametrize("levels", [None, 3], ids=["different", "few-values"])
def test_a_larger_budget_takes_nothing_away(levels):
    rng = np.random.default_rng(5)
    for _ in range(10):
        k = int(rng.integers(1, 8))
        gains, drawn, before = Listed(falling(rng, k, 12, levels)), rng.integers(0, 9, size=k), np.zeros(k, dtype=int)
        for budget in range(60):
            after = allocate(gains, budget, drawn)
            assert np.all(after >= before)
            assert after.sum() == budget
            before = after


def test_draws_worth_nothing_are_spread():
    rng = np.random.default_rng(6)
    for _ in range(30):
        k, budget = int(rng.integers(1, 9)), int(rng.integers(0, 60))
        table, drawn = np.zeros((k, 1)), rng.integers(0, 20, size=k)
        assert np.array_equal(allocate(Listed(table), budget, drawn), one_by_one(table, budget, drawn))
    assert allocate(Listed(np.zeros((3, 1))), 7).tolist() == [3, 2, 2]
    some = allocate(Listed([[5.0, 1.0], [0.0, 0.0], [0.0, 0.0]]), 10, np.array([0, 1, 6]))
    assert some.tolist() == [6, 4, 0], "the two draws of worth first, then level with the others"


@pytest.mark.parametrize("kind", ["curves", "cuts"])
@pytest.mark.parametrize("cells", [1, 50])
def test_pieces_do_not_matter(monkeypatch, kind, cells):
    gains = (random_curves if kind == "curves" else random_cuts)(np.random.default_rng(7), k=30)
    whole, values = allocate(gains, 500), gains.marginal(np.arange(30), np.arange(9))
    monkeypatch.setattr(allocation, "CELLS", cells)
    assert np.array_equal(allocate(gains, 500), whole)
    assert np.allclose(gains.marginal(np.arange(30), np.arange(9)), values, rtol=1e-14)
    assert len(set(whole)) > 3


def test_allocate_without_prompts_or_draws():
    nobody = Listed(np.zeros((0, 1)))
    assert allocate(nobody, 0).tolist() == []
    assert allocate(Listed([[1.0], [1.0]]), 0).tolist() == [0, 0]
    for gains, budget in ((nobody, 1), (Listed([[1.0]]), -1)):
        with pytest.raises(ValueError, match="draws for"):
            allocate(gains, budget)


# -- a budget of costs


def cost_one_by_one(table, budget, cost, worst, limit, most):
    out, spent, feared = np.zeros(len(table), dtype=int), 0.0, 0.0
    while out.sum() < most:
        worth = [(row[n] if n < len(row) else 0.0) / c for row, n, c in zip(table, out, cost, strict=True)]
        i = min(range(len(table)), key=lambda i: (-worth[i], out[i], i))
        spent, feared = spent + cost[i], feared + worst[i]
        if worth[i] <= 0 or spent > budget * (1 + 1e-12) or feared > limit * (1 + 1e-12):
            break
        out[i] += 1
    return out


@pytest.mark.parametrize("levels", [None, 3], ids=["different", "few-values"])
def test_costs_are_met_one_by_one(levels):
    rng, ends = np.random.default_rng(8), {"budget": 0, "limit": 0, "most": 0}
    for _ in range(150):
        k = int(rng.integers(1, 10))
        table = falling(rng, k, 30, levels)
        cost = rng.choice([1.0, 2.0, 4.0], size=k) if levels else rng.uniform(0.5, 5, k)
        worst = cost * rng.uniform(1, 3, k)
        budget, limit, most = float(rng.uniform(0, 60)), float(rng.uniform(0, 150)), int(rng.integers(0, 60))
        found = allocate_cost(Listed(table), budget, cost, worst, limit, most)
        assert np.array_equal(found, cost_one_by_one(table, budget, cost, worst, limit, most))
        assert found @ cost <= budget * (1 + 1e-9)
        assert found @ worst <= limit * (1 + 1e-9)
        assert found.sum() <= most
        for name, larger in (
            ("budget", (9e9, limit, most)),
            ("limit", (budget, 9e9, most)),
            ("most", (budget, limit, 999)),
        ):
            ends[name] += allocate_cost(Listed(table), larger[0], cost, worst, *larger[1:]).sum() > found.sum()
    assert min(ends.values()) > 10, "each of the three bounds was the one that ended it"


def test_costs_count():
    """A gain of 3 for 4 is less than one of 1 for 1; with equal costs it is the allocation of draws."""
    table = np.array([[3.0, 3.0], [1.0, 1.0]])
    assert allocate_cost(Listed(table), 2.0, np.array([4.0, 1.0]), np.ones(2), 99.0, 99).tolist() == [0, 2]
    assert allocate_cost(Listed(table), 2.0, np.array([1.0, 1.0]), np.ones(2), 99.0, 99).tolist() == [2, 0]
    rng = np.random.default_rng(9)
    table = falling(rng, 6, 40)
    even = allocate_cost(Listed(table), 50 * 0.1, np.full(6, 0.1), np.ones(6), INF, 999)
    assert np.array_equal(even, allocate(Listed(table), 50))


def test_costs_at_the_edges():
    flat = Listed(np.ones((1, 50)))
    assert allocate_cost(flat, 0.3, np.array([0.1]), np.ones(1), 9.0, 9).tolist() == [3], "0.1 + 0.1 + 0.1 > 0.3"
    assert allocate_cost(flat, INF, np.ones(1), np.ones(1), INF, 9).tolist() == [9]
    assert allocate_cost(flat, 0.5, np.ones(1), np.ones(1), 9.0, 9).tolist() == [0]
    assert allocate_cost(Listed(np.zeros((2, 1))), 9.0, np.ones(2), np.ones(2), 9.0, 9).tolist() == [0, 0]
    nobody = np.zeros(0)
    assert allocate_cost(Listed(np.zeros((0, 1))), 9.0, nobody, nobody, 9.0, 9).tolist() == []


ONE = np.ones(1)


@pytest.mark.parametrize(
    ("budget", "cost", "worst", "limit", "most"),
    [
        (-1.0, ONE, ONE, 1.0, 1),
        (1.0, ONE, ONE, -1.0, 1),
        (1.0, ONE, ONE, 1.0, -1),
        (1.0, 0 * ONE, ONE, 1.0, 1),
        (1.0, ONE, -ONE, 1.0, 1),
        (1.0, NAN * ONE, ONE, 1.0, 1),
    ],
    ids=["budget", "limit", "most", "free", "worst", "nan"],
)
def test_costs_refused(budget, cost, worst, limit, most):
    with pytest.raises(ValueError, match="a budget of"):
        allocate_cost(Listed(np.ones((1, 3))), budget, cost, worst, limit, most)


# -- the baselines


def test_deviations():
    rng = np.random.default_rng(10)
    x = rng.normal(size=(4, 9)) * np.array([[1.0], [5.0], [1e-9], [1e4]]) + 3
    ragged = np.concatenate([x, np.full((4, 2), NAN), np.full((4, 1), -INF)], axis=1)
    assert deviations(ragged) == pytest.approx(x.std(axis=1, ddof=1), rel=1e-6)
    assert deviations(ragged) != pytest.approx(x.std(axis=1), rel=1e-2)
    assert deviations(np.array([[1.0, NAN], [NAN, NAN], [-INF, 2.0], [3.0, 3.0]])).tolist() == [0, 0, 0, 0]
    assert deviations(np.zeros((2, 0))).tolist() == [0, 0]
    constant = np.repeat(rng.normal(size=(50, 1)), 12, axis=1)
    assert constant.std(axis=1).max() > 0
    assert deviations(constant).max() == 0, "exactly, for 1e-17 is a scale too"
    for scale in (1e300, 1e-300):
        assert deviations(x[:1] * scale) == pytest.approx(deviations(x[:1]) * scale, rel=1e-12, abs=0)


@given(st.lists(st.integers(0, 12), min_size=1, max_size=6), st.integers(0, 40))
def test_levelled_is_one_by_one(totals, extra):
    wanted = np.array(totals)
    for _ in range(extra):
        wanted[np.argmin(wanted)] += 1
    assert np.array_equal(np.array(totals) + levelled(np.array(totals), extra), wanted)


BASELINES = pytest.mark.parametrize("rule", [by_deviation, by_upper_confidence], ids=["deviation", "ucb"])


@BASELINES
def test_baselines_spend_the_budget(rule):
    rng = np.random.default_rng(11)
    for budget in (0, 1, 17, 200):
        draws = rng.normal(size=(6, 5)) * rng.exponential(size=(6, 1))
        draws[rng.random(draws.shape) < 0.3] = NAN
        draws[:, 0] = np.where(np.isnan(draws[:, 0]), -INF, draws[:, 0])
        found = rule(draws, budget)
        assert found.sum() == budget
        assert found.min() >= 0
        assert rule(draws[:1], budget).tolist() == [budget]


@BASELINES
def test_baselines_spread_draws_where_nothing_is_known(rule):
    same = np.ones((3, 4))
    same[0, 1:] = same[1, 3:] = NAN
    assert rule(same, 7).tolist() == [4, 2, 1]
    assert rule(np.arange(3.0)[:, None], 6).tolist() == [2, 2, 2]


@BASELINES
def test_baselines_follow_the_scale(rule):
    rng = np.random.default_rng(12)
    x = rng.normal(size=(1, 20)) * np.array([[1.0], [2.7], [0.0], [8.6]])
    found = rule(x, 1000)
    assert found[2] == 0
    assert found[3] > 2 * found[1] > 4 * found[0] > 0 or rule is by_upper_confidence
    assert found[3] > found[1] > found[0]
    assert np.array_equal(rule(7 * x + 5, 1000), found)
    assert np.array_equal(rule(x[[3, 0, 2, 1]], 1000), found[[3, 0, 2, 1]])


def test_shares_by_deviation():
    """No draw could have gone to a prompt with a smaller total over its deviation."""
    rng = np.random.default_rng(13)
    for _ in range(20):
        draws = rng.normal(size=(5, 8)) * rng.exponential(size=(5, 1))
        found, scale = by_deviation(draws, 60), deviations(draws)
        total = 8 + found
        assert np.all((total / scale)[found > 0][:, None] <= ((total + 1) / scale) * (1 + 1e-12))
    even = 8 + levelled(np.full(5, 8), 60)
    assert np.any((even / scale)[:, None] > ((even + 1) / scale))


def test_upper_confidence_by_its_formula():
    """One by one to the largest s (1 + sqrt(2 log N / m)) / (m + 1); without the bound, others are chosen."""
    rng, plain = np.random.default_rng(14), 0
    for _ in range(20):
        draws = rng.normal(size=(4, 9)) * rng.exponential(size=(4, 1))
        draws[0, 3:] = NAN
        m, found = [3, 9, 9, 9], by_upper_confidence(draws, 25)
        for bound in (np.sqrt(2 * np.log(30)), 0.0):
            total = list(m)
            for _ in range(25):
                worth = [s * (1 + bound / np.sqrt(t)) / (t + 1) for s, t in zip(deviations(draws), total, strict=True)]
                total[int(np.argmax(worth))] += 1
            plain += bound == 0 and list(np.array(m) + found) != total
            assert bound == 0 or list(np.array(m) + found) == total
    assert plain > 5


def test_upper_confidence_prefers_what_is_less_known():
    """Of equal deviations the one from fewer draws gets more, beyond what levels them."""
    base = np.array([0.0, 1.0])
    draws = np.full((2, 40), NAN)
    draws[0, :2], draws[1] = base, np.tile(base, 20)
    draws[1] = (draws[1] - 0.5) * deviations(draws)[0] / deviations(draws)[1]
    found = by_upper_confidence(draws, 30)
    assert deviations(draws)[0] == pytest.approx(deviations(draws)[1])
    assert found.tolist() == [30, 0]
    wide = by_upper_confidence(draws * np.array([[1.0], [40.0]]), 30)
    assert wide.tolist() != [30, 0], "a far wider one does"
