"""Values: estimates of V(x) = beta log E_p[exp(r(y) / beta) | x], the soft value of an unfinished draft x.

A finished draft is worth its reward, whatever the kind. Values are in units of the reward; beta divides them where
they are used. A value that is wrong leaves properly weighted methods exact and biases the others.

    reward           the reward of what there is so far; the reward must say that this means something
    preview          the reward of the model's own guess of how the draft will end
    completions:k    log-mean-exp of the rewards of k completions: consistent as k grows, and dear
    PATH             a network, learned by `italic fit-baseline`
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts
from italic.core.errors import SpecError
from italic.core.keys import mix
from italic.core.questions import Asking, embed, extend, preview, score
from italic.values.networks import Networks

Values: TypeAlias = NDArray[np.float64]

_COMPLETION = np.uint64(0xA0761D6478BD642F)


class Value(Protocol):
    """`of(drafts, beta)`: soft values, float64 [n], in units of the reward, NaN where missing."""

    @property
    def needs(self) -> frozenset[str]: ...

    def of(self, drafts: Drafts, beta: float) -> Asking[Values]: ...


@dataclass(frozen=True)
class RewardSoFar:
    """The reward of the unfinished draft itself."""

    needs: frozenset[str] = frozenset({"partial"})

    def of(self, drafts: Drafts, beta: float) -> Asking[Values]:
        return score(drafts, strict=False)


@dataclass(frozen=True)
class RewardOfPreview:
    """The reward of the model's guess of how the draft will end."""

    needs: frozenset[str] = frozenset({"preview"})

    def of(self, drafts: Drafts, beta: float) -> Asking[Values]:
        guesses = yield from preview(drafts)
        return (yield from score(guesses, strict=False))


@dataclass(frozen=True)
class Completions:
    """The log-mean-exp of the rewards of k completions. The same draft, seed included, has the same completions."""

    k: int = 4
    needs: frozenset[str] = frozenset({"resume"})

    def __post_init__(self) -> None:
        if self.k < 1:
            raise SpecError(f"the mean of {self.k} completions", hint="Write value=completions:4.")

    def of(self, drafts: Drafts, beta: float) -> Asking[Values]:
        return by_state(drafts, lambda rows: self._complete(rows, beta))

    def _complete(self, rows: Drafts, beta: float) -> Asking[Values]:
        numbers = np.arange(1, self.k + 1, dtype=np.uint64) * _COMPLETION
        forks = rows[np.repeat(np.arange(len(rows)), self.k)]
        ends = yield from extend(forks.reseed(mix(rows.seeds[:, None] ^ numbers).ravel()))
        rewards = yield from score(ends, strict=False)
        each = rewards.reshape(len(rows), self.k) / beta
        present = ~np.isnan(each)
        top = np.max(each, axis=1, where=present, initial=-np.inf)
        level = np.where(np.isfinite(top), top, 0.0)
        weights = np.exp(each - level[:, None], where=present, out=np.zeros_like(each))
        count = present.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(beta * (level + np.log(weights.sum(axis=1) / count)))


@dataclass(frozen=True)
class Known:
    """A function that knows the soft value of unfinished drafts: for tests, and where it has a closed form."""

    function: Callable[[Drafts], Values]
    needs: frozenset[str] = frozenset()

    def of(self, drafts: Drafts, beta: float) -> Asking[Values]:
        return by_state(drafts, lambda rows: _answer(self.function(rows)))


@dataclass(frozen=True)
class Learned:
    """A network a block of `block` steps, on the model's own features; it says V / beta, nats."""

    networks: Networks
    block: int
    needs: frozenset[str] = field(default=frozenset({"embed"}))

    def of(self, drafts: Drafts, beta: float) -> Asking[Values]:
        return by_state(drafts, lambda rows: self._estimate(rows, beta))

    def _estimate(self, rows: Drafts, beta: float) -> Asking[Values]:
        features = yield from embed(rows)
        return beta * self.networks(features, rows.steps // self.block)


def by_state(drafts: Drafts, unfinished: Callable[[Drafts], Asking[Values]]) -> Asking[Values]:
    """The rewards of the finished rows, and what `unfinished` says of the others: float64 [n]."""
    values = np.empty(len(drafts))
    done = drafts.done
    if np.any(done):
        values[done] = yield from score(drafts[np.flatnonzero(done)], strict=False)
    if not np.all(done):
        values[~done] = yield from unfinished(drafts[np.flatnonzero(~done)])
    return values


def _answer(values: Values) -> Asking[Values]:
    yield from ()
    return values


def build_value(spec: str | Value) -> Value:
    """The value that a spec names: `reward`, `preview` or `completions:4`. Raises SpecError."""
    if not isinstance(spec, str):
        return spec
    name, _, rest = spec.partition(":")
    if spec == "reward":
        return RewardSoFar()
    if spec == "preview":
        return RewardOfPreview()
    if name == "completions" and (rest.isdigit() or not rest):
        return Completions(int(rest or 4))
    raise SpecError(
        f"there is no value {spec!r}",
        hint="Write value=reward, value=preview or value=completions:4; "
        "a learned value comes with baseline=PATH, written by `italic fit-baseline`.",
    )
