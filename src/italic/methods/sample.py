"""Plain sampling: what every other method is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from italic.core.errors import UsageError
from italic.core.outcome import Outcome
from italic.core.protocols import Paper, Task
from italic.core.questions import Asking, extend, score


@dataclass(frozen=True)
class Sample:
    """n draws of the model, the first of them is the answer; all are scored.

    Law: the model itself. A draw without a score gives way to the next.
    """

    n: int = 1

    needs: ClassVar[frozenset[str]] = frozenset()
    papers: ClassVar[tuple[Paper, ...]] = ()

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"sample with n={self.n}", hint="Give a number of draws of 1 or more: sample:n=1.")

    def run(self, task: Task) -> Asking[Outcome]:
        drafts = yield from extend(task.start(self.n))
        rewards = yield from score(drafts)
        return Outcome(drafts, rewards, chosen=int(np.argmin(np.isnan(rewards))))
