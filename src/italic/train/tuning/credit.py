"""Credit by parts: what each part of a response has added to what the response came to be worth.

A policy gradient multiplies the log-probability of every token by how much more its response was worth than others.
Most of that was decided elsewhere in the response, which to this token is noise. But a response can be cut after each
part, and the reward asked what it would be worth if it ended there. A regression of what responses came to be worth on
that tells what is to be expected after part j, V_j, and so

    delta_j = V_(j+1) - V_j                               what part j has added; the last V is the worth itself
    credit of part j = delta_j + lambda_j credit of j + 1    (generalised advantage estimation, 1506.02438).

With lambda = 1 that is the worth less V_j, and the gradient is unbiased whatever V is, for V knows nothing of the
part's own tokens and is fitted to earlier steps. With a smaller lambda a part has less credit for what comes after it:
far less noise, and a bias where V does not see what the part has decided. So lambda_j is below 1 only as far as
beginnings foretell more behind the part than before it: a part that decides what shows later keeps the credit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

PARTS = 8
"""Into how many parts the longest response falls."""
MEMORY = 0.95
"""How much of what regressions know is left after a step."""
DOUBT = 20.0
"""The weight, in responses, of what they say before they know anything: as much as the prompt's other responses."""
BEFORE = np.array([0.0, 1.0, 0.0, 0.0])
"""That, as coefficients of a constant, the others' mean worth, the beginning's worth and its quantile."""


def parts(longest: int) -> tuple[int, ...]:
    """After how many tokens responses of at most `longest` tokens are cut: ascending, all below `longest`."""
    return tuple(range(stride := -(-longest // PARTS), longest, stride))


def part_of(cuts: Sequence[int] | NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Of which part each of the first `width` tokens is: int64 [width]."""
    return np.searchsorted(cuts, np.arange(width), side="right")


class Rolled(NamedTuple):
    """Responses and their beginnings, B rows cut in J places.

    rewards, worth, quantiles: float64 [B], NaN where the score is missing. steps: int64 [B], tokens. begun: float64
    [B, J, 2], what each beginning would be worth and its reward's quantile if it were the response, NaN where that is
    not known.
    """

    rewards: Array
    worth: Array
    quantiles: Array
    steps: NDArray[np.int64]
    begun: Array


class Credit:
    """Gives each part of a response its credit, and learns what is to be expected from step to step.

    cuts: int [J], see `parts`. decays: lambda of each part, J + 1 numbers, of which the last does not matter. squares,
    products: what the J + 1 regressions know, their moments.
    """

    def __init__(self, cuts: Sequence[int], decays: Sequence[float] | Array) -> None:
        self.cuts = np.asarray(cuts, dtype=np.int64)
        self.decays = tuple(decays)
        size = len(BEFORE)
        self.squares = np.zeros((len(cuts) + 1, size, size))
        self.products = np.zeros((len(cuts) + 1, size))

    def expected(self, rolled: Rolled, others: Array) -> Array:
        """What is to be expected before each part, and what came: float64 [B, J + 2]. others: float64 [B], the mean
        worth of the other responses to the same prompt.
        """
        going, features = self._seen(rolled, others)
        found = np.repeat(rolled.worth[:, None], len(self.cuts) + 2, axis=1)
        for j, (squares, products) in enumerate(zip(self.squares, self.products, strict=True)):
            weight = squares + DOUBT * np.eye(len(BEFORE))
            coefficients = BEFORE + np.linalg.solve(weight, products - squares @ BEFORE)
            told = features[:, j] @ coefficients
            unknown = np.isnan(told)
            told[unknown] = found[unknown, max(j - 1, 0)]
            found[going[:, j], j] = told[going[:, j]]
        return found

    def assign(self, rolled: Rolled, others: Array) -> Array:
        """The credit of each part: float64 [B, J + 1], 0 where the worth or the others' is not known."""
        added = np.diff(self.expected(rolled, others), axis=1)
        credit, later = np.empty_like(added), np.zeros(len(added))
        for j in reversed(range(added.shape[1])):
            credit[:, j] = later = added[:, j] + self.decays[j] * later
        return np.where(np.isnan(rolled.worth + others)[:, None], 0.0, credit)

    def learn(self, rolled: Rolled, others: Array) -> None:
        """Take in what came of the responses of a step."""
        going, features = self._seen(rolled, others)
        known = going & ~np.isnan(features).any(axis=2) & ~np.isnan(rolled.worth)[:, None]
        for j in range(len(self.squares)):
            here, worth = features[known[:, j], j], rolled.worth[known[:, j]]
            self.squares[j] = MEMORY * self.squares[j] + here.T @ here
            self.products[j] = MEMORY * self.products[j] + here.T @ worth

    def of_tokens(self, credit: Array, width: int) -> Array:
        """The credit of the first `width` tokens, float64 [B, width], of that of the parts."""
        return np.asarray(credit[:, part_of(self.cuts, width)])

    def state(self) -> dict[str, Any]:
        """All that is known, as plain values."""
        return {"squares": self.squares.tolist(), "products": self.products.tolist()}

    def restore(self, state: dict[str, Any]) -> None:
        """Know what `state` said, and nothing else."""
        self.squares, self.products = np.array(state["squares"]), np.array(state["products"])

    def _seen(self, rolled: Rolled, others: Array) -> tuple[NDArray[np.bool_], Array]:
        """Which responses go on before each part, bool [B, J + 1], and what is known of them, float64 [B, J + 1, 4]."""
        starts = np.concatenate([[-1], self.cuts])
        begun = np.concatenate([np.zeros_like(rolled.begun[:, :1]), rolled.begun], axis=1)
        others = np.broadcast_to(others[:, None, None], (*begun.shape[:2], 1))
        return rolled.steps[:, None] > starts, np.concatenate([np.ones_like(others), others, begun], axis=2)


def foretold(cuts: Sequence[int], rolled: Rolled, others: Array) -> Array:
    """Which share of the variance of what responses are worth is known before each part, and at the end.

    Returns float64 [J + 2], from 0, what the others' mean tells, to 1. It is that of these very responses, so that it
    is a little too large for few. All but the last are 0 if nothing is left to know, or no response is known.
    """
    credit = Credit(cuts, np.ones(len(cuts) + 1))
    credit.learn(rolled, others)
    off = rolled.worth[:, None] - credit.expected(rolled, others)
    left = np.sum(off[~np.isnan(rolled.worth + others)] ** 2, axis=0)
    return np.append(1 - left[:-1] / left[0] if left[0] > 0 else np.zeros(len(left) - 1), 1.0)


def decays(shares: Array, gae_lambda: float) -> Array:
    """lambda of each part: `gae_lambda` where it reveals an even share of the variance or more, 1 where nothing.

    shares: float64 [J + 2], see `foretold`. Returns float64 [J + 1].
    """
    revealed = np.clip(np.diff(shares) * (len(shares) - 1), 0, 1)
    return np.asarray(1 - (1 - gae_lambda) * revealed)
