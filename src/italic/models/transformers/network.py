"""The ways a decoder is called, and where its errors become ours."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache

from italic.core.errors import ModelError
from italic.models.transformers.cache import Layout, RaggedCache, Stack


class Network:
    """A Transformers decoder: `prefill` one row, `step` a ragged batch, or compute `whole` rows without a cache.

    Or look into it: what follows `along` whole rows, and the `hidden` state after one row.
    """

    def __init__(self, decoder: Any) -> None:
        self.decoder = decoder.eval()
        self._stepping = self.decoder
        self.device = decoder.device
        self.dtype = decoder.dtype
        takes = inspect.signature(decoder.forward).parameters
        self._takes_keep = "logits_to_keep" in takes
        self._last_only = self._keep(1)
        self._positions = "position_ids" in takes
        named = {*takes, *inspect.signature(type(decoder).forward).parameters}
        self._cache = "cache" if "cache" in named else "past_key_values"  # before Transformers 5.24
        self._layout: Layout | None = None
        self._range = torch.arange(0)

    @property
    def vocabulary(self) -> int:
        """How many tokens the logits are over."""
        return int(self.decoder.get_output_embeddings().weight.shape[0])

    @property
    def width(self) -> int:
        """How many numbers the output embedding reads."""
        return int(self.decoder.get_output_embeddings().weight.shape[1])

    @property
    def compiled(self) -> bool:
        """Whether `step` is compiled."""
        return self._stepping is not self.decoder

    def compile(self) -> None:
        """Compile the forward pass of `step`, for any number of rows and any width. Raises ModelError.

        The sizes of the trial below differ from each other, and from those of any model: the compiler takes sizes
        that are equal by chance for equal for good, and would begin again where they are not. It would also begin again
        when Transformers' registries grow, as they do with every kind of model that is loaded later, a reward say; so
        it is told not to watch global variables.
        """
        options = {"guard_filter_fn": lambda guards: [not guard.is_global for guard in guards]}
        self._stepping = torch.compile(self.decoder.forward, dynamic=True, options=options)
        rows, lanes, width, length = 11, 13, 23, 37
        with torch.inference_mode():
            like, _ = self.prefill(np.zeros(3, dtype=np.int32), None, 0)
            last = np.arange(width - rows, width)
            self.step(np.zeros(rows, dtype=np.int32), last, width, self.lanes(like, lanes, length))

    def lanes(self, like: Stack, rows: int, length: int) -> RaggedCache:
        """`rows` lanes of `length` positions for rows like the one that `prefill` returned."""
        if self._layout is None:
            raise RuntimeError("no row went through the network yet")
        return RaggedCache(self._layout, like, rows, length)

    def prefill(self, tokens: NDArray[np.int32], before: Stack | None, have: int) -> tuple[Stack, Tensor]:
        """One row alone. tokens: int32 [n]; before: keys and values of the first `have`.

        Returns the keys and values of all n positions and the logits [V] that follow.
        """
        cache = DynamicCache() if before is None or self._layout is None else self._layout.unstack(before, have)
        at = torch.arange(have, len(tokens), device=self.device)[None]
        ids = self._tensor(tokens[None, have:])
        named = {self._cache: cache, "use_cache": True, **self._last_only}
        out = self.call(self.decoder, input_ids=ids, position_ids=at, **named)
        if self._layout is None:
            self._layout = Layout(cache)
        return self._layout.stack(cache), out[0, -1].clone()

    def step(self, tokens: NDArray[np.int32], last: NDArray[np.int64], width: int, cache: RaggedCache) -> Tensor:
        """One token a row through the lanes of `cache`: tokens [A] at positions `last` [A]. Returns logits [A, V]."""
        ids, at = self._tensor(np.stack((tokens, last)))
        cache.point(at, width)
        if len(self._range) < width:
            self._range = torch.arange(2 * width, device=self.device)
        hidden = self._range[:width] > at[:, None]
        mask = torch.zeros(hidden.shape, dtype=self.dtype, device=self.device)
        mask.masked_fill_(hidden, torch.finfo(self.dtype).min)
        one = len(last) == 1  # a size of which the compiler would make a case of its own
        named = {self._cache: cache, "use_cache": True, **self._last_only}
        return self.call(
            self.decoder if one else self._stepping,
            input_ids=ids[:, None],
            attention_mask=mask[:, None, None],
            position_ids=at[:, None],
            **named,
        )[:, -1]

    def whole(self, tokens: NDArray[np.int32], sizes: NDArray[np.int64]) -> Tensor:
        """Whole rows, padded on the right, without a cache: tokens [A, L], of which `sizes` [A] count.

        Returns the logits [A, V] that follow.
        """
        return self.along(tokens, sizes, 0)[torch.arange(len(sizes)), torch.from_numpy(sizes - 1)]

    def along(self, tokens: NDArray[np.int32], sizes: NDArray[np.int64], first: int) -> Tensor:
        """Whole rows as in `whole`. Returns the logits that follow positions `first`, `first` + 1, ... of each row.

        Shape [A, max(sizes) - first, V]; what follows the padding means nothing.
        """
        width = int(sizes.max())
        length = self._tensor(sizes)[:, None]
        at = torch.arange(width, device=self.device)[None]
        inside = at < length
        ids = self._tensor(tokens[:, :width]).masked_fill(~inside, 0)
        extra = {"position_ids": at.expand(len(sizes), -1)} if self._positions else {}
        keep = self._keep(width - first)
        out = self.call(self.decoder, input_ids=ids, attention_mask=inside.long(), use_cache=False, **extra, **keep)
        return out[:, first - width :]

    def _keep(self, last: int) -> dict[str, int]:
        """How to ask for the logits of the last positions only, of a decoder that can leave out the others."""
        return {"logits_to_keep": last} if self._takes_keep else {}

    def hidden(self, tokens: NDArray[np.int32]) -> Tensor:
        """What the output embedding reads after one row alone, unpadded. tokens: int32 [n], n >= 1. Returns [d].

        It is taken where it is read, by a hook, because "the last hidden state" is not the same everywhere: with the
        final norm in it or not, and in OPT before or after a projection. The output embedding times this is the logits.
        """
        read: list[Tensor] = []
        head = self.decoder.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].flatten(0, -2)[-1].clone()))
        extra = {"position_ids": torch.arange(len(tokens), device=self.device)[None]} if self._positions else {}
        try:
            self.call(self.decoder, input_ids=self._tensor(tokens[None]), use_cache=False, **extra, **self._last_only)
        finally:
            hook.remove()
        if not read:
            raise ModelError(
                f"{type(self.decoder).__name__} does not call its output embedding, so it shows no hidden state",
                hint="Use a method that does not need `embed`.",
            )
        return read[-1]

    def _tensor(self, array: NDArray[Any]) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self.device, non_blocking=True)

    def call(self, forward: Callable[..., Any], **inputs: Any) -> Tensor:
        """The logits of a forward pass. Raises ModelError, with what to try instead."""
        try:
            logits: Tensor = forward(**inputs).logits
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            memory = isinstance(error, torch.OutOfMemoryError) or "memory" in str(error)
            hint = "Load it with path='plain' to leave out the cache."
            if self.compiled:
                hint = "Load it without compiled=true; on a CPU compiling needs a C++ compiler such as g++."
            raise ModelError(
                f"the network failed: {type(error).__name__}: {error}",
                hint="Load it with fewer rows." if memory else hint,
            ) from error
        return logits


def no_numbers(model: str, where: str) -> ModelError:
    """The error for logits that are none; where: "prompt 'a', response token 3"."""
    return ModelError(
        f"the model {model} gave logits that are NaN or infinite for {where}",
        hint="Check the weights; if they are sound, load the model with dtype='float32' or 'bfloat16'.",
    )
