"""What a session asks of the network: rows come, grow by one token a step, and leave.

`Lanes` is that role. `ragged.Ragged` plays it with keys and values that are kept, `plain.Plain` by computing everything
again in every step. The session, and so sampling, stopping and accounting, is the same for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from italic.models.transformers.strands import Note, Tokens


@dataclass(frozen=True, eq=False)
class Row:
    """A row that wants to grow. tokens: int32 [n], prompt and response. start: the prompt's length. note: memory."""

    tokens: Tokens
    start: int
    note: Note | None


@dataclass(frozen=True, eq=False)
class Place:
    """Where a row grows. logits: [V], what follows its tokens, if known. positions: what it cost to find a place."""

    lane: int
    logits: Tensor | None
    positions: int


class Lanes(Protocol):
    """Rows of one batch. A row keeps its lane until `pack` moves it."""

    calls: int
    """Forward passes so far."""

    def enter(self, rows: Sequence[Row]) -> list[Place]:
        """Find a lane for each row; there must be as many free ones."""

    def pack(self, sizes: NDArray[np.int64]) -> list[tuple[int, int]]:
        """Close the gaps, so that the rows are in lanes 0 .. A-1. Returns the moves, (from, to).

        sizes: int64 [R], tokens of the row in each lane.
        """

    def forward(self, tokens: NDArray[np.int32], sizes: NDArray[np.int64]) -> Tensor:
        """The logits that follow each row's tokens, [A, V].

        tokens: int32 [A, L], the tokens of lanes 0 .. A-1, of which `sizes`, int64 [A], count. Since the last call a
        row has grown by the one token that was drawn.
        """

    def cost(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions that one `forward` takes for each row: int64 [A]."""

    def leave(self, lane: int, tokens: Tokens, logits: Tensor | None) -> Any:
        """The row stops growing. logits: what follows its tokens, if known. Returns its memory."""
