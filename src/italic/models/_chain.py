"""A model that walks from noise to data, for any denoiser.

Another back-end needs only a `Denoiser`, in one file of its own. A row depends on its own state, seed and steps alone,
to the last bit, if the denoiser's rows do: all arithmetic here is elementwise. What the denoiser said about a row is
kept in the row's `Guesses`: children of one row cost one pass, and a preview that was looked at is the next step's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts
from italic.core.errors import ModelError, ProgramError, UsageError
from italic.core.keys import Seeds, uniforms
from italic.core.latents import Guesses, LatentDrafts
from italic.core.prompt import Prompt
from italic.core.protocols import Embedded, Grown, Spent
from italic.core.questions import Extend
from italic.core.sampling import Sampling
from italic.models._schedule import Array, Schedule, Variance


class Denoiser(Protocol):
    """What guesses the data behind the noise: E[x0 | a x0 + b eps = x], float64 [n, d], row by row."""

    def __call__(self, x: Array, a: float, b: float) -> Array: ...


@dataclass(frozen=True, eq=False)
class GaussianModel:
    """The chain from noise to data of a denoiser; d coordinates. Drafts are `LatentDrafts`, a step is a transition.

    The noise of coordinate j is the normal quantile of `uniforms(seed, k d + j)`: k = 0 draws the start from N(0, I),
    k = 1, 2, ... the transitions. eta, variance: see `Schedule.kernel`. features: the coordinates that `embed` returns,
    None for all. The prompt does not change the law.

    Raises UsageError for values that give no chain, or one without noise.
    """

    name: str
    denoiser: Denoiser
    schedule: Schedule
    eta: float = 1.0
    variance: Variance = "posterior"
    d: int = 2
    features: tuple[int, ...] | None = None

    offers: ClassVar[frozenset[str]] = frozenset({"resume", "latents", "preview", "embed"})

    def __post_init__(self) -> None:
        if self.d < 1 or (self.features is not None and not set(self.features) <= set(range(self.d))):
            raise UsageError(
                f"the features {self.features} of {self.d} coordinates", hint="Give numbers from 0 to d-1."
            )
        self.schedule.kernel(self.eta, self.variance)

    @property
    def horizon(self) -> int:
        """The number of transitions."""
        return len(self.schedule.a) - 1

    def start(self, prompt: Prompt, seeds: Seeds, sampling: Sampling) -> LatentDrafts:
        """Rows of pure noise. max_tokens has no meaning here: the schedule says how long a response is.

        Raises UsageError for settings that latents do not have: temperature, truncation, stop strings.
        """
        if not sampling.plain or sampling.stop:
            raise UsageError(
                "latents have no temperature, top-k, top-p, min-p or stop strings",
                hint="Leave these out for the model " + self.name + ".",
            )
        seeds = np.asarray(seeds, dtype=np.uint64)
        steps = np.zeros(len(seeds), dtype=np.int64)
        return LatentDrafts.at(prompt, self._noise(seeds, steps), steps, self.horizon, seeds)

    def extend(self, jobs: Sequence[Extend]) -> list[Grown]:
        """All rows of all jobs move together. The first answer carries the denoiser's calls, which all jobs share.

        tokens: transitions drawn. positions: rows through the denoiser; a guess that is known, or a fork's, costs none.
        """
        drafts = [self._mine(job.drafts) for job in jobs]
        if any(job.until.entropy is not None for job in jobs):
            raise ProgramError(f"{self.name} has no entropy", hint='A method that uses it declares the need "entropy".')
        if not jobs:
            return []
        owner = np.repeat(np.arange(len(jobs)), [len(one) for one in drafts])
        x = np.concatenate([one.x for one in drafts])
        steps = np.concatenate([one.steps for one in drafts])
        seeds = np.concatenate([one.seeds for one in drafts])
        limits = steps + np.concatenate(
            [np.minimum(one.room, job.until.most(len(one))) for one, job in zip(drafts, jobs, strict=True)]
        )
        drawn = np.bincount(owner, weights=limits - steps, minlength=len(jobs)).astype(np.int64)
        seen, calls = self._look(drafts)
        clean = np.concatenate([one.guesses.clean[one.place] for one in drafts])
        ahead, back, width = self.schedule.kernel(self.eta, self.variance)
        going = np.flatnonzero(steps < limits)
        clean = clean[going]
        while len(going):
            at = steps[going]
            moved = ahead[at, None] * clean + back[at, None] * x[going]
            x[going] = moved + width[at, None] * self._noise(seeds[going], at + 1)
            steps[going] += 1
            going = going[steps[going] < limits[going]]
            if len(going):
                clean, more = self._denoise(x[going], steps[going])
                calls += more
                seen += np.bincount(owner[going], minlength=len(jobs))
        answers = []
        ends = np.cumsum([len(one) for one in drafts])[:-1]
        for i, (one, ended, taken) in enumerate(zip(drafts, np.split(x, ends), np.split(steps, ends), strict=True)):
            grown = LatentDrafts.at(one.prompt, ended, taken, one.horizon, one.seeds)
            answers.append(Grown(grown, Spent(int(drawn[i]), int(seen[i]), 0 if i else calls)))
        return answers

    def preview(self, batches: Sequence[Drafts]) -> list[Grown]:
        """Rows that end in the guessed data; done rows as they are. Only guesses not yet known cost positions."""
        drafts = [self._mine(one) for one in batches]
        seen, calls = self._look(drafts)
        answers = []
        for i, one in enumerate(drafts):
            x = np.where(one.done[:, None], one.x, one.guesses.clean[one.place])
            ended = np.full(len(one), self.horizon, dtype=np.int64)
            finished = LatentDrafts.at(one.prompt, x, ended, one.horizon, one.seeds)
            answers.append(Grown(finished, Spent(positions=int(seen[i]), calls=0 if i else calls)))
        return answers

    def embed(self, batches: Sequence[Drafts]) -> list[Embedded]:
        """The latents themselves, or the coordinates chosen by `features`: float64 [n, len(features)], for nothing."""
        kept = list(range(self.d)) if self.features is None else list(self.features)
        return [Embedded(self._mine(one).x[:, kept]) for one in batches]

    def line_means(self, grid: Array, axis: int = 0) -> tuple[Array, Array]:
        """One coordinate as a chain of its own: means float64 [horizon, m] of the next x for each x of the grid [m],
        and standard deviations float64 [horizon]. The first state is N(0, 1).

        Raises UsageError if the other coordinates change the means, so that there is no such chain.
        """
        ahead, back, width = self.schedule.kernel(self.eta, self.variance)
        here, there = np.zeros((len(grid), self.d)), np.ones((len(grid), self.d))
        here[:, axis] = there[:, axis] = grid
        means = np.empty((self.horizon, len(grid)))
        for t, (a, b) in enumerate(zip(self.schedule.a[:-1].tolist(), self.schedule.b[:-1].tolist(), strict=True)):
            clean = self.denoiser(here, a, b)[:, axis]
            if not np.allclose(clean, self.denoiser(there, a, b)[:, axis], rtol=1e-9, atol=1e-9):
                raise UsageError(
                    f"coordinate {axis} of {self.name} depends on the others", hint="Use samples instead of quadrature."
                )
            means[t] = ahead[t] * clean + back[t] * grid
        return means, width

    def _mine(self, drafts: Drafts) -> LatentDrafts:
        if not isinstance(drafts, LatentDrafts) or drafts.horizon != self.horizon or drafts.x.shape[1] != self.d:
            raise ProgramError(f"{drafts!r} are no drafts of {self.name}", hint="Start them with this model.")
        return drafts

    def _noise(self, seeds: Seeds, steps: NDArray[np.int64]) -> Array:
        """Standard normal numbers [n, d] for the draw that is each row's `steps`-th."""
        from scipy.special import ndtri

        positions = steps[:, None] * self.d + np.arange(self.d)
        return np.asarray(ndtri(uniforms(seeds[:, None], positions)))

    def _look(self, drafts: Sequence[LatentDrafts]) -> tuple[NDArray[np.int64], int]:
        """Fill in the guesses of all unfinished rows, each place once: positions of each batch [len(drafts)], calls."""
        claimed: dict[int, NDArray[np.bool_]] = {}
        todo: list[tuple[Guesses, NDArray[np.int64], NDArray[np.int64]]] = []
        for one in drafts:
            if id(one.guesses) not in claimed:
                claimed[id(one.guesses)] = one.guesses.known.copy()
            taken = claimed[id(one.guesses)]
            rows = np.flatnonzero(~one.done & ~taken[one.place])
            places, first = np.unique(one.place[rows], return_index=True)
            taken[places] = True
            todo.append((one.guesses, places, rows[first]))
        counts = np.array([len(places) for _, places, _ in todo], dtype=np.int64)
        if not counts.sum():
            return counts, 0
        x = np.concatenate([one.x[rows] for one, (*_, rows) in zip(drafts, todo, strict=True)])
        steps = np.concatenate([one.steps[rows] for one, (*_, rows) in zip(drafts, todo, strict=True)])
        clean, calls = self._denoise(x, steps)
        for (guesses, places, _), part in zip(todo, np.split(clean, np.cumsum(counts)[:-1]), strict=True):
            guesses.clean[places] = part
            guesses.known[places] = True
        return counts, calls

    def _denoise(self, x: Array, steps: NDArray[np.int64]) -> tuple[Array, int]:
        """The denoiser's guesses [n, d] at each row's level, and its calls: one a level. Raises ModelError."""
        clean, levels = np.empty_like(x), np.unique(steps)
        for level in levels.tolist():
            rows = slice(None) if len(levels) == 1 else np.flatnonzero(steps == level)
            guess = self.denoiser(x[rows], float(self.schedule.a[level]), float(self.schedule.b[level]))
            if guess.shape != x[rows].shape or not np.isfinite(guess).all():
                raise ModelError(
                    f"the denoiser of {self.name} gave shape {guess.shape} for {x[rows].shape}, or numbers not finite",
                    hint=f"Check it at level {level} of the schedule.",
                )
            clean[rows] = guess
        return clean, len(levels)
