"""KL-regularised RL on rollouts, on TRL's RLOO:

    maximise  E_pi[Phi(C(x, y))] - beta KL(pi || p)

The worth Phi(C) of a rollout less the mean over the other rollouts of its prompt is its advantage (RLOO), without a
division by the group's standard deviation: that would be another beta for every prompt.

The divergence is a sum over the rollout's states of KL_t, the divergence of the next token's law, which the two models'
logits give exactly; log(pi / p) of the token drawn, as RLOO has it, is an estimate of KL_t with a large variance
(2504.10637). Its gradient has two parts, and both are here: that of KL_t itself, with no sampling in it, and, as an
earlier token decides which states come later, the sum of the later KL_t as a cost of that token, less its mean over the
other rollouts. So what a model has learned by chance, and does not pay, is soon unlearned.

Where the reward's scores of beginnings foretell those of whole responses, each part of a response has a credit of its
own in place of that advantage (see `credit`). What log(pi / p) tells of a rollout's worth is taken out of the noise of
either (see `controls`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import trl
from datasets import Dataset
from numpy.typing import NDArray
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ExportableState

from italic.core.errors import UsageError
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.train.tuning.common import (
    adapters,
    asking,
    common,
    configured,
    halved,
    halves,
    hushed,
    latest,
    optimizers,
    order,
    processes,
)
from italic.train.tuning.controls import Controls
from italic.train.tuning.credit import Credit, Rolled
from italic.train.tuning.lead import Lead
from italic.train.tuning.losses import Batch, log_laws, tilting_loss
from italic.train.tuning.packing import Asked, ask, packs
from italic.train.tuning.rollouts import Rollouts
from italic.train.tuning.settings import Tuning
from italic.train.tuning.signal import Signal

GIVEN = frozenset(
    {
        *("beta", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "generation_kwargs"),
        *("num_generations", "num_iterations", "steps_per_generation", "generation_batch_size"),
        *("max_completion_length", "mask_truncated_completions", "normalize_advantages", "reward_weights"),
        *("shuffle_dataset", "sync_ref_model", "per_device_train_batch_size"),
    }
)
"""Options of TRL that would change the law of the rollouts or the objective."""


class ExactDivergence(trl.RLOOTrainer):
    """RLOO with the divergence by the models' own logits. `strength` is beta; TRL's own beta is 0.

    signal: the reward function. credit: of the parts of its rollouts, None to give every token the same. controls: of
    its noise. packed: whether the rollouts of a prompt may share a row (see `packing`), which takes full attention.
    half: whether products are taken in bfloat16.
    """

    def __init__(
        self,
        *,
        signal: Signal,
        credit: Credit | None,
        controls: Controls,
        reference: Any,
        strength: float,
        packed: bool,
        half: bool,
        **rest: Any,
    ) -> None:
        super().__init__(reward_funcs=signal, **rest)
        self._signal = signal
        self._credit = credit
        self.strength = strength
        self._reference = reference
        self._packed = packed
        self._half = half
        self._controls = controls

    def _get_per_token_logps_and_entropies(self, model: Any, ids: Tensor, *rest: Any, **named: Any) -> Any:
        """What TRL remembers of rollouts for steps off policy, of which there are none here: zeros save the time."""
        return torch.zeros_like(ids[:, -rest[1] :], dtype=torch.float32), None, None

    def _generate_and_score_completions(self, inputs: Any) -> Any:
        """What TRL gathers of new rollouts, with an advantage for every token: [B, L], or [B, 1] for all of them."""
        found = super()._generate_and_score_completions(inputs)
        advantages = found["advantages"]
        if self._credit is None:
            return {**found, "advantages": advantages[:, None]}
        rolled = cast(Rolled, self._signal.last)
        others = rolled.worth - advantages.cpu().double().numpy()
        tokens = self._credit.of_tokens(self._credit.assign(rolled, others), found["completion_ids"].shape[1])
        self._credit.learn(*self._everywhere(rolled, others))
        return {**found, "advantages": torch.from_numpy(tokens).to(advantages)}

    def _everywhere(self, rolled: Rolled, others: NDArray[np.float64]) -> tuple[Rolled, NDArray[np.float64]]:
        """The rollouts of all processes, which so learn the same."""
        if self.accelerator.num_processes == 1:
            return rolled, others
        here = [torch.from_numpy(column).to(self.accelerator.device) for column in (*rolled, others)]
        *columns, others = (column.cpu().numpy() for column in self.accelerator.gather(here))
        return Rolled(*columns), others

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Tensor:
        """The loss of one batch, whose gradient estimates that of the objective without bias, on policy."""
        parts = [inputs[name] for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")]
        asked = ask(*parts, self.model.dtype, packed=self._packed and packs(self._reference) and packs(self.model))
        logps = self._laws(model, asked)
        with torch.no_grad():
            known = self._laws(self._reference, asked)
        control = self._controls.control(parts[2].shape[1])
        batch = Batch(
            parts[2], parts[3].float(), inputs["advantages"], *(torch.from_numpy(c).to(logps) for c in control)
        )
        found = tilting_loss(logps, known, batch, self.strength)
        self._metrics["train"]["kl_sequence"].append(self.accelerator.gather(found.divergence).mean().item())
        told = (of_tokens.cpu().double().numpy() for of_tokens in (found.gains, found.surprise, found.before))
        seen = torch.from_numpy(self._controls.seen(*told)).to(self.accelerator.device)
        self._controls.learn(self.accelerator.reduce(seen).cpu().numpy())
        return found.loss

    def _laws(self, model: Any, asked: Asked) -> Tensor:
        """Log-probabilities of every next token of the completions, one after another: [M, V]."""
        with halved(self.model, self._half):
            return log_laws(asked.of(model, self.accelerator.unwrap_model(model)), self.temperature)


class Leader(TrainerCallback, ExportableState):
    """Tells the rollouts the step, the signal its stage and the trainer its beta.

    What the lead knows is in the log, step by step, from where a resumed run takes it; what the `learners` know is in
    the checkpoint.
    """

    def __init__(
        self, trainer: Any, rollouts: Rollouts, signal: Signal, learners: Mapping[str, Credit | Controls], lead: Lead
    ) -> None:
        self._learners = learners
        self._lead = lead
        self._trainer = trainer
        self._rollouts = rollouts
        self._signal = signal

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps."""
        return {"args": {}, "attributes": {name: learner.state() for name, learner in self._learners.items()}}

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.log_history:
            self._lead.kl, self._lead.beta = (state.log_history[-1][name] for name in ("kl_mean", "beta_next"))
            for name, known in state.stateful_callbacks[type(self).__name__]["attributes"].items():
                self._learners[name].restore(known)

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        self._rollouts.step = state.global_step
        self._signal.stage = self._lead.stage(state.global_step)
        self._trainer.strength = self._lead.at(state.global_step)

    def on_log(
        self, args: Any, state: TrainerState, control: TrainerControl, logs: dict[str, float] | None = None, **_: Any
    ) -> None:
        if logs is None or "kl_sequence" not in logs:
            return
        self._lead.learn(state.global_step, logs["kl_sequence"])
        found = {"beta": self._trainer.strength, "kl_mean": self._lead.kl, "beta_next": self._lead.beta}
        logs.update(found)
        state.log_history[-1].update(found)


