"""Whether a decoder can take the ragged path: what its config says, then what a trial shows."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from italic.core.errors import ModelError, UsageError
from italic.models.transformers.network import Network

UNBOUNDED = 2**31
"""The context of a model that states none."""


def context(decoder: Any, max_length: int | None) -> int:
    """The longest prompt plus response: the model's own, or `max_length` if that is shorter."""
    own = getattr(decoder.config.get_text_config(decoder=True), "max_position_embeddings", None) or UNBOUNDED
    if max_length is not None and max_length < 2:
        raise UsageError(f"max_length is {max_length}", hint="Give 2 or more tokens.")
    return int(own) if max_length is None else min(int(own), max_length)


def why_plain(network: Network, longest: int) -> str:
    """Why the ragged path would be wrong for this decoder; "" if it is right."""
    config = network.decoder.config.get_text_config(decoder=True)
    if config._attn_implementation not in ("sdpa", "eager"):
        return f"attention {config._attn_implementation!r} takes no mask of its own; load with attention='sdpa'"
    if getattr(network.decoder, "_is_stateful", False):
        return "it keeps a state that cannot be rolled back"
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    slides = "sliding_attention" in kinds or not kinds
    if window is not None and slides and window < longest:
        return f"it attends to a window of {window} tokens; load with max_length={window} or less for the fast path"
    others = sorted(kinds - {"full_attention", "sliding_attention"})
    if others:
        return f"its layers are of the kind {', '.join(others)}"
    return _trial(network)


def _trial(network: Network) -> str:
    """Grow two rows of different lengths by both paths; "" if they agree."""
    rows = [np.asarray(row, dtype=np.int32) % network.vocabulary for row in ([5, 9, 4, 7, 8], [6, 3])]
    try:
        with torch.inference_mode():
            before = [network.prefill(row[:-1], None, 0)[0] for row in rows]
            cache = network.lanes(before[0], 2, 16)
            for lane, row in enumerate(rows):
                cache.load([lane], before[lane], len(row) - 1)
            sizes = np.asarray([len(row) for row in rows])
            fast = network.step(np.asarray([row[-1] for row in rows]), sizes - 1, int(sizes.max()), cache).float()
            padded = np.zeros((2, 5), dtype=np.int32)
            for lane, row in enumerate(rows):
                padded[lane, : len(row)] = row
            slow = network.whole(padded, sizes).float()
    except (ModelError, RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        return f"it does not work with a ragged cache ({str(error).splitlines()[0]})"
    if not bool(torch.isfinite(slow).all()):
        return ""
    precise = network.dtype in (torch.float32, torch.float64)
    allowed = (1e-3 if precise else 0.1) * float(slow.std()) + 1e-6
    wrong = float((fast - slow).abs().max())
    return "" if wrong <= allowed else f"its logits change by {wrong:.2g} with a ragged cache"
