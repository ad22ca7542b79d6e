"""KL-regularised RL on rollouts: TRL's RLOO, which takes the divergence off a rollout's worth.

    maximise  E_pi[Phi(C(x, y))] - beta KL(pi || p)

by REINFORCE with a leave-one-out baseline: the advantage of a rollout is its worth less beta log(pi / p), less the mean
of that over the other rollouts of its prompt. No division by the group's standard deviation: that would be another beta
for every prompt. At temperature 1 the gradient is that of the objective itself.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import trl
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState

from italic.core.errors import UsageError
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.train.tuning.common import adapters, asking, common, hushed, latest, order
from italic.train.tuning.rollouts import Rollouts
from italic.train.tuning.settings import Tuning
from italic.train.tuning.signal import Signal

HOLD = 0.5
"""Beta stays what it is for this share of the steps; then it is led by the measured divergence."""
GAIN = 0.05
"""How much log beta moves in a step, for a divergence off by its own size."""
MEMORY = 0.9
"""Of the running mean of the divergence."""


class Leader(TrainerCallback):
    """Tells the rollouts the step, and leads beta to the divergence that is asked for.

    Its state is in the log, step by step, from where a resumed run takes it.
    """

    def __init__(self, trainer: Any, rollouts: Rollouts, target: float | None) -> None:
        self.target = target
        self.kl = math.nan
        self._trainer = trainer
        self._rollouts = rollouts

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.log_history:
            self.kl, self._trainer.beta = (state.log_history[-1][name] for name in ("kl_mean", "beta_next"))

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._rollouts.step = state.global_step

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if logs is None or "kl" not in logs:
            return
        found = {"kl_sequence": logs["kl"] * logs["completions/mean_length"], "beta": self._trainer.beta}
        first = math.isnan(self.kl)
        self.kl = found["kl_sequence"] if first else MEMORY * self.kl + (1 - MEMORY) * found["kl_sequence"]
        if self.target is not None and state.global_step >= HOLD * state.max_steps:
            self._trainer.beta *= math.exp(GAIN * float(np.clip(self.kl / self.target - 1, -1, 1)))
        found |= {"kl_mean": self.kl, "beta_next": self._trainer.beta}
        logs.update(found)
        state.log_history[-1].update(found)


def rloo(
    model: Any,
    signal: Signal,
    prompts: Sequence[Prompt],
    beta: float,
    target: float | None,
    tuning: Tuning,
    sampling: Sampling,
    folder: Path,
    watch: Sequence[TrainerCallback] = (),
) -> list[dict[str, float]]:
    """Tune the model in place and return the log, one entry a step. Goes on from a checkpoint if there is one.

    prompts: those of the signal. beta: of the divergence, in units of the signal. target: the divergence that beta is
    led to, nats, None to leave beta as it is. Raises UsageError for an option that TRL does not have.
    """
    decoder = model.loosen()
    tokenizer = copy.deepcopy(model.tokenizer)
    rollouts = Rollouts(model, sampling, Key(tuning.seed))
    with hushed():
        trainer = trl.RLOOTrainer(
            model=decoder,
            reward_funcs=signal,
            args=_configuration(tuning, beta, sampling, folder, decoder.device.type == "cpu"),
            train_dataset=_schedule(prompts, model.codec, tokenizer, tuning),
            processing_class=tokenizer,
            callbacks=list(watch),
            peft_config=adapters(tuning.lora),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.callback_handler.callbacks.insert(0, Leader(trainer, rollouts, target))
        decoder.generate = rollouts
        try:
            trainer.train(resume_from_checkpoint=latest(folder))
        finally:
            del decoder.generate, decoder.forward
    if tuning.lora:
        trainer.model.merge_and_unload()
    model.forget()
    return [entry for entry in trainer.state.log_history if "kl_sequence" in entry]


def _configuration(tuning: Tuning, beta: float, sampling: Sampling, folder: Path, on_cpu: bool) -> trl.RLOOConfig:
    """TRL's configuration. Raises UsageError for an option that it does not have."""
    known = trl.RLOOConfig.__dataclass_fields__
    for key in tuning.options:
        if key not in known:
            raise UsageError(f"TRL's RLOO has no option {key!r}", hint="See the fields of trl.RLOOConfig.")
    settings: dict[str, Any] = {
        **common(tuning, folder, on_cpu),
        "per_device_train_batch_size": tuning.prompts * tuning.group,
        "num_generations": tuning.group,
        "beta": beta,
        "temperature": sampling.temperature,
        "max_completion_length": sampling.max_tokens,
        "shuffle_dataset": False,
        "disable_dropout": True,
        "normalize_advantages": False,
    }
    return trl.RLOOConfig(**settings | dict(tuning.options))


def _schedule(prompts: Sequence[Prompt], codec: Any, tokenizer: Any, tuning: Tuning) -> Dataset:
    """All prompts of all steps, in order. Raises UsageError if TRL would ask another question than Italic does."""
    asked = [asking(prompt, codec) for prompt in prompts]
    for prompt, ask in zip(prompts, asked, strict=True):
        plain = isinstance(ask, str)
        told = (
            tokenizer(ask)
            if plain
            else tokenizer.apply_chat_template(ask, add_generation_prompt=True, return_dict=True)
        )
        if list(told["input_ids"]) != codec.encode(prompt).tolist():
            raise UsageError(
                f"prompt {prompt.id!r} has other tokens for the trainer than for the model",
                hint="Train on prompts that the chat template renders, or on texts that the tokenizer does not trim.",
            )
    rows = order(len(prompts), tuning.steps, tuning.prompts, tuning.seed)
    return Dataset.from_list([{"prompt": asked[row], "row": row} for row in rows])
