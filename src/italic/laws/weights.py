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


def effective_sample_size(log_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """(sum w)^2 / sum w^2 over the last axis: 1 if one row has all the weight, their number if all weights are equal.

    log_weights: float64 [..., n], NaN for rows that are out. Returns float64 [...], 0 where no row has a weight.
    """
    _, weights = _scaled(log_weights)
    squares = np.sum(weights**2, axis=-1)
    return np.asarray(np.divide(weights.sum(axis=-1) ** 2, squares, where=squares > 0, out=np.zeros_like(squares)))


def log_mean_exp(log_weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """log of the mean weight over the last axis: float64 [...], for log_weights [..., n]; NaN rows count as 0."""
    top, weights = _scaled(log_weights)
    with np.errstate(divide="ignore"):
        return np.asarray(top[..., 0] + np.log(weights.mean(axis=-1)))


def systematic(log_weights: NDArray[np.float64], uniforms: NDArray[np.float64]) -> NDArray[np.int64]:
    """Systematic resampling: n rows of each group of n, each its expected number of times, rounded up or down.

    log_weights: float64 [..., n], not all -inf; uniforms: float64 [...], one number in (0, 1) a group. Returns int64
    [..., n], ascending. Row i is taken n w_i / sum w times on average (Kitagawa, doi:10.1080/10618600.1996.10474692).
    """
    n = log_weights.shape[-1]
    _, weights = _scaled(log_weights)
    edges = np.cumsum(weights, axis=-1).reshape(-1, n)
    edges /= edges[:, -1:]
    points = (uniforms.reshape(-1, 1) + np.arange(n)) / n
    group = np.arange(len(edges))[:, None]
    taken = np.searchsorted((edges + group).ravel(), (points + group).ravel(), side="right").reshape(-1, n)
    return np.asarray(np.minimum(taken - group * n, n - 1).reshape(log_weights.shape))


def _scaled(log_weights: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The largest log-weight of the last axis, [..., 1], and all weights relative to it, [..., n]."""
    present = np.where(np.isnan(log_weights), -np.inf, log_weights)
    top = np.max(present, axis=-1, keepdims=True, initial=-np.inf)
    top = np.where(top == -np.inf, 0.0, top)
    with np.errstate(invalid="ignore"):  # inf - inf, of rows whose weight is all there is
        return top, np.exp(np.where(present == top, 0.0, present - top))
