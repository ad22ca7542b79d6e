"""Rewards made of rewards: a weighted sum, and an ensemble that is as good as its members agree."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts
from italic.core.errors import ProgramError, RewardError, SpecError
from italic.core.protocols import Reward, Scored

Rule: TypeAlias = Callable[[NDArray[np.float64]], NDArray[np.float64]]


@dataclass(frozen=True)
class WeightedSum:
    """The sum of `weights[i] * parts[i]`. A score missing in any part is missing in the sum.

    Scores of unfinished drafts mean something if they do in every part; the sum is deterministic if every part is.
    Raises SpecError for no parts, a wrong number of weights, or a weight that is 0 or not finite.
    """

    parts: tuple[Reward, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        _some(self.parts)
        if len(self.weights) != len(self.parts):
            raise SpecError(f"{len(self.weights)} weights for {len(self.parts)} rewards", hint="Give one a reward.")
        for part, weight in zip(self.parts, self.weights, strict=True):
            if not math.isfinite(weight) or weight == 0:
                raise SpecError(f"the weight of {part.name} is {weight}", hint="Give a finite number other than 0.")

    @cached_property
    def name(self) -> str:
        return "+".join(f"{weight:g}*{part.name}" for part, weight in zip(self.parts, self.weights, strict=True))

    @cached_property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(p.needs for p in self.parts))

    @cached_property
    def partial(self) -> bool:
        return all(p.partial for p in self.parts)

    @cached_property
    def deterministic(self) -> bool:
        return all(p.deterministic for p in self.parts)

    def score(self, batches: Sequence[Drafts]) -> list[Scored]:
        """The sums. Raises RewardError where infinite parts cancel to no number."""
        weights = np.array(self.weights)[:, None]
        return _combine(self.name, self.parts, batches, lambda rewards: (weights * rewards).sum(0))


@dataclass(frozen=True)
class Ensemble:
    """The members' mean less `k` standard deviations among them: a lower bound, where they disagree a lower score.

    The standard deviation is that of the members themselves (divided by their number). k = 0 is the mean. Lowering a
    score by the members' disagreement keeps selection from exploiting the errors of one (Coste et al., 2310.02743, who
    subtract the variance). A score missing in any member is missing. One member at -inf makes the score -inf.
    Raises SpecError for no members or a `k` that is negative or not finite.
    """

    members: tuple[Reward, ...]
    k: float = 1.0

    def __post_init__(self) -> None:
        _some(self.members)
        if not (math.isfinite(self.k) and self.k >= 0):
            raise SpecError(f"k is {self.k}", hint="Give 0 (the mean) or a positive number of standard deviations.")

    @cached_property
    def name(self) -> str:
        return f"ensemble({','.join(m.name for m in self.members)};k={self.k:g})"

    @cached_property
    def needs(self) -> frozenset[str]:
        return frozenset().union(*(m.needs for m in self.members))

    @cached_property
    def partial(self) -> bool:
        return all(m.partial for m in self.members)

    @cached_property
    def deterministic(self) -> bool:
        return all(m.deterministic for m in self.members)

    def score(self, batches: Sequence[Drafts]) -> list[Scored]:
        """The lower bounds. Raises RewardError where infinite members leave no number."""
        return _combine(self.name, self.members, batches, self._bound)

    def _bound(self, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of [members, n], the bound: [n]."""
        bound: NDArray[np.float64] = rewards.mean(0) - self.k * rewards.std(0)
        low, high = np.isneginf(rewards), np.isposinf(rewards)
        bound[low.any(0) & ~high.any(0)] = -np.inf
        bound[high.all(0)] = np.inf
        return bound


def load(parts: Sequence[tuple[float, Reward]]) -> WeightedSum:
    """The weighted sum of `(weight, reward)` pairs: what `0.7*demo + 0.3*demo:sentiment` is. Raises SpecError."""
    if isinstance(parts, str):
        raise SpecError(f"{parts!r} is no list of rewards", hint="Write the sum itself: 0.7*demo + 0.3*demo:sentiment.")
    return WeightedSum(tuple(reward for _, reward in parts), tuple(weight for weight, _ in parts))


def _some(parts: tuple[Reward, ...]) -> None:
    if not parts:
        raise SpecError("a combination of no rewards", hint="Give at least one reward.")


def _combine(name: str, parts: tuple[Reward, ...], batches: Sequence[Drafts], rule: Rule) -> list[Scored]:
    """Ask every part about all batches and join its answers: `rule` maps [parts, n] to [n]."""
    answers = [part.score(batches) for part in parts]
    for part, answer in zip(parts, answers, strict=True):
        if [len(s.rewards) for s in answer] != [len(b) for b in batches]:
            raise ProgramError(f"the reward {part.name} did not give one score a draft")
    joined = []
    for batch, scored in zip(batches, zip(*answers, strict=True), strict=True):
        missing = np.any([s.missing for s in scored], axis=0)
        rewards = np.array([np.where(missing, 0.0, s.rewards) for s in scored])
        with np.errstate(invalid="ignore"):
            total = rule(rewards)
        if np.isnan(total).any():
            raise RewardError(
                f"the reward {name} is NaN for prompt {batch.prompt.id!r}",
                hint="Its parts are infinite with opposite signs, or one returned NaN.",
            )
        joined.append(Scored(np.where(missing, np.nan, total), missing, sum(s.tokens for s in scored)))
    return joined
