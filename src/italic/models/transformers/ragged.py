"""The fast path: every row keeps its keys and values, in a lane while it grows and for as long as possible after.

A prompt goes through the network once, alone, so that its result does not depend on what else is going on, and is
copied into the lane of each of its rows. A row that leaves stays where it is, *idle*, until its lane is needed; if it
comes back before that, nothing is copied. If not, it is put on the shelf. Rolling a row back needs no work at all: a
shorter row simply finds a longer strand, and uses the front of it.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from italic.models.transformers.cache import RaggedCache, Stack
from italic.models.transformers.lanes import Place, Row
from italic.models.transformers.network import Network
from italic.models.transformers.strands import Note, Shelf, Strand, Tokens

STRIDE = 128
"""Lanes are at least this long and grow by doubling."""


class Prompts:
    """The prompts that went through the network last: their strands and the logits that follow."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, tuple[Strand, Tensor]] = OrderedDict()

    def get(self, tokens: Tokens) -> tuple[Strand, Tensor] | None:
        """A prompt whose keys and values are still there."""
        found = self._kept.get(tokens.tobytes())
        if found is None or found[0].shared(tokens) < len(tokens):
            return None
        self._kept.move_to_end(tokens.tobytes())
        return found

    def put(self, tokens: Tokens, strand: Strand, logits: Tensor) -> None:
        """Remember a prompt, and forget the one unused for longest."""
        self._kept[tokens.tobytes()] = (strand, logits)
        self._kept.move_to_end(tokens.tobytes())
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)


@dataclass(eq=False)
class Source:
    """Where a row's keys and values come from. logits: what follows its tokens, if known. positions: what it cost."""

    row: Stack
    size: int
    logits: Tensor | None
    positions: int


