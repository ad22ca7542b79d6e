"""`italic doctor`: prove a model and a reward before money is spent.

Each check compares two ways of getting the same thing: one row alone against many rows at once, once against again, a
text scored alone against the same text scored in the company of a much longer one. A check that fails is shown with
what differed, and the command ends with exit code 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from italic.cli.demo import bundled_prompts
from italic.cli.pair import build_pair
from italic.cli.show import screen, side
from italic.core.drafts import TextDrafts
from italic.core.errors import InputError, RunError
from italic.core.outcome import Usage
from italic.core.prompt import Prompt
from italic.core.protocols import Method, Model, Reward
from italic.core.questions import Extend
from italic.core.sampling import Sampling
from italic.core.spec import build_method, method_name, method_spec
from italic.run.align import Alignment, align, make_tasks
from italic.run.inputs import read_prompts

TRIED = 4
"""Prompts that the checks use."""
DRAWS = 6
"""Draws a prompt that the checks use."""
BEGINNING, MOST = 8, 0.8
"""Of so many first tokens, so large a share of the texts must not depend on the batch."""
ROUNDING = 0.25
"""Nats by which a token's log-probability may change with the batch: bfloat16 stays below, a masking bug does not."""
CLOSE = 1e-3
"""Rewards nearer than this, in units of their spread, count as equal: rounding is far below, a padding bug above."""


@dataclass(frozen=True)
class Visit:
    """What was typed after `italic doctor`."""

    source: str | None
    model: str
    reward: str
    method: str
    count: int
    max_tokens: int
    options: Mapping[str, Any]
    token_price: float
    reward_price: float


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    check: str
    good: bool
    detail: str


def run_doctor(visit: Visit) -> None:
    """Carry out `italic doctor`. Raises RunError if a check fails."""
    method = build_method(visit.method)
    model, reward = build_pair(visit.model, visit.reward, visit.options, method)
    prompts = _prompts(visit.source)[:TRIED]
    sampling = Sampling(max_tokens=visit.max_tokens)
    with side().status("examining"):
        findings = examine(model, reward, prompts, sampling)
        trial = align(prompts, model, reward, method, sampling=sampling)
    console = screen()
    table = Table("check", "", "what was found")
    for finding in findings:
        table.add_row(finding.check, "[green]ok[/green]" if finding.good else "[red]FAILS[/red]", finding.detail)
    for item in (model, reward):
        path, why = getattr(item, "path", None), getattr(item, "why", "")
        if path:
            table.add_row(f"path of {item.name}", "", f"{path}{': ' + why if why else ''}")
    console.print(table)
    console.print(_forecast(visit, method, trial))
    failed = [finding.check for finding in findings if not finding.good]
    if failed:
        raise RunError(
            f"{len(failed)} checks failed: {', '.join(failed)}",
            hint="Do not trust comparisons made with this pair before that is mended.",
        )


def examine(model: Model, reward: Reward, prompts: Sequence[Prompt], sampling: Sampling) -> list[Finding]:
    """All checks of a pair, on a few prompts."""
    tasks = make_tasks(prompts, model, 0, sampling)
    jobs = [Extend(task.start(DRAWS)) for task in tasks]
    together = [grown.drafts for grown in model.extend(jobs)]
    again = [grown.drafts for grown in model.extend(jobs)]
    alone = [model.extend([Extend(job.drafts[[row]])])[0].drafts for job in jobs for row in range(DRAWS)]
    drafts = [batch for batch in together if isinstance(batch, TextDrafts)]
    texts = [text for batch in drafts for text in batch.texts]
    findings = [
        _same_drafts("model: one row = many rows", drafts, alone, exact=False),
        _same_drafts("model: the same seed again", drafts, again, exact=True),
        _varied(texts),
    ]
    first = _scores(reward, drafts)
    spread = float(np.nanstd(first)) or 1.0
    single = np.concatenate([_scores(reward, [batch[[row]]]) for batch in drafts for row in range(DRAWS)])
    findings += [
        _close("reward: batch of 1 = batch of k", first, single, spread),
        _close("reward: order does not matter", first, _reversed_scores(reward, drafts), spread),
        _close("reward: padding does not matter", first, _padded_scores(reward, drafts), spread),
    ]
    if reward.deterministic:
        findings.append(_close("reward: the same text again", first, _scores(reward, drafts), spread))
    missing = int(np.isnan(first).sum())
    findings.append(Finding("reward: scores are there", missing < len(first), f"{missing} of {len(first)} are missing"))
    findings.append(
        Finding("reward: tells drafts apart", spread_within(drafts, first) > 0, _spread_text(drafts, first))
    )
    return findings


