"""`italic train`: from what was typed to a tuned model in a directory."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from italic import __version__
from italic.cli.calibrate import CalibrateRequest, calibrated
from italic.cli.pair import build_pair
from italic.cli.prompts import given_prompts
from italic.cli.show import remark, screen, timed_bar
from italic.core.errors import Interrupted, MismatchError, UsageError
from italic.core.prompt import Prompt
from italic.core.registry import missing_library
from italic.core.sampling import Sampling
from italic.methods.sample import Sample
from italic.run.ledger import Budget
from italic.run.record import plain
from italic.train.tuning.folder import LOG, close_folder, open_folder
from italic.train.tuning.objective import Objective, check_best_of, infalign, raw, vbon, want_of_references
from italic.train.tuning.settings import Tuning
from italic.values.calibration import Calibration
from italic.values.responses import question
from italic.values.transforms import RAW, read_procedure, read_transform

CALIBRATION = "calibration.parquet"
REPORTERS = ("tensorboard", "trackio", "wandb")
LEAST = 2
"""Scored responses without which a prompt has nothing to compare with."""
SAMPLES = 128
"""Reference responses a prompt, if they are drawn for the training: see `laws.quantile` for what fewer cost."""


@dataclass(frozen=True)
class Goal:
    """What to tune to: `vbon` and `bonbon` have n, `infalign` has the other three."""

    kind: str
    n: int | None = None
    procedure: str | None = None
    transform: str | None = None
    kl: float | None = None


@dataclass(frozen=True)
class TrainRequest:
    """What was typed after `italic train`."""

    source: str
    goal: Goal
    tuning: Tuning
    settings: tuple[str, ...]
    calibration: str | None
    samples: int | None
    model: str
    reward: str
    max_tokens: int | None
    temperature: float | None
    options: Mapping[str, Any]
    out: str
    overwrite: bool
    skip_bad: bool
    as_json: bool
    quiet: bool


def run_train(request: TrainRequest) -> None:
    """Carry out a command of `italic train`. Raises ItalicError; checkpoints stay, and the same command goes on."""
    _needed(request.tuning)
    tuning = replace(request.tuning, options=_options(request.settings))
    folder = Path(request.out)
    prompts = given_prompts(request.source, skip_bad=request.skip_bad)
    _check(request.goal)
    settings = _settings(request, tuning, prompts)
    crew = _crew(request)
    leads = crew is None or crew.is_main_process
    with nullcontext() if crew is None else crew.main_process_first():
        found = open_folder(folder, settings, overwrite=request.overwrite and leads)
    quiet = request.quiet or not leads
    if found.report is not None:
        if leads:
            remark(f"{request.out} is through already")
            _show(found.report, request)
        return
    calibration = _scored(_calibration(request, folder, prompts))
    references = [r.present for r in calibration.responses]
    objective = _objective(request.goal, references)
    few = None if request.goal.kind == "bonbon" else want_of_references(objective, min(map(len, references)))
    if few is not None and leads:
        remark(few)
    model, reward = build_pair(request.model, request.reward, request.options, Sample())
    _same_pair(calibration, (model.name, reward.name))
    if not hasattr(model, "loosen"):
        raise MismatchError(
            f"the model {model.name} cannot be tuned",
            hint="Tune a language model that runs here.",
        )
    from italic.train.tuning.tune import tune

    if found.begun and leads:
        remark(f"going on with {request.out}")
    try:
        with _meter(quiet, tuning.steps) as listen:
            report, log = tune(model, reward, calibration, objective, tuning, folder, listen)
    except KeyboardInterrupt:
        raise Interrupted(
            f"the checkpoints are kept in {folder}, one every {tuning.save} steps",
            hint="The same command goes on.",
        ) from None
    if not leads:
        return
    report = {"objective": objective.name, "beta_expected": objective.beta, "kl_expected": objective.kl, **report}
    close_folder(folder, settings, report, log)
    _show(report, request)


def _crew(request: TrainRequest) -> Any | None:
    """The processes that a launcher began, None for one alone. Raises UsageError without a calibration, which
    one of them would draw while the others wait.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None
    if request.calibration is None:
        raise UsageError(
            "several processes, and no calibration",
            hint="Draw it first: italic calibrate PROMPTS --out FILE; then give --calibration FILE.",
        )
    from italic.train.tuning.common import processes

    return processes()


