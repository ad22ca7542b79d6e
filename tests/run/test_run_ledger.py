"""The account: prices, the clock, what is left."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runkit import Clock

from italic.core.errors import UsageError
from italic.core.outcome import Usage
from italic.run.ledger import UNLIMITED, Budget, Ledger


def test_without_a_budget_nothing_runs_out() -> None:
    ledger = Ledger()
    ledger.add(Usage(tokens_generated=10**12, reward_calls=10**12))
    assert ledger.budget is UNLIMITED
    assert ledger.tokens_left() == (None, "tokens")
    assert ledger.scores_left() == (None, "reward_calls")
    assert not ledger.late()
    assert ledger.usage.cost == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tokens": -1}, "a budget with tokens = -1"),
        ({"seconds": math.nan}, "a budget with seconds = nan"),
        ({"reward_price": -0.5}, "a budget with reward_price = -0.5"),
        ({"cost": 1.0}, "a budget of cost needs prices"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(values: dict[str, float], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Budget(**values)  # type: ignore[arg-type]
    assert caught.value.hint


def test_what_is_left_is_the_smallest_of_all() -> None:
    ledger = Ledger(Budget(tokens=100, reward_calls=10, cost=1.0, token_price=20_000, reward_price=200))
    assert ledger.tokens_left() == (50, "cost")
    assert ledger.scores_left() == (5, "cost")
    ledger.add(Usage(tokens_generated=40))
    assert ledger.usage.cost == pytest.approx(0.8)
    assert ledger.tokens_left() == (10, "cost")
    assert ledger.scores_left() == (1, "cost")
    ledger = Ledger(Budget(tokens=100, reward_calls=10, cost=1e9, token_price=1, reward_price=1))
    ledger.add(Usage(tokens_generated=99, reward_calls=10))
    assert ledger.tokens_left() == (1, "tokens")
    assert ledger.scores_left() == (0, "reward_calls")


def test_more_than_all_is_nothing_left() -> None:
    ledger = Ledger(Budget(tokens=5, reward_calls=5))
    ledger.add(Usage(tokens_generated=9, reward_calls=9))
    assert ledger.tokens_left() == (0, "tokens")
    assert ledger.scores_left() == (0, "reward_calls")


def test_a_price_of_one_kind_bounds_that_kind_only() -> None:
    tokens = Ledger(Budget(cost=1.0, token_price=1e6))
    assert tokens.tokens_left() == (1, "cost")
    assert tokens.scores_left() == (None, "reward_calls")
    scores = Ledger(Budget(cost=1.0, reward_price=1e3))
    assert scores.scores_left() == (1, "cost")
    assert scores.tokens_left() == (None, "tokens")


def test_time_is_up_when_the_clock_says_so() -> None:
    clock = Clock(50.0)
    ledger = Ledger(Budget(seconds=2.0), clock)
    assert ledger.usage.seconds == 0
    assert not ledger.late()
    clock.now = 51.9
    assert ledger.tokens_left() == (None, "tokens")
    clock.now = 52.0
    assert ledger.late()
    assert ledger.tokens_left() == (0, "seconds")
    assert ledger.scores_left() == (0, "seconds")
    assert ledger.usage.seconds == 2.0


def test_tokens_under_way_count() -> None:
    ledger = Ledger(Budget(tokens=10, cost=20.0, token_price=1e6))
    ledger.growing(4)
    assert ledger.tokens_left() == (6, "tokens")
    assert ledger.usage.tokens_generated == 4
    assert ledger.usage.cost == pytest.approx(4.0)
    ledger.add(Usage(tokens_generated=4))
    ledger.growing(0)
    assert ledger.tokens_left() == (6, "tokens")


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1e6), st.floats(0, 1e4), st.floats(0, 1e4))
def test_what_is_left_can_be_paid(tokens: int, calls: int, cost: float, price: float, other: float) -> None:
    if price == other == 0:
        return
    ledger = Ledger(Budget(cost=cost, token_price=price, reward_price=other))
    ledger.add(Usage(tokens_generated=tokens, reward_calls=calls))
    assert ledger.usage.cost == ledger.price(ledger.usage)
    left, _ = ledger.tokens_left()
    if left:
        ledger.add(Usage(tokens_generated=left))
        assert ledger.usage.cost <= cost * (1 + 1e-9) + price * 1e-14
