"""Learning a value and a Chernoff baseline, block after block, on the states that the blocks before lead to.

A baseline is b(x) = V(x) / beta + u(x) + tau: u a network of the model's own features, or nothing, and tau a number a
block, set last of all on fresh proposals. The blocks are fitted in the order in which they are sampled, each on states
that the blocks already fitted have produced, for that is where it will be used. If a block is the whole response there
is one, its states are the prompts, and V is left out: the network says all.

    pinball      u is the (1 - delta)-quantile of f - V / beta given the state: the cheapest baseline for its clipping
    paper        u and a number lambda by the loss J of 2602.07738, V left out; tau is its Chernoff bound
    conformal    no network: V / beta and one number a block

tau is the split-conformal (1 - delta)-quantile; or, if a total variation `tv` is aimed at, what gives each block its
share of it, as far as the fresh proposals show. Where there are prompts enough, tau is set on prompts that the network
was not fitted to, for it is meant for others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import RunError, UsageError
from italic.core.protocols import Task
from italic.core.questions import Asking, embed
from italic.laws.chernoff import conformal
from italic.laws.clipping import clipped_step
from italic.laws.weights import log_mean_exp
from italic.methods import _clipped as clipped
from italic.methods._rows import children, replaced
from italic.train.regression import Loss, Recipe, Regressor, check_loss, fit, stack
from italic.train.value import Curriculum, learn_value, waves
from italic.values.fitted import LEARNED, Fitted, Kind, told
from italic.values.kinds import Learned, Value, build_value
from italic.values.networks import Networks

Array: TypeAlias = NDArray[np.float64]

HELD = 4
"""Every fourth prompt is for the threshold alone, if there are so many that two are."""

BISECTIONS = 50
"""Halvings of the range in which a threshold is looked for."""

MOST_DRAWS = 1000
"""After so many proposals a state is pushed on with one of them."""


@dataclass(frozen=True)
class FitBaseline:
    """What to fit. beta, block, value: as for the method `chernoff`. Exactly one of delta and tv.

    states: chains a prompt; with whole responses the one state of a prompt is the prompt. proposals: fresh proposals a
    state to fit on, and as many again to set tau by. value "learned" is fitted first, to `trajectories` responses of
    the model a prompt, by `loss` (itakura-saito or mse). Raises UsageError for settings that make no fit.
    """

    beta: float = 1.0
    kind: Kind = "pinball"
    block: int | None = None
    value: str | Value | None = None
    delta: float | None = None
    tv: float | None = None
    states: int = 1
    proposals: int = 64
    trajectories: int = 64
    loss: Loss = "itakura-saito"
    recipe: Recipe = field(default_factory=Recipe)

    def __post_init__(self) -> None:
        if not (self.beta > 0 and math.isfinite(self.beta)):
            raise UsageError(f"a fit with beta={self.beta}", hint="Give a positive number: --beta 1.")
        if (self.delta is None) == (self.tv is None):
            raise UsageError("a fit needs either delta or tv", hint="Give --tv 0.05, or --delta 0.01.")
        for name, share in (("delta", self.delta), ("tv", self.tv)):
            if share is not None and not 0 < share < 1:
                raise UsageError(f"a fit with {name}={share}", hint=f"Give a number between 0 and 1: --{name} 0.01.")
        if self.kind == "paper" and self.delta is None:
            raise UsageError("the paper's baseline is set by delta", hint="Give --delta 0.001 in place of --tv.")
        if min(self.states, self.proposals, self.trajectories, self.block or 1) < 1:
            raise UsageError(
                f"a fit with states={self.states},proposals={self.proposals},trajectories={self.trajectories},"
                f"block={self.block}",
                hint="Give 1 or more of each.",
            )
        if self.block is None and (self.kind == "conformal" or self.value is not None):
            raise UsageError(
                "whole responses have no value before they end, so that there is nothing to add a threshold to",
                hint="Give --block 16 too, or fit --kind pinball without a value.",
            )
        check_loss(self.loss)

    @property
    def needs(self) -> frozenset[str]:
        """What the model and the reward must offer."""
        value = self.steering(None) if self.value != LEARNED else None
        mine = frozenset() if self.kind == "conformal" and self.value != LEARNED else frozenset({"embed"})
        blocks = frozenset() if self.block is None else frozenset({"resume"})
        return mine | blocks | (frozenset() if value is None else value.needs)

    def steering(self, worth: Networks | None) -> Value | None:
        """The value of unfinished drafts; worth: the networks of a learned one."""
        if self.block is None:
            return None
        if worth is not None:
            return Learned(worth, self.block)
        return build_value("reward" if self.value is None else self.value)


@dataclass(frozen=True, eq=False)
class Chain:
    """The states of one prompt: drafts, n rows, and what they are worth, float64 [n], in units of the reward."""

    task: Task
    drafts: Any
    values: Array


@dataclass(frozen=True, eq=False)
class Pairs:
    """Proposals from k states: log-weights f and V / beta, nats [k, m] and [k], and the states' features [k, d].

    valued: whether the states have values; those of prompts, before the whole response, are zeros.
    """

    f: Array
    values: Array
    features: Array
    valued: bool


def fit_baseline(tasks: Sequence[Task], settings: FitBaseline, names: tuple[str, str]) -> Asking[Fitted]:
    """Fit a baseline to prompts; names: of the model and the reward, the only pair it may then be used with.

    Asks `embed` unless the kind is conformal.

    Notes what it does: "fit", with what, block, blocks, done and total. Raises RunError if there is nothing to fit to.
    """
    fit = _Fit(tasks, settings, names)
    if settings.value == LEARNED:
        slowly = replace(settings.recipe, steps=2 * settings.recipe.steps)
        plan = Curriculum(settings.beta, settings.block or 1, settings.trajectories, settings.loss, slowly)
        fit.worth, fit.spent = yield from learn_value(tasks, plan, fit.blocks)
    chains = yield from fit.start()
    for block in range(fit.blocks):
        yield from fit.fit_block(chains, block)
        if block < fit.blocks - 1:
            chains = yield from fit.push(chains, block)
        if all(np.all(chain.drafts.done) for chain in chains):
            break
    return fit.fitted()


class _Fit:
    """A fit under way: the blocks fitted so far."""

    def __init__(self, tasks: Sequence[Task], settings: FitBaseline, names: tuple[str, str]) -> None:
        self.tasks, self.settings, self.names = tasks, settings, names
        starts = [task.start(1) for task in tasks]
        self.horizon = max(int((drafts.steps + drafts.room).max()) for drafts in starts)
        self.sampling = told(starts[0])
        self.blocks = 1 if settings.block is None else -(-self.horizon // settings.block)
        self.worth: Networks | None = None
        self.spent = 0
        self.regressors: list[Regressor] = []
        self.tau: list[float] = []
        self.ceiling: list[float] = []
        self.draws: list[tuple[float, float]] = []

    def start(self) -> Asking[list[Chain]]:
        """Every prompt's first states."""
        value = self.settings.steering(self.worth)

        def begin(task: Task) -> Asking[Chain]:
            drafts: Any = task.start(self.settings.states)
            if value is None:
                return Chain(task, drafts, np.zeros(len(drafts)))
            return Chain(task, drafts, (yield from value.of(drafts, self.settings.beta)))

        return (yield from waves(self.tasks, begin, "start", 0, self.blocks))

    def fit_block(self, chains: Sequence[Chain], block: int) -> Asking[None]:
        """The network and the threshold of a block, from two sets of fresh proposals."""
        settings, regressor, top = self.settings, None, -math.inf
        for_tau = chains[::HELD] if len(chains) > HELD else chains
        if settings.kind != "conformal":
            for_fit = [chain for i, chain in enumerate(chains) if i % HELD] if len(chains) > HELD else chains
            pairs = yield from self._pairs(for_fit, block, "fit")
            regressor = _regress(pairs, settings, self.blocks, block)
            self.regressors.append(regressor)
            top = float(np.max(pairs.f[np.isfinite(pairs.f)]))
        pairs = yield from self._pairs(for_tau, block, "tau")
        base = np.zeros(len(pairs.f)) if settings.kind == "paper" else pairs.values
        if regressor is not None:
            base = base + regressor(pairs.features)
        self.tau.append(_threshold(pairs, base, settings, self.blocks, regressor))
        self.ceiling.append(max(top, float(np.max(pairs.f[np.isfinite(pairs.f)]))))
        b = np.minimum(base + self.tau[-1], self.ceiling[-1])
        self.draws.append((_expected_draws(pairs, b), _expected_draws(pairs, np.full(len(b), self.ceiling[-1]))))

    def _pairs(self, chains: Sequence[Chain], block: int, what: str) -> Asking[Pairs]:
        """`proposals` fresh proposals from every unfinished state."""
        m, embeds, plan = self.settings.proposals, self.settings.kind != "conformal", self.plan

        def draw(chain: Chain) -> Asking[Pairs]:
            rows = np.flatnonzero(~chain.drafts.done)
            states, values = chain.drafts[rows], chain.values[rows] / self.settings.beta
            features = (yield from embed(states)) if embeds else np.zeros((len(rows), 0))
            seeds = chain.task.key.at(what, block).seeds(children(rows, np.arange(m)))
            _, f = yield from plan.propose(chain.task, states, np.repeat(np.arange(len(rows)), m), seeds)
            return Pairs(f.reshape(-1, m), values, features, self.settings.block is not None)

        going = [chain for chain in chains if not np.all(chain.drafts.done)]
        if not going:
            raise RunError(
                f"the responses to all prompts of the fit had ended before block {block + 1}",
                hint="Give more states or prompts.",
            )
        pairs = _pool((yield from waves(going, draw, what, block, self.blocks)))
        self.spent += pairs.f.size
        return pairs

    def push(self, chains: Sequence[Chain], block: int) -> Asking[list[Chain]]:
        """The states a block on, by the baseline as far as it is fitted."""
        fitted, plan = self.fitted(), self.plan

        def go_on(chain: Chain) -> Asking[tuple[Chain, int]]:
            rows = np.flatnonzero(~chain.drafts.done)
            if not len(rows):
                return chain, 0
            states, values = chain.drafts[rows], chain.values.copy()
            taken = yield from clipped.clipped_step(
                partial(plan.propose, chain.task, states),
                (yield from fitted.at(states, values[rows])),
                rows,
                chain.task.key.at("push", block),
                most=MOST_DRAWS,
                parallel=len(rows),
                proper=False,
                partial=False,
            )
            values[rows] = taken.f * plan.beta
            return Chain(chain.task, replaced(chain.drafts, rows, taken.drafts), values), int(taken.draws.sum())

        moved = yield from waves(chains, go_on, "push", block, self.blocks)
        self.spent += sum(count for _, count in moved)
        return [chain for chain, _ in moved]

    @property
    def plan(self) -> clipped.Plan:
        """What a step is, as the method that will use the fit has it."""
        return clipped.Plan(self.settings.beta, self.settings.block, self.settings.steering(self.worth))

    def fitted(self) -> Fitted:
        """What has been fitted so far."""
        settings = self.settings
        value = "reward" if settings.value is None else settings.value
        return Fitted(
            kind=settings.kind,
            beta=settings.beta,
            block=settings.block,
            horizon=self.horizon,
            tau=np.array(self.tau),
            ceiling=np.array(self.ceiling),
            value=value if isinstance(value, str) else type(value).__name__,
            model=self.names[0],
            reward=self.names[1],
            report={
                "delta": settings.delta,
                "tv": settings.tv,
                "prompts": len(self.tasks),
                "training_proposals": self.spent,
                "draws": [own for own, _ in self.draws],
                "draws_constant": [constant for _, constant in self.draws],
            },
            baseline=stack(self.regressors) if self.regressors else None,
            worth=self.worth,
            sampling=self.sampling,
            given=None if isinstance(value, str) else value,
        )


