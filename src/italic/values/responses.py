"""Reference responses to one prompt: a row of a calibration, in memory and as plain values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from italic.core.prompt import Prompt
from italic.laws.statistics import spearman

RANKED = 4
"""Responses of a prompt that a rank correlation needs."""


@dataclass(frozen=True, eq=False)
class Responses:
    """The n reference responses to one prompt, L = the number of lengths at which their beginnings were scored.

    prompt_reward: the score of the empty response. rewards: float64 [n]. steps: int64 [n], tokens. finish: [n], why
    they ended. completions: [n], their texts. tokens: n arrays int32, their token ids, the end-of-sequence token
    included. logprobs: float64 [n], nats, of whole responses. entropies: n arrays float32, nats, one number a token,
    None if they were not asked for. partial: float64 [L, n], NaN for a response that is not longer than that. A score
    that is missing is NaN.
    """

    prompt: Prompt
    prompt_reward: float
    rewards: NDArray[np.float64]
    steps: NDArray[np.int64]
    finish: tuple[str, ...]
    completions: tuple[str, ...]
    tokens: tuple[NDArray[np.int32], ...]
    logprobs: NDArray[np.float64]
    entropies: tuple[NDArray[np.float32], ...] | None
    partial: NDArray[np.float64]

    @classmethod
    def of(cls, row: Mapping[str, Any]) -> Responses:
        """From what `row` gives, or JSON made of it. Raises KeyError, TypeError, ValueError, InputError if not."""
        rewards, steps, messages = _floats(row["rewards"]), np.array(row["steps"], dtype=np.int64), row.get("messages")
        entropies = row["entropies"]
        found = cls(
            Prompt(row["id"], row.get("prompt"), None if messages is None else tuple(messages)),
            float(_floats([row["prompt_reward"]])[0]),
            rewards,
            steps,
            tuple(row["finish"]),
            tuple(row["completions"]),
            tuple(np.array(ids, dtype=np.int32) for ids in row["tokens"]),
            _floats(row["logprobs"]),
            None if entropies is None else tuple(np.array(one, dtype=np.float32) for one in entropies),
            np.array([_floats(scores) for scores in row["partial"]]).reshape(-1, len(rewards)),
        )
        parts = (steps, found.finish, found.completions, found.tokens, found.logprobs, found.entropies)
        sizes = {len(part) for part in parts if part is not None}
        lengths = [[len(one) for one in rows] for rows in (found.tokens, found.entropies) if rows is not None]
        if sizes != {len(rewards)} or any(each != steps.tolist() for each in lengths):
            raise ValueError(f"the columns of prompt {found.prompt.id!r} do not belong together")
        return found

    @property
    def present(self) -> NDArray[np.float64]:
        """The rewards that are there, float64 [*]."""
        return self.rewards[~np.isnan(self.rewards)]

    def row(self) -> dict[str, Any]:
        """As plain values, None where a score is missing; `prompt` or `messages`, whichever the prompt has."""
        asked = {"prompt": self.prompt.text} if self.prompt.messages is None else {"messages": self.prompt.messages}
        return {
            "id": self.prompt.id,
            **asked,
            "prompt_reward": _nulls([self.prompt_reward])[0],
            "rewards": _nulls(self.rewards),
            "steps": self.steps.tolist(),
            "finish": list(self.finish),
            "completions": list(self.completions),
            "tokens": [ids.tolist() for ids in self.tokens],
            "logprobs": self.logprobs.tolist(),
            "entropies": None if self.entropies is None else [one.tolist() for one in self.entropies],
            "partial": [_nulls(scores) for scores in self.partial],
        }

    def middle(self, lengths: Sequence[int]) -> list[int]:
        """Which of the lengths are from a quarter to three quarters of the mean response."""
        mean = float(np.mean(self.steps))
        return [i for i, length in enumerate(lengths) if mean <= 4 * length <= 3 * mean]

    def correlation(self, at: int) -> tuple[float, int]:
        """Spearman's rho of the beginnings' scores at one of the lengths and the rewards, and of how many responses.

        NaN for less than 4 that have both, and for rewards that are all the same. Where the scores of the beginnings
        are all the same they say nothing: that is 0.
        """
        both = ~np.isnan(self.partial[at]) & ~np.isnan(self.rewards)
        begun, rewards = self.partial[at, both], self.rewards[both]
        if len(rewards) < RANKED or np.all(rewards == rewards[0]):
            return math.nan, 0
        return (0.0 if np.all(begun == begun[0]) else spearman(begun, rewards)), len(rewards)

    def segments(self, tau_u: float, least: int, most: int) -> int:
        """Into how many segments the responses fall, cut as `Until(most, tau_u, least)` cuts; their entropies known."""
        assert self.entropies is not None
        return sum(_segments(entropies, tau_u, least, most) for entropies in self.entropies)


def question(prompt: Prompt) -> str:
    """What is asked, whatever the prompt's id: equal for prompts of the same text or the same messages."""
    return json.dumps([prompt.text, prompt.messages], sort_keys=True, default=dict)


def _segments(entropies: NDArray[np.float32], tau_u: float, least: int, most: int) -> int:
    unsure = np.flatnonzero(entropies >= tau_u)
    start = count = 0
    while start < len(entropies):
        later = unsure[np.searchsorted(unsure, start + least) :]
        start = min([start + most, len(entropies), *later[:1].tolist()])
        count += 1
    return count


def _floats(values: Iterable[Any]) -> NDArray[np.float64]:
    """None is NaN; infinities may be texts, as JSON has them."""
    return np.array([math.nan if value is None else float(value) for value in values], dtype=np.float64)


def _nulls(values: Iterable[float]) -> list[float | None]:
    return [None if math.isnan(value) else float(value) for value in values]
