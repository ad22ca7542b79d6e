"""What best-of-n does to a model: divergence and win rate in closed form."""

from __future__ import annotations

import math


def kl_bound(n: int) -> float:
    """An upper bound on KL(best-of-n || p), nats: log n - (n-1)/n, attained by a reward without ties (2401.01879).

    Raises ValueError if n < 1.
    """
    if n < 1:
        raise ValueError(f"the best of {n} draws")
    return math.log(n) - (n - 1) / n


def kl_estimate(n: int, top: float) -> float:
    """A closer estimate of KL(best-of-n || p), nats; `top` is the best response's probability under p (2401.01879).

    As `top` goes to 0 it is the bound, as n grows it is log 1/top: a response cannot be made more probable than 1.
    Raises ValueError if n < 1 or `top` is no probability.
    """
    if not 0 <= top <= 1:
        raise ValueError(f"a probability of {top}")
    bound = kl_bound(n)
    if top == 0:
        return bound
    if top == 1:
        return 0.0
    log_rest = math.log1p(-top)
    seen = -math.expm1(n * log_rest)
    return (1 - seen) * (bound + (n - 1) * log_rest) + seen * math.log(seen / top)


def win_rate(n: int) -> float:
    """How often best-of-n beats one draw of the model, for a reward without ties: n / (n + 1).

    Raises ValueError if n < 1.
    """
    if n < 1:
        raise ValueError(f"the best of {n} draws")
    return n / (n + 1)
