"""A reward of points: a constant on one side of a coordinate, 0 on the other. The benchmark of rare events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from italic.core.drafts import Drafts
from italic.core.errors import RewardError, UsageError
from italic.core.latents import LatentDrafts
from italic.core.protocols import Scored

EXAMPLE = "Write for instance region:scale=3,below=-7,axis=0."


@dataclass(frozen=True)
class Region:
    """`scale` where the coordinate `axis` is below `below`, or above `above`, strictly; 0 elsewhere.

    Exactly one of `below` and `above` is given. Raises UsageError otherwise, and for a scale of 0 or a negative axis.
    """

    scale: float = 1.0
    below: float | None = None
    above: float | None = None
    axis: int = 0

    needs: ClassVar[frozenset[str]] = frozenset({"latents"})
    partial: ClassVar[bool] = False
    deterministic: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if (self.below is None) == (self.above is None):
            raise UsageError("a region needs one edge: either below or above", hint=EXAMPLE)
        if not math.isfinite(self.edge):
            raise UsageError(f"a region with its edge at {self.edge}", hint=EXAMPLE)
        if not math.isfinite(self.scale) or self.scale == 0:
            raise UsageError(f"a region of scale {self.scale}", hint=f"Give a number other than 0. {EXAMPLE}")
        if self.axis < 0:
            raise UsageError(f"a region along the coordinate {self.axis}", hint=f"Count from axis=0. {EXAMPLE}")

    @property
    def edge(self) -> float:
        """Where the reward jumps."""
        edge = self.above if self.below is None else self.below
        assert edge is not None
        return edge

    @property
    def name(self) -> str:
        side = "above" if self.below is None else "below"
        return f"region:scale={self.scale},{side}={self.edge},axis={self.axis}"

    def score(self, batches: Sequence[Drafts]) -> list[Scored]:
        return [self._score(drafts) for drafts in batches]

    def _score(self, drafts: Drafts) -> Scored:
        if not isinstance(drafts, LatentDrafts):
            raise RewardError(f"{self.name} scores points only", hint="Use it with a model that offers latents.")
        if not drafts.done.all():
            raise RewardError(
                f"{self.name} scores finished drafts only",
                hint="Preview unfinished drafts and score the previews: preview(drafts).",
            )
        if self.axis >= drafts.x.shape[1]:
            raise RewardError(
                f"{self.name} looks at a coordinate that points of {drafts.x.shape[1]} coordinates lack",
                hint=f"Give an axis from 0 to {drafts.x.shape[1] - 1}.",
            )
        x = drafts.x[:, self.axis]
        inside = x > self.edge if self.below is None else x < self.edge
        return Scored(np.where(inside, float(self.scale), 0.0), np.zeros(len(drafts), dtype=np.bool_))


def load(*, scale: float = 1.0, below: float | None = None, above: float | None = None, axis: int = 0) -> Region:
    """The reward of a spec such as `region:scale=3,below=-7`; below=-7 where no edge is given (2602.07738)."""
    return Region(scale, -7.0 if below is None and above is None else below, above, axis)
