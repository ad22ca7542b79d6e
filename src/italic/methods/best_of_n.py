"""Best-of-n: the simplest use of a reward, and the hardest to beat at a small divergence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from italic.core.errors import UsageError
from italic.core.outcome import Certificate, Outcome
from italic.core.protocols import Paper, Task
from italic.core.questions import Asking, best, extend, score
from italic.laws.best_of_n import kl_bound


@dataclass(frozen=True)
class BestOfN:
    """n draws, the one with the largest reward is the answer, the first drawn among equals.

    Law: P(y) = p(y)/q ((F + q)^n - F^n), with F = P_p(reward < r(y)) and q = P_p(reward = r(y)). Its KL divergence to
    the model is at most log n - (n-1)/n (2401.01879): the certificate's `kl_bound`, left out if scores are missing.
    """

    n: int = 16

    needs: ClassVar[frozenset[str]] = frozenset()
    papers: ClassVar[tuple[Paper, ...]] = (
        Paper("2401.01879", "Beirami et al.", "Theoretical guarantees on the best-of-n alignment policy", 2024),
    )

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"best-of-n with n={self.n}", hint="Give a number of draws of 1 or more: best-of-n:n=16.")

    def run(self, task: Task) -> Asking[Outcome]:
        drafts = yield from extend(task.start(self.n))
        rewards = yield from score(drafts)
        bound = None if np.isnan(rewards).any() else kl_bound(self.n)
        return Outcome(drafts, rewards, chosen=best(rewards), certificate=Certificate(kl_bound=bound))
