"""Where the next draws pay: the expected gain of a further draw from each prompt, and the greedy allocation.

A prompt's best reward so far is M. If its rewards have the distribution function F, the expected best after j further
draws is V(j) = M + int_M^inf (1 - F(t)^j) dt, so that the (j+1)-th of them is worth

    V(j+1) - V(j) = int_M^inf F(t)^j (1 - F(t)) dt,

which falls with j: V is concave. So the best way to hand out a budget of draws is greedy, each to the prompt where it
is worth most (2505.12050, Algorithm 1), and no order of the draws matters: the R largest of all gains are taken. How F
is estimated is `laws/reward_laws.py`; here it is a set of curves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Counts = NDArray[np.int64]

CELLS = 2_000_000
"""Numbers that are held at once, at most."""
TINY = float(np.finfo(np.float64).tiny)
"""The smallest scale of rewards."""


class Gains(Protocol):
    """What a further draw is worth, for K prompts."""

    def __len__(self) -> int: ...

    def marginal(self, rows: Counts, counts: Counts) -> Array:
        """V(j + 1) - V(j) of the prompts `rows`, int64 [m], for each j of `counts`, int64 [c]: float64 [m, c], not
        increasing in j."""


@dataclass(frozen=True, eq=False)
class Curves:
    """Gains as sums over the nodes of a quadrature: fade^j sum_q width_q S_q (1 - S_q)^j.

    above: float64 [K, Q], S, the probability that a draw's reward exceeds the node. width: float64 [K, Q], the weights
    of the quadrature in the unit of the gain. fade: float64 [K], 1, or less where the next draws repeat old ones more
    and more.
    """

    above: Array
    width: Array
    fade: Array

    def __len__(self) -> int:
        return len(self.above)

    def marginal(self, rows: Counts, counts: Counts) -> Array:
        values = np.empty((len(rows), len(counts)))
        with np.errstate(divide="ignore"):
            logs = np.log1p(-self.above) + np.log(self.fade)[:, None]
        height = self.width * self.above
        size = max(1, CELLS // max(1, len(counts) * self.above.shape[1]))
        powers = counts[:, None].astype(np.float64)
        for start in range(0, len(rows), size):
            some = rows[start : start + size]
            with np.errstate(invalid="ignore"):
                kept = np.exp(powers * logs[some][:, None, :])
            kept[:, counts == 0] = 1.0
            values[start : start + size] = np.einsum("mjq,mq->mj", kept, height[some])
        return values


@dataclass(frozen=True, eq=False)
class Cuts:
    """Gains where the probability of exceeding a value is itself unknown, with a beta distribution for each value.

    The gain at j is fade^j sum_v step_v E[S_v (1 - S_v)^j] with S_v ~ Beta(over_v, under_v). step, over, under: float64
    [K, V], `over` 0 for a value that cannot be exceeded; fade: float64 [K].
    """

    step: Array
    over: Array
    under: Array
    fade: Array

    def __len__(self) -> int:
        return len(self.step)

    def marginal(self, rows: Counts, counts: Counts) -> Array:
        """As for all gains; counts must be consecutive, for each gain is made from the one before."""
        from scipy.special import betaln

        over, step = self.over[rows], self.step[rows]
        going = (over > 0) & (step > 0)
        a, b = np.where(going, over, 1.0), np.where(going, self.under[rows], 1.0)
        first = int(counts[0]) if len(counts) else 0
        kept = np.exp(betaln(a + 1, b + first) - betaln(a, b)) * np.where(going, step, 0.0)
        kept *= (self.fade[rows] ** first)[:, None]
        values = np.empty((len(rows), len(counts)))
        for place, j in enumerate(counts.tolist()):
            values[:, place] = kept.sum(axis=1)
            kept *= (b + j) / (a + b + (j + 1)) * self.fade[rows][:, None]
        return values


@dataclass(frozen=True, eq=False)
class Several:
    """The gains of several groups of prompts as one. group, place: int64 [K], which of the parts, and where in it."""

    parts: tuple[Gains, ...]
    group: Counts
    place: Counts

    @classmethod
    def of(cls, rows: Sequence[Counts], parts: Sequence[Gains]) -> Several:
        """rows: of each part, which of the prompts it is about, int64; every prompt is in one."""
        group = np.zeros(sum(len(some) for some in rows), dtype=np.int64)
        place = np.zeros_like(group)
        for which, some in enumerate(rows):
            group[some], place[some] = which, np.arange(len(some))
        return cls(tuple(parts), group, place)

    def __len__(self) -> int:
        return len(self.group)

    def marginal(self, rows: Counts, counts: Counts) -> Array:
        values = np.empty((len(rows), len(counts)))
        for which, part in enumerate(self.parts):
            here = np.flatnonzero(self.group[rows] == which)
            values[here] = part.marginal(self.place[rows[here]], counts)
        return values


@dataclass(frozen=True, eq=False)
class Sum:
    """What exceeding the best is worth in two stretches of rewards, one above the other: the gains of both."""

    parts: tuple[Gains, Gains]

    def __len__(self) -> int:
        return len(self.parts[0])

    def marginal(self, rows: Counts, counts: Counts) -> Array:
        one, other = (part.marginal(rows, counts) for part in self.parts)
        return one + other


def expected_best(gains: Gains, best: Array, most: int) -> Array:
    """V(0), ..., V(most): float64 [K, most + 1]; best: float64 [K], M."""
    rows = np.arange(len(gains))
    steps = gains.marginal(rows, np.arange(most))
    return np.asarray(best[:, None] + np.concatenate([np.zeros((len(gains), 1)), np.cumsum(steps, axis=1)], axis=1))


def allocate(gains: Gains, budget: int, drawn: Counts | None = None) -> Counts:
    """How many of `budget` further draws each prompt gets: int64 [K], of sum `budget`, the greedy allocation.

    drawn: int64 [K], draws that each prompt has had; draws of equal worth go where fewer were made, then to the earlier
    prompt, so that draws that are worth nothing anywhere are spread evenly. Raises ValueError for a negative budget, or
    for a budget and no prompts.
    """
    k = len(gains)
    if budget < 0 or (budget and not k):
        raise ValueError(f"{budget} draws for {k} prompts")
    drawn = np.zeros(k, dtype=np.int64) if drawn is None else drawn
    if not budget:
        return np.zeros(k, dtype=np.int64)
    worth, owner, level = _table(gains, np.ones(k), float(budget), budget)
    positive = worth > 0
    worth, owner, level = worth[positive], owner[positive], level[positive]
    if len(worth) > budget:
        least = np.partition(worth, len(worth) - budget)[len(worth) - budget]
        tied = np.flatnonzero(worth == least)
        tied = tied[np.lexsort((owner[tied], drawn[owner[tied]] + level[tied]))]
        taken = np.append(np.flatnonzero(worth > least), tied)[:budget]
    else:
        taken = np.arange(len(worth))
    given = np.bincount(owner[taken], minlength=k)
    return given + levelled(drawn + given, budget - len(taken))


def allocate_cost(gains: Gains, budget: float, cost: Array, worst: Array, limit: float, most: int) -> Counts:
    """How many further draws each prompt gets where a draw of prompt i costs cost_i on average: int64 [K].

    Draws are taken in the order of gain over cost, while they cost at most `budget` on average and at most `limit` in
    the worst case, worst_i each, and are `most` at most; draws that are worth nothing are not taken. cost, worst:
    float64 [K], positive. Raises ValueError otherwise, or for a negative budget.
    """
    if not (np.all(cost > 0) and np.all(worst > 0) and min(budget, limit, most) >= 0):
        raise ValueError(f"a budget of {budget}, at most {limit}, for costs of {cost}, at most {worst}")
    enough = budget * (1 + 1e-12)
    worth, owner, level = _table(gains, cost, budget, int(min(most, enough / cost.min(initial=np.inf))))
    order = np.lexsort((owner, level, -worth))
    order = order[worth[order] > 0][:most]
    whose = owner[order]
    fits = (np.cumsum(cost[whose]) <= enough) & (np.cumsum(worst[whose]) <= limit * (1 + 1e-12))
    return np.bincount(whose[fits], minlength=len(gains))


def by_deviation(draws: Array, budget: int) -> Counts:
    """`budget` further draws, so that those of a prompt come near to a share in proportion to its standard deviation.

    The variance heuristic, a baseline: int64 [K]; draws: float64 [K, n], padded with NaN, -inf for a draw of no use.
    """
    drawn = (~np.isnan(draws)).sum(axis=1)
    return _raise_to(drawn, deviations(draws), budget)


def by_upper_confidence(draws: Array, budget: int) -> Counts:
    """`budget` further draws, one by one to the prompt whose next draw may be worth most: a baseline, int64 [K].

    A prompt with m draws of standard deviation s is taken to gain s (1 + sqrt(2 log N / m)) / (m + 1) by another, N
    being all draws so far: the gain of exponential rewards, with an upper confidence bound for the scale (2505.12050
    compares with no such rule; it is the bandit's answer).
    """
    drawn = (~np.isnan(draws)).sum(axis=1)
    scale, given = deviations(draws), np.zeros(len(draws), dtype=np.int64)
    width = np.sqrt(2 * np.log(max(2, drawn.sum())))
    for _ in range(budget):
        m = np.maximum(drawn + given, 1)
        given[np.argmax(np.where(scale > 0, scale, 1e-300) * (1 + width / np.sqrt(m)) / (m + 1))] += 1
    return given


def deviations(draws: Array) -> Array:
    """Standard deviations of the finite draws of each prompt, float64 [K]; 0 where there are fewer than two."""
    there = np.isfinite(draws)
    m = np.maximum(there.sum(axis=1), 1)
    origin = np.max(draws, axis=1, initial=-np.inf, where=there)[:, None]  # equal draws deviate by 0 exactly
    x = np.where(there, draws - np.where(np.isfinite(origin), origin, 0.0), 0.0)
    centred = np.where(there, x - (x.sum(axis=1) / m)[:, None], 0.0)
    widest = np.maximum(np.abs(centred).max(axis=1, initial=0.0), TINY)
    return np.asarray(np.sqrt(np.sum((centred / widest[:, None]) ** 2, axis=1) / np.maximum(m - 1, 1)) * widest)


def _raise_to(drawn: Counts, weights: Array, budget: int) -> Counts:
    """`budget` handed out one by one, each to the prompt with the smallest total over its weight: int64 [K]."""
    given: Counts = np.zeros(len(drawn), dtype=np.int64)
    if not np.any(weights > 0):
        return levelled(drawn, budget)
    with np.errstate(divide="ignore"):
        price = np.where(weights > 0, 1 / weights, np.inf)
    for _ in range(budget):
        given[np.argmin((drawn + given + 1) * price)] += 1
    return given


def levelled(totals: Counts, extra: int) -> Counts:
    """`extra` handed out one by one, each to the smallest total, the first of equals: int64, of the shape of totals."""
    given: Counts = np.zeros(len(totals), dtype=np.int64)
    if extra <= 0:
        return given
    order = np.argsort(totals, kind="stable")
    ranked = totals[order]
    filled = np.arange(1, len(totals) + 1) * ranked - np.cumsum(ranked)
    rows = int(np.flatnonzero(filled <= extra)[-1]) + 1
    each, rest = divmod(extra - int(filled[rows - 1]), rows)
    lowest = np.sort(order[:rows])
    given[lowest] = ranked[rows - 1] - totals[lowest] + each
    given[lowest[:rest]] += 1
    return given


def _table(gains: Gains, cost: Array, budget: float, most: int) -> tuple[Array, Counts, Counts]:
    """Enough of the gains over their cost to find the best that the budget buys: worth, prompt and j of each.

    All prompts are tabulated up to a moderate j. A prompt whose last gain there is not below the price at which the
    budget is spent is tabulated twice as far, and so on; the price only rises as more is known.
    """
    rows: Counts = np.arange(len(gains))
    first, size = 0, max(4, int(min(most, 2 * budget / max(TINY, cost.sum()))) + 1)
    worths, owners, levels = [np.zeros(0)], [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    while len(rows) and first < most:
        counts = np.arange(first, min(first + size, most))
        block = gains.marginal(rows, counts) / cost[rows][:, None]
        worths.append(block.ravel())
        owners.append(np.repeat(rows, len(counts)))
        levels.append(np.tile(counts, len(rows)))
        known, whose = np.concatenate(worths), np.concatenate(owners)
        order = np.argsort(-known, kind="stable")
        spent = np.searchsorted(np.cumsum(cost[whose[order]]), budget, side="left")
        price = known[order[spent]] if spent < len(order) else 0.0
        rows = rows[(block[:, -1] >= price) & (block[:, -1] > 0)]
        first, size = first + size, first + size
    return np.concatenate(worths), np.concatenate(owners), np.concatenate(levels)
