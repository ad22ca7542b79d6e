"""What a method returns: the drafts, which one it chose, what it cost and how good it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts
from italic.core.errors import ProgramError


@dataclass(frozen=True)
class Usage:
    """What was spent. Filled by the driver alone; a total is the true total, rejected work included.

    model_calls: forward passes of the network (or requests). tokens_generated: tokens drawn. tokens_kept: tokens of the
    chosen responses. positions: token positions through the network, prompts included. reward_calls: drafts scored.
    reward_cached: drafts whose score was known already. reward_tokens: positions through the reward model. seconds:
    wall time, and its parts inside the policy and the reward. Seconds and calls are known for a run, not for a prompt.
    cost: in the currency of the budget's prices.
    """

    model_calls: int = 0
    tokens_generated: int = 0
    tokens_kept: int = 0
    positions: int = 0
    reward_calls: int = 0
    reward_cached: int = 0
    reward_tokens: int = 0
    seconds: float = 0.0
    policy_seconds: float = 0.0
    reward_seconds: float = 0.0
    cost: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Usage)})

    def counts(self) -> dict[str, int]:
        """The whole-number part, the same in every undisturbed run of the same seed."""
        return {f.name: getattr(self, f.name) for f in fields(Usage) if f.type == "int" and f.name != "model_calls"}


@dataclass(frozen=True)
class Certificate:
    """How close the result is to its ideal law. A field is None where the method cannot say.

    tv: estimated total variation to the tilted law, with tv_interval. kl: KL divergence to the model, nats;
    kl_bound: an upper bound on it. acceptance: accepted share of the proposals. clip_rate: share of proposals whose
    acceptance probability was cut at 1. exhaustion_rate: share of draws that hit their cap. mean_draws: proposals a
    step of a draw. bellman_residual: nats, the largest over the steps of |log mean exp(f - V / beta)|, zero if the
    values are right. ess: effective sample size. proposals, accepted: counts behind the rates.
    """

    tv: float | None = None
    tv_interval: tuple[float, float] | None = None
    kl: float | None = None
    kl_bound: float | None = None
    acceptance: float | None = None
    clip_rate: float | None = None
    exhaustion_rate: float | None = None
    mean_draws: float | None = None
    bellman_residual: float | None = None
    ess: float | None = None
    proposals: int | None = None
    accepted: int | None = None

    def known(self) -> dict[str, Any]:
        """The fields that are known, for printing and writing."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if value is not None}


@dataclass(frozen=True, eq=False)
class Outcome:
    """The result of a method for one prompt.

    drafts: the n responses considered. rewards: float64 [n], NaN where missing. chosen: the row that is the answer;
    None only if a budget ended the run before any response was finished. log_weights: float64 [n], unnormalised, where
    the rows are a weighted sample of the target. complete: False if a budget ended the run before the method was
    through. usage: set by the driver.
    """

    drafts: Drafts
    rewards: NDArray[np.float64]
    chosen: int | None
    log_weights: NDArray[np.float64] | None = None
    certificate: Certificate | None = None
    complete: bool = True
    notes: Mapping[str, Any] = field(default_factory=dict)
    usage: Usage = Usage()

    def __post_init__(self) -> None:
        n = len(self.drafts)
        if self.rewards.shape != (n,):
            raise ProgramError(f"an outcome of {n} drafts with rewards of shape {self.rewards.shape}")
        if self.log_weights is not None and self.log_weights.shape != (n,):
            raise ProgramError(f"an outcome of {n} drafts with log-weights of shape {self.log_weights.shape}")
        if self.chosen is None:
            if self.complete:
                raise ProgramError("a complete outcome chooses a draft")
        elif not 0 <= self.chosen < n:
            raise ProgramError(f"an outcome of {n} drafts chooses row {self.chosen}")
        elif self.complete and not bool(self.drafts.done[self.chosen]):
            raise ProgramError("a complete outcome chooses a finished draft")

    @property
    def reward(self) -> float:
        """The chosen draft's reward; NaN if it was not scored or nothing was chosen."""
        return float("nan") if self.chosen is None else float(self.rewards[self.chosen])
