"""Scoring that reads nothing twice: keys and values of prompts and of growing responses are kept.

A causal model computes at each position a function of the tokens up to there. So the rows of a batch are scored thus:

1. What all rows have in common (the prompt, and more if they were forked from one prefix) is read once, as one row.
2. For each row the longest prefix that was read before is looked up among the blocks of its prompt.
3. The rest of the rows goes through the network, in chunks. Rows are at different positions, so a chunk carries its own
   position ids and mask, and its cache is laid out by position: what a row has already is copied in, each new key lands
   at its own position, and what lies beyond a row's end is masked.
4. The chunk's keys and values become a block, to be found by the next, longer versions of these rows.

The classifier's own forward pass reads the logit at the last token that is not padding, and so does this one: padding
tokens at the end of a row's own text are dropped before anything else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from italic.rewards.classifier.checkpoint import Checkpoint
from italic.rewards.classifier.plain import Plain, pad, to_numpy
from italic.rewards.classifier.prefixes import Block, Found, Layers, Prefixes
from italic.rewards.classifier.render import Row

MOVING_ROPES = ("dynamic", "longrope")
"""Rotary embeddings whose angles depend on the length of the whole input: keys read earlier would be wrong later."""

Past = Sequence[tuple[Tensor, Tensor, Layers, int]]
"""What is known before a forward pass: rows of the chunk, the rows of a block they go on from, its layers, a width."""


class Incremental:
    """Scores rows with a store of keys and values of at most `cache` bytes, `batch` rows in a forward pass."""

    def __init__(self, checkpoint: Checkpoint, batch: int, cache: int) -> None:
        self.checkpoint = checkpoint
        self.batch = batch
        self.prefixes = Prefixes(cache)

    def score(self, rows: Sequence[Row]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The logit of each row, float64 [n], and the positions that it took through the network, int64 [n].

        The positions of what rows have in common are counted to the first of them.
        """
        rows = [replace(row, ids=self._trimmed(row.ids)) for row in rows]
        files: dict[str, list[int]] = {}
        for i, row in enumerate(rows):
            files.setdefault(row.file, []).append(i)
        common = np.zeros(len(rows), dtype=np.int64)
        for members in files.values():
            if len(members) > 1:
                common[members[0]] = self._read_common([rows[i] for i in members])
        found = [self.prefixes.find(row.file, row.ids[:-1]) for row in rows]
        new = np.array([len(row) - known(f) for row, f in zip(rows, found, strict=True)], dtype=np.int64)
        logits = np.empty(len(rows), dtype=np.float64)
        order = np.argsort(new, kind="stable")
        for start in range(0, len(rows), self.batch):
            chunk = order[start : start + self.batch]
            logits[chunk] = self._read([rows[i] for i in chunk], [found[i] for i in chunk])
        return logits, new + common

    def _trimmed(self, ids: NDArray[np.int32]) -> NDArray[np.int32]:
        """The tokens up to the last that is not padding: at least one."""
        return ids[: max(1, int(np.flatnonzero(ids != self.checkpoint.pad).max(initial=0)) + 1)]

    def _read_common(self, rows: Sequence[Row]) -> int:
        """Read what all rows begin with, unless that is known; the number of positions."""
        first, width = rows[0], min(map(len, rows)) - 1
        differ = np.any([row.ids[:width] != first.ids[:width] for row in rows], axis=0)
        common = replace(first, ids=first.ids[: int(differ.argmax()) if differ.any() else width])
        found = self.prefixes.find(common.file, common.ids)
        if len(common) > known(found):
            self._read([common], [found])
        return len(common) - known(found)

    def _read(self, rows: Sequence[Row], found: Sequence[Found | None]) -> NDArray[np.float64]:
        """Put what is new in the rows through the network: their logits, float64 [n]. Keys and values are kept."""
        model, label = self.checkpoint.model, self.checkpoint.label
        name = cast(str, self.checkpoint.cache)
        texts = [row.ids for row in rows]
        starts = np.array([known(f) for f in found])
        ids = pad([t[start:] for t, start in zip(texts, starts, strict=True)], self.checkpoint.pad)
        ends = np.array([len(t) for t in texts])
        with torch.inference_mode():
            if len(texts) == 1 and not starts[0]:
                cache: Cache = DynamicCache()
                logits = model(ids.to(model.device), **{name: cache}, use_cache=True).logits
            else:
                cache = ragged(model, starts, ends, past(found, model.device))
                positions = torch.from_numpy(np.minimum(starts[:, None] + np.arange(ids.shape[1]), ends[:, None] - 1))
                logits = model(
                    ids.to(model.device),
                    attention_mask=causal_mask(positions, int(ends.max()), model.dtype).to(model.device),
                    position_ids=positions.to(model.device),
                    **{name: cache},
                    use_cache=True,
                ).logits
        whole = np.full((len(texts), int(ends.max())), -1, dtype=np.int32)
        for row, text in zip(whole, texts, strict=True):
            row[: len(text)] = text
        block = Block(whole, [(layer.keys, layer.values) for layer in cast(Any, cache.layers)])
        self.prefixes.add(frozenset(row.file for row in rows), block)
        return to_numpy(logits[:, label])


