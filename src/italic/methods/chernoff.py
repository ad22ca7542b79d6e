"""Chernoff baselines: samples of the tilted law, by rejection that knows how much each state may ask for.

A *step* makes drafts longer by a block: a few tokens, a denoising step, or the whole response. From state x it draws
proposals y of the model until one is accepted, with probability min(1, exp(f(y) - b(x))), f = V / beta. The *first*
accepted proposal is taken, not the best. With b above every f this is exact, and dear: the draws grow like exp(b). A
baseline b(x) of the state alone that a small share of proposals exceeds makes it cheap, and the total variation that is
lost is known: nothing that draws from the model and returns one of its draws is closer at the same number of draws.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from italic.core.errors import UsageError
from italic.core.keys import Key
from italic.core.outcome import Outcome
from italic.core.protocols import Paper, Task
from italic.core.questions import Asking, note
from italic.laws.chernoff import quantile, sharp
from italic.methods._calibrated import Calibrated
from italic.methods._clipped import Nats, Plan, Propose, clipped_step
from italic.methods._evidence import Evidence
from italic.methods._rows import replaced
from italic.values.calibration import Calibration
from italic.values.fitted import Fitted
from italic.values.kinds import Value, build_value

PILOT, CONSTANT = "pilot", "constant"

TV = 0.05
"""The total variation aimed at, if nothing is said."""
DRAWS = 64
"""The proposals of a pilot, if nothing is said."""


@dataclass(frozen=True)
class Chernoff(Calibrated):
    """n draws of the tilted law, each the first accepted proposal under a baseline that depends on the state alone.

    Law: the tilted law p exp(r / beta) / Z, up to the total variation that the certificate estimates, if the values are
    right; for the whole response (no `block`) the value is the reward. A proposal without a score is never accepted.

    baseline: "pilot" sets it from `pilot` (64) fresh proposals a step, or, for whole responses, from the prompt's
    reference rewards in `calibration`, a file of `italic calibrate`, which saves those; "constant" at `bound`, the
    largest reward, which is ideal rejection; a path, as `italic fit-baseline` has learned it, with the beta, block and
    value it was fitted for. tv: the total variation aimed at over all steps (0.05); or delta: the share of proposals
    that may exceed the baseline. block: steps before the next decision; value: what an unfinished draft is worth
    (reward, preview, completions:k). max_draws: after so many, a step takes one of its proposals in proportion to
    exp(f). proper: draw on to the *second* acceptance, which gives the answers log-weights that make weighted means
    exact whatever the values and the clipping. parallel: proposals under way at most; it changes the cost, not the
    answer.
    """

    beta: float | None = None
    tv: float | None = None
    delta: float | None = None
    n: int = 1
    baseline: str | Fitted = PILOT
    bound: float | None = None
    pilot: int | None = None
    calibration: str | Calibration | None = None
    block: int | None = None
    value: str | Value | None = None
    max_draws: int = 1000
    proper: bool = False
    parallel: int = 64

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper("2602.07738", "Madhow et al.", "Learnable Chernoff Baselines for Inference-Time Alignment", 2026),
    )

    def __post_init__(self) -> None:
        for name, value, example in (
            ("beta", self.beta, "beta=1"),
            ("tv", self.tv, "tv=0.05"),
            ("delta", self.delta, "delta=0.01"),
        ):
            most = math.inf if name == "beta" else 1.0
            if value is not None and not 0 < value < most:
                raise UsageError(f"chernoff with {name}={value}", hint=f"Give for instance chernoff:{example}.")
        for name in ("n", "pilot", "max_draws", "parallel", "block"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise UsageError(f"chernoff with {name}={number}", hint=f"Give 1 or more: chernoff:{name}=16.")
        if self.tv is not None and self.delta is not None:
            raise UsageError("chernoff with both tv and delta", hint="Give one of them: chernoff:tv=0.05.")
        if (self.baseline == CONSTANT) != (self.bound is not None):
            raise UsageError(
                f"chernoff with baseline={self._told},bound={self.bound}",
                hint="A constant baseline is the largest reward possible: chernoff:baseline=constant,bound=5.",
            )
        for name in ("tv", "delta", "pilot"):
            if getattr(self, name) is not None and self.baseline != PILOT:
                raise UsageError(
                    f"chernoff with {name}={getattr(self, name)}, which baseline={self._told} has no use for",
                    hint=f"Leave {name} out; a fit is given its own: italic fit-baseline --tv 0.05.",
                )
        self._refuse_settings_of_the_fit()
        if self.calibration is not None and (self.baseline, self.pilot, self.block) != (PILOT, None, None):
            raise UsageError(
                f"chernoff with a calibration and baseline={self._told},pilot={self.pilot},block={self.block}",
                hint="Reference rewards take the place of a pilot, for whole responses: leave the others out.",
            )
        if self.block is None and self.value is not None and self.fitted is None:
            raise UsageError(
                f"chernoff with value={self.value} for whole responses, whose value is their reward",
                hint=f"Give the steps before each decision too: chernoff:block=16,value={self.value}.",
            )

    def _refuse_settings_of_the_fit(self) -> None:
        fitted = self.fitted
        if fitted is None:
            return
        for name in ("beta", "block", "value"):
            mine, theirs = getattr(self, name), getattr(fitted, name)
            if mine is not None and mine != theirs:
                raise UsageError(
                    f"chernoff with {name}={mine}, and the baseline was fitted with {name}={theirs}",
                    hint=f"Leave {name} out, or fit again: italic fit-baseline.",
                )

    @property
    def _told(self) -> str:
        return self.baseline if isinstance(self.baseline, str) else f"a fitted {self.baseline.kind} baseline"

    @cached_property
    def fitted(self) -> Fitted | None:
        """The fitted baseline; None if this one is not fitted. Raises UsageError if there is none at that path."""
        if isinstance(self.baseline, Fitted):
            return self.baseline
        return None if self.baseline in (PILOT, CONSTANT) else Fitted.load(Path(self.baseline))

    @cached_property
    def plan(self) -> Plan:
        """What a step is: as the parameters say, or as the fitted baseline does."""
        if self.fitted is not None:
            return Plan(self.fitted.beta, self.fitted.block, self.fitted.valued)
        value = None if self.block is None else build_value("reward" if self.value is None else self.value)
        return Plan(1.0 if self.beta is None else self.beta, self.block, value)

    @property
    def made_for(self) -> tuple[str, str] | None:
        """The model and the reward of a fitted baseline, or of a calibration."""
        return super().made_for if self.fitted is None else (self.fitted.model, self.fitted.reward)

    @property
    def needs(self) -> frozenset[str]:
        """What the value and the baseline need; blocks need a model that goes on from unfinished drafts."""
        mine: frozenset[str] = frozenset() if self.plan.block is None else frozenset({"resume"})
        value = frozenset() if self.plan.value is None else self.plan.value.needs
        return mine | value | (frozenset() if self.fitted is None else self.fitted.needs)

    def run(self, task: Task) -> Asking[Outcome]:
        beta, block, value = self.plan
        drafts: Any = task.start(self.n)
        values = np.zeros(self.n)
        if value is not None:
            values = _settled((yield from value.of(drafts, beta)))
        steps = 1 if block is None else -(-int(drafts.room.max()) // block)
        log_weights = np.zeros(self.n)
        evidence = Evidence(self.n, steps, values / beta)
        for step in range(steps):
            rows = np.flatnonzero(~drafts.done)
            if not len(rows):
                break
            key, states, before = task.key.at("step", step), drafts[rows], values[rows]
            propose = partial(self.plan.propose, task, states)
            b = yield from self._baseline(task, key, states, before, propose, steps)
            taken = yield from clipped_step(
                propose,
                b,
                rows,
                key,
                most=self.max_draws,
                parallel=self.parallel,
                proper=self.proper,
                partial=block is None,
            )
            evidence.add(step, rows, before / beta, b, taken)
            with np.errstate(invalid="ignore"):
                log_weights[rows] += taken.log_weights - before / beta
            drafts = replaced(drafts, rows, taken.drafts)
            values[rows] = beta * taken.f
            yield from note("step", step=step, rows=len(rows), draws=float(taken.draws.mean()))
        return Outcome(
            drafts,
            values,
            chosen=0,
            log_weights=np.where(np.isnan(log_weights), -np.inf, log_weights) if self.proper else None,
            certificate=evidence.certificate(whole=block is None),
            complete=taken.complete,
        )

    def _baseline(self, task: Task, key: Key, states: Any, values: Nats, propose: Propose, steps: int) -> Asking[Nats]:
        """The baseline of each state, nats [k]."""
        beta = self.plan.beta
        if self.fitted is not None:
            return (yield from self.fitted.at(states, values))
        if self.bound is not None:
            return np.full(len(states), self.bound / beta)
        known = self.known(task)
        if known is not None:
            excess = known / beta
        else:
            pilot = self.pilot or DRAWS
            rows = np.arange(pilot) % len(states)
            _, f = yield from propose(rows, key.at("pilot").seeds(pilot))
            with np.errstate(invalid="ignore"):
                excess = f - values[rows] / beta
        excess = excess[np.isfinite(excess)]
        tau = 0.0
        if len(excess):
            tv = (self.tv or TV) / steps
            tau = sharp(excess, tv) if self.delta is None else quantile(excess, self.delta)
        return np.asarray(values / beta + tau)


def _settled(values: Nats) -> Nats:
    """Values of starts: where one is missing the mean of the others, or 0. What counts from there is differences."""
    finite = values[np.isfinite(values)]
    return np.where(np.isnan(values), finite.mean() if len(finite) else 0.0, values)
