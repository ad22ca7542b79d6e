"""What calibrate-and-transform training would reach, without training: rejection on a transform of the quantile.

A model that is trained to maximise E[Phi(C)] - beta KL, C being the quantile of a response's reward among the prompt's
reference rewards, ends at the law p exp(Phi(C) / beta) / Z. Accepting a draw of the model with probability
exp((Phi(C) - max Phi) / beta) samples that law at once, at 1/Z' draws each, so that it can be looked at before it is
paid for. C is not known but estimated from K reference rewards, as in training, and the law is that of the estimates.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple

import numpy as np

from italic.core.errors import UsageError
from italic.core.keys import Seeds
from italic.core.outcome import Certificate, Outcome
from italic.core.protocols import Paper, Task
from italic.core.questions import Asking, extend, score
from italic.laws.finite_tilt import beta_at, mean_tilt
from italic.laws.inference_aware import Transform
from italic.laws.quantile import Array, averaged, counts
from italic.methods._calibrated import Calibrated
from italic.methods._clipped import Propose, Taken, clipped_step
from italic.methods._rows import Rows
from italic.values.calibration import Calibration
from italic.values.transforms import read_procedure, read_transform

REFERENCES = 64
"""Reference draws a prompt, if there is no calibration and nothing is said."""


@dataclass(frozen=True)
class Tilted(Calibrated):
    """n draws of the law that training on calibrated rewards would reach, by rejection, without training.

    Law: p exp(Phi / beta) / Z, exactly, given the K reference rewards: Phi is the transform's estimate from how many of
    them a reward beats, a tie being half a win. As K grows it is that of the quantile C. As kl goes to 0, or beta up,
    it is the model; the logarithm at beta = 1 / (N - 1) gives about the law of best-of-N.

    calibration: a file of `italic calibrate` that has the prompts; without it `references` (64) draws are made for each
    prompt first. transform: fixed-point, the best for `procedure`, how the answers will be used (sample, best-of-n:n=4,
    worst-of-n:n=4); or identity, log, exp:t=10. kl: the divergence from the model, nats, in the mean over prompts with
    that many references and no ties; or beta, of a transform of range 1 (the logarithm is as it is). max_draws: after
    so many, an answer is one of its draws, in proportion to exp(Phi / beta). parallel: draws under way at most; it
    changes the cost, not the answer. The certificate's `kl` is what the mean over prompts should be, not counting that;
    `mean_draws` leaves the reference draws out.
    """

    calibration: str | Calibration | None = None
    transform: str = "fixed-point"
    procedure: str = "sample"
    kl: float | None = None
    beta: float | None = None
    n: int = 1
    references: int | None = None
    max_draws: int = 1000
    parallel: int = 64

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper("2412.19792", "Balashankar et al.", "InfAlign: Inference-aware language model alignment", 2025),
    )

    def __post_init__(self) -> None:
        if (self.kl is None) == (self.beta is None):
            raise UsageError(
                f"tilted with kl={self.kl},beta={self.beta}",
                hint="Give one of them, how far to go from the model in nats: tilted:kl=1.",
            )
        for name in ("kl", "beta"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise UsageError(f"tilted with {name}={value}", hint=f"Give a positive number: tilted:{name}=1.")
        for name in ("n", "references", "max_draws", "parallel"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise UsageError(f"tilted with {name}={number}", hint=f"Give 1 or more: tilted:kl=1,{name}=64.")
        if self.calibration is not None and self.references is not None:
            raise UsageError(
                f"tilted with references={self.references} and a calibration, which has them already",
                hint="Leave references out, or the calibration.",
            )
        _transform(self.transform, self.procedure, self.kl)
        if self.calibration is None:
            self._aim(self.references or REFERENCES)

    @property
    def needs(self) -> frozenset[str]:
        """A calibration is of texts."""
        return frozenset() if self.calibration is None else frozenset({"texts"})

    def run(self, task: Task) -> Asking[Outcome]:
        reference = yield from self._reference(task)
        aim, seen = self._aim(len(reference)), dict[int, float]()
        taken = yield from clipped_step(
            _proposals(task, aim, reference, seen),
            np.full(self.n, aim.table.max() / aim.beta),
            np.arange(self.n),
            task.key,
            most=self.max_draws,
            parallel=self.parallel,
            proper=False,
            partial=True,
        )
        rewards = np.array([seen[seed] for seed in taken.drafts.seeds.tolist()])
        certificate = _certificate(taken, aim.kl)
        return Outcome(taken.drafts, rewards, chosen=0, certificate=certificate, complete=taken.complete)

    def _reference(self, task: Task) -> Asking[Array]:
        """The prompt's reference rewards that are there, float64 [*]: of the calibration, or drawn now."""
        known = self.known(task)
        if known is not None:
            return known
        drafts = yield from extend(task.start(self.references or REFERENCES, "reference"))
        rewards = yield from score(drafts)
        return rewards[~np.isnan(rewards)]

    def _aim(self, k: int) -> _Aim:
        return _aim(self.transform, self.procedure, self.kl, self.beta, k)


class _Aim(NamedTuple):
    """What k reference rewards make of the parameters. table: float64 [k + 1], Phi by wins; kl: nats, of that beta."""

    table: Array
    beta: float
    kl: float


@lru_cache(maxsize=64)
def _transform(transform: str, procedure: str, kl: float | None) -> Transform:
    return read_transform(transform, read_procedure(procedure), kl)


@lru_cache(maxsize=64)
def _aim(transform: str, procedure: str, kl: float | None, beta: float | None, k: int) -> _Aim:
    table = _transform(transform, procedure, kl).tables(k)
    if beta is not None:
        return _Aim(table, beta, mean_tilt(table, beta).kl)
    assert kl is not None
    try:
        return _Aim(table, beta_at(table, kl), kl)
    except ValueError as failure:
        raise UsageError(
            f"tilted with transform={transform}: {failure}",
            hint="Give a smaller kl, or more reference rewards: tilted:kl=1,references=128, or a larger calibration.",
        ) from failure


def _proposals(task: Task, aim: _Aim, reference: Array, seen: dict[int, float]) -> Propose:
    """Draws of the model with Phi / beta of their rewards, nats; `seen` is told the rewards, by the draws' seeds."""

    def propose(rows: Rows, seeds: Seeds) -> Asking[tuple[Any, Array]]:
        drafts = yield from extend(task.begin(seeds))
        rewards = yield from score(drafts, strict=False)
        seen.update(zip(drafts.seeds.tolist(), rewards.tolist(), strict=True))
        f, there = np.full(len(rewards), np.nan), ~np.isnan(rewards)
        f[there] = averaged(aim.table, counts(reference, rewards[there])) / aim.beta
        return drafts, f

    return propose


def _certificate(taken: Taken, kl: float) -> Certificate:
    proposals, accepted = int(taken.draws.sum()), int(np.sum(~taken.exhausted))
    return Certificate(
        kl=kl,
        acceptance=accepted / proposals,
        exhaustion_rate=float(np.mean(taken.exhausted)),
        mean_draws=proposals / len(taken.draws),
        proposals=proposals,
        accepted=accepted,
    )
