"""The slow path, obviously right: every step computes every row from its first token, without a cache.

For models that keep something else than keys and values of every position (sliding windows, linear attention, state
spaces), and as what the fast path is held to in tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from italic.models.transformers.lanes import Place, Row
from italic.models.transformers.network import Network
from italic.models.transformers.strands import Tokens


class Plain:
    """Lanes without memory."""

    def __init__(self, network: Network) -> None:
        self.calls = 0
        self._network = network
        self._growing: set[int] = set()

    def enter(self, rows: Sequence[Row]) -> list[Place]:
        """See `Lanes`."""
        places = []
        for _ in rows:
            lane = next(i for i in range(len(self._growing) + 1) if i not in self._growing)
            self._growing.add(lane)
            places.append(Place(lane, None, 0))
        return places

    def pack(self, sizes: NDArray[np.int64]) -> list[tuple[int, int]]:
        """See `Lanes`."""
        count = len(self._growing)
        gaps = [i for i in range(count) if i not in self._growing]
        moves = list(zip(sorted(i for i in self._growing if i >= count), gaps, strict=True))
        self._growing = set(range(count))
        return moves

    def forward(self, tokens: NDArray[np.int32], sizes: NDArray[np.int64]) -> Tensor:
        """See `Lanes`."""
        self.calls += 1
        return self._network.whole(tokens, sizes)

    def cost(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """Every position of every row."""
        return sizes.copy()

    def leave(self, lane: int, tokens: Tokens, logits: Tensor | None) -> None:
        """See `Lanes`."""
        self._growing.discard(lane)
