"""The three ways a decoder is called, and where its errors become ours."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from italic.core.errors import ModelError
from italic.models.transformers.cache import Layers, RaggedCache


class Network:
    """A Transformers decoder: `prefill` one row, `step` a ragged batch, or compute `whole` rows without a cache."""

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder.eval()
        self.device = decoder.device
        self.dtype = decoder.dtype
        takes = inspect.signature(decoder.forward).parameters
        self._last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._positions = "position_ids" in takes
        self._range = torch.arange(0)

    @property
    def vocabulary(self) -> int:
        """How many tokens the logits are over."""
        return int(self.decoder.get_output_embeddings().weight.shape[0])

    def prefill(self, tokens: NDArray[np.int32], before: Layers | None, have: int) -> tuple[Layers, Tensor]:
        """One row alone. tokens: int32 [n]; before: keys and values of the first `have`.

        Returns the keys and values of all n positions and the logits [V] that follow.
        """
        cache = DynamicCache()
        for index, (keys, values) in enumerate(before or []):
            cache.update(keys, values, index)
        ids = self._tensor(tokens[None, have:])
        at = torch.arange(have, len(tokens), device=self.device)[None]
        out = self._call(input_ids=ids, position_ids=at, past_key_values=cache, use_cache=True, **self._last_only)
        return [(layer.keys, layer.values) for layer in cache.layers], out[0, -1]

    def step(self, tokens: NDArray[np.int32], last: NDArray[np.int64], width: int, cache: RaggedCache) -> Tensor:
        """One token a row through the lanes of `cache`: tokens [A] at positions `last` [A]. Returns logits [A, V]."""
        at = self._tensor(last)
        cache.aim.set(at, width)
        if len(self._range) < width:
            self._range = torch.arange(2 * width, device=self.device)
        hidden = self._range[:width] > at[:, None]
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        mask.masked_fill_(hidden, torch.finfo(self.dtype).min)
        return self._call(
            input_ids=self._tensor(tokens)[:, None],
            attention_mask=mask[:, None, None],
            position_ids=at[:, None],
            past_key_values=cache,
            use_cache=True,
            **self._last_only,
        )[:, -1]

    def whole(self, tokens: NDArray[np.int32], sizes: NDArray[np.int64]) -> Tensor:
        """Whole rows, padded on the right, without a cache: tokens [A, L] of which `sizes` [A] count. Returns logits [A, V]."""
        width = int(sizes.max())
        length = self._tensor(sizes)[:, None]
        at = torch.arange(width, device=self.device)[None]
        inside = at < length
        ids = self._tensor(tokens[:, :width]).masked_fill(~inside, 0)
        extra = {"position_ids": at.expand(len(sizes), -1)} if self._positions else {}
        out = self._call(input_ids=ids, attention_mask=inside.long(), use_cache=False, **extra)
        return out[torch.arange(len(sizes), device=self.device), length[:, 0] - 1]

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self.device, non_blocking=True)

    def _call(self, **inputs: Any) -> Tensor:
        try:
            logits: Tensor = self.decoder(**inputs).logits
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            memory = isinstance(error, torch.OutOfMemoryError) or "memory" in str(error)
            raise ModelError(
                f"the network failed: {type(error).__name__}: {error}",
                hint="Load the model with fewer rows." if memory else "Load it with path='plain' to leave out the cache.",
            ) from error
        return logits