def _pool(found: Sequence[Pairs]) -> Pairs:
    """The pairs of all prompts; states with a proposal of worth. Raises RunError if there are none."""
    f = np.concatenate([pairs.f for pairs in found])
    worth = np.isfinite(f).any(axis=1)
    if not worth.any():
        raise RunError(
            "no proposal has a score above -inf: there is nothing to fit a baseline to",
            hint="Try more proposals, other prompts, or a shorter response; `italic doctor` shows what a reward says.",
        )
    values, features = (np.concatenate([getattr(p, name) for p in found]) for name in ("values", "features"))
    return Pairs(f[worth], values[worth], features[worth], found[0].valued)


def _regress(pairs: Pairs, settings: FitBaseline, blocks: int, seed: int) -> Regressor:
    excess = pairs.f - (0.0 if settings.kind == "paper" else pairs.values[:, None])
    there = ~np.isnan(excess)
    features = np.repeat(pairs.features, excess.shape[1], axis=0)[there.ravel()]
    delta = settings.delta if settings.delta is not None else (settings.tv or 0.0) / blocks / 2
    loss: Loss = "paper" if settings.kind == "paper" else "pinball"
    return fit(features, excess[there], loss, settings.recipe, delta=delta, seed=seed)


def _threshold(pairs: Pairs, base: Array, settings: FitBaseline, blocks: int, regressor: Regressor | None) -> float:
    """tau, nats, from fresh pairs. Raises UsageError for too few of them."""
    excess = pairs.f - base[:, None]
    seen = excess[~np.isnan(excess)]
    if settings.delta is None:
        return _for_share(pairs, base, (settings.tv or 0.0) / blocks)
    if settings.kind == "paper" and regressor is not None:
        sharpness = regressor.sharpness
        return float((log_mean_exp(sharpness * seen) - math.log(settings.delta)) / sharpness)
    try:
        return conformal(seen, settings.delta)
    except ValueError as failure:
        raise UsageError(str(failure), hint="Give more states or proposals, or a larger delta.") from failure


