"""The toy reward with other scores: missing ones, infinite ones, equal ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from italic.rewards.toy import ToyReward


@dataclass(frozen=True)
class Altered:
    """A toy reward with its scores changed by `alter(texts, rewards, done)`, arrays [n]; NaN makes a score missing."""

    alter: Callable[[np.ndarray, np.ndarray, np.ndarray], Any]
    base: ToyReward = field(default_factory=lambda: ToyReward(seed=1))
    name: str = "altered"
    needs: frozenset[str] = frozenset({"texts"})
    partial: bool = True
    deterministic: bool = True

    def score(self, batches):
        answers = []
        for drafts, scored in zip(batches, self.base.score(batches), strict=True):
            changed = self.alter(np.array(drafts.texts), scored.rewards, drafts.done)
            rewards = np.broadcast_to(changed, len(drafts)).astype(float)
            answers.append(replace(scored, rewards=rewards, missing=np.isnan(rewards)))
        return answers


def each(alter: Callable[[str, float], float]) -> Callable[..., np.ndarray]:
    """What `Altered` takes, from a function of one text and its reward."""
    return lambda texts, rewards, done: np.array(
        [alter(text, reward) for text, reward in zip(texts.tolist(), rewards.tolist(), strict=True)], dtype=float
    )