def _same_drafts(name: str, one: Sequence[TextDrafts], other: Sequence[Any], exact: bool) -> Finding:
    """Whether two ways of drawing agree. exact: every text must be the same.

    Otherwise a text may part where a draw lies within rounding of the border between two tokens: the beginnings of
    most texts must be the same, and the log-probabilities of all tokens that two texts have in common.
    """
    mine = [row for batch in one for row in zip(batch.tokens, batch.logprobs, strict=True)]
    theirs = [row for batch in other for row in zip(batch.tokens, batch.logprobs, strict=True)]
    same, begun, widest = 0, 0, 0.0
    for (tokens, logps), (others, other_logps) in zip(mine, theirs, strict=True):
        shorter = min(len(tokens), len(others))
        parted = np.flatnonzero(tokens[:shorter] != others[:shorter])
        common = int(parted[0]) if len(parted) else shorter
        same += len(tokens) == len(others) == common
        begun += common >= min(BEGINNING, max(len(tokens), len(others)))
        widest = max(widest, float(np.abs(logps[:common] - other_logps[:common]).max(initial=0.0)))
    detail = f"{same} of {len(mine)} texts are the same, log-probabilities to {widest:.1g}"
    enough = same == len(mine) if exact else begun >= MOST * len(mine)
    return Finding(name, enough and widest <= ROUNDING, detail)


def _varied(texts: Sequence[str]) -> Finding:
    different = len(set(texts))
    return Finding(
        "model: seeds differ", different > len(texts) // DRAWS, f"{different} different texts of {len(texts)}"
    )


def _scores(reward: Reward, batches: Sequence[TextDrafts]) -> NDArray[np.float64]:
    scored = reward.score(batches)
    return np.concatenate([np.where(s.missing, np.nan, s.rewards) for s in scored])


def _reversed_scores(reward: Reward, batches: Sequence[TextDrafts]) -> NDArray[np.float64]:
    turned = _scores(reward, [batch[::-1] for batch in batches[::-1]])
    return turned[::-1]


def _padded_scores(reward: Reward, batches: Sequence[TextDrafts]) -> NDArray[np.float64]:
    """Each draft scored in the company of the longest draft of its prompt, repeated to three times its length."""
    values = []
    for batch in batches:
        tripled = _tripled(batch[[int(np.argmax(batch.steps))]])
        pairs = [batch[[row]].concat(tripled) for row in range(len(batch))]
        values += [s.rewards[0] if not s.missing[0] else np.nan for s in reward.score(pairs)]
    return np.array(values)


def _tripled(longest: TextDrafts) -> TextDrafts:
    body = longest.tokens[0][:-1] if longest.reason[0] == "end" else longest.tokens[0]
    ids = np.concatenate([body, body, longest.tokens[0]])[None, :]
    return replace(
        longest,
        sampling=replace(longest.sampling, max_tokens=max(longest.sampling.max_tokens, ids.shape[1])),
        ids=ids.astype(np.int32),
        logps=np.zeros(ids.shape, dtype=np.float32),
        steps=np.array([ids.shape[1]], dtype=np.int64),
        memory=(None,),
    )


def _close(name: str, one: NDArray[np.float64], other: NDArray[np.float64], spread: float) -> Finding:
    difference = np.abs(one - other)
    both = np.isnan(one) == np.isnan(other)
    largest = float(np.nanmax(difference, initial=0.0)) if np.any(~np.isnan(difference)) else 0.0
    good = bool(np.all(both)) and largest <= CLOSE * spread
    return Finding(name, good, f"largest difference {largest:.2g}, spread of the rewards {spread:.2g}")


def spread_within(drafts: Sequence[TextDrafts], rewards: NDArray[np.float64]) -> float:
    """The mean over prompts of the standard deviation of a prompt's rewards."""
    parts = np.split(rewards, np.cumsum([len(batch) for batch in drafts])[:-1])
    spreads = [float(np.nanstd(part)) for part in parts if not np.all(np.isnan(part))]
    return sum(spreads) / max(1, len(spreads))


def _spread_text(drafts: Sequence[TextDrafts], rewards: NDArray[np.float64]) -> str:
    return f"standard deviation {spread_within(drafts, rewards):.2g} within a prompt, {np.nanstd(rewards):.2g} overall"


def _forecast(visit: Visit, method: Method, trial: Alignment) -> Table:
    """What a run of `visit.count` prompts will cost, from a trial on a few."""
    tried = len(trial.results)
    scale = visit.count / tried
    usage: Usage = trial.usage
    spec = method_spec(method, method_name(method))
    table = Table(f"{spec} on {visit.count:,} prompts", "", title=f"Forecast from {tried} prompts")
    speed: Callable[[float, float], str] = lambda amount, time: f"{amount / time:,.0f}" if time else "-"  # noqa: E731
    table.add_row("tokens", f"{usage.tokens_generated * scale:,.0f}")
    table.add_row("drafts scored", f"{usage.reward_calls * scale:,.0f}")
    table.add_row("hours on this machine", f"{usage.seconds * scale / 3600:.2f}")
    table.add_row("model, tokens a second", speed(usage.tokens_generated, usage.policy_seconds))
    table.add_row("reward, drafts a second", speed(usage.reward_calls, usage.reward_seconds))
    cost = (usage.tokens_generated * visit.token_price / 1e6 + usage.reward_calls * visit.reward_price / 1e3) * scale
    prices = visit.token_price or visit.reward_price
    table.add_row("cost", f"{cost:,.2f}" if prices else "give --token-price and --reward-price")
    return table


def _prompts(source: str | None) -> tuple[Prompt, ...]:
    if source is None:
        return bundled_prompts("heldout")
    read = read_prompts(source)
    if not read.good:
        raise InputError(f"no good prompts in {source}", hint="; ".join(read.problems[:3]))
    return read.good
