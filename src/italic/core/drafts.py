"""Drafts: an immutable batch of partial or finished responses to one prompt.

What a draft *is* belongs to the back-end that made it: token ids here, latents for diffusion. A method sees a batch of
`len(drafts)` rows of which some are `done`, gathers rows (taking one twice forks it), cuts rows back and joins batches.
Nothing changes in place; the back-end may remember on the side how to go on cheaply from a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import ProgramError
from italic.core.keys import Seeds
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling

Index: TypeAlias = Sequence[int] | NDArray[np.integer] | NDArray[np.bool_] | slice


@runtime_checkable
class Drafts(Protocol):
    """What every method may rely on. n = len(drafts)."""

    @property
    def prompt(self) -> Prompt: ...

    @property
    def done(self) -> NDArray[np.bool_]:
        """Which rows are finished: bool [n]."""

    @property
    def steps(self) -> NDArray[np.int64]:
        """Tokens generated, or denoising steps taken: int64 [n]."""

    @property
    def room(self) -> NDArray[np.int64]:
        """How many more steps a row can take at most, 0 where done: int64 [n]."""

    @property
    def seeds(self) -> Seeds:
        """The seed of each row's noise: uint64 [n]."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Index) -> Self:
        """The rows at `index`, in that order. A row taken twice is a fork: give it a new seed before extending."""

    def cut(self, steps: int | NDArray[np.integer]) -> Self:
        """Every row shortened to at most `steps` (one number, or one a row)."""

    def reseed(self, seeds: Seeds) -> Self:
        """The same rows with other seeds: what follows is drawn anew."""

    def concat(self, *others: Self) -> Self:
        """These rows, then those of `others`, which answer the same prompt."""


class Codec(Protocol):
    """How a back-end turns token ids into text."""

    @property
    def fingerprint(self) -> str:
        """Equal for two codecs exactly if they map the same ids to the same text and render chats alike."""

    def decode(self, prompt_tokens: NDArray[np.int32], tokens: NDArray[np.int32]) -> str:
        """The text that `tokens` add after `prompt_tokens`, special tokens left out."""


UNFINISHED, END, STOP, LENGTH = "", "end", "stop", "length"
"""Why a row is done: the end-of-sequence token, a stop string, or the longest length allowed; "" while it is not."""