def known(found: Found | None) -> int:
    """The length of what was found."""
    return 0 if found is None else found.length


def past(found: Sequence[Found | None], device: Any) -> Past:
    """What was found, put together by block: one copy a layer and block."""
    blocks: dict[int, tuple[Block, list[int]]] = {}
    for i, f in enumerate(found):
        if f is not None:
            blocks.setdefault(id(f.block), (f.block, []))[1].append(i)
    groups = []
    for block, rows in blocks.values():
        matches = [f for i in rows if (f := found[i]) is not None]
        here, there = torch.tensor(rows, device=device), torch.tensor([f.row for f in matches], device=device)
        groups.append((here, there, block.layers, max(f.length for f in matches)))
    return groups


def causal_mask(positions: Tensor, width: int, dtype: torch.dtype) -> Tensor:
    """What each query may see: [n, 1, q, width], 0 for keys up to its own position, the lowest number beyond."""
    beyond = torch.arange(width) > positions[:, None, :, None]
    return torch.zeros(beyond.shape, dtype=dtype).masked_fill_(beyond, torch.finfo(dtype).min)


def ragged(model: Any, starts: NDArray[np.int64], ends: NDArray[np.int64], before: Past) -> Cache:
    """A cache for rows that go from `starts` to `ends`, both int [n]."""
    count = model.config.get_text_config().num_hidden_layers
    row, column = np.nonzero(np.arange(int((ends - starts).max())) < (ends - starts)[:, None])
    place = [torch.from_numpy(a).to(model.device) for a in (row, column, starts[row] + column)]
    return Cache(layers=[RaggedLayer(i, int(ends.max()), place, before) for i in range(count)])


class RaggedLayer(CacheLayerMixin):
    """Keys and values by position, [n, heads, T, width], for one forward pass of rows at different positions.

    place: row, column among the new tokens, and position of every new token that is not padding, each int64 [m].
    """

    def __init__(self, index: int, width: int, place: Sequence[Tensor], before: Past) -> None:
        super().__init__()
        self._index, self._width, self._place, self._before = index, width, place, before

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.keys, self.values = (
            self._room(t, [(here, there, old[self._index][side], known) for here, there, old, known in self._before])
            for side, t in enumerate((key_states, value_states))
        )
        self._before = ()
        self.is_initialized = True

    def _room(self, new: Tensor, before: Sequence[tuple[Tensor, Tensor, Tensor, int]]) -> Tensor:
        """Room for all positions, with what is known from before; 0 elsewhere, for masked values must be numbers."""
        shape = (*new.shape[:2], self._width, new.shape[3])
        if len(before) == 1 and len(before[0][0]) == len(new):
            (_, there, old, width), room = before[0], new.new_empty(shape)
            torch.index_select(old[:, :, :width], 0, there, out=room[:, :, :width])
            room[:, :, width:] = 0
            return room
        room = new.new_zeros(shape)
        for here, there, old, width in before:
            room[here, :, :width] = old[there, :, :width]
        return room

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        row, column, position = self._place
        keys, values = cast("tuple[Tensor, Tensor]", (self.keys, self.values))
        keys[row, :, position] = key_states[row, :, column]
        values[row, :, position] = value_states[row, :, column]
        return keys, values

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._width, 0

    def get_seq_length(self) -> int:
        return 0

    def get_max_length(self) -> int:
        return self._width


def obstacle(checkpoint: Checkpoint) -> str:
    """Why this model cannot be scored incrementally, "" if it can: by its configuration, then by trying."""
    if not checkpoint.causal:
        return "the model does not read from left to right"
    config = checkpoint.model.config.get_text_config()
    layers = DynamicCache(config=config).layers
    if any(type(layer) is not DynamicLayer for layer in layers):
        return "not all layers of the model attend to everything before"
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") in MOVING_ROPES:
        return f"the model's rotary embedding ({rope['rope_type']}) depends on the length of the input"
    try:
        return _trial(checkpoint)
    except Exception as error:  # a foreign model's code may raise anything; the plain way does not need it
        return f"{type(error).__name__}: {error}".partition("\n")[0]


def _trial(checkpoint: Checkpoint) -> str:
    """Score a few rows of random tokens both ways, the incremental one in growing pieces."""
    vocabulary = checkpoint.model.config.get_text_config().vocab_size
    tokens = np.random.default_rng(0).integers(0, vocabulary, (3, 12)).astype(np.int32)
    tokens[tokens == checkpoint.pad] = (checkpoint.pad + 1) % vocabulary
    tokens[:, :4] = tokens[0, :4]
    fast = Incremental(checkpoint, batch=2, cache=2**30)
    for lengths in ((5, 6, 7), (8, 12, 7), (12, 12, 9)):
        rows = [Row(ids[:k]) for ids, k in zip(tokens, lengths, strict=True)]
        got, _ = fast.score(rows)
        wanted, _ = Plain(checkpoint, batch=2).score(rows)
        near = 1e-3 if checkpoint.model.dtype == torch.float32 else 0.1
        if not np.allclose(got, wanted, atol=near, rtol=near):
            return f"a trial gave {got[0]:.4g} instead of {wanted[0]:.4g}"
    return ""
