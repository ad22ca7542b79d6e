"""What stepwise methods share: rows of a batch that are replaced by their children."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts
from italic.values.kinds import Value

D = TypeVar("D", bound=Drafts)

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


def steered_needs(value: Value) -> frozenset[str]:
    """What a method needs that goes on from unfinished drafts by their values."""
    return frozenset({"resume"}) | value.needs
