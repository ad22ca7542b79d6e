"""Replaying a method on a table of rewards, against uniform best-of-N: no model, no reward model, thousands of batches.

Each run takes some prompts of the table at random and lets the method loose on them; every draw is one of the prompt's
in the table, with replacement. What is judged is the method itself, run by a driver as it would be on a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import UsageError
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.protocols import Method, check
from italic.core.sampling import Sampling
from italic.evaluate.drawn import TableModel, TableReward
from italic.evaluate.table import Table
from italic.evaluate.win_rates import batch_win_rate, break_even_interval, survival_time, uniform_curve, wins
from italic.laws.allocation import allocate
from italic.laws.reward_laws import known
from italic.laws.statistics import Interval, mean_interval
from italic.run.align import make_tasks
from italic.run.calls import Progress
from italic.run.ledger import Ledger
from italic.run.lockstep import lockstep

MOST = 8
"""Uniform best-of-N is looked at for N up to so many budgets."""
COPIES = 16
"""Runs of uniform best-of-N on each batch."""
SAMPLING = Sampling(max_tokens=1)

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Plan:
    """What is replayed: batches of `prompts` prompts, a budget of `budget` draws a prompt, so many batches."""

    prompts: int = 5
    budget: int = 16
    batches: int = 1000
    seed: int = 0


@dataclass(frozen=True)
class Replay:
    """How a method did against uniform best-of-N.

    bwr: batch win rate at N = budget. n_star: the break-even budget, at most MOST budgets, which means that or more;
    its interval is bootstrapped over batches. survival: expected survival time, N up to twice the budget. gain: sums of
    rewards less those of uniform best-of-budget, in the mean over the batches where that is finite. draws, tokens: a
    prompt, in the mean, tokens None where the table has no lengths; uniform_tokens: those of uniform best-of-n_star.
    max_draws: the most of any batch in all; max_prompt_draws: of any prompt.
    """

    bwr: Interval
    n_star: Interval
    survival: Interval
    gain: Interval
    draws: float
    max_draws: int
    max_prompt_draws: int
    tokens: float | None
    uniform_tokens: float | None


def with_budget(method: Method, budget: int, prompts: int) -> Method:
    """The method with n = budget, and batches of that many prompts where it has them. Raises UsageError without n."""
    names = {field.name for field in fields(method)}  # type: ignore[arg-type]
    if "n" not in names:
        raise UsageError(
            f"{type(method).__name__} has no number of draws to set to the budget",
            hint="Replay a method with n: adaptive-best-of-n, best-of-n, optimal-stopping, pessimistic.",
        )
    changed: dict[str, Any] = {"n": budget} | ({"batch": prompts} if "batch" in names else {})
    made: Method = replace(method, **changed)  # type: ignore[type-var]
    return made


def replay(
    table: Table,
    method: Method,
    plan: Plan,
    *,
    through: Callable[[], None] | None = None,
    progress: Progress | None = None,
) -> Replay:
    """Run the method on random batches of the table's prompts, and compare with uniform best-of-N.

    through: called for every prompt that is through.

    Raises UsageError for a plan that cannot be and MismatchError for a method that needs more than whole draws.
    """
    chosen = _batches(table, plan)
    method = with_budget(method, plan.budget, plan.prompts)
    model, reward = TableModel(table), TableReward()
    check(method, model, reward)
    asked = [
        Prompt(id=f"{run:06d}/{place:06d}", text=table.rows[row].prompt, columns={"row": int(row)})
        for run, rows in enumerate(chosen)
        for place, row in enumerate(rows)
    ]
    tasks = make_tasks(asked, model, plan.seed, SAMPLING)
    best, draws, tokens = np.zeros(len(asked)), np.zeros(len(asked), dtype=np.int64), np.zeros(len(asked))
    for result in lockstep(tasks, method, model, reward, Ledger(), window=len(asked), progress=progress):
        best[result.order] = result.outcome.reward
        draws[result.order] = result.outcome.usage.reward_calls
        tokens[result.order] = result.outcome.usage.tokens_generated
        if through is not None:
            through()
    return _judge(table, chosen, _sums(best.reshape(chosen.shape)), draws.reshape(chosen.shape), tokens, plan)


def replay_oracle(table: Table, plan: Plan, first: int = 1, rounds: int = 8) -> Replay:
    """What greedy allocation reaches that knows the law of each prompt: a bound to compare with, no method.

    first: draws a prompt before it chooses; rounds: as of adaptive-best-of-n. Scores that are missing are of no use.
    """
    chosen = _batches(table, plan)
    k, shape = plan.prompts, chosen.shape
    sums, draws = np.zeros(len(chosen)), np.zeros(shape, dtype=np.int64)
    tokens = np.zeros(shape)
    for run, rows in enumerate(chosen):
        rng = Key(plan.seed).at("oracle", run).generator()
        pools = [np.where(np.isnan(table.rows[row].rewards), -np.inf, table.rows[row].rewards) for row in rows]
        size = max(len(pool) for pool in pools)
        laws = np.stack([np.sort(pool)[np.arange(size) * len(pool) // size] for pool in pools])
        low, top = _ends(laws)
        best, given = np.full(k, -np.inf), np.full(k, min(first, plan.budget) if rounds > 1 else plan.budget)
        for left in range(rounds, 0, -1):
            for i in np.flatnonzero(given):
                at = rng.integers(len(pools[i]), size=given[i])
                best[i] = max(best[i], pools[i][at].max())
                tokens[run, i] += table.rows[rows[i]].tokens[at].sum()
            draws[run] += given
            rest = plan.budget * k - int(draws[run].sum())
            worth = known(np.clip(laws, low, top), np.clip(best, low, top))
            given = allocate(worth, rest // max(1, left - 1), draws[run])
        sums[run] = _sums(best)
    return _judge(table, chosen, sums, draws, tokens, plan)


def _sums(best: Array) -> Array:
    """Sums over the prompts of a batch, the last axis, -inf where one of them has no useful draw."""
    with np.errstate(invalid="ignore"):
        return np.where(np.any(best == -np.inf, axis=-1), -np.inf, best.sum(axis=-1))


def _ends(laws: Array) -> tuple[float, float]:
    """What stands for -inf, the smallest finite reward, and for inf, as far above the largest as that is above it."""
    finite = laws[np.isfinite(laws)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 0.0)
    return low, high + (high - low or 1.0) if np.any(laws == np.inf) else high


def _batches(table: Table, plan: Plan) -> NDArray[np.int64]:
    """The rows of each batch: int64 [batches, prompts], different ones within a batch. Raises UsageError."""
    for name in ("prompts", "budget", "batches"):
        if getattr(plan, name) < 1:
            raise UsageError(f"a replay with {name}={getattr(plan, name)}", hint="Give 1 or more.")
    if plan.batches < 2:
        raise UsageError("a replay of one batch has no interval", hint="Give --batches 1000.")
    if plan.prompts > len(table.rows):
        raise UsageError(
            f"batches of {plan.prompts} prompts from a table of {len(table.rows)}",
            hint=f"Give --prompts {len(table.rows)} or fewer.",
        )
    rng = Key(plan.seed).at("batches").generator()
    return np.stack([rng.permutation(len(table.rows))[: plan.prompts] for _ in range(plan.batches)])


def _judge(
    table: Table, chosen: NDArray[np.int64], sums: Array, draws: NDArray[np.int64], tokens: Array, plan: Plan
) -> Replay:
    most = MOST * plan.budget
    rates, at_budget = np.empty((len(chosen), most)), np.empty((len(chosen), COPIES))
    survived = np.empty(len(chosen))
    lengths = np.array([row.tokens.mean() for row in table.rows])
    for run, rows in enumerate(chosen):
        rng = Key(plan.seed).at("uniform", run).generator()
        curves = uniform_curve([table.rows[row].rewards for row in rows], rng, most, COPIES)
        ours = np.full(COPIES, sums[run])
        rates[run] = wins(ours, curves).mean(axis=0)
        at_budget[run] = curves[:, plan.budget - 1]
        survived[run] = survival_time(ours, curves[:, : 2 * plan.budget]).mean
    rng = Key(plan.seed).at("bootstrap").generator()
    star = break_even_interval(rates, plan.budget, rng)
    star = Interval(*(min(float(end), float(most)) for end in star))
    used = float(tokens.mean()) if table.counted else None
    with np.errstate(invalid="ignore"):
        ahead = sums - at_budget.mean(axis=1)
    return Replay(
        bwr=batch_win_rate(sums, at_budget),
        n_star=star,
        survival=mean_interval(survived),
        gain=mean_interval(ahead[np.isfinite(ahead)]) if np.isfinite(ahead).any() else Interval(*[np.nan] * 3),
        draws=float(draws.mean()),
        max_draws=int(draws.sum(axis=1).max()),
        max_prompt_draws=int(draws.max()),
        tokens=used,
        uniform_tokens=star.mean * float(lengths[chosen].mean()) if table.counted else None,
    )


def summaries(results: Sequence[tuple[str, Replay]], plan: Plan) -> list[dict[str, Any]]:
    """Each result as plain values, as `italic replay --json` prints them."""
    return [
        {
            "method": name,
            "prompts": plan.prompts,
            "budget": plan.budget,
            "batches": plan.batches,
            "seed": plan.seed,
            "bwr": result.bwr.mean,
            "bwr_interval": [result.bwr.low, result.bwr.high],
            "n_star": result.n_star.mean,
            "n_star_interval": [result.n_star.low, result.n_star.high],
            "n_star_most": MOST * plan.budget,
            "max_draws": result.max_draws,
            "max_prompt_draws": result.max_prompt_draws,
            "draws": result.draws,
            "gain": result.gain.mean,
            "gain_interval": [result.gain.low, result.gain.high],
            "survival_time": result.survival.mean,
            "tokens": result.tokens,
            "uniform_tokens": result.uniform_tokens,
        }
        for name, result in results
    ]
