"""A mixture of Gaussians, seen through noise: the diffusion model whose denoiser is known in closed form.

Its rows are independent to the last bit: sums over coordinates and components are written out, since matrix products
round differently in batches of different sizes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from italic.core.errors import UsageError
from italic.models._chain import Denoiser, GaussianModel
from italic.models._schedule import Array, Schedule, Variance

__all__ = ["Denoiser", "GaussianModel", "Mixture", "Schedule", "load"]


@dataclass(frozen=True, eq=False)
class Mixture:
    """The exact denoiser and score of a mixture of k isotropic Gaussians in d dimensions.

    means: float64 [k, d]. weights: float64 [k], positive, of sum 1. std: one standard deviation, or float64 [k].
    Raises UsageError for shapes or values that make no mixture.
    """

    means: Array
    weights: Array
    std: float | Array = 1.0

    def __post_init__(self) -> None:
        fits = self.means.ndim == 2 and self.weights.shape == (len(self.means),) and self.means.size > 0
        if not fits or np.shape(self.std) not in ((), self.weights.shape):
            raise UsageError(
                f"a mixture of means {self.means.shape}, weights {self.weights.shape} and std {np.shape(self.std)}",
                hint="Give means of shape [k, d], weights of shape [k], and one std or k of them.",
            )
        positive = np.all(self.weights > 0) and np.all(np.asarray(self.std) > 0)
        finite = np.isfinite(self.means).all() and np.isfinite(self.std).all()
        if not (positive and finite and abs(self.weights.sum() - 1) < 1e-9):
            raise UsageError(
                f"a mixture of weights {self.weights} and std {self.std}",
                hint="Give finite means, positive weights of sum 1 and positive standard deviations.",
            )

    def __call__(self, x: Array, a: float, b: float) -> Array:
        clean = np.zeros_like(x)
        for share, mean, std, spread in self._parts(x, a, b):
            pull = a * std**2 / spread
            for j, m in enumerate(mean):
                clean[:, j] += share * (m * (1 - a * pull) + pull * x[:, j])
        return clean

    def score(self, x: Array, a: float, b: float) -> Array:
        """The gradient of log density of a x0 + b eps at x: float64 [n, d]."""
        slope = np.zeros_like(x)
        for share, mean, _, spread in self._parts(x, a, b):
            for j, m in enumerate(mean):
                slope[:, j] += share * ((a * m - x[:, j]) / spread)
        return slope

    def _parts(self, x: Array, a: float, b: float) -> list[tuple[Array, list[float], float, float]]:
        """Of each component: its posterior probability [n], mean, standard deviation, and variance at this level."""
        stds = np.broadcast_to(self.std, self.weights.shape).tolist()
        columns = [np.ascontiguousarray(column) for column in x.T]
        logs, spreads = [], [a * a * std * std + b * b for std in stds]
        for mean, weight, spread in zip(self.means.tolist(), self.weights.tolist(), spreads, strict=True):
            log = np.zeros(len(x))
            for column, m in zip(columns, mean, strict=True):
                gap = column - a * m
                gap *= gap
                log += gap
            log *= -0.5 / spread
            log += math.log(weight) - 0.5 * len(columns) * math.log(spread)
            logs.append(log)
        top = logs[0]
        for log in logs[1:]:
            top = np.maximum(top, log)
        shares = [np.exp(log - top) for log in logs]
        total = np.zeros(len(x))
        for share in shares:
            total += share
        return [(s / total, m, std, v) for s, m, std, v in zip(shares, self.means.tolist(), stds, spreads, strict=True)]


def load(
    *,
    separation: float = 5.0,
    share: float = 0.95,
    std: float = 1.0,
    steps: int = 20,
    eta: float = 1.0,
    variance: Variance = "reverse",
) -> GaussianModel:
    """Two Gaussians in the plane, at (+-separation, 0), the right one with weight `share`.

    The benchmark of the Chernoff baselines (2602.07738) by default, with the schedule `Schedule.logarithmic(steps)`.
    """
    if not 0 < share < 1:
        raise UsageError(f"a mixture with share={share}", hint="Give a share between 0 and 1, for instance share=0.95.")
    name = f"gaussian:separation={separation},share={share},std={std},steps={steps},eta={eta},variance={variance}"
    mixture = Mixture(np.array([[separation, 0.0], [-separation, 0.0]]), np.array([share, 1 - share]), std)
    return GaussianModel(name, mixture, Schedule.logarithmic(steps), eta, variance)
