"""`italic calibrate`: reference responses with their rewards and entropies, in a file that methods then go by.

While it runs, what is through is in OUT.jsonl, a record like that of `italic generate`; at the end OUT is written at
once and the record goes.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.table import Table

from italic import __version__
from italic.cli.pair import build_pair
from italic.cli.prompts import given_prompts, recorded
from italic.cli.show import progress_bar, remark, screen, summary
from italic.core.drafts import TextDrafts
from italic.core.errors import Interrupted, MismatchError, RecordError, UsageError
from italic.core.prompt import Prompt
from italic.core.protocols import Model, Reward
from italic.core.sampling import Sampling
from italic.methods._reference import Reference
from italic.methods.sample import Sample
from italic.run.align import stream
from italic.run.desk import Result
from italic.run.ledger import Budget, Ledger
from italic.run.record import Record, differences, plain
from italic.values.calibration import Calibration
from italic.values.responses import Responses, question

SHORTEST = 8
"""The first of the lengths at which responses are scored, if none are given."""


@dataclass(frozen=True)
class CalibrateRequest:
    """What was typed after `italic calibrate`."""

    source: str
    model: str
    reward: str
    samples: int
    lengths: str | None
    entropies: bool
    sampling: Sampling
    budget: Budget
    options: Mapping[str, Any]
    out: str
    overwrite: bool
    skip_bad: bool
    seed: int
    json: bool
    quiet: bool


def run_calibrate(request: CalibrateRequest) -> None:
    """Carry out `italic calibrate`. Raises ItalicError; what was drawn stays in the record."""
    made = calibrated(request)
    if made is not None:
        _show(made.report(request.out), request.json)


def calibrated(request: CalibrateRequest) -> Calibration | None:
    """The calibration in the file, which is written if it is not there; None if a budget ended it before.

    Raises ItalicError; what was drawn stays in the record.
    """
    out = Path(request.out)
    if out.is_dir() or out.suffix != ".parquet":
        raise UsageError(f"--out {request.out} is not a .parquet file", hint="Give --out calibration.parquet.")
    lengths = read_lengths(request.lengths, request.sampling.max_tokens)
    method = Reference(request.samples, lengths, entropies=request.entropies)
    method.agree(request.sampling)
    prompts = given_prompts(request.source, skip_bad=request.skip_bad)
    settings = _settings(request, lengths)
    there = _there(out, request.overwrite)
    if there is not None:
        _same(there, settings, prompts, request.out)
        remark(f"{request.out} is this calibration already")
    else:
        model, reward = build_pair(request.model, request.reward, request.options, Sample())
        _check(model, method)
        method = replace(method, lengths=lengths if reward.partial else (), partial=reward.partial)
        there = _calibrate(request, out, settings, method, model, reward, prompts)
    return there


def _check(model: Model, method: Reference) -> None:
    """Raises MismatchError for a model that no calibration, or none with entropies, can be made of."""
    missing = method.needs - model.offers
    if "texts" in missing:
        raise MismatchError(
            f"the model {model.name} writes no texts, and a calibration is made of those",
            hint="Calibrate a language model: --model demo, a directory or a hub id.",
        )
    if missing:
        raise MismatchError(
            f"the model {model.name} does not tell how uncertain it was",
            hint="Leave that out, which only the cascade needs: --no-entropies. Or calibrate a language model that "
            "runs here: --model demo, a directory or a hub id.",
        )


def read_lengths(typed: str | None, max_tokens: int) -> tuple[int, ...]:
    """The lengths as typed, `none` or numbers; powers of two and three quarters of the longest response if not given.

    Raises UsageError.
    """
    if typed == "none":
        return ()
    if typed is None:
        powers = (2**k for k in range(SHORTEST.bit_length() - 1, max_tokens.bit_length()))
        return tuple(sorted({length for length in (*powers, 3 * max_tokens // 4) if SHORTEST <= length < max_tokens}))
    try:
        lengths = tuple(int(part) for part in typed.split(","))
    except ValueError:
        raise UsageError(f"--lengths {typed}", hint="Give whole numbers with commas between: 8,16,32.") from None
    if max(lengths) >= max_tokens:
        raise UsageError(
            f"--lengths {typed} for responses of up to {max_tokens} tokens",
            hint=f"Give lengths below {max_tokens}, or a larger --max-tokens.",
        )
    return lengths


def _settings(request: CalibrateRequest, lengths: tuple[int, ...]) -> dict[str, Any]:
    settings = {
        "italic": __version__,
        "model": request.model,
        "reward": request.reward,
        "seed": request.seed,
        "sampling": asdict(request.sampling),
        "options": {key: value for key, value in request.options.items() if value is not None and key != "rows"},
        "samples": request.samples,
        "lengths": lengths,
        **({} if request.entropies else {"entropies": False}),
    }
    return dict(json.loads(json.dumps(settings)))


def _there(out: Path, overwrite: bool) -> Calibration | None:
    """The calibration that is there and stays. Raises UsageError if it is none: then it is not ours to replace."""
    if not out.exists():
        return None
    try:
        there = Calibration.load(out)
    except RecordError:
        if not overwrite:
            raise
        return None
    return None if overwrite else there


def _same(there: Calibration, settings: Mapping[str, Any], prompts: Sequence[Prompt], out: str) -> None:
    """See that the calibration is the one that is asked for. Raises UsageError."""
    others = differences({**there.settings, "italic": __version__}, settings)
    before = [(r.prompt.id, question(r.prompt)) for r in there.responses]
    if before != [(prompt.id, question(prompt)) for prompt in prompts]:
        others.append(f"prompts: {len(before)} there, {len(prompts)} now, not the same")
    if others:
        raise UsageError(
            f"{out} is another calibration ({'; '.join(others)})",
            hint="Give another --out, or --overwrite to replace it.",
        )


def _calibrate(
    request: CalibrateRequest,
    out: Path,
    settings: Mapping[str, Any],
    method: Reference,
    model: Model,
    reward: Reward,
    prompts: Sequence[Prompt],
) -> Calibration | None:
    """Draw what is still to be drawn, and write the file; None if a budget ended it before."""
    with Record(out.with_name(out.name + ".jsonl"), settings, overwrite=request.overwrite) as record:
        out.unlink(missing_ok=True)
        rest = [prompt for prompt in prompts if not recorded(record, prompt)]
        if len(rest) < len(prompts):
            remark(f"{len(prompts) - len(rest)} prompts are in {record.path} already, {len(rest)} to go")
        if rest:
            _draw(request, method, model, reward, rest, record, len(prompts))
        lines = [record.lines[prompt.id] for prompt in prompts if prompt.id in record.lines]
        if len(lines) < len(prompts):
            remark(
                f"The budget ended the run: {len(lines)} of {len(prompts)} prompts are through and kept in "
                f"{record.path}. {_again(request)} with a larger budget to go on."
            )
            return None
        made = Calibration(
            model=model.name,
            reward=reward.name,
            sampling=request.sampling,
            seed=request.seed,
            samples=request.samples,
            lengths=method.lengths,
            responses=tuple(Responses.of(line) for line in lines),
            settings=settings,
        )
        made.save(out)
    record.path.unlink()
    record.sidecar.unlink()
    return made


def _draw(
    request: CalibrateRequest,
    method: Reference,
    model: Model,
    reward: Reward,
    rest: Sequence[Prompt],
    record: Record,
    total: int,
) -> None:
    ledger = Ledger(request.budget)
    try:
        with progress_bar("prompts", total, total - len(rest), request.quiet) as meter:
            for result in stream(
                rest,
                model,
                reward,
                method,
                seed=request.seed,
                sampling=request.sampling,
                ledger=ledger,
                progress=meter,
            ):
                if result.outcome.complete:
                    record.append({**responses_of(result).row(), "complete": True})
                    meter.advance()
    except KeyboardInterrupt:
        saved = f"{len(record.lines)} of {total} prompts are kept in {record.path}"
        raise Interrupted(saved, hint=f"{_again(request)} to go on.") from None
    remark(summary(ledger.usage))


def _again(request: CalibrateRequest) -> str:
    return f"Type the same command again{', without --overwrite,' if request.overwrite else ''}"


def responses_of(result: Result) -> Responses:
    """What a complete run of `Reference` came to for one prompt."""
    prompt, outcome = result.prompt, result.outcome
    drafts, notes = outcome.drafts, outcome.notes
    assert isinstance(drafts, TextDrafts)
    entropies = notes["entropies"]
    return Responses(
        prompt=prompt,
        prompt_reward=notes["prompt_reward"],
        rewards=outcome.rewards,
        steps=drafts.steps,
        finish=tuple(map(str, drafts.reason)),
        completions=drafts.texts,
        tokens=drafts.tokens,
        logprobs=notes["logprobs"],
        entropies=None if entropies is None else tuple(row.astype("float32") for row in entropies),
        partial=notes["partial"],
    )


def _show(report: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps(plain(report), ensure_ascii=False) + "\n")
        return
    console = screen()
    for line in told(report):
        console.print(line, markup=False, soft_wrap=True)
    if report["rank_correlation"]:
        table = Table(title="Partial scores against final ones, within a prompt", title_justify="left")
        for column in ("tokens", "rank correlation", "standard error", "prompts", "responses"):
            table.add_column(column, justify="right")
        for row in report["rank_correlation"]:
            figures = (_figure(row["mean"]), _figure(row["error"]), str(row["prompts"]), str(row["responses"]))
            table.add_row(str(round(row["length"])), *figures)
        console.print(table)
    console.print(report["advice"], markup=False, soft_wrap=True)


def told(report: Mapping[str, Any]) -> Iterable[str]:
    """The figures of a report, in lines."""
    responses = report["prompts"] * report["samples"]
    yield (
        f"{report['prompts']:,} prompts, {responses:,} responses, {report['tokens']:,} tokens "
        f"({report['mean_length']:.1f} a response)"
    )
    quantiles = [f"{_figure(value)} at {share}" for share, value in report["rewards"].items()]
    missing = f"; {report['missing']} missing" if report["missing"] else ""
    yield f"Quantiles of the rewards: {', '.join(quantiles)}{missing}"
    yield f"Spread of the rewards within a prompt: {_figure(report['spread'])}"
    yield f"Reward to aim at (r_star), quantile {report['r_star']['quantile']}: {_figure(report['r_star']['value'])}"
    if not math.isnan(report["tau_u"]["value"]):
        yield (
            f"Entropy that ends a segment (tau_u), quantile {report['tau_u']['quantile']}: "
            f"{_figure(report['tau_u']['value'])} nats, segments of {report['segment_length']:.1f} tokens"
        )


def _figure(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"
