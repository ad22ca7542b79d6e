"""A method run by a driver, and its outcomes beside another's."""

from __future__ import annotations

import numpy as np

from italic.core.outcome import Outcome, Usage
from italic.rewards.toy import ToyReward
from italic.run.event import event_driven
from italic.run.ledger import Budget, Ledger


def driven(
    tasks, method, model, *, reward=None, budget: Budget | None = None, driver=event_driven
) -> tuple[list[Outcome], Usage]:
    """The outcomes in the order of the tasks, and what they cost; the reward is a toy unless another is given."""
    ledger = Ledger() if budget is None else Ledger(budget)
    results = driver(tasks, method, model, ToyReward(seed=1) if reward is None else reward, ledger)
    return [r.outcome for r in sorted(results, key=lambda r: r.order)], ledger.usage


def draws(outcomes) -> list[int]:
    return [len(outcome.drafts) for outcome in outcomes]


def same(mine, theirs) -> None:
    """To the token."""
    assert [t.tolist() for t in mine.drafts.tokens] == [t.tolist() for t in theirs.drafts.tokens]
    assert np.array_equal(mine.drafts.seeds, theirs.drafts.seeds)
    assert np.array_equal(mine.rewards, theirs.rewards, equal_nan=True)
    assert mine.chosen == theirs.chosen
