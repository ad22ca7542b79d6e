"""Asking a reward: each different draft once, missing scores kept apart, nonsense refused."""

from __future__ import annotations

from collections.abc import Container, Hashable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts, TextDrafts
from italic.core.errors import ProgramError, RewardError
from italic.core.outcome import Usage
from italic.core.protocols import Scored
from italic.core.questions import Score


@dataclass(frozen=True, eq=False)
class Sheet:
    """One Score question, prepared for the reward.

    names: one a row, equal for rows that must get the same score; None if every row is scored by itself. known: the
    scores of this prompt's drafts so far, by name. first: int64 [k], for each name that has no score yet the first row
    that bears it. strict: whether it is an error if all scores are missing.
    """

    drafts: Drafts
    names: tuple[Hashable, ...] | None
    known: dict[Hashable, float]
    first: NDArray[np.int64]
    strict: bool = True

    @property
    def fresh(self) -> Drafts:
        """The drafts that the reward must score: each different one once."""
        return self.drafts[self.first]

    @property
    def claims(self) -> set[Hashable]:
        """The names that the reward is asked about; none where rows are scored by themselves."""
        return set() if self.names is None else {self.names[row] for row in self.first}

    def cost(self, scored: Scored | None) -> Usage:
        """What to book for the reward's answer."""
        calls = len(self.first)
        tokens = 0 if scored is None else scored.tokens
        return Usage(reward_calls=calls, reward_cached=len(self.drafts) - calls, reward_tokens=tokens)

    def without(self, claimed: Container[Hashable]) -> Sheet:
        """The same question, less the scores that have come in since and those that are `claimed`: on their way."""
        if self.names is None:
            return self
        waiting = [i for i in self.first if self.names[i] not in self.known and self.names[i] not in claimed]
        return replace(self, first=np.asarray(waiting, dtype=np.int64))


def prepare(question: Score, known: dict[Hashable, float] | None) -> Sheet:
    """Sort out which rows need a score. known: None if equal drafts may get different scores (a noisy judge)."""
    drafts = question.drafts
    if known is None or not isinstance(drafts, TextDrafts):
        return Sheet(drafts, None, {}, np.arange(len(drafts)), question.strict)
    names = tuple(zip((t.tobytes() for t in drafts.tokens), drafts.reason, drafts.chars, strict=True))
    rows: dict[Hashable, int] = {}
    for row, name in enumerate(names):
        if name not in known:
            rows.setdefault(name, row)
    return Sheet(drafts, names, known, np.fromiter(rows.values(), dtype=np.int64, count=len(rows)), question.strict)


def complete(sheet: Sheet, scored: Scored | None, reward: str) -> NDArray[np.float64]:
    """The rewards of all rows of the sheet: float64 [n], NaN where missing; remembers the new ones.

    scored: the reward's answer for `sheet.fresh`, None if there was nothing to ask.
    Raises RewardError for NaN, and for a strict question of which every score is missing; ProgramError for a wrong
    count.
    """
    prompt = sheet.drafts.prompt.id
    rewards = np.zeros(0)
    if scored is not None:
        k = len(sheet.first)
        if scored.rewards.shape != (k,) or scored.missing.shape != (k,):
            raise ProgramError(
                f"the reward {reward} answered {scored.rewards.shape} scores for {k} drafts of prompt {prompt!r}"
            )
        if np.any(np.isnan(scored.rewards) & ~scored.missing):
            raise RewardError(
                f"the reward {reward} returned NaN for prompt {prompt!r}",
                hint="Return None for a score that failed, a number otherwise.",
            )
        rewards = np.where(scored.missing, np.nan, scored.rewards)
        if sheet.names is not None:
            sheet.known.update((sheet.names[row], float(r)) for row, r in zip(sheet.first, rewards, strict=True))
    if sheet.names is not None:
        rewards = np.array([sheet.known[name] for name in sheet.names], dtype=np.float64)
    if sheet.strict and np.all(np.isnan(rewards)):
        raise RewardError(
            f"every score of the reward {reward} for prompt {prompt!r} is missing",
            hint="Try the reward on this prompt alone: `italic doctor` shows what it answers.",
        )
    return rewards
