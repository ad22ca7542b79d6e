"""Log-weights: choosing in proportion to them, and how many equal draws they are worth. No normalising, no overflow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def gumbel(log_weights: NDArray[np.float64], uniforms: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scores whose largest is that of row i with probability proportional to exp(log_weights[i]): float64 [n].

    log_weights: float64 [n], -inf for weight zero, NaN for rows that are out (their scores are NaN too). uniforms:
    float64 [n], numbers in (0, 1). A running maximum of the scores chooses among any number of rows while holding one.
    """
    return np.asarray(log_weights - np.log(-np.log(uniforms)))


def effective_sample_size(log_weights: NDArray[np.float64]) -> float:
    """(sum w)^2 / sum w^2: 1 if one row has all the weight, the number of rows if all weights are equal.

    log_weights: float64 [n], NaN for rows that are out. 0 if no row has a weight.
    """
    present = log_weights[~np.isnan(log_weights)]
    top = np.max(present, initial=-np.inf)
    if top == -np.inf:
        return 0.0
    weights = np.exp(present - top)
    return float(weights.sum() ** 2 / np.sum(weights**2))
