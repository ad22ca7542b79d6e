"""The keys and values of the rows that grow, as a Transformers `Cache`: lanes of different lengths in one batch.

Every layer owns two tensors [R, H, L, D]: R lanes, H heads, L positions, D numbers a head. Lane r holds the keys of one
row in positions 0 .. length(r)-1; what lies behind is left over from earlier rows and is masked. The growing rows are lanes
0 .. A-1, so that what attention reads is a *view*, `keys[:A, :, :width]`, and a step copies nothing but the A new entries:

    row in lane 0   k k k k k k k n . . .        n: written in this step, at the row's own position
    row in lane 1   k k k n . . . . . . .        .: masked
    row in lane 2   k k k k k n . . . . .
    (idle lane 3)   k k k k . . . . . . .        outside the view

The model is unchanged: it calls `update` on this cache as on any other, with explicit `position_ids` and an additive 4-D
mask, which Transformers hands through to attention as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

Layers: TypeAlias = list[tuple[Tensor, Tensor]]
"""Keys and values of one row: a layer at a time, each [1, H, n, D]."""


class Aim:
    """Where the next step writes and how far it reads; shared by all layers."""

    def __init__(self) -> None:
        self.rows = 0
        self.width = 0
        self.positions = torch.zeros(0, dtype=torch.long)
        self._entries: dict[tuple[int, int], Tensor] = {}

    def set(self, positions: Tensor, width: int) -> None:
        """Write at `positions`, int64 [A], of lanes 0 .. A-1 and read the first `width` positions."""
        self.rows, self.width, self.positions = len(positions), width, positions
        self._entries.clear()

    def entries(self, heads: int, length: int) -> Tensor:
        """The entries to write in a tensor [R, heads, length, D] seen as [R * heads * length, D]: int64 [A * heads]."""
        if (heads, length) not in self._entries:
            first = torch.arange(self.rows * heads, device=self.positions.device) * length
            self._entries[heads, length] = first + self.positions.repeat_interleave(heads)
        return self._entries[heads, length]


class RaggedLayer(CacheLayerMixin):
    """One layer's lanes."""

    is_sliding = False

    def __init__(self, like: tuple[Tensor, Tensor], rows: int, length: int, aim: Aim) -> None:
        super().__init__()
        self.keys, self.values = (t.new_zeros(rows, t.shape[1], length, t.shape[3]) for t in like)
        self.is_initialized = True
        self._aim = aim

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the lanes are there from the beginning."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one position a row, [A, H, 1, D], and return all that attention may read, [A, H, width, D]."""
        aim = self._aim
        seen = []
        for lanes, new in ((self.keys, key_states), (self.values, value_states)):
            _, heads, length, size = lanes.shape
            lanes.view(-1, size).index_copy_(0, aim.entries(heads, length), new.reshape(-1, size))
            seen.append(lanes[: aim.rows, :, : aim.width])
        return seen[0], seen[1]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The width of the mask and its offset."""
        return self._aim.width, 0

    def get_seq_length(self) -> int:
        """Positions before this step's; only a bound, as rows differ. Position ids are always given explicitly."""
        return max(self._aim.width - 1, 0)

    def get_max_length(self) -> int:
        """Positions a lane can hold before it grows."""
        return int(self.keys.shape[2])

    def resize(self, rows: int, length: int) -> None:
        """More lanes, or longer ones; what they hold stays."""
        for name in ("keys", "values"):
            old = getattr(self, name)
            new = old.new_zeros(rows, old.shape[1], length, old.shape[3])
            new[: old.shape[0], :, : old.shape[2]] = old
            setattr(self, name, new)


class RaggedCache(Cache):
    """All layers' lanes. Create it from the keys and values of a first row, which fix shapes, types and device."""

    layers: list[RaggedLayer]

    def __init__(self, like: Layers, rows: int, length: int) -> None:
        self.aim = Aim()
        self.rows, self.length = rows, length
        super().__init__(layers=[RaggedLayer(pair, rows, length, self.aim) for pair in like])

    def reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` lanes of `length` positions."""
        if rows > self.rows or length > self.length:
            self.rows, self.length = max(rows, self.rows), max(length, self.length)
            for layer in self.layers:
                layer.resize(self.rows, self.length)

    def _tensors(self) -> Iterable[Tensor]:
        for layer in self.layers:
            yield layer.keys
            yield layer.values

    def view(self, lane: int, size: int) -> Layers:
        """The first `size` positions of a lane, not copied."""
        return [(la.keys[lane : lane + 1, :, :size], la.values[lane : lane + 1, :, :size]) for la in self.layers]

    def load(self, lanes: Sequence[int], row: Layers, size: int) -> None:
        """Copy the first `size` positions of one row into each of `lanes`."""
        if not size:
            return
        flat = [t for pair in row for t in pair]
        first, count = lanes[0], len(lanes)
        together = list(lanes) == list(range(first, first + count))
        for mine, given in zip(self._tensors(), flat, strict=True):
            if together:
                mine[first : first + count, :, :size] = given[:, :, :size]
            else:
                for lane in lanes:
                    mine[lane, :, :size] = given[0, :, :size]

    def move(self, source: int, target: int, size: int, keep: int) -> None:
        """Move `size` positions of lane `source` to `target`, and `keep` positions the other way."""
        for mine in self._tensors():
            kept = mine[target, :, :keep].clone() if keep else None
            mine[target, :, :size] = mine[source, :, :size]
            if kept is not None:
                mine[source, :, :keep] = kept
