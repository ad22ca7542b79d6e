"""How near draws are to the border between two tokens, by a network without a cache, in float64.

Rounding differs between batch shapes, and between processors. So two runs of the same draws may part where one falls
within rounding of a border, and there alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from italic.core.drafts import TextDrafts
from italic.core.keys import uniforms

NEAR = 1e-5


def distances(network: Any, drafts: TextDrafts, row: int) -> NDArray[np.float64]:
    """How near each draw of a row is to a border: float64 [steps]. network: in float64."""
    start, tokens = len(drafts.prompt_tokens), drafts.tokens[row]
    ids = np.concatenate([drafts.prompt_tokens, tokens]).astype(np.int64)
    with torch.inference_mode():
        logits = network(torch.from_numpy(ids)[None]).logits[0, start - 1 : -1]
    borders = torch.softmax(logits / drafts.sampling.temperature, -1).cumsum(-1).numpy()
    draws = uniforms(np.repeat(drafts.seeds[[row]], len(tokens)), np.arange(len(tokens)))
    return np.abs(borders - draws[:, None]).min(axis=1)


def parting(one: NDArray[np.int32], other: NDArray[np.int32]) -> int | None:
    """Where two rows of tokens begin to differ, None if they do not."""
    if np.array_equal(one, other):
        return None
    shorter = min(len(one), len(other))
    differ = np.flatnonzero(one[:shorter] != other[:shorter])
    return int(differ[0]) if len(differ) else shorter
