"""Baselines for clipped rejection: how low may b be, if what f exceeds it by may cost a total variation of eps?

Accept a draw y of p with probability min(1, exp(f(y) - b)): the lower b, the fewer draws, and the more is clipped. The
cheapest b for a total variation is a quantile of f, or nearly (`quantile`, `for_total_variation`): sharp, but it knows
only what was seen. Chernoff bounds are smooth in the moments L(l) = log E_p[e^(l f)] and hold for every law with these
moments. Each is (1/l) (K(l) + log 1/eps) at its best l > 0, for a convex K with K(0) = 0. The numerator of its
derivative, l K'(l) - K(l) - log 1/eps, only grows with l (its own derivative is l K''), so that there is one minimum,
or none before l = inf, where the bound is the largest f; and a bisection finds it. Every l gives a bound that holds.

Everywhere f: float64 [n], log-weights in nats (V / beta), -inf for what must never be returned; p: float64 [n], the
probabilities of the outcomes, sum 1, or None for n equally probable ones: a sample. A baseline is finite, in nats.
What is guaranteed is guaranteed for the law that is given: for a sample, certify the result on fresh draws
(`laws.clipping.certify`). w = e^f / Z, gamma the expected draws, HS_g = E_p (w - g)_+.

Source: Learnable Chernoff Baselines, arXiv 2602.07738; `sharp`, `sub_gaussian` and `for_total_variation` are ours.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_BISECTIONS = 80
"""Halvings of a range of 80 nats of log l: what is left is rounding."""


def log_moment(f: Values, l: float, p: Values | None = None) -> float:  # noqa: E741
    """L(l) = log E_p[e^(l f)], nats; inf for l < 0 if f is -inf somewhere. Raises ValueError for f or p that are none.

    L(1) = log Z, the value V / beta of the state that the draws come from.
    """
    f, p = _law(f, p)
    return 0.0 if l == 0 else _log_mean(l * f, p)


def base_tail(f: Values, delta: float, p: Values | None = None) -> float:
    """A baseline that few draws exceed: b = min_l (1/l) (L(l) + log 1/delta), so that P_p(f > b) <= delta.

    Raises ValueError for f or p that are none, or a delta outside (0, 1).
    """
    return _chernoff(f, delta, p, tilted=0, sharp=False)


def tilted_tail(f: Values, eps: float, p: Values | None = None) -> float:
    """A baseline for a total variation of at most eps: b = min_l (1/l) (L(1 + l) - L(1) + log 1/eps).

    It bounds the probability under the tilted law that f > b, which bounds the total variation. Raises ValueError for f
    or p that are none, or an eps outside (0, 1).
    """
    return _chernoff(f, eps, p, tilted=1, sharp=False)


def sharp(f: Values, eps: float, p: Values | None = None) -> float:
    """A lower baseline for a total variation of at most eps: `tilted_tail` with log(c_l / eps) for log 1/eps.

    c_l = l^l / (1 + l)^(1 + l) is the least constant of (w - M)_+ <= c_l w^(1 + l) / M^l, so this bounds HS_M itself,
    and log c_l is convex in l. At l = 1 it saves log 4 nats of draws. Raises ValueError as `tilted_tail` does.
    """
    return _chernoff(f, eps, p, tilted=1, sharp=True)


def sub_gaussian(v: float, s: float, eps: float) -> float:
    """A baseline from a bound on f's spread alone: b = v + s^2 + s sqrt(s^2 + 2 log 1/eps), total variation <= eps.

    v: log E_p[e^f] = V / beta, nats; s: f's sub-Gaussian parameter, log E_p[e^(l (f - mean))] <= l^2 s^2 / 2. One
    denoising step with a value of Lipschitz constant K has s = K sqrt(variance of the step) / beta. Raises ValueError
    for an s below 0 or an eps outside (0, 1).
    """
    if not 0 <= s < math.inf or not math.isfinite(v):
        raise ValueError(f"a value of {v} with a sub-Gaussian parameter of {s}")
    return v + s * s + s * math.sqrt(s * s + 2 * _log_inverse(eps))


def quantile(f: Values, delta: float, p: Values | None = None) -> float:
    """The (1 - delta)-quantile: the lowest of the finite values of f with P_p(f > b) <= delta.

    The same delta in every state is nearly the cheapest way to spend a total variation over states; exactly cheapest is
    the same P_p(w > gamma), which is P_p(f > b - log(1 - HS_M)). Raises ValueError for f or p that are none, or a delta
    outside (0, 1).
    """
    f, p = _law(f, p)
    _log_inverse(delta)
    order = np.argsort(-f)
    f, p = f[order], p[order]
    above = np.cumsum(p) - p
    lowest = np.flatnonzero((above <= delta * (1 + 1e-12)) & (f > -np.inf))[-1]
    return float(f[lowest])


def for_draws(f: Values, draws: float, p: Values | None = None) -> float:
    """The baseline that costs so many expected draws: E_p[min(1, e^(f - b))] = 1 / draws, exactly.

    At fewer draws than are possible, the lowest finite f: every draw of positive weight is accepted. Raises ValueError
    for f or p that are none, or draws below 1.
    """
    f, p = _law(f, p)
    if not 1 <= draws < math.inf:
        raise ValueError(f"{draws} expected draws")
    finite = f > -np.inf
    order = np.argsort(-f[finite])
    f, p = f[finite][order], p[finite][order]
    # With the k largest above b, the acceptance is P_k + e^-b S_k, S_k = sum over the others of p e^f.
    above = np.cumsum(p) - p
    with np.errstate(divide="ignore"):
        rest = np.logaddexp.accumulate((f + np.log(p))[::-1])[::-1]
        log_acceptance = np.logaddexp(np.log(above), rest - f)
    k = min(int(np.sum(log_acceptance < -math.log(draws))), len(f) - 1)
    room = 1 / draws - above[k]
    return float(f[-1]) if room <= 0 else float(np.maximum(rest[k] - math.log(room), f[-1]))


def for_total_variation(f: Values, tv: float, p: Values | None = None) -> float:
    """The lowest baseline with a total variation, HS_gamma, of at most tv: exactly, by sorting.

    No scheme that returns one of its draws of p costs fewer expected draws at this total variation. The lowest finite f
    if p itself is as near. Raises ValueError for f or p that are none, or a tv outside [0, 1).
    """
    f, p = _law(f, p)
    if not 0 <= tv < 1:
        raise ValueError(f"a total variation of {tv}")
    order = np.argsort(-f)
    w, mass = np.exp(f - _log_mean(f, p))[order], np.cumsum(p[order])
    tilted = np.cumsum(p[order] * w)
    # With the k largest w above g, HS_g = tilted_k - g mass_k; g falls until that is tv.
    k = int(np.sum(tilted - w * mass <= tv))
    gamma = (tilted[max(k, 1) - 1] - tv) / mass[max(k, 1) - 1]
    return for_draws(f, max(float(gamma), 1.0), p)


def conformal(scores: Values, delta: float) -> float:
    """The split-conformal (1 - delta)-quantile: the ceil((n + 1) (1 - delta))-th smallest of n scores.

    scores: float64 [n], of exchangeable draws; the next one exceeds the result with probability at most delta, averaged
    over these draws. With scores f - V(x) / beta of fresh pairs it is the tau of the baseline V(x) / beta + tau. Raises
    ValueError for a delta outside (0, 1), for NaN, and for too few scores, saying how many are needed.
    """
    _log_inverse(delta)
    n, needed = len(scores), math.ceil((1 - delta) / delta - 1e-9)
    if n < needed:
        raise ValueError(f"{n} scores have no conformal {1 - delta:g}-quantile: {needed} are needed")
    if np.isnan(scores).any():
        raise ValueError("a score is NaN")
    rank = math.ceil((n + 1) * (1 - delta) - 1e-9)
    return float(np.partition(scores, rank - 1)[rank - 1])


def _chernoff(f: Values, eps: float, p: Values | None, tilted: int, sharp: bool) -> float:
    """min_l (1/l) (K(l) + log 1/eps), K(l) = L(tilted + l) - L(tilted), + log c_l if sharp; at most the largest f."""
    f, p = _law(f, p)
    price = _log_inverse(eps)
    seen = (p > 0) & (f > -np.inf)
    top = float(f[seen].max())
    lost = 0.0 if tilted else float(p[~seen].sum())
    f, p = f[seen] - top, p[seen]
    spread = -float(f.min())
    if spread == 0 or lost >= 1 - eps:  # nothing is above the lowest f, or no more than eps is above -inf
        return top - spread
    start = _log_mean(f, p) if tilted else 0.0

    def bound(l: float) -> tuple[float, float]:  # noqa: E741
        """The bound and its derivative, times l^2."""
        terms = (tilted + l) * f
        log_mean = _log_mean(terms, p)
        slope = float(np.sum(p * np.exp(terms - log_mean) * f))
        cumulant, rise = log_mean - start, l * slope
        if sharp:
            cumulant += l * math.log(l) - (1 + l) * math.log1p(l)
            rise += l * (math.log(l) - math.log1p(l))
        return (cumulant + price) / l, rise - cumulant - price

    low, high = math.log(min(1, 1 / spread)) - 16, math.log(max(1, 1 / spread)) + 28
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if bound(math.exp(middle))[1] < 0 else (low, middle)
    return top + min(bound(math.exp(low))[0], 0.0)


def _log_mean(terms: Values, p: Values) -> float:
    """Log of sum p exp(terms)."""
    top = float(terms.max())
    return top if math.isinf(top) else top + math.log(float(np.sum(p * np.exp(terms - top))))


def _log_inverse(eps: float) -> float:
    """Log 1/eps of a probability. Raises ValueError outside (0, 1)."""
    if not 0 < eps < 1:
        raise ValueError(f"a probability of {eps}")
    return -math.log(eps)


def _law(f: Values, p: Values | None) -> tuple[Values, Values]:
    """The outcomes of positive probability. Raises ValueError if f is NaN, inf or nothing finite, or p is no law."""
    if f.ndim != 1 or len(f) == 0 or np.isnan(f).any() or np.any(f == np.inf):
        raise ValueError(f"log-weights of shape {f.shape}: one dimension, no NaN and no inf")
    if p is None:
        p = np.full(len(f), 1 / len(f))
    elif p.shape != f.shape or not np.all(p >= 0) or abs(float(p.sum()) - 1) > 1e-6:
        raise ValueError(f"probabilities of shape {p.shape} for log-weights of shape {f.shape}: 0 or more, of sum 1")
    f, p = f[p > 0], p[p > 0]
    if np.all(f == -np.inf):
        raise ValueError("nothing to tilt: every log-weight is -inf")
    return f, p
