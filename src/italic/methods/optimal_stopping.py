"""Optimal stopping: draws until another one does not pay. Best-of-n for one prompt, with n found on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from italic.core.errors import OutOfBudget, UsageError
from italic.core.outcome import Outcome
from italic.core.protocols import Paper, Task
from italic.core.questions import Asking, best, extend, note, score
from italic.laws.reward_laws import ESTIMATORS, Estimator, gains


@dataclass(frozen=True)
class OptimalStopping:
    """Draws are made until the expected gain of another is below its cost; the best of them is the answer.

    cost: of a draw, in units of the reward. For a known law F the rule is optimal: go on while
    int_M^inf (1 - F(t)) dt > cost, M being the best so far (Weitzman, doi:10.2307/1910412; for best-of-n 2510.01394).
    Here F is estimated from the prompt's own draws, of which `exploration` are made in any case, and n at most;
    `parallel` draws are made between two looks. With cost=0 it is best-of-n, with a large cost best-of-exploration.
    The first m draws are those of best-of-m. A prompt whose rewards are all alike, or missing, is given up after the
    exploration, or, as long as no score is known at all, goes on.
    """

    cost: float
    n: int = 64
    exploration: int = 4
    parallel: int = 2
    estimator: Estimator = "auto"

    needs: ClassVar[frozenset[str]] = frozenset()
    papers: ClassVar[tuple[Paper, ...]] = (
        Paper("2510.01394", "Kalayci et al.", "Optimal Stopping vs Best-of-N for Inference Time Optimization", 2025),
    )

    def __post_init__(self) -> None:
        if not (self.cost >= 0 and math.isfinite(self.cost)):
            raise UsageError(
                f"optimal-stopping with cost={self.cost}",
                hint="Give what a draw costs, in units of the reward, 0 or more: optimal-stopping:cost=0.05.",
            )
        if not 1 <= self.exploration <= self.n or self.parallel < 1:
            raise UsageError(
                f"optimal-stopping with exploration={self.exploration},n={self.n},parallel={self.parallel}",
                hint="Give numbers of draws of 1 or more, exploration no more than n: exploration=4,n=64,parallel=2.",
            )
        if self.estimator not in ESTIMATORS:
            raise UsageError(
                f"optimal-stopping with estimator={self.estimator}", hint=f"Choose one of {', '.join(ESTIMATORS)}."
            )

    def run(self, task: Task) -> Asking[Outcome]:
        drafts, rewards, gain = task.start(0), np.zeros(0), math.inf
        size = self.exploration
        complete = True
        try:
            while size > 0:
                rows = np.arange(len(drafts), len(drafts) + size)
                more = yield from extend(task.begin(task.key.at("start").seeds(rows)))
                rewards = np.append(rewards, (yield from score(more, strict=False)))
                drafts = drafts.concat(more)
                gain = self._gain(rewards)
                yield from note("drawn", total=len(drafts), expected_gain=gain)
                size = min(self.parallel, self.n - len(drafts)) if gain > self.cost or self.cost == 0 else 0
        except OutOfBudget:
            if np.isnan(rewards).all():
                raise
            complete = False
        if np.isnan(rewards).all():
            rewards = yield from score(drafts)
        notes = {"draws": len(drafts), "expected_gain": gain}
        return Outcome(drafts, rewards, chosen=best(rewards), complete=complete, notes=notes)

    def _gain(self, rewards: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
        """What one more draw is expected to gain; infinite as long as no draw was of use."""
        draws = np.where(np.isnan(rewards), -np.inf, rewards)[None]
        if np.all(draws == -np.inf):
            return math.inf
        first = np.zeros(1, dtype=np.int64)
        return float(gains(draws, self.estimator).marginal(first, first)[0, 0])
