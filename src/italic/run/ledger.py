"""The account of a run, and the hard budgets that end it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

from italic.core.errors import UsageError
from italic.core.outcome import Usage


@dataclass(frozen=True)
class Budget:
    """Hard limits on a whole run; None is no limit. What is asked for beyond them is not done.

    tokens: tokens generated. reward_calls: drafts scored. seconds: wall time. cost: in any currency, with the prices
    token_price (per million generated tokens) and reward_price (per thousand scored drafts).
    """

    tokens: int | None = None
    reward_calls: int | None = None
    seconds: float | None = None
    cost: float | None = None
    token_price: float = 0.0
    reward_price: float = 0.0

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if value is not None and not value >= 0:
                raise UsageError(f"a budget with {item.name} = {value}", hint="Give a number of 0 or more.")
        if self.cost is not None and self.token_price == self.reward_price == 0:
            raise UsageError(
                "a budget of cost needs prices",
                hint="Give token_price (per million tokens), reward_price (per thousand drafts), or both.",
            )


UNLIMITED = Budget()


class Ledger:
    """What a run has spent so far. Filled by the drivers; methods never see it."""

    def __init__(self, budget: Budget = UNLIMITED, clock: Callable[[], float] = time.perf_counter) -> None:
        self.budget = budget
        self.clock = clock
        self._began = clock()
        self._usage = Usage()
        self._growing = 0

    @property
    def usage(self) -> Usage:
        """The total: of the prompts that are through, those under way, and those that failed."""
        tokens = self._usage.tokens_generated + self._growing
        cost = self._cost(tokens, self._usage.reward_calls)
        return replace(self._usage, tokens_generated=tokens, seconds=self.clock() - self._began, cost=cost)

    def _cost(self, tokens: int, reward_calls: int) -> float:
        return tokens * self.budget.token_price / 1e6 + reward_calls * self.budget.reward_price / 1e3

    def price(self, usage: Usage) -> float:
        """What a part of the run costs."""
        return self._cost(usage.tokens_generated, usage.reward_calls)

    def add(self, usage: Usage) -> None:
        """Book what was spent."""
        self._usage += usage

    def growing(self, tokens: int) -> None:
        """Tell how many tokens the extensions under way have generated so far, in all."""
        self._growing = tokens

    def late(self) -> bool:
        """Whether the time is up."""
        return self.budget.seconds is not None and self.clock() - self._began >= self.budget.seconds

    def tokens_left(self) -> tuple[int | None, str]:
        """How many more tokens may be generated (None: any number), and which budget says so."""
        if self.late():
            return 0, "seconds"
        usage = self.usage
        left: tuple[float, str] = (math.inf, "tokens")
        if self.budget.tokens is not None:
            left = min(left, (self.budget.tokens - usage.tokens_generated, "tokens"))
        if self.budget.cost is not None and self.budget.token_price:
            left = min(left, ((self.budget.cost - usage.cost) / self.budget.token_price * 1e6, "cost"))
        return _whole(left)

    def scores_left(self) -> tuple[int | None, str]:
        """How many more drafts may be scored (None: any number), and which budget says so."""
        if self.late():
            return 0, "seconds"
        usage = self.usage
        left: tuple[float, str] = (math.inf, "reward_calls")
        if self.budget.reward_calls is not None:
            left = min(left, (self.budget.reward_calls - usage.reward_calls, "reward_calls"))
        if self.budget.cost is not None and self.budget.reward_price:
            left = min(left, ((self.budget.cost - usage.cost) / self.budget.reward_price * 1e3, "cost"))
        return _whole(left)


def _whole(left: tuple[float, str]) -> tuple[int | None, str]:
    amount, resource = left
    return (None if math.isinf(amount) else max(0, math.floor(amount + 1e-9))), resource
