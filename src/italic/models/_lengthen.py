"""Rows of text that are made a token longer, as a model does that lists the likeliest next tokens."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import END, LENGTH, STOP, UNFINISHED, TextDrafts


def lengthen(
    drafts: TextDrafts,
    tokens: NDArray[np.integer],
    logps: NDArray[np.floating],
    ended: NDArray[np.bool_],
    chars: NDArray[np.int64],
) -> TextDrafts:
    """Every row, all of them unfinished, with one token more, [n], and its log-probability.

    ended: whether it is a token that ends the response. chars: how much of the text stands before the stop string that
    the token completes, -1 if it completes none or ends the response.
    """
    size = int(drafts.steps.max(initial=0)) + 1
    each, at = np.arange(len(drafts)), drafts.steps

    def widened(old: NDArray[Any], fill: float) -> NDArray[Any]:
        return np.pad(old, ((0, 0), (0, max(size - old.shape[1], 0))), constant_values=fill)

    ids, scores = widened(drafts.ids, -1), widened(drafts.logps, 0)
    ids[each, at], scores[each, at] = tokens, logps
    full = at + 1 >= drafts.sampling.max_tokens
    reason = np.select([ended, chars >= 0, full], [END, STOP, LENGTH], UNFINISHED).astype("<U6")
    return replace(drafts, ids=ids, logps=scores, steps=at + 1, reason=reason, chars=np.asarray(chars))