def _needed(tuning: Tuning) -> None:
    """Raise SpecError for libraries that are missing, before anything is drawn."""
    for name in tuning.report_to:
        if name not in REPORTERS:
            raise UsageError(f"--report-to {name}", hint=f"Give one of {', '.join(REPORTERS)}.")
    needed = ["torch", "transformers", "accelerate", *(["trl", "datasets"] if tuning.trainer == "rloo" else [])]
    for library in [*needed, *(["peft"] if tuning.lora else []), *tuning.report_to]:
        if importlib.util.find_spec(library) is None:
            raise missing_library("training", ImportError(name=library))


def _options(typed: Sequence[str]) -> dict[str, Any]:
    """What --set says; values are read as JSON where they are. Raises UsageError."""
    found: dict[str, Any] = {}
    for part in typed:
        key, equals, value = part.partition("=")
        if not equals or not key:
            raise UsageError(f"--set {part}", hint="Write for instance --set max_grad_norm=0.5.")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def _check(goal: Goal) -> None:
    """Raise UsageError for a goal that cannot be, before anything is drawn."""
    if goal.n is not None:
        check_best_of(goal.n)
    if goal.kl is not None and not 0 < goal.kl < math.inf:
        raise UsageError(f"--kl {goal.kl}", hint="Give a positive number of nats: --kl 1.")
    if goal.procedure is not None and goal.transform not in (None, RAW):
        read_transform(str(goal.transform), read_procedure(goal.procedure), goal.kl or 1.0)


def _objective(goal: Goal, references: Sequence[NDArray[np.float64]]) -> Objective:
    """What to tune to, by the reference rewards of each prompt. Raises UsageError where they are too few for it."""
    k = min(map(len, references))
    if goal.n is not None:
        aim = vbon(goal.n, k, goal.kl)
        return aim if goal.kind == "vbon" else replace(aim, name=f"{goal.kind}:n={goal.n}")
    assert goal.procedure is not None
    assert goal.kl is not None
    procedure = read_procedure(goal.procedure)
    if goal.transform == RAW:
        return raw(references, procedure, goal.kl)
    return infalign(read_transform(str(goal.transform), procedure, goal.kl), procedure, k, goal.kl)


def _settings(request: TrainRequest, tuning: Tuning, prompts: Sequence[Prompt]) -> dict[str, Any]:
    """What tells this run from another one in the same folder."""
    return {
        "italic": __version__,
        "goal": asdict(request.goal),
        "tuning": asdict(tuning),
        "model": request.model,
        "reward": request.reward,
        "calibration": request.calibration,
        "samples": request.samples,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "options": {key: value for key, value in request.options.items() if value is not None and key != "rows"},
        "prompts": hashlib.blake2b("".join(map(question, prompts)).encode(), digest_size=8).hexdigest(),
    }


def _calibration(request: TrainRequest, folder: Path, prompts: Sequence[Prompt]) -> Calibration:
    """The reference responses to these prompts: those of the file, or drawn now. Raises UsageError."""
    if request.calibration is None:
        return _drawn(request, folder)
    if request.samples is not None:
        raise UsageError(
            f"--samples {request.samples} with a calibration", hint="Leave --samples out: the file has its own."
        )
    found = Calibration.load(Path(request.calibration))
    sampling = found.sampling
    for name, typed, there in (
        ("temperature", request.temperature, sampling.temperature),
        ("max-tokens", request.max_tokens, sampling.max_tokens),
    ):
        if typed is not None and typed != there:
            raise UsageError(
                f"--{name} {typed}, and the calibration's responses were drawn with {there:g}: their rewards are no "
                "measure of such rollouts",
                hint=f"Leave --{name} out, or calibrate with --{name} {typed}.",
            )
    asked = {question(prompt) for prompt in prompts}
    responses = tuple(r for r in found.responses if question(r.prompt) in asked)
    missing = len(asked) - len({question(r.prompt) for r in responses})
    if missing:
        raise UsageError(
            f"{missing} of {len(asked)} prompts are not in the calibration {request.calibration}",
            hint="Calibrate on these prompts: italic calibrate PROMPTS --samples 128 --out FILE.",
        )
    return replace(found, responses=responses)


