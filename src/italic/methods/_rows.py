"""What stepwise methods share: rows of a batch that are replaced by their children, and the choice among the last."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts
from italic.core.errors import RewardError
from italic.core.protocols import Task
from italic.values.kinds import Value, build_value

D = TypeVar("D", bound=Drafts)

LOWEST = -1e300
"""A log-weight of -inf ranks so among what must be chosen from: above a score that is missing."""

Rows = NDArray[np.int64]

SHIFT = 32
"""A row has room for 2^32 children in the numbering of `children`."""


def children(rows: Rows, tries: Rows) -> Rows:
    """Numbers for the children of rows [k] on tries [t], int64 [k * t], row by row: they name the children's noise."""
    return ((rows[:, None] << SHIFT) | tries[None, :]).ravel()


def replaced(drafts: D, rows: Rows, others: D) -> D:
    """The batch with `others` in place of its rows `rows`, in that order."""
    if len(rows) == len(drafts):
        order = np.empty(len(rows), dtype=np.int64)
        order[rows] = np.arange(len(rows))
        return others[order]
    order = np.arange(len(drafts))
    order[rows] = len(drafts) + np.arange(len(rows))
    return drafts.concat(others)[order]


def ranked(heights: NDArray[np.float64]) -> NDArray[np.float64]:
    """The heights, float64 [...], to take the largest of: those of -inf above those that are missing, NaN."""
    return np.where(np.isnan(heights), -np.inf, np.maximum(heights, LOWEST))


def first_scored(rewards: NDArray[np.float64], task: Task) -> int:
    """The first row that has a score. Raises RewardError if none of these rows, the answers of a run, has one."""
    scored = np.flatnonzero(~np.isnan(rewards))
    if not len(scored):
        raise RewardError(
            f"every score that an answer to prompt {task.prompt.id!r} could be chosen by is missing",
            hint="Try the reward on this prompt alone: `italic doctor` shows what it answers.",
        )
    return int(scored[0])


def steered_needs(value: str | Value) -> frozenset[str]:
    """What a method needs that goes on from unfinished drafts by their values."""
    return frozenset({"resume"}) | build_value(value).needs
