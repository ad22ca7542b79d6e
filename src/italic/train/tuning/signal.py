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
from italic.core.protocols import Reward, Scored
from italic.core.sampling import Sampling
from italic.laws.quantile import counts, mid_rank
from italic.train.tuning.credit import Rolled

Array: TypeAlias = NDArray[np.float64]
Worth: TypeAlias = Callable[[Array, Array, float], Array]
"""Of rewards [n], the prompt's reference rewards [K] and the stage of training, what they are worth: float64 [n]."""


class Signal:
    """A reward function as TRL calls it. prompts, references: one entry a prompt of the calibration.

    worth: float64 [n] of rewards [n], the prompt's reference rewards [K] and the stage. cuts: after how many tokens
    responses are cut, for `last` to tell what their beginnings would be worth. A missing score gives None, which keeps
    a rollout out of the step; -inf is worth what `worth` says. Raises RewardError where that is not finite.

    last: what came of the responses of the last call, in their order. stage: of training, 1 where the objective alone
    counts (see `objective.Objective.worth`).
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
        cuts: Sequence[int] | NDArray[np.int64] = (),
    ) -> None:
        self.last: Rolled | None = None
        self.stage = 1.0
        self._cuts = np.asarray(cuts, dtype=np.int64)
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
        back = np.argsort(np.concatenate(list(order.values())))
        self.last = Rolled(*(column[back] for column in self.rolled(list(order), batches)))
        known = ~np.isnan(self.last.worth)
        if known.any():
            log_metric("true_reward", float(self.last.rewards[known].mean()))
            log_metric("quantile", float(self.last.quantiles[known].mean()))
        return [float(worth) if there else None for worth, there in zip(self.last.worth, known, strict=True)]

    def rolled(self, numbers: Sequence[int], batches: Sequence[TextDrafts]) -> Rolled:
        """What finished responses and their beginnings are worth, one row each, in order.

        numbers: of the prompts of the batches. Raises RewardError.
        """
        going = [np.nonzero(drafts.steps[:, None] > self._cuts) for drafts in batches]
        begun = [drafts[rows].cut(self._cuts[at]).ended() for drafts, (rows, at) in zip(batches, going, strict=True)]
        scored = iter(self._reward.score([*batches, *filter(len, begun)]))
        whole = [self._judged(number, next(scored), whole=True) for number in numbers]
        parts = [np.full((len(drafts), len(self._cuts), 3), np.nan) for drafts in batches]
        for number, part, (rows, at) in zip(numbers, parts, going, strict=True):
            if len(rows):
                part[rows, at] = self._judged(number, next(scored), whole=False)
        steps = np.concatenate([drafts.steps for drafts in batches])
        return Rolled(*np.concatenate(whole).T, steps, np.concatenate(parts)[:, :, 1:])

    def _judged(self, number: int, scored: Scored, *, whole: bool) -> Array:
        """Rewards, what they are worth and their quantiles: float64 [n, 3], NaN where they are missing.

        A beginning that is worth no finite number is not known; raises RewardError for a whole response like that.
        """
        here, reference = ~scored.missing, self._references[number]
        rewards = scored.rewards[here]
        worth = self._worth(rewards, reference, self.stage)
        finite = np.isfinite(worth)
        if whole and not finite.all():
            raise RewardError(
                f"a rollout of prompt {self._prompts[number].id!r} is worth no finite number, its reward being "
                f"{rewards[~finite][0]}",
                hint="Train on calibrated rewards: any --transform but raw.",
            )
        found = np.full((len(here), 3), np.nan)
        found[here] = np.stack([rewards, worth, mid_rank(counts(reference, rewards))], axis=1)
        found[here] = np.where(finite[:, None], found[here], np.nan)
        return found


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
