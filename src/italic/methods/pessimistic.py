"""Inference-time pessimism: like soft best-of-n, but a reward far above the others is not followed exponentially."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import UsageError
from italic.core.outcome import Certificate, Outcome
from italic.core.protocols import Paper, Task
from italic.core.questions import Asking, best, extend, score
from italic.laws.pessimism import log_weights
from italic.laws.weights import effective_sample_size, gumbel


@dataclass(frozen=True)
class Pessimistic:
    """n draws, one of them is the answer, in proportion to how far its reward is above a threshold, never if below.

    Row i has the weight w_i = relu((r_i - lambda) / beta), and lambda is such that the mean weight is 1. The paper
    accepts a draw with probability min(1, w / M), M = (R_max - lambda) / beta, no reward being above R_max. Run on the
    n draws at hand, one of them proposed uniformly until one is accepted, that returns row i with probability
    w_i / sum w. So the row is chosen by these weights directly, without further draws and without R_max.

    Law: p relu((r - lambda) / beta), the law pi with the largest E[r] - beta/2 chi^2(pi || p), as n grows; plain
    sampling as beta grows, best-of-n as beta goes to 0. Its chi^2(pi || p) is at most Var_p(r) / beta^2, so more
    draws do not lead further and further from the model. They are a weighted sample of that law, worth `ess` equal
    ones; those below lambda are worth nothing. Rewards of inf share all the weight equally, and so do those of -inf if
    there are no others.
    """

    n: int = 16
    beta: float = 1.0

    needs: ClassVar[frozenset[str]] = frozenset()
    papers: ClassVar[tuple[Paper, ...]] = (
        Paper(
            "2503.21878",
            "Huang et al.",
            "Is Best-of-N the Best of Them? Coverage, Scaling, and Optimality in Inference-Time Alignment",
            2025,
        ),
    )

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(
                f"pessimistic with n={self.n}", hint="Give a number of draws of 1 or more: pessimistic:n=16."
            )
        if not (self.beta > 0 and math.isfinite(self.beta)):
            raise UsageError(
                f"pessimistic with beta={self.beta}",
                hint="Give a positive number: pessimistic:beta=1. Near 0 it is best-of-n, near infinity sample.",
            )

    def run(self, task: Task) -> Asking[Outcome]:
        drafts = yield from extend(task.start(self.n))
        rewards = yield from score(drafts)
        weights = _log_weights(rewards, self.beta)
        return Outcome(
            drafts,
            rewards,
            chosen=best(gumbel(weights, task.key.at("choose").uniform(self.n))),
            log_weights=weights,
            certificate=Certificate(ess=float(effective_sample_size(weights))),
        )


def _log_weights(rewards: NDArray[np.float64], beta: float) -> NDArray[np.float64]:
    infinite = rewards == np.inf
    return np.where(infinite, 0.0, -np.inf) if infinite.any() else log_weights(rewards, beta)
