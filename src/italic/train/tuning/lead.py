"""Beta in the course of training: let down from above, and led to a divergence.

Begun at its final value, beta lets the policy run far from the reference by what pays at once, and come back slowly. So
it begins higher and falls evenly in its logarithm for a part of the steps: the policy passes through the optima of
larger betas. A divergence to be led to is meanwhile expected to rise evenly to that. Which beta has which divergence is
known of the optimum; a policy controls but a part of its reward, and where the transform is steep needs another beta by
far. So the divergence is watched from the first step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

ABOVE, DESCENT = 8.0, 0.5
"""To which part beta falls, and in which share of the steps."""
EARLY = 0.16
"""The share of the target that the optimum's divergence has at the beta that is begun with. Parts of a
smaller divergence are not looked at."""
SLACK = 0.5
"""How far, in parts, the divergence may be below what is expected while beta falls."""
GAIN, PULL = 0.06, 1.0
"""How much log beta moves in a step, for a divergence off by its own size; and how much it is off beside that."""
MEMORY = 0.9
"""Of the running mean of the divergence."""


@dataclass
class Lead:
    """beta: what it falls to, led as training goes. target: nats, None to leave beta as it is. steps: of the training.

    kl: the running mean of the divergence, NaN before the first step.
    """

    beta: float
    target: float | None
    steps: int
    kl: float = math.nan

    def at(self, done: int) -> float:
        """Beta after so many steps."""
        return self.beta * ABOVE ** (1 - self.stage(done)) * math.exp(PULL * self._off(done))

    def learn(self, done: int, kl: float) -> None:
        """A step was done, the last of so many, whose rollouts had this divergence, nats."""
        self.kl = kl if math.isnan(self.kl) else MEMORY * self.kl + (1 - MEMORY) * kl
        self.beta *= math.exp(GAIN * self._off(done))

    def stage(self, done: int) -> float:
        """How far beta has fallen after so many steps, 0 to 1."""
        return min(1.0, done / (DESCENT * self.steps))

    def _off(self, done: int) -> float:
        """How far the divergence is above what it should be, in parts, -1 to 1."""
        if self.target is None or math.isnan(self.kl):
            return 0.0
        stage = self.stage(done)
        expected = self.target * stage
        off = (self.kl - expected) / max(expected, EARLY * self.target)
        if stage < 1 and off < 0:
            off = min(0.0, off + SLACK) / (1 - SLACK)
        return float(np.clip(off, -1, 1))
