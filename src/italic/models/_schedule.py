"""The levels of a chain from noise to data, and the Gaussian kernels between them.

Level i holds x = a_i x0 + b_i eps, from noise (i = 0) to data. Given a guess x0_hat of the data, and eps_hat with it,
the step from level t to s draws

    x_s ~ N(a_s x0_hat + sqrt(b_s^2 - c^2) eps_hat, c^2),   c^2 = eta^2 (b_s^2 / b_t^2) (b_t^2 - (a_t / a_s)^2 b_s^2)

(Song et al. 2010.02502, eq. 12 and 16): DDIM(eta), DDPM (eta = 1) and flow matching (a = 1 - sigma, b = sigma) are this
one formula. With eta = 1 and a^2 + b^2 = 1 the mean is (x + (1 - alpha) score) / sqrt(alpha), alpha = (a_t / a_s)^2,
that of Ho et al. (2006.11239).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import UsageError

Array: TypeAlias = NDArray[np.float64]
Variance: TypeAlias = Literal["posterior", "reverse"]

FURTHEST_START = 0.2
"""The largest share a_0 of the data in the first level: the chain starts from N(0, I), as if it were 0."""


class Kernel(NamedTuple):
    """x_s ~ N(ahead x0_hat + back x_t, width^2) in each of the L - 1 transitions: float64 [L - 1] each."""

    ahead: Array
    back: Array
    width: Array


@dataclass(frozen=True, eq=False)
class Schedule:
    """The levels from noise to data: float64 a [L] and b [L] of x = a x0 + b eps; L - 1 transitions.

    Raises UsageError unless a / b grows and the first level is noise.
    """

    a: Array
    b: Array

    def __post_init__(self) -> None:
        a, b = self.a, self.b
        fits = a.ndim == 1 and a.shape == b.shape and len(a) > 1 and bool(np.isfinite(a).all() and np.isfinite(b).all())
        if not fits or np.any(a < 0) or np.any(b[:-1] <= 0) or b[-1] < 0 or np.any(a[1:] * b[:-1] <= a[:-1] * b[1:]):
            raise UsageError(
                "a schedule whose levels do not go from noise to data",
                hint="Give two or more levels x = a x0 + b eps with a growing a / b, b = 0 in the last one at most.",
            )
        if a[0] > FURTHEST_START or abs(b[0] - 1) > FURTHEST_START:
            raise UsageError(
                f"a schedule that starts at a = {a[0]:.3g}, b = {b[0]:.3g} instead of noise, a = 0 and b = 1",
                hint="Give more steps, or alphas whose product is nearer to 0.",
            )

    @classmethod
    def of_alphas(cls, alphas: Sequence[float] | Array) -> Schedule:
        """The variance-preserving schedule: alphas, in (0, 1), from data to noise as usual; one a transition.

        The levels are a = sqrt(alpha_1 ... alpha_i), b = sqrt(1 - a^2), from i = len(alphas) down to 0, clean data.
        """
        steps = np.asarray(alphas, dtype=np.float64)
        if steps.ndim != 1 or not np.all((steps > 0) & (steps < 1)):
            raise UsageError(f"alphas {steps}", hint="Give a list of numbers between 0 and 1.")
        kept = np.concatenate([[1.0], np.cumprod(steps)])[::-1]
        return cls(np.sqrt(kept), np.sqrt(1 - kept))

    @classmethod
    def logarithmic(cls, steps: int = 20, c: float = 4.0, d0: float = 0.02) -> Schedule:
        """alpha_1 = 1 - d0, alpha_t = 1 - (c log T / T) min(d0 (1 + c log T / T)^t, 1), for t < T = steps.

        From Li, Wei, Chen & Chi (2306.09251). The state x_T is N(0, I), x_1 is the finished one: T - 1 transitions.
        """
        rate = c * math.log(steps) / steps if steps > 1 else math.inf
        if not (0 < rate < 1 and 0 < d0 < 1):
            raise UsageError(
                f"a logarithmic schedule of steps={steps}, c={c}, d0={d0}",
                hint="Give more steps: c log(steps) / steps must lie between 0 and 1, for instance steps=20.",
            )
        alphas = 1 - rate * np.minimum(d0 * (1 + rate) ** np.arange(1, steps), 1.0)
        alphas[0] = 1 - d0
        return cls.of_alphas(alphas)

    def kernel(self, eta: float, variance: Variance) -> Kernel:
        """The transitions. variance: "posterior" is c^2 of the formula; a chain that ends in clean data (b = 0) has
        then a last step without noise, whose children are equal. "reverse" has the mean of eta = 1 and the variance
        b_t^2 / alpha - b_s^2, which is (1 - alpha) / alpha where a^2 + b^2 = 1: the benchmark's sampler (2602.07738).

        Raises UsageError for values that give no kernel, or one without noise.
        """
        if not eta > 0:
            raise UsageError(
                f"a chain with eta={eta} has no randomness: all children of a draft would be the same",
                hint="Give eta above 0, for instance eta=1.",
            )
        if variance not in ("posterior", "reverse"):
            raise UsageError(f"the variance {variance!r}", hint="Give variance=posterior or variance=reverse.")
        if variance == "reverse" and (eta != 1 or self.a[0] == 0):
            raise UsageError(
                f"variance=reverse with eta={eta} and a first level of a={self.a[0]:.3g}",
                hint="It is made for eta=1 and a > 0: leave out eta, or give variance=posterior.",
            )
        a, b, ahead, left = self.a[:-1], self.b[:-1], self.a[1:], self.b[1:]
        alpha = (a / ahead) ** 2
        added = b**2 - alpha * left**2
        noise = eta**2 * (left / b) ** 2 * added
        if np.any(noise > left**2 * (1 + 1e-12)):
            raise UsageError(f"a chain with eta={eta} has more noise than its levels", hint="Give eta=1 or less.")
        kept = np.sqrt(np.maximum(left**2 - noise, 0.0)) / b
        return Kernel(ahead - kept * a, kept, np.sqrt(noise if variance == "posterior" else added / alpha))
