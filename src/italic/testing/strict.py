"""A model and rewards that are hard to please: what does a method really need, and what does it do without a score?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts, TextDrafts
from italic.core.errors import ProgramError
from italic.core.keys import Seeds
from italic.core.prompt import Prompt
from italic.core.protocols import (
    ABILITIES,
    Embedded,
    Embedding,
    Fanned,
    Fanning,
    Grown,
    Model,
    Previewing,
    Reward,
    Scored,
    Weighed,
    Weighing,
)
from italic.core.questions import Extend
from italic.core.sampling import Sampling
from italic.rewards.toy import ToyReward


def refuse(ability: str) -> ProgramError:
    """The error for using an ability that was not asked for."""
    return ProgramError(
        f"the method uses {ability} ({ABILITIES[ability]}), which is not among its needs",
        hint=f'Add "{ability}" to `needs`.',
    )


@dataclass(frozen=True, eq=False)
class StrictDrafts(TextDrafts):
    """Drafts that can do no more than `allowed`."""

    allowed: frozenset[str] = frozenset()

    def cut(self, steps: int | NDArray[np.integer]) -> TextDrafts:
        if "cut" not in self.allowed:
            raise refuse("cut")
        return super().cut(steps)

    @property
    def texts(self) -> Any:
        if "texts" not in self.allowed:
            raise refuse("texts")
        return plain(self).texts

    @property
    def logprobs(self) -> Any:
        if "texts" not in self.allowed:
            raise refuse("texts")
        return plain(self).logprobs


def plain(drafts: Any) -> Any:
    """The same drafts without restrictions."""
    if not isinstance(drafts, StrictDrafts):
        return drafts
    return TextDrafts(**{f.name: getattr(drafts, f.name) for f in fields(TextDrafts)})


@dataclass(frozen=True)
class StrictModel:
    """A model with no more than the abilities `allowed`; using another raises ProgramError."""

    inner: Model
    allowed: frozenset[str]

    @property
    def name(self) -> str:
        return f"strict {self.inner.name}"

    @property
    def offers(self) -> frozenset[str]:
        """What is allowed, and texts, which the reward needs; the drafts show them to the reward alone."""
        return self.inner.offers & (self.allowed | {"texts"})

    def start(self, prompt: Prompt, seeds: Seeds, sampling: Sampling) -> Any:
        return self._restrict(self.inner.start(prompt, seeds, sampling))

    def extend(self, jobs: Sequence[Extend]) -> list[Grown]:
        for job in jobs:
            if "resume" not in self.allowed and np.any(job.drafts.steps[~job.drafts.done] > 0):
                raise refuse("resume")
            if "entropy" not in self.allowed and job.until.entropy is not None:
                raise refuse("entropy")
        return self._answers(self.inner.extend([replace(job, drafts=plain(job.drafts)) for job in jobs]))

    def preview(self, batches: Sequence[Drafts]) -> list[Grown]:
        if "preview" not in self.allowed:
            raise refuse("preview")
        return self._answers(cast(Previewing, self.inner).preview([plain(batch) for batch in batches]))

    def embed(self, batches: Sequence[Drafts]) -> list[Embedded]:
        if "embed" not in self.allowed:
            raise refuse("embed")
        return cast(Embedding, self.inner).embed([plain(batch) for batch in batches])

    def likelihood(self, batches: Sequence[Drafts]) -> list[Weighed]:
        if "likelihood" not in self.allowed:
            raise refuse("likelihood")
        return cast(Weighing, self.inner).likelihood([plain(batch) for batch in batches])

    def likeliest(self, batches: Sequence[tuple[Drafts, int]]) -> list[Fanned]:
        if "likeliest" not in self.allowed:
            raise refuse("likeliest")
        if "resume" not in self.allowed and any(np.any(batch.steps[~batch.done] > 0) for batch, _ in batches):
            raise refuse("resume")
        answers = cast(Fanning, self.inner).likeliest([(plain(batch), k) for batch, k in batches])
        return [replace(fanned, drafts=self._restrict(fanned.drafts)) for fanned in answers]

    def _answers(self, answers: list[Grown]) -> list[Grown]:
        return [replace(grown, drafts=self._restrict(grown.drafts)) for grown in answers]

    def _restrict(self, drafts: Any) -> Any:
        if not isinstance(drafts, TextDrafts):
            return drafts
        return StrictDrafts(**{f.name: getattr(drafts, f.name) for f in fields(TextDrafts)}, allowed=self.allowed)


@dataclass(frozen=True)
class StrictReward:
    """A reward that scores unfinished drafts only if `allowed` says so."""

    inner: Reward
    allowed: frozenset[str]
    needs: frozenset[str] = frozenset({"texts"})
    deterministic: bool = True

    @property
    def name(self) -> str:
        return f"strict {self.inner.name}"

    @property
    def partial(self) -> bool:
        return "partial" in self.allowed

    def score(self, batches: Sequence[Drafts]) -> list[Scored]:
        if not self.partial and any(not batch.done.all() for batch in batches):
            raise refuse("partial")
        return self.inner.score([plain(batch) for batch in batches])


@dataclass
class MissingReward:
    """A toy reward that cannot score the better half of the texts. asked: how many of its answers were missing."""

    inner: ToyReward = field(default_factory=ToyReward)
    asked: int = 0
    needs: frozenset[str] = frozenset({"texts"})
    partial: bool = True
    deterministic: bool = True
    name: str = "missing"

    def of(self, prompt: str, text: str) -> float:
        """The score of a text, NaN where it is missing."""
        reward = self.inner.of(prompt, text)
        return float("nan") if reward > 0 else reward

    def score(self, batches: Sequence[Drafts]) -> list[Scored]:
        answers = []
        for batch in batches:
            texts = plain(batch).texts
            rewards = np.array([self.of(batch.prompt.last, text) for text in texts], dtype=np.float64)
            missing = np.isnan(rewards)
            self.asked += int(missing.sum())
            answers.append(Scored(rewards, missing))
        return answers
