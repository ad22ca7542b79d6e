"""Soft best-of-n: between plain sampling and best-of-n, and the tilted law in the limit."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from italic.core.errors import UsageError
from italic.core.outcome import Certificate, Outcome
from italic.core.protocols import Paper, Task
from italic.core.questions import Asking, best, extend, score
from italic.laws.weights import effective_sample_size, gumbel


@dataclass(frozen=True)
class SoftBestOfN:
    """n draws, one of them is the answer, with probability proportional to exp(reward / beta).

    Law: the tilted law p exp(r / beta) / Z as n grows, the total variation falling like 1/n (2505.03156); plain
    sampling as beta grows, best-of-n as beta goes to 0. The draws are a weighted sample of the tilted law, worth `ess`
    equal ones.
    """

    n: int = 16
    beta: float = 1.0

    needs: ClassVar[frozenset[str]] = frozenset()
    papers: ClassVar[tuple[Paper, ...]] = (
        Paper("2505.03156", "Verdun et al.", "Soft Best-of-n Sampling for Model Alignment", 2025),
    )

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(
                f"soft-best-of-n with n={self.n}", hint="Give a number of draws of 1 or more: soft-best-of-n:n=16."
            )
        if not (self.beta > 0 and math.isfinite(self.beta)):
            raise UsageError(
                f"soft-best-of-n with beta={self.beta}",
                hint="Give a positive number: soft-best-of-n:beta=1. Near 0 it is best-of-n, near infinity sample.",
            )

    def run(self, task: Task) -> Asking[Outcome]:
        drafts = yield from extend(task.start(self.n))
        rewards = yield from score(drafts)
        log_weights = rewards / self.beta
        return Outcome(
            drafts,
            rewards,
            chosen=best(gumbel(log_weights, task.key.at("choose").uniform(self.n))),
            log_weights=np.where(np.isnan(rewards), -np.inf, log_weights),
            certificate=Certificate(ess=float(effective_sample_size(log_weights))),
        )
