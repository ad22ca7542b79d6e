"""A reward that is a pure function of its key: a normal number for every text. For tests, and to try methods out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist
from typing import ClassVar

import numpy as np

from italic.core.drafts import Drafts, TextDrafts
from italic.core.errors import RewardError, UsageError
from italic.core.keys import Key
from italic.core.protocols import Scored

KEPT_SCORES = 100_000


@dataclass(frozen=True)
class ToyReward:
    """A normal number with standard deviation `scale` for every pair of prompt and text, unfinished texts included.

    levels: if given, the reward takes that many values, each for an equal share of the texts, so that ties occur.
    """

    seed: int = 0
    levels: int | None = None
    scale: float = 1.0
    _known: dict[tuple[str, str], float] = field(default_factory=dict, init=False, repr=False, compare=False)

    needs: ClassVar[frozenset[str]] = frozenset({"texts"})
    partial: ClassVar[bool] = True
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.levels is not None and self.levels < 1:
            raise UsageError(f"a toy reward with {self.levels} levels", hint="Give levels=1 or more, or leave it out.")
        if not self.scale > 0:
            raise UsageError(f"a toy reward of scale {self.scale}", hint="Give a positive scale.")

    @property
    def name(self) -> str:
        levels = "" if self.levels is None else f",levels={self.levels}"
        return f"toy:seed={self.seed}{levels},scale={self.scale:g}"

    def of(self, prompt: str, text: str) -> float:
        """The reward of a text after a prompt (the prompt's text, or its last message)."""
        if (prompt, text) not in self._known:
            if len(self._known) >= KEPT_SCORES:
                self._known.clear()
            share = float(Key(self.seed).at("toy", prompt, text).uniform(1)[0])
            if self.levels is not None:
                share = (int(share * self.levels) + 0.5) / self.levels
            self._known[prompt, text] = self.scale * NormalDist().inv_cdf(share)
        return self._known[prompt, text]

    def score(self, batches: Sequence[Drafts]) -> list[Scored]:
        return [self._score(drafts) for drafts in batches]

    def _score(self, drafts: Drafts) -> Scored:
        if not isinstance(drafts, TextDrafts):
            raise RewardError("the toy reward scores texts only", hint="Use it with a model that offers texts.")
        rewards = np.array([self.of(drafts.prompt.last, text) for text in drafts.texts], dtype=np.float64)
        return Scored(rewards, np.zeros(len(drafts), dtype=np.bool_), tokens=sum(map(len, drafts.texts)))


def load(*, seed: int = 0, levels: int | None = None, scale: float = 1.0) -> ToyReward:
    """The toy reward of a spec such as `toy:seed=1,levels=4`."""
    return ToyReward(seed=seed, levels=levels, scale=scale)
