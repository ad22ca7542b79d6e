"""Drafts that are points of a space: what a diffusion or flow model makes longer by denoising.

All rows are one array, so that 20,000 two-dimensional samples cost no more than a few array operations a step. What
the network said about a row is remembered on the side (`Guesses`), shared by all forks of that row: the children of one
parent cost one pass of the network, and a preview that was looked at is the next step's pass.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Index
from italic.core.errors import ProgramError
from italic.core.keys import Seeds
from italic.core.prompt import Prompt


@dataclass(frozen=True, eq=False)
class Guesses:
    """What the network guesses the finished rows to be; a cache, never needed for correctness.

    clean: float64 [m, d], filled in place as rows are computed. known: bool [m].
    """

    clean: NDArray[np.float64]
    known: NDArray[np.bool_]

    @classmethod
    def none(cls, shape: tuple[int, ...]) -> Guesses:
        """Room for the guesses of latents of that shape, [m, d]."""
        return cls(np.empty(shape), np.zeros(shape[0], dtype=np.bool_))


@dataclass(frozen=True, eq=False)
class LatentDrafts:
    """Responses that are points. n rows of d numbers.

    x: float64 [n, d], the latents. steps: int64 [n], denoising steps taken of `horizon`. seeds: uint64 [n].
    guesses and place, int64 [n]: row i's guess is number place[i] of the guesses.
    """

    prompt: Prompt
    x: NDArray[np.float64]
    steps: NDArray[np.int64]
    horizon: int
    seeds: Seeds
    guesses: Guesses
    place: NDArray[np.int64]

    @classmethod
    def at(
        cls, prompt: Prompt, x: NDArray[np.float64], steps: NDArray[np.int64], horizon: int, seeds: Seeds
    ) -> LatentDrafts:
        """Rows of which the network has said nothing yet."""
        return cls(prompt, x, steps, horizon, seeds, Guesses.none(x.shape), np.arange(len(x)))

    def __len__(self) -> int:
        return len(self.x)

    def __repr__(self) -> str:
        return f"LatentDrafts({self.prompt.id!r}, {len(self)} rows of {self.x.shape[1]}, {int(self.done.sum())} done)"

    @property
    def done(self) -> NDArray[np.bool_]:
        return np.asarray(self.steps >= self.horizon)

    @property
    def room(self) -> NDArray[np.int64]:
        return self.horizon - self.steps

    def __getitem__(self, index: Index) -> LatentDrafts:
        if not isinstance(index, slice):
            index = np.asarray(index)
            index = index if index.size else index.astype(np.int64)
            if index.ndim != 1:
                raise ProgramError(
                    f"drafts are gathered by a list of rows, not by {index!r}", hint="Write drafts[[i]]."
                )
        return replace(self, x=self.x[index], steps=self.steps[index], seeds=self.seeds[index], place=self.place[index])

    def cut(self, steps: int | NDArray[np.integer]) -> LatentDrafts:
        if np.any(self.steps > steps):
            raise ProgramError("latents do not remember the way they came", hint='Declare that you need "cut".')
        return self

    def reseed(self, seeds: Seeds) -> LatentDrafts:
        if len(seeds) != len(self):
            raise ProgramError(f"{len(seeds)} seeds for {len(self)} drafts", hint="Give one seed a row.")
        return replace(self, seeds=np.asarray(seeds, dtype=np.uint64))

    def concat(self, *others: LatentDrafts) -> LatentDrafts:
        parts = (self, *others)
        if any(p.prompt.id != self.prompt.id for p in parts):
            raise ProgramError("drafts of different prompts cannot be joined", hint="Keep one batch a prompt.")
        return replace(
            self,
            x=np.concatenate([p.x for p in parts]),
            steps=np.concatenate([p.steps for p in parts]),
            seeds=np.concatenate([p.seeds for p in parts]),
            guesses=Guesses(
                np.concatenate([p.guesses.clean[p.place] for p in parts]),
                np.concatenate([p.guesses.known[p.place] for p in parts]),
            ),
            place=np.arange(sum(len(p) for p in parts)),
        )
