"""The tilt by estimates from k reference rewards a prompt: its divergence and its price, in the mean over prompts.

The k rewards cut [0, 1] into k + 1 pieces, whose lengths p are a draw from the uniform Dirichlet law (see
`finite_reference`), and the policy has the weight w_s = exp((b_s - max b) / beta) on piece s, b being a table of
estimates. With z = sum p_s w_s and p = E / sum E, the E independent and exponential,

    E[log z] = int (e^-t - prod 1/(1 + t w_s)) dt/t - psi(k + 1),    E[1/z] = k int prod 1/(1 + t w_s) dt,

so that the divergence is known exactly, without a draw. With few references it is far from that of known quantiles:
best-of-4's fixed point at 1 nat and 64 references comes to 0.63 nats by the beta of known quantiles. Derived here.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

STEP = 0.25
LOG_T = np.arange(-40.0, 40.0 + STEP / 2, STEP)
"""The nodes of the trapezoid rule in log t; its error is below 1e-14."""
CELLS = 2_000_000
"""Numbers that are held at once, about."""
LEAST_RATE, MOST_RATE = 1e-4, 1e12
"""The range in which 1 / beta is looked for, the estimates being scaled to range 1."""
LEAST_KL = 1e-8
"""The smallest divergence that is aimed at, nats: above that of the least rate, which is 1.25e-9 at most."""


class MeanTilt(NamedTuple):
    """Means over prompts. kl: of KL(policy || model), nats. draws_per_accept: of 1 / z, by rejection."""

    kl: float
    draws_per_accept: float


def mean_tilt(table: Array, beta: float) -> MeanTilt:
    """What the tilt by a table, float64 [k + 1], comes to at a beta.

    Raises ValueError for beta <= 0, k < 1 or a table that is not finite.
    """
    if not beta > 0:
        raise ValueError(f"a beta of {beta}")
    return _mean(_gap(table), 1 / beta)


def beta_at(table: Array, kl: float) -> float:
    """The beta at which the tilt by a table, float64 [k + 1], has this KL, nats.

    Raises ValueError for k < 1, a table that is not finite, or a KL that no beta reaches: k reference rewards reach
    less than sum 1/j to k, where all the weight is on the best piece.
    """
    from scipy.optimize import brentq

    gap = _gap(table)
    spread = float(gap.max())
    if not spread > 0:
        raise ValueError("estimates that are all the same")
    low, high = math.log(LEAST_RATE / spread), math.log(MOST_RATE / spread)
    most = _mean(gap, math.exp(high)).kl
    if not LEAST_KL < kl < most:
        k = len(table) - 1
        raise ValueError(
            f"a KL of {kl:g} nats: {k} reference rewards reach more than {LEAST_KL:g}, less than {most:.4g}"
        )
    return math.exp(-float(brentq(lambda at: _mean(gap, math.exp(at)).kl - kl, low, high, xtol=1e-10)))


def _gap(table: Array) -> Array:
    """max b - b: float64 [k + 1]."""
    if table.ndim != 1 or len(table) < 2 or not np.all(np.isfinite(table)):
        raise ValueError(f"a table of shape {table.shape}, or one that is not finite")
    return np.asarray(table.max() - table)


def _mean(gap: Array, rate: float) -> MeanTilt:
    k = len(gap) - 1
    cost, sizes = np.unique(np.minimum(rate * gap, 700.0), return_counts=True)
    weights = np.exp(-cost)
    log_z = lost = inverse = 0.0
    for t in np.array_split(np.exp(LOG_T), 1 + len(LOG_T) * len(cost) // CELLS):
        product = np.exp(-np.log1p(t[:, None] * weights) @ sizes)
        log_z += float(np.sum(np.exp(-t) - product)) * STEP
        lost += float(np.sum(t * product * ((weights / (1 + t[:, None] * weights)) @ (sizes * cost)))) * STEP
        inverse += float(np.sum(t * product)) * STEP
    log_z -= float(np.sum(1 / np.arange(1, k + 1))) - np.euler_gamma
    return MeanTilt(-lost - log_z, k * inverse)
