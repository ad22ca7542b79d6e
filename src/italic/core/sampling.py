"""How tokens are drawn, and when an extension ends."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import UsageError


@dataclass(frozen=True)
class Sampling:
    """The policy p that is tilted: the model's next-token law after temperature, top-k, top-p and min-p.

    Names and order as in Transformers' `GenerationConfig`; the default is the model's own law, untruncated.
    temperature 0 is greedy. `stop` strings end a response and are not part of it. `max_tokens` counts the
    response's tokens, the end-of-sequence token included. With `ignore_eos` that token ends nothing.
    """

    max_tokens: int = 128
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens is {self.max_tokens}", hint="Give a number of tokens of 1 or more.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(f"temperature is {self.temperature}", hint="Give 0 (greedy) or a positive number.")
        if self.top_k < 0:
            raise UsageError(f"top_k is {self.top_k}", hint="Give 0 (off) or a number of tokens.")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}", hint="Give a share above 0 and at most 1 (off).")
        if not 0 <= self.min_p <= 1:
            raise UsageError(f"min_p is {self.min_p}", hint="Give a share from 0 (off) to 1.")
        if isinstance(self.stop, str) or any(not s for s in self.stop):
            raise UsageError("stop is not a tuple of non-empty strings", hint='Give for instance stop=("\\n\\n",).')

    @property
    def truncates(self) -> bool:
        """Whether some tokens of positive probability are never drawn."""
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0 or self.temperature == 0

    @property
    def plain(self) -> bool:
        """Whether every token is drawn by the model's own law."""
        return self.temperature == 1 and not self.truncates


@dataclass(frozen=True)
class Until:
    """Where one extension ends, if the response does not end before.

    steps: at most this many further tokens (or denoising steps) a row: one number for all rows, or one a row.
    entropy: end *before* the token whose predictive entropy (nats, full vocabulary, temperature 1) is at least this;
        that token opens the next extension. The first `min_steps` tokens of the extension are not tested, and the
        very first never is, so that every extension makes progress.
    """

    steps: int | tuple[int, ...] | None = None
    entropy: float | None = None
    min_steps: int = 1

    def __post_init__(self) -> None:
        steps = self.steps if isinstance(self.steps, tuple) else (self.steps,)
        if any(s is not None and s < 1 for s in steps):
            raise UsageError(f"an extension by {self.steps} steps", hint="Give steps of 1 or more.")
        if self.min_steps < 1:
            raise UsageError(f"min_steps is {self.min_steps}", hint="Give 1 or more.")

    def most(self, n: int) -> NDArray[np.int64]:
        """The largest number of further steps for each of `n` rows: int64 [n]."""
        if self.steps is None:
            return np.full(n, np.iinfo(np.int64).max // 2)
        if isinstance(self.steps, Sequence):
            if len(self.steps) != n:
                raise UsageError(f"{len(self.steps)} step limits for {n} rows", hint="Give one a row, or one number.")
            return np.asarray(self.steps, dtype=np.int64)
        return np.full(n, self.steps, dtype=np.int64)


FINISH = Until()
"""Extend until the response ends."""
