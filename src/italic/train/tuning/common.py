"""What the trainers share: their configuration, adapters, checkpoints."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils.logging import disable_progress_bar, enable_progress_bar, is_progress_bar_enabled

from italic.core.errors import UsageError
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.train.tuning.folder import CHECKPOINTS
from italic.train.tuning.optimizer import optimizer
from italic.train.tuning.settings import Tuning


def common(tuning: Tuning, folder: Path, on_cpu: bool) -> dict[str, Any]:
    """Fields of Transformers' TrainingArguments."""
    return {
        "output_dir": str(folder / CHECKPOINTS),
        "max_steps": tuning.steps,
        "learning_rate": tuning.rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": tuning.warmup,
        "weight_decay": 0.0,
        "seed": tuning.seed,
        "logging_steps": 1,
        "save_steps": tuning.save,
        "save_total_limit": 1,
        "report_to": list(tuning.report_to) or "none",
        "disable_tqdm": True,
        HALF: False,
        "gradient_checkpointing": False,
        "use_cpu": on_cpu,
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,
        "remove_unused_columns": False,
    }


@contextmanager
def hushed() -> Iterator[None]:
    """Without what the libraries say to one another: deprecations between them, a bar for loading the reference."""
    shown = is_progress_bar_enabled()
    disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        if shown:
            enable_progress_bar()


def order(count: int, steps: int, width: int, seed: int) -> list[int]:
    """Which prompts each step sees, `width` of them: whole shuffles of 0 .. count - 1, one after another."""
    rng = Key(seed).at("order").generator()
    shuffles = [rng.permutation(count) for _ in range(-(-steps * width // count))]
    return [int(i) for i in np.concatenate(shuffles)[: steps * width]]


TYPED = {
    "output_dir": "--out",
    "max_steps": "--steps",
    "learning_rate": "--rate",
    "warmup_steps": "--warmup",
    "seed": "--seed",
    "save_steps": "--save-every",
    "report_to": "--report-to",
}
"""Options of the trainers that have a name of their own here."""
HALF = "bf16"
"""The trainers' option that is carried out here: they would wrap the network, the rollouts' too."""


def configured(kind: Any, settings: Mapping[str, Any], options: Mapping[str, Any], given: frozenset[str]) -> Any:
    """A trainer's configuration: our settings, and the options that were typed, which are its own and free.

    given: options that are not. Raises UsageError for another one, and for a value that the configuration refuses.
    """
    for key in options:
        if key in TYPED:
            raise UsageError(f"--set {key}", hint=f"Give {TYPED[key]} instead.")
        if key in given:
            raise UsageError(f"--set {key}, which follows from the calibration and the objective", hint="Leave it out.")
        if key not in kind.__dataclass_fields__:
            raise UsageError(f"{kind.__name__} has no option {key!r}", hint="See its documentation.")
    try:
        return kind(**{**settings, **{key: value for key, value in options.items() if key != HALF}})
    except (ValueError, TypeError) as failure:
        if not options:
            raise
        typed = ", ".join(f"--set {key}={value}" for key, value in options.items())
        raise UsageError(f"{typed}: {failure}", hint=f"See the documentation of {kind.__name__}.") from failure


def processes() -> PartialState:
    """Those that train together: one, or as many as a launcher began."""
    return PartialState(cpu=not torch.accelerator.is_available())


def halves(model: Any, tuning: Tuning) -> bool:
    """Whether products are taken in bfloat16: as --set bf16 says, or where that is faster. Raises UsageError."""
    half = tuning.options.get(HALF, model.quicker_half)
    if not isinstance(half, bool):
        raise UsageError(f"--set {HALF}={half}", hint=f"Give {HALF}=true or {HALF}=false.")
    return half


def halved(network: Any, half: bool) -> Any:
    """A context in which a network multiplies in bfloat16, if it is to."""
    return torch.autocast(network.device.type, torch.bfloat16, enabled=half)


def optimizers(network: Any, tuning: Tuning, *, half: bool) -> tuple[Any, None]:
    """The optimiser, and None for a schedule, as trainers take them; none for adapters, and where --set chose one.

    half: whether a CPU takes products in bfloat16. Other devices' matrices are turned in it anyway.
    """
    if tuning.lora or "optim" in tuning.options:
        return None, None
    return optimizer(network, tuning.rate, half=half or network.device.type != "cpu"), None


def adapters(rank: int) -> Any:
    """PEFT's LoRA on all linear layers, None for rank 0."""
    if not rank:
        return None
    from peft import LoraConfig

    return LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")


def latest(folder: Path) -> str | None:
    """The last checkpoint that is whole."""
    there = folder / CHECKPOINTS
    return get_last_checkpoint(str(there)) if there.is_dir() else None


def asking(prompt: Prompt, codec: Any) -> str | list[dict[str, str]]:
    """A prompt as TRL takes it: the text, or the messages for the chat template."""
    messages = codec.messages(prompt)
    return prompt.text or "" if messages is None else [dict(message) for message in messages]


class Told(TrainerCallback):
    """Tells `listen` the step, the number of steps and the figures of each step."""

    def __init__(self, listen: Callable[[int, int, Mapping[str, float]], None]) -> None:
        self._listen = listen

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        self._listen(state.global_step, state.max_steps, logs or {})
