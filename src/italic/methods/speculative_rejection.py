"""Speculative rejection: best-of-n of which the drafts that do badly so far are dropped before they are paid for.

Drafts are short at first, so very many of them fit in the memory that a few long ones will fill. Whenever they have
filled it, the worst of them go, and the rest have room to grow. Here the memory is a number of tokens, not that of a
machine: a run is the same everywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import UsageError
from italic.core.outcome import Certificate, Outcome
from italic.core.protocols import Paper, Task
from italic.core.questions import Asking, extend, note
from italic.core.sampling import FINISH, Until
from italic.laws.best_of_n import kl_bound
from italic.methods._rows import first_scored, ranked, replaced, steered_needs
from italic.values.kinds import Value, build_value


@dataclass(frozen=True)
class SpeculativeRejection:
    """n draws grow together; when their memory is full the worst `drop` of them go. The best that ends is the answer.

    The memory has room for n * block tokens. Unfinished drafts are in it; one that ends leaves it and keeps its reward.
    When a further token of each would not fit, the worst by their values so far go: the share `drop` of the unfinished,
    rounded down, at least one, never the last. Of equals the earlier drawn stay; a missing score is below all others.
    So the cuts come at about block / (1 - drop)^m tokens, the first at `block` if none has ended. value: what an
    unfinished draft is worth: reward, preview or completions:k.

    Law: with drop = 0 that of best-of-n, to the draw. With any other the answer is one of n draws of the model too,
    whatever the values, so P(A) <= 1 - (1 - p(A))^n for every set A of responses. Best-of-n has equality for its best
    sets, so no choice among n draws can be further from the model. The KL divergence to it is at most
    log n - (n-1)/n: the certificate's `kl_bound`, left out if scores are missing. The outcome has the drafts that end.
    """

    n: int = 64
    drop: float = 0.5
    block: int = 16
    value: str | Value = "reward"

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper("2410.20290", "Sun et al.", "Fast Best-of-N Decoding via Speculative Rejection", 2024),
    )

    def __post_init__(self) -> None:
        if min(self.n, self.block) < 1:
            raise UsageError(
                f"speculative-rejection with n={self.n},block={self.block}",
                hint="Give 1 or more of each: speculative-rejection:n=64,block=16.",
            )
        if not 0 <= self.drop < 1:
            raise UsageError(
                f"speculative-rejection with drop={self.drop}",
                hint="Give a share from 0 (best-of-n) to below 1: speculative-rejection:drop=0.5.",
            )
        build_value(self.value)

    @property
    def needs(self) -> frozenset[str]:
        """To go on from unfinished drafts, and what the value needs; nothing if none are dropped."""
        return steered_needs(self.value) if self.drop else frozenset()

    def run(self, task: Task) -> Asking[Outcome]:
        drafts: Any = task.start(self.n)
        steering = build_value(self.value)
        worth, settled, missing, cut = np.full(self.n, np.nan), np.zeros(self.n, dtype=np.bool_), False, 0
        while not np.all(settled):
            drafts = yield from self._grow(drafts)
            new = np.flatnonzero(~settled)
            worth[new] = yield from steering.of(drafts[new], 1.0)
            missing |= bool(np.isnan(worth).any())
            settled, live = drafts.done, np.flatnonzero(~drafts.done)
            if len(live):
                length, cut = int(drafts.steps[live[0]]), cut + 1
                worst = live[best_first(worth[live])][self._survivors(len(live), length) :]
                kept = np.setdiff1d(np.arange(len(drafts)), worst)
                drafts, worth, settled = drafts[kept], worth[kept], settled[kept]
                yield from note("cut", cut=cut, steps=length, rows=len(live), dropped=len(worst))
        order = best_first(worth)
        return Outcome(
            drafts,
            worth,
            chosen=int(order[first_scored(worth[order], task)]),
            certificate=Certificate(kl_bound=None if missing else kl_bound(self.n)),
        )

    def _grow(self, drafts: Any) -> Asking[Any]:
        """The drafts, grown until all have ended or a further token of the unfinished would not fit."""
        while not np.all(drafts.done):
            live = np.flatnonzero(~drafts.done)
            spare = self.n * self.block // len(live) - int(drafts.steps[live[0]])
            last = len(live) == 1 or self.drop == 0
            if spare < 1 and not last:
                break
            grown = yield from extend(drafts[live], FINISH if last else Until(steps=spare))
            drafts = replaced(drafts, live, grown)
        return drafts

    def _survivors(self, live: int, length: int) -> int:
        """How many of the unfinished drafts stay: so few that a further token of each fits, or one."""
        while live > 1 and live * (length + 1) > self.n * self.block:
            live -= max(1, int(self.drop * live))
        return live


def best_first(worth: NDArray[np.float64]) -> NDArray[np.int64]:
    """The rows from the best to the worst, the first of equals first, those without a score last."""
    return np.argsort(-ranked(worth), kind="stable")
