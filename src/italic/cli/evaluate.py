"""`italic evaluate`: tuned models against the one they came from, on the same prompts, and the picture of it."""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from italic.cli.pair import build_pair
from italic.cli.pareto import draw_pareto
from italic.cli.plotting import check_plotting
from italic.cli.prompts import given_prompts
from italic.cli.show import progress_bar, remark, screen, summary
from italic.core.errors import MismatchError, UsageError
from italic.core.protocols import Model
from italic.core.sampling import Sampling
from italic.core.spec import build_model
from italic.evaluate.tuned import Judgement, Sampled, Use, best_of_n_curve, judge, lead, sample
from italic.laws.statistics import Interval
from italic.methods.sample import Sample
from italic.run.ledger import Ledger
from italic.run.record import plain
from italic.values.transforms import procedure_of

MOST = 64
"""The largest n of best-of-n that the picture shows for comparison."""


@dataclass(frozen=True)
class EvaluateRequest:
    """What was typed after `italic evaluate`."""

    source: str
    models: tuple[str, ...]
    reference: str
    reward: str
    procedure: str
    rival: str | None
    samples: int
    reference_samples: int | None
    sampling: Sampling
    options: Mapping[str, Any]
    plot: str | None
    skip_bad: bool
    seed: int
    as_json: bool
    quiet: bool


def read_use(spec: str) -> Use:
    """`sample`, `best-of-n:n=4` or `worst-of-n:n=4`. Raises SpecError, UsageError."""
    name, n = procedure_of(spec)
    return Use(n, worst=name == "worst-of-n")


def run_evaluate(request: EvaluateRequest) -> None:
    """Carry out `italic evaluate`. Raises ItalicError."""
    use = read_use(request.procedure)
    rival = use if request.rival is None else read_use(request.rival)
    theirs = request.samples if request.reference_samples is None else request.reference_samples
    use.weights(request.samples)
    rival.weights(theirs)
    twice = [spec for spec, times in Counter(request.models).items() if times > 1]
    if twice:
        raise UsageError(f"--model {twice[0]} more than once", hint="Give every model once.")
    prompts = given_prompts(request.source, skip_bad=request.skip_bad)
    if request.plot is not None:
        check_plotting("--plot, which draws a picture,")
    reference, reward = build_pair(request.reference, request.reward, request.options, Sample())
    ledger = Ledger()

    def draw(model: Model, n: int, seed: int, against: Model | None) -> list[Sampled]:
        with progress_bar(model.name, len(prompts), quiet=request.quiet) as meter:
            return sample(
                prompts,
                model,
                reward,
                n,
                against=against,
                seed=seed,
                sampling=request.sampling,
                ledger=ledger,
                progress=meter,
                through=meter.advance,
            )

    known = draw(reference, theirs, request.seed + 1, None)
    found: dict[str, Judgement] = {}
    leads: dict[str, Interval] = {}
    first: list[Sampled] | None = None
    given = {key: value for key, value in request.options.items() if value is not None}
    for spec in request.models:
        model = build_model(spec, **given)
        _comparable(model, reference)
        drawn = draw(model, request.samples, request.seed, reference)
        found[spec] = judge(drawn, known, use, rival)
        if first is None:
            first = drawn
        else:
            leads[spec] = lead(drawn, first, known, use, rival)
    remark(summary(ledger.usage))
    if request.plot is not None:
        draw_pareto(found, best_of_n_curve(known, min(theirs, MOST)), Path(request.plot))
    if request.as_json:
        lines = [_line(spec, one, use, leads.get(spec)) for spec, one in found.items()]
        sys.stdout.write(json.dumps(lines[0] if len(lines) == 1 else lines, ensure_ascii=False) + "\n")
        return
    _show(found, leads, use, rival)


def _comparable(model: Model, reference: Model) -> None:
    """Raise MismatchError for models of different tokens: one cannot tell how likely the other's responses are."""
    codecs = [getattr(one, "codec", None) for one in (model, reference)]
    prints = [getattr(codec, "fingerprint", None) for codec in codecs]
    if prints[0] is None or prints[0] != prints[1]:
        raise MismatchError(
            f"the model {model.name} has another tokenizer or chat template than {reference.name}",
            hint="Give as --reference the model that it was tuned from.",
        )


def _line(spec: str, one: Judgement, use: Use, ahead: Interval | None) -> Any:
    """One model's figures for JSON, with how far it is ahead of the first model, unless it is that."""
    figures = {**vars(one), **({} if ahead is None else {"lead": ahead})}
    named = {key: value._asdict() if isinstance(value, Interval) else value for key, value in figures.items()}
    return plain({"model": spec, "procedure": use.name, **named})


def _show(found: Mapping[str, Judgement], leads: Mapping[str, Interval], use: Use, rival: Use) -> None:
    grid = Table("", *found)
    first = next(iter(found.values()))
    used = use.name if use == rival else f"{use.name} against {rival.name}"
    rows = {
        f"reward ({_mean(first.reference)} before, {_mean(first.best)} by {rival.name})": "reward",
        f"share of the gain by {rival.name}": "share",
        "win rate of one draw": "win_rate",
        f"win rate, {used}": "used_win_rate",
        "KL, nats": "kl",
    }
    if math.isnan(first.share.mean):
        del rows[f"share of the gain by {rival.name}"]
    if use == rival == Use():
        del rows[f"win rate, {used}"]
    for label, name in rows.items():
        grid.add_row(label, *(_interval(getattr(one, name)) for one in found.values()))
    if leads:
        grid.add_row("win rate ahead of the first", "", *map(_interval, leads.values()))
    screen().print(grid)
    remark(f"{first.prompts} prompts, {first.samples} responses each; 95 % intervals over prompts.")


def _mean(interval: Interval) -> str:
    return f"{interval.mean:.3g}"


def _interval(interval: Interval) -> str:
    return f"{interval.mean:.3f} ({interval.low:.3f} to {interval.high:.3f})"
