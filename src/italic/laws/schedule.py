"""How many draws each block of a response gets: the same total, evenly or more of it early."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

Shape: TypeAlias = Literal["uniform", "linear", "exponential"]
SHAPES: tuple[Shape, ...] = get_args(Shape)


def block_draws(n: int, blocks: int, shape: Shape, decay: float) -> NDArray[np.int64]:
    """K_0 >= K_1 >= ... >= 1, int64 [blocks], of sum n * blocks.

    uniform: K_j = n. linear: down to 1 at the last block in equal steps. exponential: in proportion to decay^j, but 1
    where that is less. Numbers that are not whole are rounded down, and what is left goes to those of the largest
    remainder, the earlier of equals. Raises ValueError if n or blocks is below 1, for another shape, or for a decay
    outside (0, 1].
    """
    if min(n, blocks) < 1 or shape not in SHAPES or not 0 < decay <= 1:
        raise ValueError(f"{n} draws a block for {blocks} blocks, {shape}, decay {decay}")
    if shape == "linear" and blocks > 1:
        ideal = 1 + 2 * (n - 1) / (blocks - 1) * np.arange(blocks)[::-1]
    elif shape == "exponential":
        ideal = _at_least_one(np.cumprod(np.repeat([1.0, decay], [1, blocks - 1])), n * blocks)
    else:
        ideal = np.full(blocks, float(n))
    counts: NDArray[np.int64] = np.floor(ideal).astype(np.int64)
    counts[np.argsort(counts - ideal, kind="stable")[: n * blocks - counts.sum()]] += 1
    return counts


def _at_least_one(weights: NDArray[np.float64], total: int) -> NDArray[np.float64]:
    """max(1, c weights), with c such that the sum is `total`; weights: float64 [k], not increasing, k <= total."""
    above = np.arange(1, len(weights) + 1)
    scales = (total - len(weights) + above) / np.cumsum(weights)
    fits = np.flatnonzero(scales * weights >= 1)
    return np.asarray(np.maximum(1.0, scales[fits[-1]] * weights))
