"""What a rollout is worth to the trainer: Phi of its reward's quantile among the prompt's reference rewards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import END, LENGTH, TextDrafts
from italic.core.errors import RewardError
from italic.core.prompt import Prompt
from italic.core.protocols import Reward
from italic.core.sampling import Sampling
from italic.laws.quantile import counts, mid_rank

Array: TypeAlias = NDArray[np.float64]
Worth: TypeAlias = Callable[[Array, Array], Array]
"""Of rewards [n] and the prompt's reference rewards [K], what they are worth: float64 [n]."""


class Signal:
    """A reward function as TRL calls it. prompts, references: one entry a prompt of the calibration.

    worth: float64 [n] of rewards [n] and the prompt's reference rewards [K]. A missing score gives None, which keeps a
    rollout out of the step; -inf is worth what `worth` says. Raises RewardError where that is not finite.
    """

    __name__ = "signal"

    def __init__(
        self,
        model: Any,
        reward: Reward,
        sampling: Sampling,
        prompts: Sequence[Prompt],
        references: Sequence[Array],
        worth: Worth,
    ) -> None:
        self._model = model
        self._reward = reward
        self._sampling = sampling
        self._prompts = prompts
        self._references = references
        self._worth = worth

    def __call__(
        self,
        completion_ids: Sequence[Sequence[int]],
        row: Sequence[int],
        log_metric: Callable[[str, float], None],
        **_: Any,
    ) -> list[float | None]:
        """completion_ids: the tokens of the rollouts; row: of which prompt each is."""
        order: dict[int, list[int]] = {}
        for place, number in enumerate(row):
            order.setdefault(number, []).append(place)
        batches = [
            finished(self._model, self._prompts[number], self._sampling, [completion_ids[i] for i in places])
            for number, places in order.items()
        ]
        worth: list[float | None] = [None] * len(row)
        rewards, quantiles = [], []
        for (number, places), scored in zip(order.items(), self._reward.score(batches), strict=True):
            here = np.flatnonzero(~scored.missing)
            found, reference = scored.rewards[here], self._references[number]
            values = self._worth(found, reference)
            if not np.isfinite(values).all():
                raise RewardError(
                    f"a rollout of prompt {self._prompts[number].id!r} is worth no finite number, its reward being "
                    f"{found[~np.isfinite(values)][0]}",
                    hint="Train on calibrated rewards: any --transform but raw.",
                )
            for place, value in zip(np.asarray(places)[here], values, strict=True):
                worth[place] = float(value)
            rewards.append(found)
            quantiles.append(mid_rank(counts(reference, found)))
        if np.concatenate(rewards).size:
            log_metric("true_reward", float(np.concatenate(rewards).mean()))
            log_metric("quantile", float(np.concatenate(quantiles).mean()))
        return worth


def finished(model: Any, prompt: Prompt, sampling: Sampling, rows: Sequence[Sequence[int]]) -> TextDrafts:
    """Finished drafts of these tokens, one a row: as the engine would have left them."""
    width = max(len(row) for row in rows)
    ids = np.full((len(rows), width), -1, dtype=np.int32)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = row
    ends = model.stops.ends
    empty = TextDrafts.empty(
        prompt, sampling, model.codec, model.codec.encode(prompt).tolist(), np.zeros(len(rows), dtype=np.uint64)
    )
    return replace(
        empty,
        ids=ids,
        logps=np.zeros(ids.shape, dtype=np.float32),
        steps=np.array([len(row) for row in rows], dtype=np.int64),
        reason=np.array([END if len(row) and ends[row[-1]] else LENGTH for row in rows]),
    )
