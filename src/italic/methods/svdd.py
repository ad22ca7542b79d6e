"""SVDD: at every step the model makes a few children, and one of them is gone on with. No gradients, no training."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from italic.core.errors import UsageError
from italic.core.outcome import Outcome
from italic.core.protocols import Paper, Task
from italic.core.questions import Asking, extend
from italic.core.sampling import Until
from italic.laws.weights import gumbel
from italic.methods._rows import children, first_scored, ranked, replaced, steered_needs
from italic.values.kinds import Value, build_value


@dataclass(frozen=True)
class Svdd:
    """n draws, each grown block by block: of `children` proposals one is kept, in proportion to exp(value / alpha).

    Law: a step's law is that of soft-best-of-n, so the tilted law with beta = alpha as `children` grows, if the values
    are right; with few children the model's own. alpha = 0 keeps the best child: that is blockwise best-of-n, another
    law, which no number of children makes the tilted one. block: tokens or denoising steps between decisions. value:
    what an unfinished draft is worth: reward, preview or completions:k. A child without a score is kept
    only if none has one; an answer without a score is never chosen.
    """

    n: int = 1
    children: int = 8
    alpha: float = 1.0
    block: int = 16
    value: str | Value = "reward"

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper("2408.08252", "Li et al.", "Derivative-Free Guidance via Soft Value-Based Decoding", 2024),
    )

    def __post_init__(self) -> None:
        if min(self.n, self.children, self.block) < 1:
            raise UsageError(
                f"svdd with n={self.n},children={self.children},block={self.block}",
                hint="Give 1 or more of each: svdd:n=1,children=8,block=16.",
            )
        if not (self.alpha >= 0 and math.isfinite(self.alpha)):
            raise UsageError(
                f"svdd with alpha={self.alpha}", hint="Give 0 (the best child) or a positive number: svdd:alpha=1."
            )
        build_value(self.value)

    @property
    def needs(self) -> frozenset[str]:
        """To go on from unfinished drafts, and what the value needs."""
        return steered_needs(self.value)

    def run(self, task: Task) -> Asking[Outcome]:
        drafts: Any = task.start(self.n)
        steering = build_value(self.value)
        values = np.full(self.n, np.nan)
        step = 0
        while not np.all(drafts.done):
            rows = np.flatnonzero(~drafts.done)
            key, numbers = task.key.at("step", step), children(rows, np.arange(self.children))
            forks = drafts[np.repeat(rows, self.children)].reseed(key.at("child").seeds(numbers))
            grown = yield from extend(forks, Until(steps=self.block))
            worth = yield from steering.of(grown, self.alpha or 1.0)
            height = gumbel(worth / self.alpha, key.at("keep").uniform(numbers)) if self.alpha else worth
            height = ranked(height).reshape(len(rows), self.children)
            kept = np.arange(len(rows)) * self.children + height.argmax(axis=1)
            drafts, values[rows] = replaced(drafts, rows, grown[kept]), worth[kept]
            step += 1
        return Outcome(drafts, values, chosen=first_scored(values, task))
