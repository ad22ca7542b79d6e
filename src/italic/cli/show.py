"""What all commands share on the screen: consoles, the progress bar, figures in words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from italic.core.outcome import Usage
from italic.run.ledger import Ledger

REFRESH_SECONDS = 0.1


def screen() -> Console:
    """Where results go."""
    return Console(highlight=False)


def side() -> Console:
    """Where progress and remarks go, so that results can be piped."""
    return Console(stderr=True, highlight=False)


def remark(text: str) -> None:
    """Say something beside the results, on one line whatever the width of the screen."""
    side().print(text, markup=False, soft_wrap=True)


class Meter:
    """A progress bar with rate and cost. Call it with the account; tell it when prompts get through."""

    def __init__(self, bar: Progress, total: int, done: int) -> None:
        self._bar = bar
        self._task = bar.add_task("", total=total, completed=done, rate="")
        self._shown = 0.0

    def __call__(self, ledger: Ledger, under_way: int) -> None:
        """Show the account, at most ten times a second."""
        now = monotonic()
        if now - self._shown >= REFRESH_SECONDS:
            self._shown = now
            self._bar.update(self._task, rate=rate(ledger.usage))

    def advance(self) -> None:
        """One more prompt is through."""
        self._bar.advance(self._task)


@contextmanager
def timed_bar(label: str, quiet: bool) -> Iterator[Progress]:
    """A bar on standard error with the time left and, behind it, a task's `rate`; none if `quiet`, or nobody looks."""
    console = side()
    columns = (
        TextColumn(label),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[rate]}"),
    )
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal, transient=True) as bar:
        yield bar


@contextmanager
def progress_bar(label: str, total: int, done: int = 0, quiet: bool = False) -> Iterator[Meter]:
    """A progress bar on standard error; none if `quiet`, or if nobody looks."""
    with timed_bar(label, quiet) as bar:
        yield Meter(bar, total, done)


def rate(usage: Usage) -> str:
    """Speed and price so far, in a few words."""
    speed = usage.tokens_generated / usage.seconds if usage.seconds > 0 else 0.0
    cost = f", cost {usage.cost:.4g}" if usage.cost else ""
    return f"{speed:,.0f} tokens/s, {usage.reward_calls:,} scored{cost}"


def summary(usage: Usage) -> str:
    """The account of a run in one line."""
    parts = [
        f"{usage.tokens_generated:,} tokens generated",
        f"{usage.tokens_kept:,} kept",
        f"{usage.positions:,} positions",
        f"{usage.reward_calls:,} drafts scored",
        f"{usage.seconds:.1f} s (model {usage.policy_seconds:.1f}, reward {usage.reward_seconds:.1f})",
    ]
    if usage.cost:
        parts.append(f"cost {usage.cost:.4g}")
    return ", ".join(parts)
