"""Randomness addressed by name.

A `Key` is a 64-bit number reached by a path of names: `Key(seed).at(prompt_id, "segment", 3, "try", 1)`. Two paths
give unrelated numbers; the same path always gives the same one. Nothing is drawn from a shared stream, so no draw
depends on how many were made before it, in which order, or in which batch.

Every row of an extension carries a seed of its own, and the noise of its next token is a function of (seed, position)
alone: `uniforms(seeds, positions)`. It is a counter-based generator: the SplitMix64 finaliser (Steele, Lea & Flood
2014, doi:10.1145/2660193.2660195) applied to the seed, then to the seed combined with the position.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Seeds: TypeAlias = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0xD1B54A32D192ED03)
_BELOW_ONE = 1 - 2.0**-53


def mix(values: Seeds) -> Seeds:
    """The SplitMix64 finaliser: a bijection on 64-bit numbers whose output bits all depend on all input bits."""
    with np.errstate(over="ignore"):
        z = values + _GOLDEN
        z = (z ^ (z >> np.uint64(30))) * _FIRST
        z = (z ^ (z >> np.uint64(27))) * _SECOND
        return z ^ (z >> np.uint64(31))


def uniforms(seeds: Seeds, positions: NDArray[np.integer]) -> NDArray[np.float64]:
    """One number in (0, 1) for each (seed, position) pair: float64 [n], a pure function of the pair.

    seeds: uint64 [n]; positions: integers [n], the index of the token (or step) to be drawn.
    """
    with np.errstate(over="ignore"):
        bits = mix(mix(seeds) ^ (np.asarray(positions).astype(np.uint64) * _STEP))
    return np.minimum(((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53, _BELOW_ONE)


@dataclass(frozen=True)
class Key:
    """A name for a piece of randomness. `Key(seed)` is the root; `key.at(...)` is a child."""

    state: int

    def at(self, *path: str | int) -> Key:
        """The key at `path` below this one. The text "1" and the number 1 are different names."""
        digest = hashlib.blake2b(self.state.to_bytes(16, "little", signed=True), digest_size=8)
        for part in path:
            name = f"{'s' if isinstance(part, str) else 'i'}{part}".encode()
            digest.update(len(name).to_bytes(8, "little") + name)
        return Key(int.from_bytes(digest.digest(), "little"))

    def seeds(self, rows: int | NDArray[np.integer]) -> Seeds:
        """A seed for each row: uint64 of the shape of `rows`, which are row numbers, or how many: `seeds(3)` are those
        of rows 0, 1 and 2. A row's seed does not depend on which others are asked for.
        """
        numbers = np.arange(rows) if isinstance(rows, int) else rows
        base = self.at("seeds").state
        with np.errstate(over="ignore"):
            return mix(np.uint64(base) + numbers.astype(np.uint64) * _STEP)

    def uniform(self, rows: int | NDArray[np.integer]) -> NDArray[np.float64]:
        """A number in (0, 1) for each row: float64, rows as in `seeds`."""
        seeds = self.at("uniform").seeds(rows)
        return uniforms(seeds, np.zeros(seeds.shape, dtype=np.int64))

    def generator(self) -> np.random.Generator:
        """A NumPy generator for everything else (permutations, normal draws)."""
        return np.random.Generator(np.random.Philox(key=self.at("generator").state))
