"""What a model is tuned to: a transform of the reward's quantile, a beta, and the divergence they should come to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import UsageError
from italic.laws.best_of_n import kl_bound
from italic.laws.finite_reference import loss_of_finite
from italic.laws.finite_tilt import beta_at
from italic.laws.inference_aware import Transform, identity, log
from italic.laws.procedures import Procedure, plain
from italic.laws.quantile import counts, mid_rank, own_counts
from italic.train.tuning.lead import ABOVE, EARLY

Array: TypeAlias = NDArray[np.float64]

SEEN = 0.02
"""A win rate that is lower by so much for want of reference rewards is worth a word."""
LOST = 0.1
"""And by so much, a refusal."""
MOST_REFERENCES = 10_000
"""More are not advised."""
LOWEST = -20.0
"""The least log beta that the raw reward is given."""


@dataclass(frozen=True, eq=False)
class Objective:
    """Maximise E_pi[Phi(C)] - beta KL(pi || p), C being the quantile of the reward.

    transform: Phi, None for the raw reward. start: the beta that training begins with. ease: how much C there is beside
    Phi(C) where training begins, see `worth`. kl: nats, what the optimum has, or should have. lead: whether beta is led
    to that while training. procedure: how the model will be used.
    """

    name: str
    transform: Transform | None
    beta: float
    start: float
    ease: float
    kl: float
    lead: bool
    procedure: Procedure

    def worth(self, rewards: Array, reference: Array, stage: float = 1.0) -> Array:
        """What rewards, float64 [n], are worth beside the prompt's reference rewards, float64 [K]: float64 [n].

        stage: how far training is from its beginning, 0, to where the objective alone counts, 1. What is to be learned
        first is which tokens raise the reward at all, and of that the quantile C tells more than a steep Phi, which is
        the same for most responses. So C gives way to Phi(C) evenly.
        """
        if self.transform is None:
            return rewards
        seen = counts(reference, rewards)
        worth = self.transform.estimate(seen)
        return worth if self.ease == 0 or stage == 1 else stage * worth + (1 - stage) * self.ease * mid_rank(seen)

    def own(self, reference: Array) -> Array:
        """What the reference responses themselves are worth, each beside the K - 1 others: float64 [K]."""
        return reference if self.transform is None else self.transform.estimate(own_counts(reference))

    def log_z(self, k: int) -> float:
        """log of the mean of exp(worth / beta) over the reference itself, by estimates from k rewards.

        How many of k others a reference draw wins over is uniform on 0, ..., k, whatever the reward's law; if it is
        continuous. Raises UsageError for the raw reward, which has no such constant.
        """
        if self.transform is None:
            raise UsageError("the raw reward has no known normaliser", hint="Choose another --transform, or rloo.")
        scores = self.transform.tables(k) / self.beta
        top = float(scores.max())
        return top + math.log(float(np.exp(scores - top).mean()))


def vbon(n: int, k: int, kl: float | None = None) -> Objective:
    """Variational best-of-n (2407.06057): reward log F, beta 1 / (n - 1), or one that is led to a divergence.

    k: reference rewards a prompt. kl: the divergence, nats; None leaves beta as it is, whose optimum has that of
    best-of-n. Raises UsageError for n < 2, or for a divergence that k reference rewards cannot show.
    """
    check_best_of(n)
    if kl is not None:
        beta, start = _betas(log(), k, kl)
        return Objective(f"vbon:n={n}", log(), beta, start, 0.0, kl, True, plain())
    beta = 1 / (n - 1)
    return Objective(f"vbon:n={n}", log(), beta, ABOVE * beta, 0.0, kl_bound(n), False, plain())


def check_best_of(n: int) -> None:
    """Raise UsageError for a best-of-n that is not worth imitating."""
    if n < 2:
        raise UsageError(f"variational best-of-{n}", hint="Give 2 or more draws to imitate the best of: --n 16.")


def infalign(transform: Transform, procedure: Procedure, k: int, kl: float) -> Objective:
    """Calibrate-and-transform RL (2412.19792) at a divergence.

    k: reference rewards a prompt. beta is such that the tilt by estimates from so few has this divergence in the mean
    over prompts: far from that of known quantiles where the transform is steep. Training begins with the quantile, in
    units that have the same divergence by the same beta. Raises UsageError for a divergence that
    k reference rewards cannot show.
    """
    beta, start = _betas(transform, k, kl)
    ease = start / beta_at(identity().tables(k), EARLY * kl)
    return Objective(f"{transform.name} for {procedure.name}", transform, beta, start, ease, kl, True, procedure)


def _betas(transform: Transform, k: int, kl: float) -> tuple[float, float]:
    """Of the optimum and of the beginning."""
    table = transform.tables(k)
    try:
        return beta_at(table, kl), beta_at(table, EARLY * kl)
    except ValueError as failure:
        raise UsageError(
            f"--kl {kl:g} with {k} reference rewards a prompt: {failure}",
            hint="Give a smaller --kl, or calibrate with more --samples.",
        ) from failure


def raw(references: Sequence[Array], procedure: Procedure, kl: float) -> Objective:
    """KL-regularised RL on the reward as it is: beta is where softmax(r / beta) over the reference rewards of a prompt
    has the divergence `kl` in the mean over prompts.

    references: for each prompt its reference rewards. Raises UsageError where K of them cannot show such a divergence.
    """
    if any(not np.isfinite(rewards).all() for rewards in references):
        raise UsageError("a reference reward is infinite", hint="Train on calibrated rewards: any --transform but raw.")
    least = min(len(rewards) for rewards in references)
    if not 0 < kl < _mean_kl(references, math.exp(LOWEST)) or kl > math.log(least) / 2:
        raise UsageError(
            f"--kl {kl:g} on the raw reward, and {least} reference rewards of a prompt to take beta from",
            hint=f"Give --kl below {math.log(least) / 2:.2g}, or calibrate with more --samples.",
        )
    beta, start = (_raw_beta(references, nats) for nats in (kl, EARLY * kl))
    return Objective("raw reward", None, beta, start, 0.0, kl, True, procedure)


def _raw_beta(references: Sequence[Array], kl: float) -> float:
    low, high = LOWEST, -LOWEST
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _mean_kl(references, math.exp(middle)) > kl else (low, middle)
    return math.exp(high)


def _mean_kl(references: Sequence[Array], beta: float) -> float:
    return float(np.mean([_kl_of_weights(rewards / beta) for rewards in references]))


def _kl_of_weights(scores: Array) -> float:
    """KL(softmax(scores) || uniform), nats."""
    log_weights = scores - scores.max()
    weights = np.exp(log_weights)
    total = float(weights.sum())
    return float(weights @ log_weights) / total - math.log(total) + math.log(len(scores))


def want_of_references(objective: Objective, k: int) -> str | None:
    """What it costs that a prompt has only k reference rewards, in a sentence; None if it is little.

    Raises UsageError where the objective cannot be reached with so few.
    """
    transform = objective.transform
    if transform is None:
        return None
    try:
        found = loss_of_finite(transform, objective.procedure, objective.kl, k, np.random.default_rng(0))
    except ValueError as failure:
        raise UsageError(
            f"{k} reference rewards a prompt are too few for {objective.name}: {failure}",
            hint="Calibrate with more --samples, or aim at a smaller divergence.",
        ) from failure
    rate = f"the win rate would be {found.win_rate:.3f} instead of {found.exact:.3f}"
    if found.loss > LOST:
        raise UsageError(
            f"{k} reference rewards a prompt are too few for {objective.name}: {rate}",
            hint=f"Calibrate with more samples: --samples {_enough(objective, k)} loses less than {SEEN}.",
        )
    if found.loss <= SEEN:
        return None
    return f"{k} reference rewards a prompt are few for {objective.name}: {rate}; {_enough(objective, k)} lose little"


def _enough(objective: Objective, k: int) -> int:
    """The first of k, 2 k, 4 k, ... that loses little."""
    assert objective.transform is not None
    found = k
    while found < MOST_REFERENCES:
        found *= 2
        args = objective.transform, objective.procedure, objective.kl, found, np.random.default_rng(0)
        if loss_of_finite(*args).loss <= SEEN:
            break
    return found
