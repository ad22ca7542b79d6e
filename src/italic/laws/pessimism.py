"""Weights that do not trust a reward far above the others: the chi-square regularised optimum on draws.

Among all laws pi the one with the largest E_pi[r] - beta/2 chi^2(pi || p), chi^2(pi || p) = E_p[(pi/p - 1)^2], has
pi/p = relu((r - lambda) / beta), lambda being such that it sums to 1. (Where chi^2 is defined with the factor 1/2, the
penalty is beta chi^2.) The tilted law, the optimum for KL, has pi/p = exp(r / beta) / Z: it follows a reward that is
wrong exponentially, this one in proportion, and chi^2(pi || p) is at most Var_p(r) / beta^2.

Here p is the law of n draws, 1/n each. The sum of relu(r_i - lambda) is the largest over k of the sum of the k largest
rewards less k lambda. So it is n beta where lambda is the largest over k of (their sum - n beta) / k: one sort, no
search. The effective sample size of the weights is n / (1 + chi^2).

Source: Huang et al., "Is Best-of-N the Best of Them?", arXiv 2503.21878.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]


def threshold(rewards: Values, beta: float) -> float:
    """The lambda with mean_i relu((rewards[i] - lambda) / beta) = 1, in units of the reward.

    rewards: float64 [n], NaN for missing ones, which are left out, so that the mean is over the others; -inf counts
    there with weight 0. At least beta below the largest reward, at most n beta. -inf if every reward is. Raises
    ValueError for a beta that is not positive and finite, for a reward of inf, or for no reward at all.
    """
    present = _present(rewards, beta)
    top = float(present.max())
    return top - beta * _height(_depths(present, beta)) if top > -math.inf else top


def log_weights(rewards: Values, beta: float) -> Values:
    """log relu((rewards - lambda) / beta), float64 [n]: -inf below the threshold lambda and for missing rewards.

    rewards: float64 [n], as for `threshold`. The weights have mean 1 over the rewards that are not missing: they are
    pi/p. They are equal if all these rewards are, -inf included. Taken from the distances to the largest reward, they
    keep their digits where `threshold` has lost them: where beta is tiny beside the rewards. Raises ValueError as
    `threshold` does.
    """
    present = _present(rewards, beta)
    weights = np.zeros(len(rewards))
    if present.max() == -np.inf:
        weights[~np.isnan(rewards)] = 1.0
    else:
        depths = _depths(present, beta)
        weights[~np.isnan(rewards)] = np.maximum(_height(depths) - depths, 0.0)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(weights))


def _present(rewards: Values, beta: float) -> Values:
    """The rewards that are not missing."""
    if not (beta > 0 and math.isfinite(beta)):
        raise ValueError(f"beta is {beta}: it must be positive and finite")
    present = np.asarray(rewards[~np.isnan(rewards)], dtype=np.float64)
    if not len(present):
        raise ValueError("no reward to weigh")
    if np.any(present == np.inf):
        raise ValueError("a reward of inf is infinitely far above every threshold")
    return present


def _depths(present: Values, beta: float) -> Values:
    """How far below the largest the rewards are, in units of beta: 0 to inf."""
    with np.errstate(over="ignore"):
        return np.asarray((present.max() - present) / beta)


def _height(depths: Values) -> float:
    """How far above the threshold the largest reward is, in units of beta: 1 to n."""
    n = len(depths)
    with np.errstate(over="ignore"):
        return float(np.min((np.cumsum(np.sort(depths)) + n) / np.arange(1, n + 1)))