@dataclass(frozen=True, eq=False)
class TextDrafts:
    """Responses made of tokens. n rows, L = the longest row.

    ids: int32 [n, L], padded with -1. logps: float32 [n, L], log-probability of each token under the law it was drawn
    from (after temperature and truncation), padded with 0. steps: int64 [n]. reason: str [n]. seeds: uint64 [n].
    chars: int64 [n], how much of the decoded text counts (a stop string is no part of it), -1 for all.
    memory: one opaque object a row, the back-end's note on how to go on cheaply; never needed for correctness.
    """

    prompt: Prompt
    sampling: Sampling
    codec: Codec
    prompt_tokens: NDArray[np.int32]
    ids: NDArray[np.int32]
    logps: NDArray[np.float32]
    steps: NDArray[np.int64]
    reason: NDArray[np.str_]
    seeds: Seeds
    chars: NDArray[np.int64]
    memory: tuple[Any, ...]

    @classmethod
    def empty(
        cls, prompt: Prompt, sampling: Sampling, codec: Codec, prompt_tokens: Sequence[int], seeds: Seeds
    ) -> TextDrafts:
        """One row a seed, nothing generated yet."""
        n = len(seeds)
        return cls(
            prompt=prompt,
            sampling=sampling,
            codec=codec,
            prompt_tokens=np.asarray(prompt_tokens, dtype=np.int32),
            ids=np.zeros((n, 0), dtype=np.int32),
            logps=np.zeros((n, 0), dtype=np.float32),
            steps=np.zeros(n, dtype=np.int64),
            reason=np.full(n, UNFINISHED, dtype="<U6"),
            seeds=np.asarray(seeds, dtype=np.uint64),
            chars=np.full(n, -1, dtype=np.int64),
            memory=(None,) * n,
        )

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        return f"TextDrafts({self.prompt.id!r}, {len(self)} rows, {int(self.done.sum())} done, steps {self.steps})"

    @property
    def done(self) -> NDArray[np.bool_]:
        return np.asarray(self.reason != UNFINISHED)

    @property
    def room(self) -> NDArray[np.int64]:
        return np.where(self.done, 0, self.sampling.max_tokens - self.steps)

    @cached_property
    def tokens(self) -> tuple[NDArray[np.int32], ...]:
        """The generated token ids of each row, the end-of-sequence token included."""
        return tuple(row[:k] for row, k in zip(self.ids, self.steps, strict=True))

    @property
    def logprobs(self) -> tuple[NDArray[np.float32], ...]:
        """The log-probability of each token of each row, under the law it was drawn from."""
        return tuple(row[:k] for row, k in zip(self.logps, self.steps, strict=True))

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """The generated text of each row: without special tokens and without the stop string that ended it."""
        full = (self.codec.decode(self.prompt_tokens, tokens) for tokens in self.tokens)
        return tuple(t if c < 0 else t[:c] for t, c in zip(full, self.chars, strict=True))

    def __getitem__(self, index: Index) -> TextDrafts:
        if not isinstance(index, slice):
            index = np.asarray(index)
            index = index if index.size else index.astype(np.int64)
        at = np.arange(len(self))[index]
        if at.ndim != 1:
            raise ProgramError(f"drafts are gathered by a list of rows, not by {index!r}", hint="Write drafts[[i]].")
        return replace(
            self,
            ids=self.ids[at],
            logps=self.logps[at],
            steps=self.steps[at],
            reason=self.reason[at],
            seeds=self.seeds[at],
            chars=self.chars[at],
            memory=tuple(self.memory[i] for i in at),
        )

    def cut(self, steps: int | NDArray[np.integer]) -> TextDrafts:
        keep = np.minimum(self.steps, steps)
        if np.any(keep < 0):
            raise ProgramError("drafts cannot be cut to a negative length", hint="Cut to 0 or more steps.")
        shorter = keep < self.steps
        width = int(keep.max(initial=0))
        beyond = np.arange(width) >= keep[:, None]
        return replace(
            self,
            ids=np.where(beyond, np.int32(-1), self.ids[:, :width]),
            logps=np.where(beyond, np.float32(0), self.logps[:, :width]),
            steps=keep,
            reason=np.where(shorter, UNFINISHED, self.reason),
            chars=np.where(shorter, -1, self.chars),
        )

    def ended(self) -> TextDrafts:
        """The same rows, the unfinished ones ended here, by their length."""
        return replace(self, reason=np.where(self.done, self.reason, LENGTH))

    def reseed(self, seeds: Seeds) -> TextDrafts:
        if len(seeds) != len(self):
            raise ProgramError(f"{len(seeds)} seeds for {len(self)} drafts", hint="Give one seed a row.")
        return replace(self, seeds=np.asarray(seeds, dtype=np.uint64))

    def concat(self, *others: TextDrafts) -> TextDrafts:
        parts = (self, *others)
        if any(p.prompt.id != self.prompt.id for p in parts):
            raise ProgramError("drafts of different prompts cannot be joined", hint="Keep one batch a prompt.")
        width = max(p.ids.shape[1] for p in parts)

        def pad(a: NDArray[Any], fill: float) -> NDArray[Any]:
            return np.pad(a, ((0, 0), (0, width - a.shape[1])), constant_values=fill)

        return replace(
            self,
            ids=np.concatenate([pad(p.ids, -1) for p in parts]),
            logps=np.concatenate([pad(p.logps, 0) for p in parts]),
            steps=np.concatenate([p.steps for p in parts]),
            reason=np.concatenate([p.reason for p in parts]),
            seeds=np.concatenate([p.seeds for p in parts]),
            chars=np.concatenate([p.chars for p in parts]),
            memory=tuple(m for p in parts for m in p.memory),
        )
