"""One step of rejection under a baseline, for many states at once: the first accepted proposal of each.

Every state's proposals are numbered, and a proposal's noise and luck depend on its state's row and its number alone. So
how many are drawn at once changes what is paid, never which is taken. They are drawn in rounds: one for each state that
still waits, or several once few wait, about half as many as it should take.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import OutOfBudget, RewardError
from italic.core.keys import Key, Seeds
from italic.core.protocols import Task
from italic.core.questions import Asking, extend, score
from italic.core.sampling import Until
from italic.laws.clipping import log_proper_weight
from italic.laws.weights import gumbel
from italic.methods._rows import Rows, children, ranked, replaced
from italic.values.kinds import Value

Nats: TypeAlias = NDArray[np.float64]


class Plan(NamedTuple):
    """What a step is. beta: of the tilt. block: its length in steps, value: of its ends; None: the whole response."""

    beta: float
    block: int | None
    value: Value | None

    def propose(self, task: Task, states: Any, rows: Rows, seeds: Seeds) -> Asking[tuple[Any, Nats]]:
        """Proposals from the states at rows [k], one a seed [k]: drafts, and their log-weights f, nats [k].

        They are a block more of a state; a whole response starts from nothing, so its proposals do.
        """
        if self.value is None:
            drafts = yield from extend(task.begin(seeds))
            return drafts, (yield from score(drafts, strict=False)) / self.beta
        drafts = yield from extend(states[rows].reseed(seeds), Until(steps=self.block))
        return drafts, (yield from self.value.of(drafts, self.beta)) / self.beta


Propose: TypeAlias = Callable[[Rows, Seeds], Asking[tuple[Any, Nats]]]
"""Proposals from the states at rows [k], one a seed [k]: drafts, and their log-weights f, nats [k], NaN if missing."""


@dataclass(frozen=True, eq=False)
class Taken:
    """What a step came to, for k states.

    drafts: the k rows taken. f: their log-weights, nats [k]. draws: int64 [k], proposals tested. first: nats [k], the
    log-weight of each state's first proposal. tested: nats [*], those of all proposals tested, state by state.
    exhausted: bool [k], the cap was reached. log_weights: nats [k], proper weights for exp(f) if they were asked for.
    complete: False if a budget ended it.
    """

    drafts: Any
    f: Nats
    draws: Rows
    first: Nats
    tested: Nats
    exhausted: NDArray[np.bool_]
    log_weights: Nats
    complete: bool = True


class _Progress:
    """Who waits, and the best that each could fall back on."""

    def __init__(self, b: Nats, rows: Rows, key: Key, most: int, wanted: int) -> None:
        k = len(b)
        self.b, self.rows, self.key, self.most, self.wanted = b, rows, key, most, wanted
        self.drafts: Any = None
        self.f = np.full(k, np.nan)
        self.height = np.full(k, -np.inf)
        self.found = np.zeros(k, dtype=np.int64)
        self.draws = np.zeros(k, dtype=np.int64)
        self.first = np.full(k, np.nan)
        self.tested: list[tuple[Rows, Nats]] = []
        self.waiting = np.arange(k)
        self.tries = 0
        self.accepted = 0

    def width(self, parallel: int) -> int:
        """How many proposals a state to draw next: half of what is still to come, as far as there is room."""
        to_come = (int(self.draws.sum()) + 2) / (self.accepted + 1)
        room = max(1, parallel // len(self.waiting))
        return int(np.clip(round(to_come / 2), 1, min(room, self.most - self.tries)))

    def test(self, drafts: Any, f: Nats, width: int) -> None:
        """Test a round in order. drafts: `width` rows for each waiting state, f: their log-weights."""
        waiting, k = self.waiting, len(self.waiting)
        numbers = children(self.rows[waiting], np.arange(self.tries, self.tries + width))
        luck = self.key.at("accept").uniform(numbers).reshape(k, width)
        spare = self.key.at("spare").uniform(numbers)
        height = gumbel(ranked(f), spare).reshape(k, width)
        f = f.reshape(k, width)
        b = self.b[waiting, None]
        with np.errstate(invalid="ignore"):
            accepted = np.where(b == -np.inf, ~np.isnan(f), np.log(luck) < f - b)
        count = self.found[waiting, None] + np.cumsum(accepted, axis=1)
        through = count[:, -1] >= self.wanted
        used = np.where(through, 1 + np.argmax(count >= self.wanted, axis=1), width)
        if not self.tries:
            self.first = f[:, 0].copy()
        inside = np.arange(width) < used[:, None]
        self.tested.append((numbers.reshape(k, width)[inside], f[inside]))
        self.accepted += int(np.sum(accepted & inside))

        unfound = self.found[waiting] == 0
        lucky = unfound & accepted.any(axis=1)
        column = np.where(lucky, np.argmax(accepted, axis=1), np.argmax(height, axis=1))
        at = np.arange(k), column
        better = unfound & (lucky | (height[at] > self.height[waiting]) | np.isnan(self.f[waiting]))
        chosen = np.flatnonzero(better)
        rows = drafts[chosen * width + column[chosen]]
        self.drafts = rows if self.drafts is None else replaced(self.drafts, waiting[chosen], rows)
        self.f[waiting[chosen]] = f[at][chosen]
        self.height[waiting[chosen]] = height[at][chosen]

        self.found[waiting] = np.minimum(count[:, -1], self.wanted)
        self.draws[waiting] += used
        self.tries += width
        self.waiting = waiting[~through]

    def taken(self, complete: bool = True) -> Taken:
        """The rows as they are: accepted, or the best to fall back on. Raises RewardError if a row has no score."""
        if np.any(np.isnan(self.f)):
            raise RewardError(
                f"every score of one draw's {self.tries} proposals is missing",
                hint="Try the reward on this prompt alone: `italic doctor` shows what it answers.",
            )
        numbers, tested = (np.concatenate(parts) for parts in zip(*self.tested, strict=True))
        log_weights = log_proper_weight(self.b, np.maximum(self.draws, 2), self.f)
        return Taken(
            drafts=self.drafts,
            f=self.f,
            draws=self.draws,
            first=self.first,
            tested=tested[np.argsort(numbers)],
            exhausted=self.found < self.wanted,
            log_weights=np.where(self.f == -np.inf, -np.inf, log_weights),
            complete=complete,
        )


def clipped_step(
    propose: Propose, b: Nats, rows: Rows, key: Key, *, most: int, parallel: int, proper: bool, partial: bool
) -> Asking[Taken]:
    """Take the first accepted proposal of each of k states.

    b: nats [k]; rows: int64 [k], the numbers that name each state's noise; most: proposals a state; parallel: proposals
    under way; proper: go on to the second acceptance, for proper weights; partial: if a budget ends the step, take what
    there is. A proposal whose score is missing is never accepted.
    """
    state = _Progress(b, rows, key, most, 2 if proper else 1)
    try:
        while len(state.waiting) and state.tries < most:
            width = state.width(parallel)
            numbers = children(rows[state.waiting], np.arange(state.tries, state.tries + width))
            drafts, f = yield from propose(np.repeat(state.waiting, width), key.at("try").seeds(numbers))
            state.test(drafts, f, width)
    except OutOfBudget:
        if not partial or np.any(np.isnan(state.f)):
            raise
        return state.taken(complete=False)
    return state.taken()
