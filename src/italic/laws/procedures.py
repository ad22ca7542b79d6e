"""What happens to a model's law when it is used through an inference-time procedure: best-of-n, worst-of-n, any other.

A calibrated procedure T sees rewards by their quantile under the model alone: of a model without ties, the quantile of
what it returns has a density g and a distribution function G on [0, 1] that do not depend on the model (2412.19792).
With ties and atoms the returned reward r has probability G(P(reward <= r)) - G(P(reward < r)).

Functions on [0, 1] are kept at the nodes of one fixed grid: u = 1 / (1 + e^-s), s evenly spaced, so that it refines
geometrically towards both ends. What lies beyond it, 1e-12 of [0, 1] on either side, is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Function = Callable[[Array], Array]

REACH = 28.0
"""The grid is over s in [-28, 28]."""
NODES = np.linspace(-REACH, REACH, 4001)
"""s: float64 [m]."""
STEP = float(NODES[1] - NODES[0])
U = 1 / (1 + np.exp(-NODES))
"""The quantiles u of the grid: float64 [m]."""
V = U[::-1]
"""1 - u, without cancellation: float64 [m]."""
WEIGHT = STEP * U * V
"""int h(u) du = sum WEIGHT h, by the trapezoid rule in s: float64 [m]."""
for _array in (NODES, U, V, WEIGHT):
    _array.setflags(write=False)

STEEP = 0.4
"""Neighbours whose logs differ by more are joined by an exponential, others by a cubic through four."""
LEAST_MASS, WHOLE = -1e-9, 1e-4
"""How negative a density may be, and how far its integral may be from 1."""


def integrate(values: Array) -> Array:
    """int_0^u h for h >= 0 at the nodes, float64 [m]: float64 [m], from 0 at the first node, never falling."""
    return np.concatenate([[0.0], np.cumsum(_cells(values * WEIGHT))])


def integrate_back(values: Array) -> Array:
    """int_u^1 h for h >= 0 at the nodes, float64 [m]: float64 [m], to 0 at the last node, without cancellation."""
    return np.concatenate([np.cumsum(_cells(values * WEIGHT)[::-1])[::-1], [0.0]])


def interpolated(values: Array) -> Function:
    """The monotone cubic in s through values at the nodes, float64 [m], as a function of quantiles, float64 [n]."""
    from scipy.interpolate import PchipInterpolator

    with np.errstate(over="ignore"):  # the inverse of a slope of 1e-309
        curve = PchipInterpolator(NODES, values)

    def value(u: Array) -> Array:
        low = U[0]
        inside = np.clip(u, low, 1 - low)
        return np.asarray(curve(np.log(inside) - np.log1p(-inside)), dtype=np.float64)

    return value


@dataclass(frozen=True, eq=False)
class Procedure:
    """density, cdf: g and G of float64 [n] in [0, 1], the quantile under the policy of what the procedure returns."""

    name: str
    density: Function
    cdf: Function


def plain() -> Procedure:
    """One draw is taken as it is."""
    return Procedure("plain", np.ones_like, lambda u: np.asarray(u))


def best_of_n(n: int) -> Procedure:
    """The best of n draws: g = n u^(n-1), G = u^n. Raises ValueError if n < 1."""
    _check(n)
    return Procedure(f"best-of-{n}", lambda u: n * u ** (n - 1), lambda u: u**n)


def worst_of_n(n: int) -> Procedure:
    """The worst of n draws: g = n (1-u)^(n-1), G = 1 - (1-u)^n. Raises ValueError if n < 1."""
    _check(n)
    return Procedure(f"worst-of-{n}", lambda u: n * (1 - u) ** (n - 1), lambda u: 1 - (1 - u) ** n)


def calibrated(name: str, density: Function) -> Procedure:
    """Any procedure with a density g; G by quadrature, to 1e-7 if g is smooth, 2e-3 of its jumps if not.

    Raises ValueError if g is negative, not finite, or does not integrate to 1 within 1e-4.
    """
    values = np.asarray(density(U), dtype=np.float64)
    if values.shape != U.shape or not np.all(np.isfinite(values)) or values.min() < LEAST_MASS:
        raise ValueError(f"{name}: no density on [0, 1]; it must be finite and not negative")
    total = float(values @ WEIGHT)
    if abs(total - 1) > WHOLE:
        raise ValueError(f"{name}: the density integrates to {total:.6g} instead of 1")
    upto = integrate(np.maximum(values, 0.0))
    return Procedure(name, density, interpolated(upto / upto[-1]))


def discrete_procedure(p: Array, r: Array, procedure: Procedure) -> Array:
    """The law of what the procedure returns: float64 [m].

    p: float64 [m], the model's law; r: float64 [m], rewards. A reward's probability is shared by its outcomes in
    proportion to p. For best- and worst-of-n it is that of `laws/finite.py`. Raises ValueError for NaN and for shapes
    that differ.
    """
    if p.shape != r.shape or p.ndim != 1 or np.any(np.isnan(r)):
        raise ValueError(f"a law of shape {p.shape} with rewards of shape {r.shape}, or NaN")
    value = np.unique(r, return_inverse=True)[1]
    q = np.bincount(value, weights=p)
    upto = np.minimum(np.cumsum(q), 1.0)
    upto[-1] = 1.0
    chance = np.maximum(np.diff(procedure.cdf(upto), prepend=0.0), 0.0)
    return np.asarray(np.divide(p, q[value], where=p > 0, out=np.zeros_like(p)) * chance[value])


def discrete_win_rate(pi: Array, p: Array, r: Array, procedure: Procedure, rival: Procedure | None = None) -> float:
    """How often T(pi) has a larger reward than T'(p), equal ones counting half.

    pi, p: float64 [m], the laws of policy and reference; r: float64 [m], rewards. rival: T', the same procedure unless
    given. Raises ValueError as `discrete_procedure` does.
    """
    ours = discrete_procedure(pi, r, procedure)
    theirs = discrete_procedure(p, r, rival or procedure)
    value = np.unique(r, return_inverse=True)[1]
    met = np.bincount(value, weights=theirs)
    below = np.cumsum(met) - met / 2
    return float(ours @ below[value])


def _cells(z: Array) -> Array:
    """The integrals over the cells between nodes of a function whose values times the step are z: float64 [m - 1]."""
    padded = np.concatenate([z[:1], z, z[-1:]])
    cubic = (13 * (z[:-1] + z[1:]) - padded[:-3] - padded[3:]) / 24
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.log(z[1:]) - np.log(z[:-1])
        steep = np.abs(slope) > STEEP
        cells = np.where(steep, (z[1:] - z[:-1]) / np.where(steep, slope, 1.0), cubic)
    return np.maximum(np.where(np.isfinite(slope), cells, (z[1:] + z[:-1]) / 2), 0.0)


def _check(n: int) -> None:
    if n < 1:
        raise ValueError(f"one of {n} draws")
