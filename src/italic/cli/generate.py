"""`italic generate`: prompts in, answers out, resumable."""

from __future__ import annotations

import json
import sys
from collections.abc import Container, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from italic import __version__
from italic.cli.pair import build_pair
from italic.cli.plotting import check_plotting
from italic.cli.prompts import given_prompts, recorded
from italic.cli.show import progress_bar, remark, summary
from italic.cli.trace import Trace
from italic.core.drafts import Drafts, TextDrafts
from italic.core.errors import Interrupted, UsageError
from italic.core.latents import LatentDrafts
from italic.core.prompt import Prompt
from italic.core.protocols import Method, Model, Reward
from italic.core.sampling import Sampling
from italic.core.spec import build_method, method_name, method_spec
from italic.run.align import stream
from italic.run.desk import Result
from italic.run.ledger import Budget, Ledger
from italic.run.record import Record, plain

OFTEN = 0.5
"""With a larger share of steps that ran out of tries, a run says so."""


@dataclass(frozen=True)
class Request:
    """What was typed after `italic generate`."""

    source: str | None
    texts: tuple[str, ...]
    model: str
    reward: str
    method: str
    sampling: Sampling
    budget: Budget
    options: Mapping[str, Any]
    out: str | None
    overwrite: bool
    candidates: bool
    skip_bad: bool
    seed: int
    driver: str
    trace: str | None
    quiet: bool


def run_generate(request: Request) -> None:
    """Carry out `italic generate`. Raises ItalicError; what was written stays written."""
    prompts = given_prompts(request.source, request.texts, skip_bad=request.skip_bad)
    method = build_method(request.method)
    if request.trace:
        check_plotting("--trace, which draws pictures,")
    settings = _settings(request, method)
    model, reward = build_pair(request.model, request.reward, request.options, method)
    record = Record(Path(request.out), settings, overwrite=request.overwrite) if request.out else None
    with record or nullcontext():
        there = {prompt.id for prompt in prompts if record is not None and recorded(record, prompt)}
        rest = unfinished(prompts, there, method)
        if record is not None and record.lines:
            again = there & {prompt.id for prompt in rest}
            record.forget(again)
            because = f", {len(again)} of them again, as their batch is not whole" if again else ""
            remark(f"{len(record.lines)} prompts are in {request.out} already, {len(rest)} to go{because}")
        if rest:
            resumed = record is not None and bool(record.lines)
            trace = Trace(Path(request.trace), resumed=resumed) if request.trace else None
            with trace or nullcontext():
                _run(request, method, model, reward, rest, record, trace, total=len(prompts))
        if record is not None:
            record.arrange([prompt.id for prompt in prompts])


def _run(
    request: Request,
    method: Method,
    model: Model,
    reward: Reward,
    rest: Sequence[Prompt],
    record: Record | None,
    trace: Trace | None,
    total: int,
) -> None:
    ledger = Ledger(request.budget)
    spec = method_spec(method, method_name(method))
    through = incomplete = 0
    exhausted: list[float] = []
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
                driver=request.driver,  # type: ignore[arg-type]
                listen=None if trace is None else trace.listen,
                progress=meter,
            ):
                line = answer_line(result, spec, request.seed, request.candidates)
                if record is None:
                    sys.stdout.write(json.dumps(plain(line), ensure_ascii=False) + "\n")
                    sys.stdout.flush()
                else:
                    record.append(line)
                if trace is not None:
                    trace.through(result.prompt)
                meter.advance()
                through += 1
                incomplete += not result.outcome.complete
                certificate = result.outcome.certificate
                if certificate is not None and certificate.exhaustion_rate is not None:
                    exhausted.append(certificate.exhaustion_rate)
    except KeyboardInterrupt:
        saved = f"{through + total - len(rest)} of {total} prompts are saved in {request.out}" if record else "stopped"
        raise Interrupted(saved, hint="Type the same command again to go on." if record else "") from None
    remark(summary(ledger.usage))
    if exhausted and sum(exhausted) > OFTEN * len(exhausted):
        remark(
            f"In {sum(exhausted) / len(exhausted):.0%} of the steps every try was rejected, and the best of them was "
            f"taken: {spec.partition(':')[0]} aims too high for these prompts, or may try too seldom."
        )
    if trace is not None:
        drawn = f", {len(trace.pictures)} pictures beside it" if trace.pictures else ""
        remark(f"the trace is in {trace.folder / 'trace.jsonl'}{drawn}")
    if incomplete or through < len(rest):
        remark(
            f"The budget ended the run: {through - incomplete} of {len(rest)} prompts are complete, {incomplete} hold "
            f"the best so far, {len(rest) - through} were not begun. Raise the budget and type the command again."
        )


def unfinished(prompts: Sequence[Prompt], there: Container[str], method: Method) -> list[Prompt]:
    """The prompts to run, given the ids that are there: for a method whose prompts share, all of a batch or none."""
    size = (getattr(method, "batch", None) or max(1, len(prompts))) if hasattr(method, "batch") else 1
    batches = [prompts[start : start + size] for start in range(0, len(prompts), size)]
    return [prompt for batch in batches if any(one.id not in there for one in batch) for prompt in batch]


def answer_line(result: Result, method: str, seed: int, candidates: bool) -> dict[str, Any]:
    """One line of the output for one prompt."""
    prompt, outcome = result.prompt, result.outcome
    line: dict[str, Any] = {"id": prompt.id}
    line |= {"prompt": prompt.text} if prompt.messages is None else {"messages": prompt.messages}
    line |= _shown(outcome.drafts, outcome.chosen)
    line |= {
        "reward": outcome.reward,
        "complete": outcome.complete,
        "method": method,
        "seed": seed,
        "usage": outcome.usage.counts(),
        "certificate": None if outcome.certificate is None else outcome.certificate.known(),
    }
    if outcome.notes:
        line["notes"] = outcome.notes
    if candidates:
        weights = outcome.log_weights
        line["candidates"] = [
            _shown(outcome.drafts, row)
            | {"reward": float(reward)}
            | ({} if weights is None else {"log_weight": float(weights[row])})
            for row, reward in enumerate(outcome.rewards)
        ]
    return line


def _shown(drafts: Drafts, row: int | None) -> dict[str, Any]:
    """A row as the output has it: its text and why it ended, or the point it is; nulls if there is none."""
    if isinstance(drafts, LatentDrafts):
        return {"latent": None if row is None else drafts.x[row].tolist()}
    if not isinstance(drafts, TextDrafts):
        raise UsageError(
            "`italic generate` writes texts and points; these drafts are neither", hint="Use italic.align."
        )
    if row is None:
        return {"completion": None, "finish": None}
    return {"completion": drafts.texts[row], "finish": str(drafts.reason[row])}


def _settings(request: Request, method: Method) -> dict[str, Any]:
    return {
        "italic": __version__,
        "model": request.model,
        "reward": request.reward,
        "method": method_spec(method, method_name(method)),
        "seed": request.seed,
        "sampling": asdict(request.sampling),
        "options": {key: value for key, value in request.options.items() if value is not None and key != "rows"},
        "candidates": request.candidates,
    }
