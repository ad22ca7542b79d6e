"""`italic demo`: the bundled pair, plain answers beside the best of n, with rewards and cost."""

from __future__ import annotations

from importlib.resources import as_file, files

import numpy as np
from rich.table import Table

from italic.cli.pair import build_pair
from italic.cli.show import progress_bar, remark, screen, summary
from italic.core.errors import UsageError
from italic.core.prompt import Prompt
from italic.core.protocols import Method, Model, Reward
from italic.core.sampling import Sampling
from italic.core.spec import build_method
from italic.run.align import Alignment, stream
from italic.run.inputs import read_prompts
from italic.run.ledger import Ledger

SHOWN = 320
"""Characters of a text that the table shows."""


def bundled_prompts(name: str) -> tuple[Prompt, ...]:
    """The prompts that come with the package, `demo` or `heldout`: real text, held out from the models' training."""
    with as_file(files("italic.bundled") / "prompts" / f"{name}.jsonl") as path:
        return read_prompts(str(path)).good


def run_demo(n: int, max_tokens: int, seed: int) -> None:
    """Carry out `italic demo`."""
    if n < 1:
        raise UsageError(f"best of {n}", hint="Give --n 1 or more.")
    many = build_method(f"best-of-n:n={n}")
    model, reward = build_pair("demo", "demo", {}, many)
    prompts = bundled_prompts("demo")
    sampling = Sampling(max_tokens=max_tokens)
    plain = _answer(prompts, model, reward, build_method("sample"), seed, sampling, "plain")
    best = _answer(prompts, model, reward, many, seed, sampling, f"best of {n}")
    _show(prompts, plain, best, n)


def _answer(
    prompts: tuple[Prompt, ...],
    model: Model,
    reward: Reward,
    method: Method,
    seed: int,
    sampling: Sampling,
    label: str,
) -> Alignment:
    ledger = Ledger()
    results = []
    with progress_bar(label, len(prompts)) as meter:
        for result in stream(
            prompts, model, reward, method, seed=seed, sampling=sampling, ledger=ledger, progress=meter
        ):
            results.append(result)
            meter.advance()
    return Alignment(tuple(sorted(results, key=lambda r: r.order)), ledger.usage, complete=True)


def _show(prompts: tuple[Prompt, ...], plain: Alignment, best: Alignment, n: int) -> None:
    console = screen()
    table = Table(
        show_lines=True, title=f"The bundled model under the bundled preference reward: plain and best of {n}"
    )
    table.add_column("prompt", ratio=3)
    table.add_column("plain answer", ratio=4)
    table.add_column("reward", justify="right")
    table.add_column(f"best-of-{n} answer", ratio=4)
    table.add_column("reward", justify="right")
    for prompt, one, other in zip(prompts, plain.results, best.results, strict=True):
        table.add_row(
            _short(prompt.last),
            _short(plain.texts[one.order] or ""),
            f"{one.outcome.reward:.2f}",
            _short(best.texts[other.order] or ""),
            f"{other.outcome.reward:.2f}",
        )
    console.print(table)
    rewards, better = np.array(plain.rewards), np.array(best.rewards)
    spread = rewards.std(ddof=1)
    totals = Table(title="What it gave and what it cost")
    for column in ("", "mean reward", "tokens", "drafts scored", "seconds"):
        totals.add_column(column, justify="right" if column else "left")
    for label, mean, usage in (("plain", rewards.mean(), plain.usage), (f"best of {n}", better.mean(), best.usage)):
        totals.add_row(
            label,
            f"{mean:.2f}",
            f"{usage.tokens_generated:,}",
            f"{usage.reward_calls:,}",
            f"{usage.seconds:.1f}",
        )
    console.print(totals)
    gain = better.mean() - rewards.mean()
    console.print(
        f"Best of {n} is {gain:.2f} above plain: {gain / spread:.1f} standard deviations of the plain rewards."
    )
    console.print(
        "Now yours: italic generate PROMPTS.jsonl --model DIR_OR_HUB_ID --reward DIR_OR_HUB_ID --out answers.jsonl"
    )
    remark(f"best of {n}: {summary(best.usage)}")


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN else flat[: SHOWN - 1] + "…"
