"""The keys and values of the rows that grow, as a Transformers `Cache`: lanes of different lengths in one batch.

A lane holds one row: position i of its token sequence at index i. What lies behind the row's end is left over from
earlier rows and is masked. The growing rows are lanes 0 .. A-1, so that what attention reads is a *view* of the first
`width` positions, and a step copies nothing but the A new entries:

    lane 0   k k k k k k k n . . .        n: written in this step, at the row's own position
    lane 1   k k k n . . . . . . .        .: masked
    lane 2   k k k k k n . . . . .
    (idle)   k k k k . . . . . . .        outside the view

The model is unchanged: it calls `update` on this cache as on any other, with explicit `position_ids` and an additive
4-D mask, which Transformers hands through to attention as they are.

All keys and values of one shape, in most models those of all layers, are one tensor [m, R, L, H, D]: m keys or values,
R lanes, L positions, H heads, D numbers a head. So a row is copied in or out in one operation, whatever the depth.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

Stack: TypeAlias = list[Tensor]
"""The keys and values of one row of n positions: tensors [m, n, H, D], one for each shape."""


class Layout:
    """Which keys and values of a model are stacked: those of equal shape, type and device."""

    def __init__(self, row: DynamicCache) -> None:
        self._depth = len(row.layers)
        found: dict[tuple[Any, ...], list[tuple[int, int]]] = {}
        for index, pair in enumerate(_pairs(row)):
            for which, tensor in enumerate(pair):
                kind = (tensor.shape[1], tensor.shape[3], tensor.dtype, tensor.device)
                found.setdefault(kind, []).append((index, which))
        self.groups: list[list[tuple[int, int]]] = list(found.values())

    def stack(self, row: DynamicCache) -> Stack:
        """The keys and values of a row that went through the network alone."""
        pairs = _pairs(row)
        return [torch.stack([pairs[i][which][0].transpose(0, 1) for i, which in group]) for group in self.groups]

    def unstack(self, row: Stack, size: int) -> DynamicCache:
        """The first `size` positions of a row as a cache of its own."""
        pairs: list[list[Tensor]] = [[] for _ in range(self._depth)]
        for group, tensor in zip(self.groups, row, strict=True):
            for (index, _), one in zip(group, tensor[:, :size].transpose(1, 2), strict=True):
                pairs[index].append(one[None])
        cache = DynamicCache()
        for index, (keys, values) in enumerate(pairs):
            cache.update(keys, values, index)
        return cache


def _pairs(row: Any) -> list[tuple[Tensor, Tensor]]:
    return [(layer.keys, layer.values) for layer in row.layers]


def write(lanes: Tensor, entries: Tensor, new: Tensor) -> None:
    """Write one position a row: new, [A, H, 1, D], at `entries`, int64 [A], of lanes [R, L, H, D] counted through."""
    lanes.view(lanes.shape[0] * lanes.shape[1], -1).index_copy_(0, entries, new.reshape(new.shape[0], -1))


write_opaque = torch.library.custom_op("italic::write", write, mutates_args=("lanes",))
"""`write` for a compiled network: the compiler, looking into it, would copy all lanes to change one position."""


class Aim:
    """Where the next step writes and how far it reads; shared by all layers."""

    def __init__(self) -> None:
        self.rows = 0
        self.width = 0
        self.entries = torch.zeros(0, dtype=torch.long)


class RaggedLayer(CacheLayerMixin):
    """One layer's lanes: keys and values [R, L, H, D]."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self, aim: Aim) -> None:
        super().__init__()
        self.is_initialized = True
        self._aim = aim

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing to do: the lanes are there from the beginning."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Write one position a row, [A, H, 1, D], and return all that attention may read, [A, H, width, D]."""
        return self._write(self.keys, key_states), self._write(self.values, value_states)

    def _write(self, lanes: Tensor, new: Tensor) -> Tensor:
        aim = self._aim
        (write_opaque if torch.compiler.is_compiling() else write)(lanes, aim.entries, new)
        return lanes[: aim.rows, : aim.width].transpose(1, 2)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The width of the mask and its offset."""
        return self._aim.width, 0

    def get_seq_length(self) -> int:
        """The longest row before this step: a bound, as rows differ. Position ids are always given explicitly."""
        return max(self._aim.width - 1, 0)

    def get_max_length(self) -> int:
        """Positions a lane can hold before it grows."""
        return int(self.keys.shape[1])


class RaggedCache(Cache):
    """All layers' lanes, shaped like a first row."""

    def __init__(self, layout: Layout, like: Stack, rows: int, length: int) -> None:
        self.aim = Aim()
        self.rows, self.length = rows, length
        self._layout = layout
        self._blocks = [t.new_zeros(t.shape[0], rows, length, *t.shape[2:]) for t in like]
        super().__init__(layers=[RaggedLayer(self.aim) for group in layout.groups for _, which in group if which == 0])
        self._share()

    def _share(self) -> None:
        """Point every layer at its part of the blocks."""
        for group, block in zip(self._layout.groups, self._blocks, strict=True):
            for (index, which), part in zip(group, block, strict=True):
                setattr(self.layers[index], "values" if which else "keys", part)

    def reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` lanes of `length` positions; what the lanes hold stays."""
        if rows <= self.rows and length <= self.length:
            return
        self.rows, self.length = max(rows, self.rows), max(length, self.length)
        for i, old in enumerate(self._blocks):
            self._blocks[i] = old.new_zeros(old.shape[0], self.rows, self.length, *old.shape[3:])
            self._blocks[i][:, : old.shape[1], : old.shape[2]] = old
        self._share()

    def point(self, positions: Tensor, width: int) -> None:
        """The next step writes at `positions`, int64 [A], of lanes 0 .. A-1 and reads the first `width`."""
        lanes = torch.arange(len(positions), device=positions.device)
        self.aim.rows, self.aim.width = len(positions), width
        self.aim.entries = lanes * self.length + positions

    def view(self, lane: int, size: int) -> Stack:
        """The first `size` positions of a lane, not copied."""
        return [block[:, lane, :size] for block in self._blocks]

    def load(self, lanes: Sequence[int], row: Stack, size: int) -> None:
        """Copy the first `size` positions of one row into each of `lanes`."""
        first, count = lanes[0], len(lanes)
        together = list(lanes) == list(range(first, first + count))
        for block, given in zip(self._blocks, row, strict=True):
            if together:
                block[:, first : first + count, :size] = given[:, None, :size]
            else:
                for lane in lanes:
                    block[:, lane, :size] = given[:, :size]

    def move(self, source: int, target: int, size: int, keep: int) -> None:
        """Move `size` positions of lane `source` to lane `target`, and `keep` positions the other way."""
        for block in self._blocks:
            kept = block[:, target, :keep].clone()
            block[:, target, :size] = block[:, source, :size]
            block[:, source, :keep] = kept
