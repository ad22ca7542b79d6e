"""Sequential Monte Carlo, known as Feynman-Kac steering: particles grow together, and the promising ones multiply."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import UsageError
from italic.core.outcome import Certificate, Outcome
from italic.core.protocols import Paper, Task
from italic.core.questions import Asking, extend, note
from italic.core.sampling import Until
from italic.laws.weights import effective_sample_size, gumbel, log_mean_exp, systematic
from italic.methods._rows import Rows, first_scored, ranked, replaced, steered_needs
from italic.values.kinds import Value, build_value


@dataclass(frozen=True)
class Smc:
    """n draws, each one of `particles` that grow together: at every block those of more value multiply.

    Law: the tilted law p exp(r / beta) / Z as `particles` grows, whatever the values; with any number of particles the
    answers' log-weights are proper: weighted sums are unbiased for Z E*[.]. The potential of a block is the increment
    of value / beta, so that the weights come to exp(r / beta) at the end. Weights are carried from block to block;
    where their effective sample size falls below `ess` of the particles, those are resampled, systematically. block:
    tokens or denoising steps between decisions. value: what an unfinished draft is worth: reward, preview or
    completions:k. A particle without a score has weight zero, and is
    never chosen.
    """

    n: int = 1
    particles: int = 16
    beta: float = 1.0
    block: int = 16
    value: str | Value = "reward"
    ess: float = 0.5

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper("2501.06848", "Singhal et al.", "A General Framework for Inference-time Scaling and Steering", 2025),
    )

    def __post_init__(self) -> None:
        if min(self.n, self.particles, self.block) < 1:
            raise UsageError(
                f"smc with n={self.n},particles={self.particles},block={self.block}",
                hint="Give 1 or more of each: smc:n=1,particles=16,block=16.",
            )
        if not (self.beta > 0 and math.isfinite(self.beta)):
            raise UsageError(f"smc with beta={self.beta}", hint="Give a positive number: smc:beta=1.")
        if not 0 <= self.ess <= 1:
            raise UsageError(f"smc with ess={self.ess}", hint="Give a share of the particles from 0 to 1: smc:ess=0.5.")
        build_value(self.value)

    @property
    def needs(self) -> frozenset[str]:
        """To go on from unfinished drafts, and what the value needs."""
        return steered_needs(self.value)

    def run(self, task: Task) -> Asking[Outcome]:
        drafts: Any = task.start(self.n * self.particles)
        steering = build_value(self.value)
        values = np.zeros(len(drafts))
        log_weights = np.zeros((self.n, self.particles))
        step = 0
        while not np.all(drafts.done):
            key, rows = task.key.at("step", step), np.flatnonzero(~drafts.done)
            seeds = key.at("grow").seeds(rows)
            grown = yield from extend(drafts[rows].reseed(seeds), Until(steps=self.block))
            worth = yield from steering.of(grown, self.beta)
            with np.errstate(invalid="ignore"):
                gained = log_weights.flat[rows] + (worth - values[rows]) / self.beta
            log_weights.flat[rows] = np.where(np.isnan(gained), -np.inf, gained)
            drafts, values[rows] = replaced(drafts, rows, grown), worth
            step += 1
            if not np.all(drafts.done):
                ancestors = self._resample(log_weights, key.at("resample").uniform(self.n))
                drafts, values = drafts[ancestors], values[ancestors]
            yield from note("step", step=step, rows=len(rows), ess=float(effective_sample_size(log_weights).mean()))
        numbers = np.arange(self.n * self.particles)
        height = ranked(gumbel(log_weights.ravel(), task.key.at("choose").uniform(numbers)))
        height[np.isnan(values)] = -np.inf
        picks = np.arange(self.n) * self.particles + height.reshape(log_weights.shape).argmax(axis=1)
        alive = log_weights.flat[picks] > -np.inf
        return Outcome(
            drafts[picks],
            values[picks],
            chosen=first_scored(np.where(alive, values[picks], np.nan) if alive.any() else values[picks], task),
            log_weights=log_mean_exp(log_weights),
            certificate=Certificate(ess=float(effective_sample_size(log_weights).mean())),
        )

    def _resample(self, log_weights: NDArray[np.float64], uniforms: NDArray[np.float64]) -> Rows:
        """The rows to go on from, int64 [n * particles]; resampled groups' weights become their mean, in place."""
        sizes = effective_sample_size(log_weights)
        poor = np.flatnonzero((sizes > 0) & (sizes < self.ess * self.particles))
        ancestors = np.arange(log_weights.size).reshape(log_weights.shape)
        if len(poor):
            ancestors[poor] = poor[:, None] * self.particles + systematic(log_weights[poor], uniforms[poor])
            log_weights[poor] = log_mean_exp(log_weights[poor])[:, None]
        return ancestors.ravel()
