"""Exact laws of a Markov chain on a line, by quadrature: what a stepwise method should sample from, and what it does.

The line is cut into m cells of equal width, and a law is the probabilities of the cells. A step from x draws
y ~ N(mean(x), std^2), whose density is taken at the centres of the cells: the midpoint rule, exact to rounding for
smooth functions if std is some cells wide. Put the jumps of a reward on edges of cells: then they cost an error of
order width^2, otherwise of order width.

Values are in nats, V / beta: V_T = r / beta, V_t(x) = log E[exp(V_t+1(y)) | x]. t = 0 is the start, T the end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_SAFE = 600.0
"""Values within this range of one another can be exponentiated, and weighted, without loss."""
_REACH_DOWN, _REACH_UP, _MESH = -40.0, 5.0, 0.25
"""The trapezoid rule of `selected`, as in `finite.soft_best_of_n`."""


@dataclass(frozen=True, eq=False)
class Line:
    """A chain of T steps. grid: float64 [m], the centres of the cells, evenly spaced. start: float64 [m], sum 1.

    means: float64 [T, m], the mean of the next state from each cell. stds: float64 [T]; 0 is a step without noise.
    Raises ValueError for shapes that do not fit, a grid that is not even or too coarse (std below a cell's width).
    """

    grid: Array
    start: Array
    means: Array
    stds: Array

    def __post_init__(self) -> None:
        m, steps = len(self.grid), len(self.stds)
        if self.grid.shape != (m,) or self.start.shape != (m,) or self.means.shape != (steps, m) or m < 2:
            raise ValueError(f"grid {self.grid.shape}, start {self.start.shape}, means {self.means.shape}, T {steps}")
        if self.width <= 0 or not np.allclose(np.diff(self.grid), self.width, rtol=1e-6, atol=0):
            raise ValueError("the grid is not evenly spaced and growing")
        if np.any(self.start < 0) or abs(self.start.sum() - 1) > 1e-9:
            raise ValueError("the start is no law: give probabilities of sum 1")
        if np.any((self.stds != 0) & ~(self.stds >= self.width)):
            raise ValueError(f"cells of width {self.width:.3g} are too coarse for steps of std {self.stds.min():.3g}")

    @property
    def width(self) -> float:
        """The width of a cell."""
        return float(self.grid[-1] - self.grid[0]) / (len(self.grid) - 1)

    def kernel(self, t: int) -> Array:
        """The step from t to t + 1: float64 [m, m], rows of sum 1. Without noise a point is shared by the two nearest
        cells, so that its mean is kept; beyond the ends it goes to the last cell.
        """
        if self.stds[t] > 0:
            law: Array = np.exp(self._log_density(t))
            law /= law.sum(axis=1, keepdims=True)
            return law
        where = np.clip((self.means[t] - self.grid[0]) / self.width, 0, len(self.grid) - 1)
        return np.asarray(np.maximum(1 - np.abs(where[:, None] - np.arange(len(self.grid))), 0.0))

    def log_kernel(self, t: int) -> Array:
        """The logarithm of `kernel(t)`, which does not underflow where there is noise."""
        if self.stds[t] > 0:
            law = self._log_density(t)
            return np.asarray(law - np.log(np.exp(law).sum(axis=1, keepdims=True)))
        return _log(self.kernel(t))

    def _log_density(self, t: int) -> Array:
        """-(y - mean)^2 / 2 std^2, the largest of each row shifted to 0."""
        gap: Array = self.means[t][:, None] - self.grid
        gap *= gap
        gap *= -0.5 / self.stds[t] ** 2
        gap -= gap.max(axis=1, keepdims=True)
        return gap


@dataclass(frozen=True, eq=False)
class Steered:
    """What a stepwise scheme does. laws: float64 [T + 1, m], of its states. draws: float64 [T], expected draws in each
    step. variation: float64 [T], expected total variation of each step to the step's own target, p exp(V) / Z. Both are
    means over the states that the scheme itself visits.
    """

    laws: Array
    draws: Array
    variation: Array

    @property
    def last(self) -> Array:
        """The law of the finished state: float64 [m]."""
        return np.asarray(self.laws[-1])


def midpoints(low: float, high: float, m: int = 1500) -> Array:
    """The centres of m cells between low and high: float64 [m]."""
    return low + (high - low) * (np.arange(m) + 0.5) / m


def normal(grid: Array) -> Array:
    """The standard normal law on the cells: float64 [m], sum 1."""
    law = np.exp(-0.5 * grid**2)
    return np.asarray(law / law.sum())


def marginals(line: Line) -> Array:
    """The laws of all states of the chain itself: float64 [T + 1, m]."""
    laws = [line.start]
    for t in range(len(line.stds)):
        laws.append(laws[-1] @ line.kernel(t))
    return np.array(laws)


def values(line: Line, f: Array) -> Array:
    """The soft values for f = r / beta, float64 [m], -inf allowed: float64 [T + 1, m], nats. Their last row is f."""
    found = [np.asarray(f, dtype=np.float64)]
    for t in reversed(range(len(line.stds))):
        found.append(_log_mean(line, t, found[-1]))
    return np.array(found[::-1])


def tilted(line: Line, f: Array) -> Array:
    """The laws of all states under the law of paths p exp(f) / Z: float64 [T + 1, m], the start is tilted as well.

    Raises ValueError if f is -inf wherever the chain goes.
    """
    value, laws = values(line, f), marginals(line)
    heights = _log(laws) + value
    top = heights.max(axis=1, keepdims=True)
    if not np.isfinite(top).all():
        raise ValueError("nothing to tilt: f is -inf wherever the chain goes")
    weights = np.exp(heights - top)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def clipped(line: Line, value: Array, baselines: Array, start: Array | None = None) -> Steered:
    """Draw y until it is accepted, with probability min(1, exp(value[t + 1](y) - baselines[t](x))): chernoff.md.

    value: float64 [T + 1, m], nats, right or wrong. baselines: float64 [T, m]. start: the law of the first state, the
    chain's own by default. Expected draws are 1 / acceptance, and the law of a step is p min(1, e^(f - b)) normalised.
    Raises ValueError for shapes that do not fit or a state where nothing is accepted.
    """
    if baselines.shape != line.means.shape:
        raise ValueError(f"baselines of shape {baselines.shape} for means of shape {line.means.shape}")
    _check_value(line, value)
    laws, draws, variation = [line.start if start is None else start], [], []
    for t in range(len(line.stds)):
        kernel = line.kernel(t)
        law = np.minimum(value[t + 1] - baselines[t][:, None], 0.0)
        np.exp(law, out=law)
        law *= kernel
        accepted = law.sum(axis=1, keepdims=True)
        if not np.all(accepted[laws[-1] > 0] > 0):
            raise ValueError(f"nothing is accepted from some state of step {t}: its baseline is too high")
        law /= np.where(accepted > 0, accepted, 1.0)
        draws.append(float(np.sum(laws[-1] / np.where(accepted > 0, accepted, 1.0)[:, 0])))
        variation.append(float(laws[-1] @ _distance(law, _step_target(line, t, kernel, value[t + 1]))))
        laws.append(laws[-1] @ law)
    return Steered(np.array(laws), np.array(draws), np.array(variation))


def selected(line: Line, value: Array, children: int, alpha: float = 1.0, start: Array | None = None) -> Steered:
    """Each step takes one of `children` draws with probability proportional to exp(value[t + 1] / alpha): SVDD
    (2408.08252), whose alpha is this one times beta. As children grow it is the tilted chain, if alpha = 1.

    value, start: as in `clipped`. The law of a step is that of `finite.soft_best_of_n`, with one grid of s for all:
    P(y) = M p(y) int w(y) exp(-s w(y)) phi(s)^(M-1) ds, phi(s) = E_p[exp(-s w)]. Raises ValueError for bad arguments.
    """
    if children < 1 or not alpha > 0:
        raise ValueError(f"{children} children at alpha={alpha}: give 1 or more, and alpha above 0")
    _check_value(line, value)
    laws, variation = [line.start if start is None else start], []
    for t in range(len(line.stds)):
        kernel = line.kernel(t)
        law = kernel * _chances(kernel, value[t + 1] / alpha, children)
        variation.append(float(laws[-1] @ _distance(law, _step_target(line, t, kernel, value[t + 1]))))
        laws.append(laws[-1] @ law)
    return Steered(np.array(laws), np.full(len(variation), float(children)), np.array(variation))


def _chances(kernel: Array, levels: Array, n: int) -> Array:
    """How much likelier than under the kernel each cell is to be taken from n draws: float64 [m, m]."""
    none = np.isneginf(levels)
    chance = np.where(none, (kernel @ none)[:, None] ** (n - 1), 0.0)
    if none.all():
        return chance
    log_w = levels - levels.max()
    s = np.arange(_REACH_DOWN, _REACH_UP - log_w[~none].min(), _MESH)
    exponent = s[:, None] + log_w
    short = np.exp(np.minimum(exponent, 700.0))
    phi = np.minimum(kernel @ np.exp(-short).T, 1.0) ** (n - 1)
    return np.asarray(chance + n * _MESH * (phi @ (short * np.exp(-short))))


def _check_value(line: Line, value: Array) -> None:
    shape = (len(line.stds) + 1, len(line.grid))
    if value.shape != shape or np.isnan(value).any() or np.isposinf(value).any():
        raise ValueError(f"values of shape {value.shape}, or not finite, for a chain of shape {shape}")


def _log_mean(line: Line, t: int, value: Array, kernel: Array | None = None) -> Array:
    """log E[exp(value(y)) | x] over the step from t: float64 [m]."""
    top = value.max()
    if np.isneginf(top):
        return np.full(len(value), -np.inf)
    if value.min() >= top - _SAFE:
        kernel = line.kernel(t) if kernel is None else kernel
        return np.asarray(np.log(kernel @ np.exp(value - top)) + top)
    heights = line.log_kernel(t) + value
    tops = heights.max(axis=1)
    anchor = np.where(np.isneginf(tops), 0.0, tops)
    return np.asarray(_log(np.exp(heights - anchor[:, None]).sum(axis=1)) + anchor)


def _step_target(line: Line, t: int, kernel: Array, value: Array) -> Array:
    """The step tilted by the value: float64 [m, m], rows of sum 1; where nothing is worth anything, the step itself."""
    if value.max() == -np.inf:
        return kernel
    norm = _log_mean(line, t, value, kernel)
    reachable = np.isfinite(norm)[:, None]
    if value.min() >= value.max() - _SAFE:
        return kernel * np.exp(value - norm[:, None])
    heights = line.log_kernel(t) + np.where(reachable, value, 0.0) - np.where(reachable[:, 0], norm, 0.0)[:, None]
    return np.exp(heights)


def _distance(one: Array, other: Array) -> Array:
    """Total variation of the rows: float64 [m]."""
    gap = one - other
    np.abs(gap, out=gap)
    return np.asarray(gap.sum(axis=1) / 2)


def _log(p: Array) -> Array:
    """The logarithm, -inf at 0 without a warning."""
    return np.log(p, out=np.full(p.shape, -np.inf), where=p > 0)
