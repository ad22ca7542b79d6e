"""What a policy itself knows of a response's fate, taken out of the noise of its gradient.

Where KL-regularised RL ends, a token's advantage is beta m_t, with the surprise m_t = log(pi / p) - KL_t: log(pi / p)
of the token less its mean in that state. A policy on the way there has learned a part of that. Three things follow,
none of which changes the mean of the gradient:

- The surprises to come have the mean 0 whatever a token was, so that any multiple of them may be taken off its credit.
- So may that of the token itself, if the gradient of its mean, a multiple of that of KL_t, is given back exactly.
- What has gone before is no concern of a token's, so that any multiple of the surprises so far may be taken off too.

Each part of a response (see `credit`) has multiples of its own, kappa for the first two and eta for the last: what the
credit of its tokens regresses on these with, in the batches before. With kappa = beta that is log(pi / p) as RLOO takes
it off the reward, and at the optimum no noise is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from italic.train.tuning.credit import MEMORY, part_of

Array: TypeAlias = NDArray[np.float64]

DOUBT = 1.0
"""How much the regressions hold to 0 before they know anything, in squared nats."""


class Control(NamedTuple):
    """Of each of L tokens: kappa, eta and by how much the later surprises fade behind it. float64 [L]."""

    kappa: Array
    eta: Array
    fades: Array


class Controls:
    """Learns the multiples from batch to batch.

    cuts: int [J], after how many tokens responses are cut; decays: lambda of each part, J + 1 numbers (see `Credit`).
    moments: float64 [4, J + 1], the sums over each part's tokens of m^2, m times credit, and the same of the surprises
    so far.
    """

    def __init__(self, cuts: Sequence[int] | NDArray[np.int64] = (), decays: Sequence[float] = (1.0,)) -> None:
        self.cuts = np.asarray(cuts, dtype=np.int64)
        self.decays = np.asarray(decays, dtype=np.float64)
        self.moments = np.zeros((4, len(self.cuts) + 1))

    def control(self, width: int) -> Control:
        """For the first `width` tokens."""
        parts = part_of(self.cuts, width + 1)
        kappa, eta = (products / (squares + DOUBT) for squares, products in self.moments.reshape(2, 2, -1))
        fades = np.where(np.diff(parts) > 0, self.decays[parts[:-1]], 1.0)
        return Control(kappa[parts[:-1]], eta[parts[:-1]], fades)

    def seen(self, gains: Array, surprise: Array, before: Array) -> Array:
        """The moments of a batch, of whose tokens these are known, [B, L] (see `losses.Tilted`)."""
        sums = [of.sum(axis=0) for known in (surprise, before) for of in (known**2, known * gains)]
        parts, count = part_of(self.cuts, gains.shape[1]), len(self.cuts) + 1
        return np.array([np.bincount(parts, of_tokens, count) for of_tokens in sums])

    def learn(self, moments: Array) -> None:
        """Take in the moments of a batch."""
        self.moments = MEMORY * self.moments + moments

    def state(self) -> dict[str, Any]:
        """All that is known, as plain values."""
        return {"moments": self.moments.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Know what `state` said, and nothing else."""
        self.moments = np.array(state["moments"])
