"""`italic fit-baseline`: learn a value and a Chernoff baseline from prompts, for `--method chernoff:baseline=PATH`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from italic.cli.pair import build_pair
from italic.cli.prompts import given_prompts
from italic.cli.show import remark, side, summary
from italic.core.errors import UsageError
from italic.core.questions import Note
from italic.core.sampling import Sampling
from italic.methods.chernoff import TV
from italic.run.align import make_tasks
from italic.run.conclude import conclude
from italic.run.ledger import Ledger
from italic.train.baseline import FitBaseline, fit_baseline
from italic.train.regression import check_loss
from italic.values.fitted import LEARNED, SETTINGS, Fitted, Kind

STAGES = {
    "value": "responses for the value",
    "steered": "steered responses for the value",
    "network": "fitting the value",
    "start": "starts",
    "fit": "proposals for the baseline",
    "tau": "proposals for the threshold",
    "push": "on to the next block",
}
"""What the notes of a fit stand for."""


@dataclass(frozen=True)
class FitRequest:
    """What was typed after `italic fit-baseline`."""

    source: str
    model: str
    reward: str
    settings: FitBaseline
    sampling: Sampling
    options: Mapping[str, Any]
    out: str
    overwrite: bool
    skip_bad: bool
    seed: int
    quiet: bool


def build_fit(
    beta: float,
    tv: float | None,
    delta: float | None,
    kind: str,
    block: int | None,
    value: str | None,
    states: int | None,
    proposals: int,
    trajectories: int | None,
    loss: str | None,
) -> FitBaseline:
    """The settings as typed. Raises UsageError for those that make no fit."""
    if kind not in get_args(Kind):
        raise UsageError(f"there is no baseline of kind {kind!r}", hint=f"Give one of {', '.join(get_args(Kind))}.")
    if states is not None and block is None:
        raise UsageError("--states without --block", hint="Leave it out: a whole response has one state, its prompt.")
    if value != LEARNED and (trajectories is not None or loss is not None):
        raise UsageError("--trajectories or --loss, and no value to learn", hint="Add --value learned --block 16.")
    loss = "itakura-saito" if loss is None else loss
    check_loss(loss)
    return FitBaseline(
        beta=beta,
        kind=kind,  # type: ignore[arg-type]
        block=block,
        value=value,
        delta=delta,
        tv=TV if tv is None and delta is None else tv,
        states=1 if block is None else states or 16,
        proposals=proposals,
        trajectories=64 if trajectories is None else trajectories,
        loss=loss,  # type: ignore[arg-type]
    )


def run_fit(request: FitRequest) -> None:
    """Carry out `italic fit-baseline`. Raises ItalicError; the directory is written at the end, whole."""
    folder = Path(request.out)
    if folder.exists() and not request.overwrite and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"{request.out} exists", hint="Give another --out, or --overwrite to replace it.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / SETTINGS).is_file():
        raise UsageError(f"{request.out} is not a fitted baseline", hint="Give another --out: it would be replaced.")
    prompts = given_prompts(request.source, skip_bad=request.skip_bad)
    model, reward = build_pair(request.model, request.reward, request.options, request.settings)
    ledger = Ledger()
    tasks = make_tasks(prompts, model, request.seed, request.sampling)
    with _meter(request.quiet) as listen:
        asking = fit_baseline(tasks, request.settings, (model.name, reward.name))
        fitted = conclude(asking, model, reward, ledger, listen)
    fitted.save(folder)
    remark(summary(ledger.usage))
    remark(told(fitted, request.out))


def told(fitted: Fitted, out: str) -> str:
    """What the fit expects of itself, and how to use it."""
    own, constant = np.mean(fitted.report["draws"]), np.mean(fitted.report["draws_constant"])
    spent = fitted.report["training_proposals"]
    blocks = len(fitted.tau)
    saved = blocks * (constant - own)
    even = f" It pays after {spent / saved:,.0f} samples." if saved > 0 else ""
    return (
        f"{out}: {own:.2f} draws a step expected, {constant:.1f} under a constant bound; {spent:,} proposals went into "
        f"it.{even}\nUse it with --method chernoff:baseline={out}"
    )


@contextmanager
def _meter(quiet: bool) -> Iterator[Any]:
    """A progress bar that listens to the notes of a fit."""
    console = side()
    columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as bar:
        shown = bar.add_task("starting", total=None)

        def listen(note: Note) -> None:
            if note.event == "fit":
                seen = note.values
                where = f" (block {seen['block'] + 1} of {seen['blocks']})" if seen["blocks"] > 1 else ""
                bar.update(shown, description=STAGES[seen["what"]] + where, completed=seen["done"], total=seen["total"])

        yield listen
