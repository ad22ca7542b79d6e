"""What a model is tuned to, and how. No PyTorch here, so that a bad request is refused at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias, get_args

from italic.core.errors import UsageError

Trainer: TypeAlias = Literal["rloo", "qrpo", "bonbon"]


FLAGS = {"prompts": "prompts-per-step", "save": "save-every"}
"""Options that are typed by a longer name than that of their field."""


@dataclass(frozen=True)
class Tuning:
    """How a model is tuned.

    trainer: rloo (rollouts), qrpo (regression on the reference responses) or bonbon (imitation of their best, and their
    best against their worst). steps: of the optimiser. prompts: a step. group: rollouts a prompt, or reference
    responses a prompt in a step. rate: the learning rate, which falls to 0 along a cosine after `warmup` steps. lora:
    the rank of the adapters, 0 for all weights. gae_lambda: of the credit of a rollout's parts (see `credit`), 1 gives
    each token that of its whole response, None chooses by what beginnings foretell. save: steps between checkpoints.
    options: other fields of the trainer's own configuration (TRL's RLOOConfig, Transformers' TrainingArguments).
    """

    trainer: Trainer = "rloo"
    steps: int = 300
    prompts: int = 16
    group: int = 8
    rate: float = 1.5e-4
    warmup: int = 10
    lora: int = 0
    gae_lambda: float | None = None
    save: int = 50
    seed: int = 0
    report_to: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.trainer not in get_args(Trainer):
            raise UsageError(
                f"there is no trainer {self.trainer!r}", hint=f"Give one of {', '.join(get_args(Trainer))}."
            )
        for name, least in {"steps": 1, "prompts": 1, "group": 2, "warmup": 0, "lora": 0, "save": 1, "seed": 0}.items():
            value = getattr(self, name)
            if value < least:
                raise UsageError(f"--{FLAGS.get(name, name)} {value}", hint=f"Give {least} or more.")
        if self.gae_lambda is not None and not 0 <= self.gae_lambda <= 1:
            raise UsageError(f"--gae-lambda {self.gae_lambda}", hint="Give a number from 0 to 1, such as 0.9.")
        if self.gae_lambda is not None and self.trainer != "rloo":
            raise UsageError(f"--gae-lambda with {self.trainer}, which has no rollouts", hint="Leave it out.")
        if not 0 < self.rate < 1:
            raise UsageError(f"--rate {self.rate}", hint="Give a learning rate such as 1e-4.")
