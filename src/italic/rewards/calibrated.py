"""A reward's quantile among a prompt's reference rewards, as a reward of its own: one scale for all prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from italic.core.drafts import Drafts
from italic.core.errors import ProgramError, RewardError, SpecError, UsageError
from italic.core.protocols import Reward, Scored
from italic.core.spec import build_reward
from italic.laws.inference_aware import Transform
from italic.laws.quantile import Array, counts
from italic.values.calibration import Calibration
from italic.values.transforms import read_procedure, read_transform, reference_rewards


@dataclass(frozen=True, eq=False)
class Calibrated:
    """The share of the prompt's reference rewards that the inner reward beats, in [0, 1], a tie being half a win.

    Or a transform of that quantile, by its estimate from so many references: Phi(C) of 2412.19792. inner: the reward
    that the calibration was made with. transform: identity, log, exp:t=10, or fixed-point, which needs `kl`, nats, and
    is the best for `procedure`. A score that the inner reward lacks is missing. Scores of unfinished responses are not
    offered, the references being whole ones. Raises SpecError for an inner reward of another name, and for a bad
    transform.
    """

    inner: Reward
    calibration: Calibration
    transform: str = "identity"
    procedure: str = "sample"
    kl: float | None = None

    partial: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.inner.name != self.calibration.reward:
            raise SpecError(
                f"the calibration is of the reward {self.calibration.reward}, and this is {self.inner.name}",
                hint="Give the reward it was made with, or calibrate with this one: italic calibrate --reward.",
            )
        _ = self._phi

    @cached_property
    def _phi(self) -> Transform:
        return read_transform(self.transform, read_procedure(self.procedure), self.kl)

    @cached_property
    def name(self) -> str:
        """With the pair of the calibration, and what its numbers depend on: not with the path of its file."""
        of = self.calibration
        rule = self.transform if self.kl is None else f"{self.transform};{self.procedure};kl={self.kl:g}"
        return f"calibrated({of.reward};{of.model};samples={of.samples};seed={of.seed};{rule})"

    @property
    def needs(self) -> frozenset[str]:
        return self.inner.needs

    @property
    def deterministic(self) -> bool:
        return self.inner.deterministic

    def score(self, batches: Sequence[Drafts]) -> list[Scored]:
        """The quantiles. Raises RewardError for a prompt that is not in the calibration."""
        references = [self._references(batch) for batch in batches]
        answers = self.inner.score(batches)
        if [len(s.rewards) for s in answers] != [len(b) for b in batches]:
            raise ProgramError(f"the reward {self.inner.name} did not give one score a draft")
        return [self._quantiles(*one) for one in zip(batches, answers, references, strict=True)]

    def _references(self, batch: Drafts) -> Array:
        try:
            return reference_rewards(self.calibration, batch.prompt)
        except UsageError as failure:
            raise RewardError(failure.message, hint=failure.hint) from failure

    def _quantiles(self, batch: Drafts, scored: Scored, reference: Array) -> Scored:
        there = ~scored.missing
        if np.any(np.isnan(scored.rewards[there])):
            raise RewardError(
                f"the reward {self.inner.name} is NaN for prompt {batch.prompt.id!r}",
                hint="A score that failed is missing, not NaN: the fault is in that reward.",
            )
        found = np.full(len(there), np.nan)
        found[there] = self._phi.estimate(counts(reference, scored.rewards[there]))
        return Scored(found, scored.missing, scored.tokens)


def load(
    file: str,
    *,
    reward: str | None = None,
    transform: str = "identity",
    procedure: str = "sample",
    kl: float | None = None,
    dtype: str | None = None,
    device: str | None = None,
) -> Calibrated:
    """The quantile of a reward among the reference rewards in a file of `italic calibrate`: calibrated:FILE.

    The reward is the one that the file was made with, unless another spec (without commas) names it: reward=demo.
    transform=log, exp:t=10, or fixed-point with kl=1 and procedure=best-of-n:n=4, is the transformed quantile instead.
    dtype and device are the reward's. Every prompt must be in the file. Raises SpecError, and UsageError for the file.
    """
    calibration = Calibration.load(Path(file))
    typed = calibration.settings.get("reward", calibration.reward) if reward is None else reward
    options = {key: value for key, value in (("dtype", dtype), ("device", device)) if value is not None}
    try:
        inner = build_reward(typed, **options)
    except SpecError as failure:
        if reward is not None:
            raise
        raise SpecError(
            f"the reward of the calibration {file} cannot be built from its name: {failure.message}",
            hint=f"Say what it is: calibrated:{file},reward=SPEC.",
        ) from failure
    return Calibrated(inner, calibration, transform, procedure, kl)
