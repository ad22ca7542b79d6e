"""The classifier as a reward: from batches of drafts to raw logits."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Lock
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts
from italic.core.errors import RewardError, SpecError
from italic.core.protocols import Scored
from italic.rewards.classifier.checkpoint import Checkpoint, open_checkpoint
from italic.rewards.classifier.render import Chat, Renderer, Row, Truncate


class ClassifierReward:
    """The raw logit (never a sigmoid) that a sequence classifier gives to a prompt with its response.

    A finished response is read as the chat template writes a finished conversation, an unfinished one without its end.
    Each batch of drafts is scored by itself, in chunks of rows of like length: unless `merge` is set, a chunk never
    holds rows of two batches, because the last digits of a logit depend on the chunk's shape, and a score must not
    depend on what else happens to be pending. Equal rows of a batch are scored once. See `load` for the options.

    path: "incremental" or "plain", how the network is used; why: the reason if it is plain.
    """

    needs = frozenset({"texts"})
    deterministic = True

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        batch: int = 32,
        incremental: bool = True,
        chat: Chat = "auto",
        pair: bool = False,
        truncate: Truncate = "no",
        partial: bool | None = None,
        merge: bool = False,
        cache: int = 512,
    ) -> None:
        from italic.rewards.classifier.incremental import Incremental, obstacle
        from italic.rewards.classifier.plain import Plain

        if batch < 1:
            raise SpecError(f"a batch of {batch} rows", hint="Give batch=1 or more.")
        if cache < 1:
            raise SpecError(f"a cache of {cache} MiB", hint="Give cache=1 or more, or incremental=false.")
        self.name = checkpoint.name
        self.checkpoint = checkpoint
        self.partial = checkpoint.causal if partial is None else partial
        self._renderer = Renderer(checkpoint.name, checkpoint.tokenizer, checkpoint.longest, chat, pair, truncate)
        self.why = "incremental=false" if not incremental else obstacle(checkpoint)
        self.path: Literal["incremental", "plain"] = "plain" if self.why else "incremental"
        self._network: Plain | Incremental = (
            Plain(checkpoint, batch) if self.why else Incremental(checkpoint, batch, cache * 2**20)
        )
        self._merge = merge
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"ClassifierReward({self.name!r}, {self.path})"

    def score(self, batches: Sequence[Drafts]) -> list[Scored]:
        """The logits; none is ever missing. Raises RewardError for NaN, and for what cannot be rendered."""
        with self._lock:
            sheets = [self._rows(batch) for batch in batches]
            if self._merge:
                logits, positions = self._ask([row for rows, _ in sheets for row in rows])
                cuts = np.cumsum([len(rows) for rows, _ in sheets])[:-1]
                parts = list(zip(np.split(logits, cuts), np.split(positions, cuts), strict=True)) if sheets else []
            else:
                parts = [self._ask(rows) for rows, _ in sheets]
        return [
            self._scored(batch.prompt.id, logits[place], int(positions.sum()))
            for batch, (_, place), (logits, positions) in zip(batches, sheets, parts, strict=True)
        ]

    def _rows(self, drafts: Any) -> tuple[list[Row], NDArray[np.int64]]:
        """The different rows of a batch, k of them, and for each draft which one is its: int64 [n], below k."""
        read = self._renderer.rows(self._renderer.frame(drafts.prompt), drafts) if len(drafts) else []
        different = {row.key: row for row in read}
        places = {key: k for k, key in enumerate(different)}
        return list(different.values()), np.array([places[row.key] for row in read], dtype=np.int64)

    def _ask(self, rows: list[Row]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        return self._network.score(rows) if rows else (np.zeros(0), np.zeros(0, dtype=np.int64))

    def _scored(self, prompt: str, logits: NDArray[np.float64], tokens: int) -> Scored:
        if np.isnan(logits).any():
            raise RewardError(
                f"the reward model {self.name} gave NaN for prompt {prompt!r}",
                hint="Load it with dtype=float32; if that does not help, its weights are broken.",
            )
        return Scored(logits, np.zeros(len(logits), dtype=np.bool_), tokens)


def load(
    path: str = "demo",
    *,
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto",
    device: str | None = None,
    batch: int = 32,
    label: str | int | None = None,
    incremental: bool = True,
    chat: Chat = "auto",
    pair: bool = False,
    truncate: Truncate = "no",
    pad_token: str | None = None,
    max_length: int | None = None,
    partial: bool | None = None,
    merge: bool = False,
    cache: int = 512,
) -> ClassifierReward:
    """The sequence classifier in a directory or at a hub id, or bundled: `demo`, `demo:preference`, `demo:sentiment`.

    dtype: "auto" is the saved one on an accelerator and float32 on a CPU, where scores should not depend on the batch.
    device: as in `from_pretrained`; a GPU if there is one.
    batch: rows in one forward pass, at most.
    label: which logit is the reward, by name or number; needed if there are several.
    incremental: keep the keys and values of prompts and prefixes where the model allows it; the reward's `path` and
        `why` tell. Scores then depend in their last digits on what was scored before.
    chat: whether the tokenizer's chat template is applied; "auto" if it has one.
    pair: without a template, encode prompt and response as a text pair (as some encoders need), not as one text.
    truncate: "left" leaves out the beginning of what is too long; otherwise it is an error.
    pad_token: for a tokenizer without one.
    max_length: tokens the model reads, if less than its configuration says.
    partial: whether scores of unfinished drafts mean something; by default so for models that read from left to right,
        because what they compute at a token never looks ahead.
    merge: put rows of different prompts into one forward pass: faster where a method scores few drafts a prompt at a
        time. Scores then depend in their last digits on what else is pending.
    cache: MiB of keys and values kept.
    Raises SpecError.
    """
    checkpoint = open_checkpoint(
        path, dtype=dtype, device=device, label=label, pad_token=pad_token, max_length=max_length
    )
    return ClassifierReward(
        checkpoint,
        batch=batch,
        incremental=incremental,
        chat=chat,
        pair=pair,
        truncate=truncate,
        partial=partial,
        merge=merge,
        cache=cache,
    )
