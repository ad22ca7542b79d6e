"""Adaptive best-of-n: the budget of a batch goes to the prompts where it pays (AdaBoN)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import UsageError
from italic.core.outcome import Outcome
from italic.core.protocols import Paper, Task
from italic.core.questions import Asking, best, extend, note, score, share
from italic.laws.allocation import Counts, Gains, allocate, allocate_cost, by_deviation, by_upper_confidence
from italic.laws.reward_laws import ESTIMATORS, UNITS, Estimator, Units, gains
from italic.methods._calibrated import Calibrated
from italic.values.calibration import Calibration

Rule: TypeAlias = Literal["greedy", "variance", "ucb"]
EXPLORATION = 0.25
"""The part of the budget that every prompt gets, if nothing is said."""
SPARE = 0.02
"""A budget of tokens is used up when no larger part of it is left."""


@dataclass(frozen=True, eq=False)
class Report:
    """What a prompt tells its batch. rewards: float64 [m], NaN where missing. tokens: generated so far, in all; room:
    tokens of a response at most. reference: float64 [*], reference rewards of a calibration, and length: tokens of such
    a response in the mean."""

    rewards: NDArray[np.float64]
    tokens: int
    room: int
    reference: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    length: float = 0.0

    @property
    def cost(self) -> float:
        """Tokens of a response, in the mean over all that are known, one at least."""
        known = len(self.reference)
        return max(1.0, (self.tokens + known * self.length) / (len(self.rewards) + known))


@dataclass(frozen=True)
class Order:
    """What a prompt is told: how many draws to make now, what the first of them is worth, whether this is the end."""

    draws: int
    gain: float
    last: bool


@dataclass(frozen=True)
class AdaptiveBestOfN(Calibrated):
    """Best-of-n with n draws a prompt on average: after a few of each, the rest go where they are expected to pay.

    Every prompt gets `exploration` draws (below 1: a part of the budget, 0.25 if nothing is said, but 4 where it allows
    that). In `rounds` - 1 further rounds, of equal budget, the laws of the rewards are estimated from all draws so far
    and the draws handed out greedily, each to the prompt where the expected gain is largest; rounds=2,
    exploration=0.75, estimator=kde is AdaBoN (2505.12050). More rounds find more and take longer, for a round ends with
    its longest response. Of a prompt's draws, the one with the largest reward is the answer, the first of equals. A
    batch of k prompts gets n k draws, to the last one.

    What prompts have in common is estimated from those with responses of about the same length, where there are many.
    calibration: a file of `italic calibrate` that has the prompts; its reference rewards tell of the laws from the
    start, and the first draw of a prompt is the only one that is not handed out.

    tokens: a second bound, of tokens a prompt on average. Draws then go where the gain for a token is largest, none is
    begun that might exceed the bound, and there are more rounds, as long as more than 2 % of it is left. units: reward,
    or quantile, which makes prompts comparable whose rewards have different scales. batch: how many consecutive prompts
    share a budget, None for all of the run. rule: greedy, or the baselines variance and ucb (upper confidence), which
    know of draws alone. A draw whose score is missing, or -inf, was of no use. The notes of an outcome say how many
    draws were made in each round, and what the first of them was expected to gain.

    Law: with rounds=1 it is best-of-n. The first m draws of a prompt are those of best-of-m.
    """

    n: int = 16
    exploration: float | None = None
    rounds: int = 8
    estimator: Estimator = "auto"
    units: Units = "reward"
    tokens: int | None = None
    batch: int | None = None
    rule: Rule = "greedy"
    calibration: str | Calibration | None = None

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper("2505.12050", "Raman, Asi, Kale", "AdaBoN: Adaptive Best-of-N Alignment", 2025),
    )

    def __post_init__(self) -> None:
        for name in ("n", "rounds", "tokens", "batch"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(
                    f"adaptive-best-of-n with {name}={value}", hint=f"Give 1 or more: adaptive-best-of-n:{name}=8."
                )
        share = self._exploration
        if not (0 < share < 1 or (float(share).is_integer() and 1 <= share <= self.n)):
            raise UsageError(
                f"adaptive-best-of-n with exploration={share:g} and n={self.n}",
                hint="Give a number of draws from 1 to n, or a part of n below 1: exploration=0.25.",
            )
        for name, known in (("estimator", ESTIMATORS), ("units", UNITS), ("rule", get_args(Rule))):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"adaptive-best-of-n with {name}={getattr(self, name)}", hint=f"Choose one of {', '.join(known)}."
                )

        if self.tokens is not None and self.rule != "greedy":
            raise UsageError(
                f"adaptive-best-of-n with tokens={self.tokens} and rule={self.rule}", hint="Leave out one of the two."
            )
        if self.calibration is not None and (self.rule != "greedy" or self.exploration is not None):
            other = f"rule={self.rule}" if self.exploration is None else f"exploration={self.exploration:g}"
            raise UsageError(
                f"adaptive-best-of-n with a calibration and {other}",
                hint="Leave out one of the two: what a calibration tells needs neither exploration nor another rule.",
            )

    @property
    def needs(self) -> frozenset[str]:
        """A calibration is of texts."""
        return frozenset() if self.calibration is None else frozenset({"texts"})

    @property
    def _exploration(self) -> float:
        if self.exploration is not None:
            return self.exploration
        return EXPLORATION if self.calibration is None else 1.0

    def first(self, room: int) -> int:
        """How many draws every prompt gets to begin with, responses of at most `room` tokens.

        Raises UsageError if the bound on tokens does not allow them.
        """
        most = self.n if self.tokens is None else min(self.n, self.tokens // room)
        budget = self.n if self.tokens is None else self.tokens / room
        wanted = self.n if self.rounds == 1 else int(self._exploration)
        if wanted == 0:
            wanted = max(1, min(most, max(4, round(self._exploration * budget))))
        if wanted > most:
            fewer = ", or exploration=1" if self.rounds > 1 and most > 0 else ""
            raise UsageError(
                f"adaptive-best-of-n with tokens={self.tokens}: {wanted} first draws may take {wanted * room} a prompt",
                hint=f"Give tokens={wanted * room} or more, or shorter responses (--max-tokens){fewer}.",
            )
        return wanted

    def run(self, task: Task) -> Asking[Outcome]:
        room = int(task.start(1).room[0])
        reference, length = self._reference(task)
        drafts, rewards = task.start(0), np.zeros(0)
        order = Order(self.first(room), math.nan, last=False)
        draws: list[int] = []
        worth: list[float] = []
        while True:
            draws.append(order.draws)
            worth.append(order.gain)
            if order.draws:
                rows = np.arange(len(drafts), len(drafts) + order.draws)
                more = yield from extend(task.begin(task.key.at("start").seeds(rows)))
                drafts = drafts.concat(more)
                rewards = np.append(rewards, (yield from score(more, strict=False)))
                yield from note("drawn", draws=order.draws, total=len(drafts), expected_gain=order.gain)
            if order.last:
                break
            report = Report(rewards, int(drafts.steps.sum()), room, reference, length)
            order = yield from share(report, lambda reports: self._settle(reports, len(draws)))
        if np.isnan(rewards).all():
            rewards = yield from score(drafts)
        spent = {"draws": draws, "expected_gain": worth[1:]}
        return Outcome(drafts, rewards, chosen=best(rewards), notes=spent)

    def _reference(self, task: Task) -> tuple[NDArray[np.float64], float]:
        """The prompt's reference rewards, and how many tokens a reference response has; none without a calibration."""
        known = self.known(task)
        if known is None or self.calibrated is None:
            return np.zeros(0), 0.0
        return known, self.calibrated.length_of(task.prompt)

    def _settle(self, reports: Sequence[Report], done: int) -> list[Order]:
        """The orders for the next round, after `done` rounds, given the reports of the whole batch."""
        k, to_come = len(reports), max(1, self.rounds - done)
        drawn = np.array([len(report.rewards) for report in reports])
        left = self.n * k - int(drawn.sum())
        if self.rounds == 1 or left <= 0:
            return [Order(0, 0.0, last=True)] * k
        own = _table([report.rewards for report in reports])
        known = _table([np.append(report.rewards, report.reference) for report in reports])
        best_so_far = None if self.calibration is None else np.nanmax(own, axis=1)
        spent = np.array([report.tokens for report in reports])
        cost = np.array([report.cost for report in reports])
        estimate = gains(known, self.estimator, self.units, cost, best_so_far)
        worth = estimate.marginal(np.arange(k), np.zeros(1, dtype=np.int64))[:, 0]
        if self.tokens is None:
            amount = max(1, left // to_come)
            given, last = self._by_draws(own, estimate, amount), amount == left
        else:
            budget = self.tokens * k
            spare = max(0, budget - int(spent.sum()))
            room = np.array([report.room for report in reports], dtype=np.float64)
            given = allocate_cost(estimate, max(spare / to_come, cost.max()), cost, room, spare, left)
            if drawn.max() == 1 and not given.any():  # of one draw nothing is known
                given = (np.cumsum(room) <= spare).astype(np.int64)
            last = not given.any() or (to_come == 1 and spare <= SPARE * budget)
        return [Order(int(draws), float(gain), last) for draws, gain in zip(given, worth, strict=True)]

    def _by_draws(self, table: NDArray[np.float64], estimate: Gains, amount: int) -> Counts:
        if self.rule == "variance":
            return by_deviation(table, amount)
        if self.rule == "ucb":
            return by_upper_confidence(table, amount)
        return allocate(estimate, amount, (~np.isnan(table)).sum(axis=1))


def _table(rows: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Rewards of several prompts, float64 [K, n]: -inf for a score that is missing, NaN for what there is none of."""
    table = np.full((len(rows), max(map(len, rows))), np.nan)
    for place, rewards in zip(table, rows, strict=True):
        place[: len(rewards)] = np.where(np.isnan(rewards), -np.inf, rewards)
    return table
