"""Rejection sampling: the tilted law exactly, at a price that the bound sets."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts
from italic.core.errors import OutOfBudget, RewardError, UsageError
from italic.core.outcome import Certificate, Outcome
from italic.core.protocols import Paper, Task
from italic.core.questions import Asking, best, extend, score
from italic.laws.weights import gumbel


@dataclass(frozen=True)
class Rejection:
    """The first draw accepted is the answer, each being accepted with probability exp((reward - bound) / beta).

    Law: the tilted law p exp(r / beta) / Z, exactly, if no reward exceeds `bound`, after exp(bound / beta) / Z draws on
    average (von Neumann 1951). They are made `parallel` at a time, which changes the cost but not the answer. After
    `max_draws`, or when the budget ends, the answer is one of the draws tested, in proportion to exp(r / beta), and the
    certificate's `exhaustion_rate` is 1. Raises RewardError for a reward above the bound.
    """

    bound: float
    beta: float = 1.0
    max_draws: int = 1000
    parallel: int = 8

    needs: ClassVar[frozenset[str]] = frozenset()
    papers: ClassVar[tuple[Paper, ...]] = ()

    def __post_init__(self) -> None:
        if not math.isfinite(self.bound):
            raise UsageError(
                f"rejection with bound={self.bound}", hint="Give the largest reward possible: rejection:bound=5."
            )
        if not (self.beta > 0 and math.isfinite(self.beta)):
            raise UsageError(
                f"rejection with beta={self.beta}", hint="Give a positive number: rejection:bound=5,beta=1."
            )
        if self.max_draws < 1 or self.parallel < 1:
            raise UsageError(
                f"rejection with max_draws={self.max_draws},parallel={self.parallel}",
                hint="Give numbers of draws of 1 or more: rejection:bound=5,max_draws=1000,parallel=8.",
            )

    def run(self, task: Task) -> Asking[Outcome]:
        seeds = task.key.at("start").seeds(self.max_draws)
        luck = task.key.at("accept").uniform(self.max_draws)
        spare_luck = task.key.at("spare").uniform(self.max_draws)
        tested, complete = 0, True
        spare: tuple[float, Drafts, float] | None = None
        try:
            while tested < self.max_draws:
                now = slice(tested, tested + self.parallel)
                drafts = yield from extend(task.begin(seeds[now]))
                rewards = yield from score(drafts)
                self._check(rewards, task)
                accepted = np.flatnonzero(np.log(luck[now]) < (rewards - self.bound) / self.beta)
                if len(accepted):
                    row = int(accepted[0])
                    certificate = _certificate(tested + row + 1, accepted=1)
                    return Outcome(drafts[[row]], rewards[[row]], chosen=0, certificate=certificate)
                heights = gumbel(rewards / self.beta, spare_luck[now])
                row = best(heights)
                if spare is None or heights[row] > spare[0]:
                    spare = float(heights[row]), drafts[[row]], float(rewards[row])
                tested += len(drafts)
        except OutOfBudget:
            if spare is None:
                raise
            complete = False
        assert spare is not None
        certificate = _certificate(tested, accepted=0)
        return Outcome(spare[1], np.array([spare[2]]), chosen=0, certificate=certificate, complete=complete)

    def _check(self, rewards: NDArray[np.float64], task: Task) -> None:
        if np.any(rewards > self.bound):
            largest = float(np.nanmax(rewards))
            raise RewardError(
                f"a reward of {largest:g} for prompt {task.prompt.id!r} is above rejection's bound of {self.bound:g}",
                hint=f"Its law would not be exact. Raise the bound: rejection:bound={math.ceil(largest)}.",
            )


def _certificate(proposals: int, accepted: int) -> Certificate:
    return Certificate(
        tv=0.0 if accepted else None,
        acceptance=accepted / proposals,
        exhaustion_rate=1.0 - accepted,
        proposals=proposals,
        accepted=accepted,
    )
