"""`italic replay`: a method on a table of rewards, against uniform best-of-N, without a model."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table as Grid

from italic.cli.show import progress_bar, remark, screen
from italic.core.errors import UsageError
from italic.core.protocols import Method
from italic.core.spec import build_method, method_name, method_spec, parse
from italic.evaluate.replay import MOST, Plan, Replay, replay, replay_oracle, summaries, with_budget
from italic.evaluate.table import Table, read_table
from italic.run.record import plain

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True)
class ReplayRequest:
    """What was typed after `italic replay`."""

    table: str
    methods: tuple[str, ...]
    prompts: int
    budget: int | None
    batches: int
    oracle: bool
    seed: int
    as_json: bool
    quiet: bool


def run_replay(request: ReplayRequest) -> None:
    """Carry out `italic replay`. Raises ItalicError."""
    methods, budget = _methods(request)
    table = read_table(request.table)
    plan = Plan(request.prompts, budget, request.batches, request.seed)
    results: list[tuple[str, Replay]] = []
    for method in methods:
        with progress_bar("prompts", plan.batches * plan.prompts, quiet=request.quiet) as meter:
            found = replay(table, method, plan, through=meter.advance, progress=meter)
        shown = method_spec(with_budget(method, plan.budget, plan.prompts), method_name(method))
        results.append((shown, found))
    if request.oracle:
        results.append(("oracle", replay_oracle(table, plan)))
    if request.as_json:
        lines = [plain(one) for one in summaries(results, plan)]
        sys.stdout.write(json.dumps(lines[0] if len(lines) == 1 else lines, ensure_ascii=False) + "\n")
    else:
        _show(results, table, plan)


def _methods(request: ReplayRequest) -> tuple[list[Method], int]:
    """The methods, and the budget: as typed, or the n of the methods. Raises UsageError if these disagree."""
    budgets = {} if request.budget is None else {request.budget: "--budget"}
    typed = {} if request.budget is None or request.budget < 1 else {"n": request.budget}
    methods = []
    for spec in request.methods:
        method = build_method(spec, **typed)  # so that its other values are judged beside that n
        methods.append(method)
        if "n" in parse(spec)[1]:
            budgets.setdefault(method.n, spec)  # type: ignore[attr-defined]
        elif request.budget is None and hasattr(method, "n"):
            budgets.setdefault(method.n, spec)
    if len(methods) >= len(LETTERS):
        raise UsageError(f"{len(methods)} methods at once", hint=f"Give at most {len(LETTERS) - 1}.")
    if len(budgets) > 1:
        raise UsageError(
            f"budgets that differ: {', '.join(f'{budget} ({who})' for budget, who in budgets.items())}",
            hint="The budget is n, draws a prompt: give --budget, or the same n to every method.",
        )
    return methods, next(iter(budgets), Plan.budget)


def _show(results: Sequence[tuple[str, Replay]], table: Table, plan: Plan) -> None:
    console = screen()
    names = [f"{letter}  {name}" for letter, (name, _) in zip(LETTERS, results, strict=False)]
    for name in names:
        console.print(name, markup=False, soft_wrap=True)
    grid = Grid("", "win rate", "N*", "gain", "draws", *(["tokens"] if table.counted else []))
    for letter, (_, found) in zip(LETTERS, results, strict=False):
        star = found.n_star
        row = [
            letter,
            f"{found.bwr.mean:.3f} ({found.bwr.low:.3f} to {found.bwr.high:.3f})",
            f"{_budget(star.mean, plan)} ({_budget(star.low, plan)} to {_budget(star.high, plan)})",
            f"{found.gain.mean:+.3g} ({found.gain.low:+.3g} to {found.gain.high:+.3g})",
            f"{found.draws:.4g}",
        ]
        grid.add_row(*row, *([f"{found.tokens:.0f}"] if table.counted else []))
    console.print(grid)
    remark(
        f"{plan.batches} batches of {plan.prompts} of {len(table.rows)} prompts. Win rate and gain in a batch's sum of "
        f"rewards: against best-of-{plan.budget} for every prompt. N*: the n of best-of-n that does as well."
    )


def _budget(n: float, plan: Plan) -> str:
    """A break-even budget in words: from MOST budgets on it is not known more closely."""
    return f">={n:.0f}" if n >= MOST * plan.budget else f"{n:.3g}"
