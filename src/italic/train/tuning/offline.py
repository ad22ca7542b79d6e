"""Tuning on the reference responses alone, without rollouts: QRPO, and BoNBoN.

The responses were drawn once, for the calibration, with their log-probabilities under the reference. Each step takes
some prompts and some responses of each.

- QRPO (2507.08068) is calibrate-and-transform by regression. The optimum of KL-regularised RL has
  Phi(C) - beta log Z = beta log(pi / p), and Z = int_0^1 exp(Phi(u) / beta) du is the same for every prompt, because C
  is uniform under p. So the squared difference of the two sides is made small.
- BoNBoN (2406.00832) imitates the best of n responses and holds the log-ratio of the best against that of the worst to
  what best-of-n makes of it in the mean, (n - 1) H_(n-1).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor

from italic.core.keys import Key
from italic.train.tuning.common import adapters, common, configured, halved, halves, hushed, latest, optimizers, order
from italic.train.tuning.losses import Offline, log_laws
from italic.train.tuning.settings import Tuning

Array: TypeAlias = NDArray[np.float64]


GIVEN = frozenset({"train_sampling_strategy"})
"""Options of Transformers that would change what a step sees."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """The reference responses to one prompt.

    prompt: int32 [P], its tokens. tokens: K arrays of int32, the responses'. logprobs: float64 [K], nats, under the
    reference at the temperature of the training. worth: float64 [K], what each is worth among the others.
    """

    prompt: NDArray[np.int32]
    tokens: tuple[NDArray[np.int32], ...]
    logprobs: Array
    worth: Array


class OfflineTrainer(transformers.Trainer):
    """Transformers' trainer on batches of prompts with a group of responses each."""

    def __init__(self, *, loss: Offline, temperature: float, half: bool, **rest: Any) -> None:
        super().__init__(**rest)
        self._loss = loss
        self._temperature = temperature
        self._half = half

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Tensor:
        """The loss of one batch, as `collate` made it."""
        ids, mask, answer = inputs["ids"], inputs["mask"], inputs["answer"]
        with halved(self.model, self._half):
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1]
        laws = log_laws(logits, self._temperature)
        picked = laws.gather(2, ids[:, 1:, None])[..., 0]
        logps = (picked * answer[:, 1:]).sum(dim=1).view_as(inputs["worth"])
        return self._loss(logps - inputs["reference"], logps, inputs["worth"])


def collate(rows: Sequence[Mapping[str, Any]], lessons: Sequence[Lesson]) -> dict[str, Tensor]:
    """ids, mask, answer: [prompts * group, L], padded on the right; worth, reference: float32 [prompts, group]."""
    whole = [(lessons[row["row"]].prompt, lessons[row["row"]].tokens[pick]) for row in rows for pick in row["picks"]]
    width = max(len(prompt) + len(tokens) for prompt, tokens in whole)
    ids, mask, answer = np.zeros((3, len(whole), width), dtype=np.int64)
    for i, (prompt, tokens) in enumerate(whole):
        size = len(prompt) + len(tokens)
        ids[i, :size], mask[i, :size], answer[i, len(prompt) : size] = np.concatenate((prompt, tokens)), 1, 1
    chosen = [(lessons[row["row"]], np.asarray(row["picks"])) for row in rows]
    return {
        "ids": torch.from_numpy(ids),
        "mask": torch.from_numpy(mask),
        "answer": torch.from_numpy(answer),
        "worth": torch.from_numpy(np.stack([lesson.worth[picks] for lesson, picks in chosen])).float(),
        "reference": torch.from_numpy(np.stack([lesson.logprobs[picks] for lesson, picks in chosen])).float(),
    }


def schedule(lessons: Sequence[Lesson], tuning: Tuning) -> list[dict[str, Any]]:
    """Which responses each step sees: of each of its prompts the next `group` of a shuffle of all responses."""
    stacks: dict[int, list[int]] = {}
    laps: dict[int, int] = {}
    rows = []
    for row in order(len(lessons), tuning.steps, tuning.prompts, tuning.seed):
        if len(stacks.get(row, [])) < tuning.group:
            lap = laps[row] = laps.get(row, -1) + 1
            rng = Key(tuning.seed).at("responses", row, lap).generator()
            stacks[row] = [int(i) for i in rng.permutation(len(lessons[row].tokens))]
        rows.append({"row": row, "picks": stacks[row][: tuning.group]})
        stacks[row] = stacks[row][tuning.group :]
    return rows


def offline(
    model: Any,
    lessons: Sequence[Lesson],
    loss: Offline,
    tuning: Tuning,
    temperature: float,
    folder: Path,
    watch: Sequence[transformers.TrainerCallback] = (),
) -> list[dict[str, float]]:
    """Tune the model in place on reference responses and return the log, one entry a step.

    Raises UsageError for an option that Transformers does not have, or that is not free here.
    """
    network = decoder = model.loosen()
    settings = {
        **common(tuning, folder, decoder.device.type == "cpu"),
        "per_device_train_batch_size": tuning.prompts,
        "train_sampling_strategy": "sequential",
    }
    half = halves(model, tuning)
    with hushed():
        if tuning.lora:
            from peft import get_peft_model

            transformers.set_seed(tuning.seed)  # the adapters begin at random
            network = get_peft_model(decoder, adapters(tuning.lora))
        trainer = OfflineTrainer(
            loss=loss,
            temperature=temperature,
            half=half,
            model=network,
            args=configured(transformers.TrainingArguments, settings, tuning.options, GIVEN),
            train_dataset=schedule(lessons, tuning),
            data_collator=lambda rows: collate(rows, lessons),
            callbacks=list(watch),
            optimizers=optimizers(network, tuning, half=half),
        )
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train(resume_from_checkpoint=latest(folder))
    if tuning.lora:
        network.merge_and_unload()
    model.forget()
    return [entry for entry in trainer.state.log_history if "loss" in entry]
