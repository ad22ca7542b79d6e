"""Keys and values of what a reward model has read: blocks of rows, found again by their longest common prefix."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Layers = Sequence[tuple[Tensor, Tensor]]


@dataclass(frozen=True, eq=False)
class Block:
    """The rows of one forward pass. ids: int32 [n, T], padded with -1. layers: for each layer keys and values, both
    [n, heads, T, width]; where ids is -1 they mean nothing. Never changed."""

    ids: NDArray[np.int32]
    layers: Layers

    @property
    def size(self) -> int:
        """Bytes of keys and values."""
        return sum(t.nbytes for layer in self.layers for t in layer)


@dataclass(frozen=True, eq=False)
class Found:
    """A prefix that was read before: the first `length` tokens of row `row` of a block."""

    block: Block
    row: int
    length: int


class Prefixes:
    """Blocks, filed under the prompts of their rows. Beyond `limit` bytes the longest unused are dropped."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.size = 0
        self._blocks: OrderedDict[int, tuple[frozenset[Hashable], Block]] = OrderedDict()
        self._files: dict[Hashable, list[int]] = {}
        self._count = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def find(self, file: Hashable, ids: NDArray[np.int32]) -> Found | None:
        """The longest prefix of `ids` that a block in this file has; the block counts as just used."""
        name, best = -1, None
        for candidate in reversed(self._files.get(file, ()) if len(ids) else ()):
            block = self._blocks[candidate][1]
            width = min(len(ids), block.ids.shape[1])
            differ = block.ids[:, :width] != ids[:width]
            lengths = np.where(differ.any(axis=1), differ.argmax(axis=1), width)
            row = int(lengths.argmax())
            if lengths[row] > (0 if best is None else best.length):
                name, best = candidate, Found(block, row, int(lengths[row]))
        if best is not None:
            self._blocks.move_to_end(name)
        return best

    def add(self, files: frozenset[Hashable], block: Block) -> None:
        """Keep a block in the files of its rows; others make room for it, unless it is larger than the store."""
        if block.size > self.limit:
            return
        while self.size + block.size > self.limit:
            name, (old_files, old) = self._blocks.popitem(last=False)
            self.size -= old.size
            for file in old_files:
                self._files[file].remove(name)
                if not self._files[file]:
                    del self._files[file]
        self._count += 1
        self.size += block.size
        self._blocks[self._count] = files, block
        for file in files:
            self._files.setdefault(file, []).append(self._count)
