"""The numbers of the growing rows, a lane each, in arrays: a step is a few array operations, whatever the batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(eq=False)
class Board:
    """R lanes.

    tokens: int32 [R, L], prompt and response. logps: float32 [R, L], log-probabilities of the response's tokens.
    size: tokens so far. start: those of the prompt. entered: size when the row came in. limit: size at which the
    extension is over. tested: size from which the entropy is tested. threshold: entropy that ends the extension, inf
    for none. fed: positions this row has cost. seeds: its noise. law, stop: indices of its law and its stop strings.
    ends: whether the end-of-sequence token ends it. growing: whether there is a row. ticket: number of its ticket. row:
    index in the ticket's drafts.
    """

    tokens: NDArray[np.int32]
    logps: NDArray[np.float32]
    size: NDArray[np.int64]
    start: NDArray[np.int64]
    entered: NDArray[np.int64]
    limit: NDArray[np.int64]
    tested: NDArray[np.int64]
    threshold: NDArray[np.float64]
    fed: NDArray[np.int64]
    seeds: NDArray[np.uint64]
    law: NDArray[np.int64]
    stop: NDArray[np.int64]
    ends: NDArray[np.bool_]
    growing: NDArray[np.bool_]
    ticket: NDArray[np.int64]
    row: NDArray[np.int64]

    @classmethod
    def of(cls, rows: int) -> Board:
        """An empty board."""

        def zeros() -> NDArray[np.int64]:
            return np.zeros(rows, dtype=np.int64)

        return cls(
            tokens=np.zeros((rows, 0), dtype=np.int32),
            logps=np.zeros((rows, 0), dtype=np.float32),
            size=zeros(),
            start=zeros(),
            entered=zeros(),
            limit=zeros(),
            tested=zeros(),
            threshold=np.full(rows, np.inf),
            fed=zeros(),
            seeds=np.zeros(rows, dtype=np.uint64),
            law=zeros(),
            stop=zeros(),
            ends=np.ones(rows, dtype=np.bool_),
            growing=np.zeros(rows, dtype=np.bool_),
            ticket=zeros(),
            row=zeros(),
        )

    def widen(self, length: int) -> None:
        """Make room for `length` tokens a row."""
        more = length - self.tokens.shape[1]
        if more > 0:
            more = max(more, self.tokens.shape[1])
            self.tokens = np.pad(self.tokens, ((0, 0), (0, more)))
            self.logps = np.pad(self.logps, ((0, 0), (0, more)))

    def move(self, source: int, target: int) -> None:
        """A row changes its lane."""
        for array in vars(self).values():
            array[target] = array[source]
        self.growing[source] = False