def rloo(
    model: Any,
    signal: Signal,
    credit: Credit | None,
    prompts: Sequence[Prompt],
    lead: Lead,
    tuning: Tuning,
    sampling: Sampling,
    folder: Path,
    watch: Sequence[TrainerCallback] = (),
) -> list[dict[str, float]]:
    """Tune the model in place and return the log, one entry a step. Goes on from a checkpoint if there is one.

    credit: of the parts of rollouts, cut where the signal cuts them; None for none. prompts: those of the signal. lead:
    of beta, in units of the signal. Raises UsageError for an option that TRL does not have, or that is not free here.
    """
    decoder = model.loosen()
    tokenizer = _padding(copy.deepcopy(model.tokenizer))
    half = halves(model, tuning)
    naming = Key(tuning.seed), tokenizer.pad_token_id
    rollouts = Rollouts(model, sampling, *naming, half=half, process=processes().process_index)
    controls = Controls() if credit is None else Controls(credit.cuts, credit.decays)
    learners: dict[str, Credit | Controls] = {"controls": controls, **({} if credit is None else {"credit": credit})}
    with hushed():
        trainer = ExactDivergence(
            signal=signal,
            credit=credit,
            controls=controls,
            reference=copy.deepcopy(decoder).requires_grad_(False).eval(),
            strength=lead.at(0),
            packed=model.path == "ragged",
            half=half,
            model=decoder,
            args=_configuration(tuning, sampling, folder, decoder.device.type == "cpu"),
            train_dataset=_schedule(prompts, model.codec, tokenizer, tuning),
            processing_class=tokenizer,
            callbacks=list(watch),
            peft_config=adapters(tuning.lora),
            optimizers=optimizers(decoder, tuning, half=half),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.callback_handler.callbacks.insert(0, Leader(trainer, rollouts, signal, learners, lead))
        decoder.generate = rollouts
        try:
            trainer.train(resume_from_checkpoint=latest(folder))
        finally:
            del decoder.generate, decoder.forward
    if tuning.lora:
        trainer.model.merge_and_unload()
    model.forget()
    return [entry for entry in trainer.state.log_history if "kl_sequence" in entry]


def _padding(tokenizer: Any) -> Any:
    """The tokenizer, with the end-of-sequence token to pad with if it has none for that. Raises UsageError."""
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UsageError(
                "the tokenizer has neither a padding nor an end-of-sequence token",
                hint="Train a model that can end a response, or --trainer qrpo.",
            )
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _configuration(tuning: Tuning, sampling: Sampling, folder: Path, on_cpu: bool) -> trl.RLOOConfig:
    """TRL's configuration; the rollouts of a step are shared by the processes and the passes of a step.

    Raises UsageError for an option that TRL does not have, or that is not free here.
    """
    passes = tuning.options.get("gradient_accumulation_steps", 1)
    if not isinstance(passes, int) or passes < 1:
        raise UsageError(f"--set gradient_accumulation_steps={passes}", hint="Give a number of passes a step.")
    parts = processes().num_processes * passes
    rollouts = tuning.prompts * tuning.group
    if rollouts % parts:
        raise UsageError(
            f"{rollouts} rollouts a step in {parts} parts",
            hint="Give --prompts-per-step and --group whose product is a multiple of processes times passes.",
        )
    settings: dict[str, Any] = {
        **common(tuning, folder, on_cpu),
        "per_device_train_batch_size": rollouts // parts,
        "num_generations": tuning.group,
        "beta": 0.0,
        "temperature": sampling.temperature,
        "max_completion_length": sampling.max_tokens,
        "shuffle_dataset": False,
        "disable_dropout": True,
        "normalize_advantages": False,
    }
    return configured(trl.RLOOConfig, settings, tuning.options, GIVEN)


def _schedule(prompts: Sequence[Prompt], codec: Any, tokenizer: Any, tuning: Tuning) -> Dataset:
    """All prompts of all steps, in order. Raises UsageError if TRL would ask another question than Italic does."""
    asked = [asking(prompt, codec) for prompt in prompts]
    for prompt, words in zip(prompts, asked, strict=True):
        plain = isinstance(words, str)
        told = (
            tokenizer(words)
            if plain
            else tokenizer.apply_chat_template(words, add_generation_prompt=True, return_dict=True)
        )
        if list(told["input_ids"]) != codec.encode(prompt).tolist():
            raise UsageError(
                f"prompt {prompt.id!r} has other tokens for the trainer than for the model",
                hint="Train on prompts that the chat template renders, or on texts that the tokenizer does not trim.",
            )
    rows = order(len(prompts), tuning.steps, tuning.prompts, tuning.seed)
    return Dataset.from_list([{"prompt": asked[row], "row": row} for row in rows])