class Ragged:
    """Lanes over a `RaggedCache`. `shelf` and `prompts` belong to the model and outlive this session."""

    def __init__(self, network: Network, rows: int, shelf: Shelf, prompts: Prompts) -> None:
        self.calls = 0
        self._network = network
        self._most = rows
        self._shelf = shelf
        self._prompts = prompts
        self._cache: RaggedCache | None = None
        self._growing: dict[int, Strand] = {}
        self._idle: dict[int, weakref.ref[Strand]] = {}

    def enter(self, rows: Sequence[Row]) -> list[Place]:
        """See `Lanes`. Rows that lie idle in a lane go on there; the others are loaded, equal beginnings together."""
        places: dict[int, Place] = {}
        for i, row in enumerate(rows):
            place = self._resume(row)
            if place is not None:
                places[i] = place
        rest = [i for i in range(len(rows)) if i not in places]
        while rest:
            first = rows[rest[0]]
            alike = [i for i in rest if rows[i].tokens is first.tokens and rows[i].note is first.note]
            places.update(zip(alike, self._load(first, len(alike)), strict=True))
            rest = [i for i in rest if i not in places]
        return [places[i] for i in range(len(rows))]

    def _resume(self, row: Row) -> Place | None:
        """Go on in the lane where the row lies, if nothing else than the row lies there."""
        strand = row.note.strand if row.note else None
        if row.note is None or strand is None or not strand.lives_in(self._cache) or strand.lane in self._growing:
            return None
        logits = row.note.known(row.tokens)
        needed = len(row.tokens) - (logits is None)
        if strand.shared(row.tokens) < max(needed, len(strand.tokens)):
            return None
        del self._idle[strand.lane]
        self._growing[strand.lane] = strand
        return Place(strand.lane, logits, 0)

    def _load(self, row: Row, count: int) -> list[Place]:
        """Put `count` rows with the same tokens into free lanes."""
        source = self._find(row)
        cache = self._room(source.row, len(row.tokens))
        lanes = [self._free(cache) for _ in range(count)]
        cache.load(lanes, source.row, source.size)
        places = []
        for i, lane in enumerate(lanes):
            self._growing[lane].tokens = row.tokens[: source.size]
            self._growing[lane].settle(cache, lane)
            places.append(Place(lane, source.logits, source.positions if i == 0 else 0))
        return places

    def _find(self, row: Row) -> Source:
        """The longest beginning of the row that is still there, completed to what the next step needs."""
        tokens, start = row.tokens, row.start
        if row.note is not None and len(tokens) > start:
            logits = row.note.known(tokens)
            needed, strand = len(tokens) - (logits is None), row.note.strand
            if strand.shared(tokens) >= needed:
                self._shelf.use(strand)
                return Source(_there(strand), needed, logits, 0)
        strand, after, positions = self._prompt(tokens[:start])
        if len(tokens) == start:
            return Source(_there(strand), start, after, positions)
        if len(tokens) == start + 1:
            return Source(_there(strand), start, None, positions)
        if row.note is not None and row.note.strand.shared(tokens) > start:
            strand = row.note.strand
        have = strand.shared(tokens)
        whole, logits = self._prefill(tokens, _there(strand), have)
        return Source(whole, len(tokens), logits, positions + len(tokens) - have)

    def _prompt(self, tokens: Tokens) -> tuple[Strand, Tensor, int]:
        """A prompt's strand, the logits that follow it, and the positions it took to find them."""
        found = self._prompts.get(tokens)
        if found is not None:
            self._shelf.use(found[0])
            return *found, 0
        whole, logits = self._prefill(tokens, None, 0)
        strand = Strand(tokens)
        self._shelf.put(strand, whole)
        if strand.shelved is None:
            strand.shelve(whole)
        else:
            self._prompts.put(tokens, strand, logits)
        return strand, logits, len(tokens)

    def _prefill(self, tokens: Tokens, before: Stack | None, have: int) -> tuple[Stack, Tensor]:
        self.calls += 1
        return self._network.prefill(tokens, before, have)

    def _room(self, like: Stack, size: int) -> RaggedCache:
        """The cache, with lanes longer than `size`."""
        if self._cache is None:
            self._cache = self._network.lanes(like, min(8, self._most), STRIDE)
        if size >= self._cache.length:
            self._cache.reserve(self._cache.rows, max(2 * self._cache.length, -(-(size + 1) // STRIDE) * STRIDE))
        return self._cache

    def _free(self, cache: RaggedCache) -> int:
        """A lane for a new row: one that nobody remembers, a new one, or the one left longest ago."""
        lane = next((i for i in range(cache.rows) if i not in self._growing and not self._remembered(i)), -1)
        if lane < 0 and cache.rows < self._most:
            lane = cache.rows
            cache.reserve(min(2 * cache.rows, self._most), cache.length)
        if lane < 0:
            lane, reference = next(iter(self._idle.items()))
            strand = reference()
            if strand is not None:
                self._shelf.put(strand, [t.clone() for t in _there(strand)])
        self._idle.pop(lane, None)
        self._growing[lane] = Strand(np.zeros(0, dtype=np.int32))
        return lane

    def _remembered(self, lane: int) -> bool:
        reference = self._idle.get(lane)
        return reference is not None and reference() is not None

    def pack(self, sizes: NDArray[np.int64]) -> list[tuple[int, int]]:
        """See `Lanes`."""
        count = len(self._growing)
        gaps = [i for i in range(count) if i not in self._growing]
        if not gaps or self._cache is None:
            return []
        moves = list(zip(sorted(i for i in self._growing if i >= count), gaps, strict=True))
        for source, target in moves:
            reference = self._idle.pop(target, None)
            idle = reference() if reference is not None else None
            self._cache.move(source, target, int(sizes[source]), 0 if idle is None else len(idle.tokens))
            self._growing[target] = self._growing.pop(source)
            self._growing[target].settle(self._cache, target)
            if idle is not None:
                idle.settle(self._cache, source)
                self._idle[source] = weakref.ref(idle)
        return moves

    def forward(self, tokens: NDArray[np.int32], sizes: NDArray[np.int64]) -> Tensor:
        """See `Lanes`. One position a row."""
        assert self._cache is not None
        last = sizes - 1
        width = int(sizes.max())
        if width >= self._cache.length:
            self._cache.reserve(self._cache.rows, 2 * self._cache.length)
        self.calls += 1
        newest = tokens[np.arange(len(sizes)), last]
        return self._network.step(newest, last, width, self._cache)

    def cost(self, sizes: NDArray[np.int64]) -> NDArray[np.int64]:
        """One position a row."""
        return np.ones_like(sizes)

    def leave(self, lane: int, tokens: Tokens, logits: Tensor | None) -> Note:
        """See `Lanes`. The last token has not been through the network unless its logits are known."""
        strand = self._growing.pop(lane)
        strand.tokens = tokens if logits is not None else tokens[:-1]
        self._idle[lane] = weakref.ref(strand)
        return Note(strand, tokens, logits)


def _there(strand: Strand) -> Stack:
    row = strand.row()
    assert row is not None
    return row
