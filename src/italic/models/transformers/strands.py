"""What is remembered of a row that left: its keys and values, as long as there is room.

A `Strand` is a token sequence with its keys and values, which are in one of three places: in a lane (the row grows,
or grew there last), on the `Shelf` (its lane was needed), or nowhere any more. A strand is only ever a *cache*:
whoever uses one compares tokens first and takes the longest common prefix; what is missing is computed again.

A draft holds its strand through a `Note`. When the last draft that knew a strand is gone, so is the strand: lanes and
shelf refer to idle strands weakly.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from italic.models.transformers.cache import RaggedCache, Stack

Tokens = NDArray[np.int32]


class Strand:
    """Keys and values of `tokens`, int32 [C]: in lane `lane` of `cache`, on the shelf, or nowhere."""

    __slots__ = ("__weakref__", "_cache", "lane", "shelved", "tokens")

    def __init__(self, tokens: Tokens, shelved: Stack | None = None) -> None:
        self.tokens = tokens
        self.shelved = shelved
        self._cache: weakref.ref[RaggedCache] | None = None
        self.lane = -1

    def settle(self, cache: RaggedCache, lane: int) -> None:
        """From now on the keys and values are in this lane."""
        self._cache, self.lane, self.shelved = weakref.ref(cache), lane, None

    def shelve(self, row: Stack | None) -> None:
        """From now on the keys and values are `row`; None: nowhere."""
        self._cache, self.lane, self.shelved = None, -1, row

    def lives_in(self, cache: RaggedCache | None) -> bool:
        """Whether the keys and values are in a lane of this cache."""
        return cache is not None and self._cache is not None and self._cache() is cache

    def row(self) -> Stack | None:
        """The keys and values, not copied; None if they are gone."""
        if self.shelved is not None:
            return self.shelved
        cache = self._cache() if self._cache is not None else None
        return None if cache is None else cache.view(self.lane, len(self.tokens))

    def shared(self, tokens: Tokens) -> int:
        """How many of the first `tokens` have their keys and values here."""
        if self.shelved is None and (self._cache is None or self._cache() is None):
            return 0
        return common(self.tokens, tokens)


def common(one: Tokens, other: Tokens) -> int:
    """The length of the longest common prefix."""
    n = min(len(one), len(other))
    differ = np.flatnonzero(one[:n] != other[:n])
    return int(differ[0]) if differ.size else n


class Note:
    """A draft's memory: its strand, and the logits [V] after exactly `tokens` where they are known.

    A note does not travel: copied or pickled it becomes None, and the row is computed again.
    """

    __slots__ = ("logits", "strand", "tokens")

    def __init__(self, strand: Strand, tokens: Tokens, logits: Tensor | None = None) -> None:
        self.strand = strand
        self.tokens = tokens
        self.logits = logits

    def known(self, tokens: Tokens) -> Tensor | None:
        """The logits after `tokens`, if they are known."""
        return self.logits if self.logits is not None and np.array_equal(self.tokens, tokens) else None

    def __reduce__(self) -> tuple[object, ...]:
        return (_forgotten, ())


def _forgotten() -> None:
    return None


class Shelf:
    """Keys and values outside the lanes, at most `limit` bytes of them; the longest unused go first."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0
        self._kept: OrderedDict[int, tuple[weakref.ref[Strand], int]] = OrderedDict()

    def put(self, strand: Strand, row: Stack) -> None:
        """Keep the keys and values of a strand."""
        self._drop(id(strand))
        strand.shelve(row)
        name, size = id(strand), sum(t.nbytes for t in row)
        self._kept[name] = (weakref.ref(strand, lambda _: self._drop(name)), size)
        self.used += size
        while self.used > self.limit and self._kept:
            oldest = next(iter(self._kept))
            gone = self._kept[oldest][0]()
            self._drop(oldest)
            if gone is not None:
                gone.shelve(None)

    def use(self, strand: Strand) -> None:
        """Note that the strand was used just now."""
        if id(strand) in self._kept:
            self._kept.move_to_end(id(strand))

    def _drop(self, name: int) -> None:
        _, size = self._kept.pop(name, (None, 0))
        self.used -= size