def _scored(calibration: Calibration) -> Calibration:
    """The prompts with rewards to compare with. Raises UsageError if there are none."""
    kept = tuple(r for r in calibration.responses if len(r.present) >= LEAST)
    if not kept:
        raise UsageError(f"no prompt of the calibration has {LEAST} rewards", hint="Calibrate with more --samples.")
    if len(kept) < len(calibration.responses):
        remark(f"left out: {len(calibration.responses) - len(kept)} prompts with fewer than {LEAST} scored responses")
    return replace(calibration, responses=kept)


def _drawn(request: TrainRequest, folder: Path) -> Calibration:
    """Reference responses drawn for this run, in its folder: gone on with, or found, if they are there."""
    sampling = Sampling(
        128 if request.max_tokens is None else request.max_tokens,
        1.0 if request.temperature is None else request.temperature,
    )
    remark("drawing the reference responses")
    made = calibrated(
        CalibrateRequest(
            source=request.source,
            model=request.model,
            reward=request.reward,
            samples=SAMPLES if request.samples is None else request.samples,
            lengths="none",
            entropies=not sampling.plain,
            sampling=sampling,
            budget=Budget(),
            options=request.options,
            out=str(folder / CALIBRATION),
            overwrite=False,
            skip_bad=request.skip_bad,
            seed=request.tuning.seed,
            json=False,
            quiet=request.quiet,
        )
    )
    assert made is not None
    return made


def _same_pair(calibration: Calibration, names: tuple[str, str]) -> None:
    if calibration.made_for != names:
        there = calibration.made_for
        raise MismatchError(
            f"the calibration is of the model {there[0]} with the reward {there[1]}, and this is {names[0]} with "
            f"{names[1]}",
            hint="Train that pair, or calibrate this one: italic calibrate.",
        )


@contextmanager
def _meter(quiet: bool, steps: int) -> Iterator[Any]:
    """A progress bar that is told the figures of each step."""
    with timed_bar("steps", quiet) as bar:
        shown = bar.add_task("", total=steps, rate="")

        def listen(step: int, _: int, figures: Mapping[str, float]) -> None:
            names = {"true_reward": "reward", "quantile": "quantile", "kl_mean": "KL", "loss": "loss"}
            seen = [f"{name} {figures[key]:.3g}" for key, name in names.items() if key in figures]
            bar.update(shown, completed=step, rate=", ".join(seen[:3]))

        yield listen


def _show(report: Mapping[str, Any], request: TrainRequest) -> None:
    if request.as_json:
        sys.stdout.write(json.dumps(plain({**report, "out": request.out}), ensure_ascii=False) + "\n")
        return
    console = screen()
    figures = [f"{name} {report[name]:.3g}" for name in ("reward", "quantile", "kl", "beta", "loss") if name in report]
    for line in (
        f"{request.out}: {report['objective']}, {report['seconds']:.0f} s; at the end {', '.join(figures)}",
        f"The optimum has a divergence of {report['kl_expected']:.3g} nats from the model. Every step is in "
        f"{Path(request.out) / LOG}",
        f"Use it with --model {request.out}; see what it gives: italic evaluate PROMPTS --model {request.out} "
        f"--reference {request.model} --reward {request.reward}",
    ):
        console.print(line, markup=False, soft_wrap=True)