def _for_share(pairs: Pairs, base: Array, tv: float) -> float:
    """The least tau at which clipping costs a total variation of `tv`, on average over the states.

    For whole responses by each state's own proposals, exactly for that sample; where states have values by HS_M, the
    bound that one proposal a state is enough for.
    """
    there = ~np.isnan(pairs.f)
    f = np.where(there, pairs.f, -np.inf)
    if pairs.valued:
        w = np.exp(f - pairs.values[:, None] - np.max(f - pairs.values[:, None]))

        def lost(tau: float) -> float:
            above = -np.expm1(np.minimum(base[:, None] + tau - f, 0.0))
            return float(np.sum(w * above) / np.sum(w))
    else:
        p = there / there.sum(axis=1, keepdims=True)

        def lost(tau: float) -> float:
            return float(clipped_step(p, f, base + tau).tv.mean())

    excess = (f - base[:, None])[np.isfinite(f)]
    low, high = float(excess.min()), float(excess.max())
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if lost(middle) > tv else (low, middle)
    return high


def _log_z(pairs: Pairs) -> Array:
    """log E[e^f] of each state, nats [k]: its value, or for whole responses the mean of its own proposals."""
    return pairs.values if pairs.valued else log_mean_exp(pairs.f)


def _expected_draws(pairs: Pairs, b: Array) -> float:
    """Draws a state under the baselines b, nats [k]: the mean of M = e^b / Z."""
    return float(np.mean(np.exp(b - _log_z(pairs))))
