"""AdaSearch: best-of-K block by block, with most of the draws for the first blocks, which decide the most."""

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
from italic.laws.schedule import SHAPES, Shape, block_draws
from italic.methods._rows import first_scored, ranked, steered_needs
from italic.values.kinds import Value, build_value


@dataclass(frozen=True)
class Blockwise:
    """One answer, grown block by block: of K_j draws of block j the best is kept, the first drawn among equals.

    Law: that of block j, given what is before it, is the law of best-of-K_j, a draw that ends being worth its reward.
    K_j falls from block to block as `schedule` says: uniform, linear or exponential, in proportion to decay^j. Over all
    blocks of the longest response the draws come to n a block; where K_j is 1 the answer is finished at once. block:
    tokens or denoising steps. value: what an unfinished draft is worth: reward, preview or completions:k. A draw
    without a score is kept only if none has one.

    The KL divergence to the model is at most the sum of log K_j - (K_j-1)/K_j over all blocks of the longest response:
    the certificate's `kl_bound`, left out if scores are missing. The blocks of one answer alone bound it in the mean
    over answers only.
    """

    n: int = 8
    block: int = 16
    schedule: Shape = "exponential"
    decay: float = 0.8
    value: str | Value = "reward"

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "2510.23334",
            "Quamar et al.",
            "Adaptive Blockwise Search: Inference-Time Alignment for Large Language Models",
            2025,
        ),
    )

    def __post_init__(self) -> None:
        if min(self.n, self.block) < 1:
            raise UsageError(
                f"blockwise with n={self.n},block={self.block}",
                hint="Give 1 or more of each: blockwise:n=8,block=16.",
            )
        if self.schedule not in SHAPES:
            raise UsageError(
                f"blockwise with schedule={self.schedule}",
                hint=f"Give one of {', '.join(SHAPES)}: blockwise:schedule=exponential.",
            )
        if not 0 < self.decay <= 1:
            raise UsageError(
                f"blockwise with decay={self.decay}",
                hint="Give a share above 0 and at most 1 (uniform): blockwise:decay=0.8.",
            )
        build_value(self.value)

    @property
    def needs(self) -> frozenset[str]:
        """To go on from unfinished drafts, and what the value needs."""
        return steered_needs(self.value)

    def draws(self, longest: int) -> NDArray[np.int64]:
        """K_j for each block of a response of at most `longest` steps, int64 [blocks]."""
        return block_draws(self.n, -(-longest // self.block), self.schedule, self.decay)

    def run(self, task: Task) -> Asking[Outcome]:
        draft: Any = task.start(1)
        steering = build_value(self.value)
        draws = self.draws(int(draft.room[0]))
        bound: float | None = sum(kl_bound(k) for k in draws.tolist())
        step = 0
        while not draft.done[0]:
            k, key = int(draws[step]), task.key.at("step", step)
            forks = draft[np.zeros(k, dtype=np.int64)].reseed(key.at("child").seeds(k))
            grown = yield from extend(forks, FINISH if k == 1 else Until(steps=self.block))
            worth = yield from steering.of(grown, 1.0)
            kept = int(ranked(worth).argmax())
            draft, rewards = grown[[kept]], worth[[kept]]
            bound = None if np.isnan(worth).any() else bound
            step += 1
            yield from note("block", block=step, draws=k, value=float(worth[kept]))
        return Outcome(draft, rewards, chosen=first_scored(rewards, task), certificate=Certificate(kl_bound=bound))
