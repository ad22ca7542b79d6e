"""What InfAlign can gain, if a policy controls a part of the reward's variance: `python benchmarks/limited_policy.py`.

A response has a normal score z = rho s + sqrt(1 - rho^2) e, its quantile among the reference's responses is Phi(z), and
the policy tilts the law of s alone, as far as a divergence in nats: a small model sees a part of what decides the
reward. rho^2 = 1 is the law of `italic plan`. The raw reward is the quantile function of each held-out prompt, from the
64 reference rewards that `benchmarks/tuning.py` keeps, with one beta for all prompts. Printed: the win rate of
best-of-4 against best-of-4 and worst-of-4 against worst-of-4, tuned on the raw reward, on the quantile, and to the
optimum, which is the fixed point Phi'(u) = g(u) g(F(u)) of the policy's own F.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

from italic.laws import finite
from italic.laws.procedures import Procedure, best_of_n, discrete_win_rate, worst_of_n
from tuning import REWARDS

Array = NDArray[np.float64]
GRID, ROUNDS = 1000, 150
SEEN = np.linspace(-6.0, 6.0, 601)
QUANTILE = (np.arange(GRID) + 0.5) / GRID
BEFORE = norm.pdf(SEEN) / norm.pdf(SEEN).sum()
PROCEDURES = (best_of_n(4), worst_of_n(4))


def shown(part: float) -> Array:
    """The law of the quantile given what is seen, which decides this part of the variance: float64 [601, 1000]."""
    edges = norm.ppf(np.linspace(0, 1, GRID + 1))
    return np.asarray(np.diff(norm.cdf((edges - np.sqrt(part) * SEEN[:, None]) / np.sqrt(max(1 - part, 1e-3)))))


def led(worths: list[Array], nats: float) -> list[Array]:
    """The laws tilted by each worth with one beta, so that this is their mean divergence."""
    scale = max(float(np.ptp(worth)) for worth in worths)

    def tilted(beta: float) -> list[Array]:
        return [finite.tilt(BEFORE, worth, beta) for worth in worths]

    def off(log_beta: float) -> float:
        return float(np.mean([finite.kl(law, BEFORE) for law in tilted(scale * np.exp(log_beta))])) - nats

    return tilted(scale * np.exp(brentq(off, -12, 4, xtol=1e-4)))


def win_rate(quantiles: Array, procedure: Procedure) -> float:
    """Of a policy whose quantile has this law, float64 [1000], used as the reference is."""
    return discrete_win_rate(quantiles, np.full(GRID, 1 / GRID), QUANTILE, procedure)


def best(given: Array, procedure: Procedure, kl: float) -> Array:
    """The policy's quantile's law at the optimum, by the fixed point, from the quantile itself."""
    worth = given @ QUANTILE
    for _ in range(ROUNDS):
        (law,) = led([worth], kl)
        quantiles = law @ given
        below = np.cumsum(quantiles) - quantiles / 2
        slope = procedure.density(QUANTILE) * procedure.density(below)
        pull = given @ np.cumsum(slope)
        worth = (worth / np.ptp(worth) + pull / np.ptp(pull)) / 2
    return np.asarray(led([worth], kl)[0] @ given)


def main() -> None:
    """Print the table."""
    with np.load(REWARDS) as there:
        rewards = np.sort(there["reference"].astype(float), axis=1)
    places = (np.arange(rewards.shape[1]) + 0.5) / rewards.shape[1]
    raw = np.array([np.interp(QUANTILE, places, row) for row in rewards])
    print("rho^2  nats  procedure      raw  quantile  optimum")
    for part in (1.0, 0.57, 0.5):
        given = shown(part)
        for kl in (0.5, 1.0, 1.43):
            prompts = [law @ given for law in led(list(raw @ given.T), kl)]
            (plain,) = led([given @ QUANTILE], kl)
            for procedure in PROCEDURES:
                found = (
                    np.mean([win_rate(law, procedure) for law in prompts]),
                    win_rate(plain @ given, procedure),
                    win_rate(best(given, procedure, kl), procedure),
                )
                figures = "  ".join(f"{rate:.3f}" for rate in found)
                print(f"{part:5.2f}  {kl:4.2f}  {procedure.name:12s}  {figures}", flush=True)


if __name__ == "__main__":
    main()
