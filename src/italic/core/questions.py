"""The questions a method asks, and the words it asks them with.

A method is a generator: it *yields* a question and is sent the answer. It touches no model, clock, file or thread
itself, so the same text serves a lockstep driver, an event-driven one and an asynchronous gateway. A method writes

    drafts = yield from extend(task.start(16))
    rewards = yield from score(drafts)

and the driver decides when, in which batch, with whose other questions, and at what price that happens.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts
from italic.core.errors import ProgramError
from italic.core.keys import Key
from italic.core.sampling import FINISH, Until

D = TypeVar("D", bound=Drafts)
T = TypeVar("T")
V = TypeVar("V")


@dataclass(frozen=True)
class Extend:
    """Make the unfinished rows longer. Answer: drafts with the same rows; finished rows come back as they were."""

    drafts: Drafts
    until: Until = FINISH

    def __post_init__(self) -> None:
        going = ~self.drafts.done
        seeds = self.drafts.seeds[going]
        if len(np.unique(seeds)) < len(seeds):
            raise ProgramError(
                "two unfinished rows of one extension have the same seed, so they would draw the same noise",
                hint='Give forked rows new seeds: extend(drafts, key=task.key.at("round", i)).',
            )
        self.until.most(len(self.drafts))


@dataclass(frozen=True)
class Score:
    """Reward the rows. Answer: float64 [n], larger is better, NaN where the score is missing (it failed).

    strict: whether it is an error if every score of the question is missing.
    """

    drafts: Drafts
    strict: bool = True


@dataclass(frozen=True)
class Preview:
    """Guess how the rows will end. Answer: finished drafts, one a row, to be scored; they cannot be gone on from."""

    drafts: Drafts


@dataclass(frozen=True)
class Embed:
    """Describe the rows by the model's own features. Answer: float64 [n, d], a function of each row's state alone."""

    drafts: Drafts


@dataclass(frozen=True)
class Likelihood:
    """How likely, and how uncertain, each token was under the model's own law. Answer: logprobs and entropies, each
    float64 [n, L], nats, padded with NaN."""

    drafts: Drafts


@dataclass(frozen=True)
class Likeliest:
    """The likeliest next tokens. Answer: drafts, a token longer, and int64 [m], the row that each is a child of.

    Each unfinished row has at most k children, those of its k likeliest tokens under the model's own law (temperature
    1, whole vocabulary; tokens of probability 0 left out), the likeliest first, the first of equals; finished rows have
    none. A child's last log-probability is that of this law, its seed is its parent's.
    """

    drafts: Drafts
    k: int

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ProgramError(f"the {self.k} likeliest next tokens", hint="Ask for 1 or more.")


@dataclass(frozen=True)
class Together:
    """Run several sub-methods at once. Answer: their results, in order.

    An error in one closes the others and is thrown into the method that asked. A budget stop is thrown into each child
    that asks for what is used up; each may return what it has. Only if one does not is it thrown on.
    """

    children: tuple[Generator[Any, Any, Any], ...]


@dataclass(frozen=True)
class Share:
    """Tell the other prompts of the batch a value, and be told what follows from everybody's. For methods with `batch`.

    settle: called once by the driver when every prompt of the batch that still goes on has asked, with their values in
    the order of the prompts' ids; returns what each is sent, in the same order. All ask with the same function. Prompts
    that a budget ended, or left no room to start, are left out.
    """

    value: Any
    settle: Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True)
class Note:
    """Tell whoever listens (trace, stream) what happened. Answer: None, at once. Values are plain numbers and text."""

    event: str
    values: Mapping[str, Any] = field(default_factory=dict)


Aside: TypeAlias = Preview | Embed | Likelihood | Likeliest
"""A question to the model that draws nothing."""

Question: TypeAlias = Extend | Score | Aside | Share | Together | Note
Asking: TypeAlias = Generator[Question, Any, T]
"""A generator that asks questions and returns a T: the type of a method's `run` and of everything it calls."""


def extend(drafts: D, until: Until = FINISH, *, key: Key | None = None) -> Asking[D]:
    """Make the unfinished rows longer, until they end or `until` says so.

    With `key`, rows get the key's seeds first: needed for forked rows and for another try from the same prefix.
    Without it, the same drafts extended again give the same text.
    """
    if key is not None:
        drafts = drafts.reseed(key.seeds(len(drafts)))
    answer: D = yield Extend(drafts, until)
    return answer


def score(drafts: Drafts, *, strict: bool = True) -> Asking[NDArray[np.float64]]:
    """The rewards of the rows: float64 [n], larger is better, NaN where a score is missing. See `best`.

    If all of them are missing the run ends with a RewardError, unless `strict` is false: for methods that try again.
    """
    answer: NDArray[np.float64] = yield Score(drafts, strict)
    return answer


def preview(drafts: D) -> Asking[D]:
    """The model's guess of how each row will end, as finished drafts. Needs the ability `preview`."""
    answer: D = yield Preview(drafts)
    return answer


def embed(drafts: Drafts) -> Asking[NDArray[np.float64]]:
    """The model's own features of each row: float64 [n, d]. Needs the ability `embed`."""
    answer: NDArray[np.float64] = yield Embed(drafts)
    return answer


def likelihood(drafts: Drafts) -> Asking[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Log-probabilities of the rows' tokens and the entropies before them: see `Likelihood`. Needs that ability."""
    answer: tuple[NDArray[np.float64], NDArray[np.float64]] = yield Likelihood(drafts)
    return answer


def likeliest(drafts: D, k: int) -> Asking[tuple[D, NDArray[np.int64]]]:
    """The children of the rows by their k likeliest tokens, and whose they are: see `Likeliest`. Needs that ability."""
    answer: tuple[D, NDArray[np.int64]] = yield Likeliest(drafts, k)
    return answer


def together(*children: Asking[T]) -> Asking[list[T]]:
    """Run the sub-methods at once and return their results in order."""
    answer: list[T] = yield Together(children)
    return answer


def share(value: V, settle: Callable[[Sequence[V]], Sequence[T]]) -> Asking[T]:
    """Tell the batch a value, and be told what `settle` makes of everybody's for this prompt: see `Share`."""
    answer: T = yield Share(value, settle)
    return answer


def note(event: str, **values: Any) -> Asking[None]:
    """Tell whoever listens what happened: numbers and text only."""
    yield Note(event, values)


def best(rewards: NDArray[np.float64]) -> int:
    """The row with the largest reward, the first of equals; missing scores never win.

    Raises ValueError if every score is missing (a driver never hands out such an answer).
    """
    present = np.flatnonzero(~np.isnan(rewards))
    if not len(present):
        raise ValueError("no reward to choose by")
    return int(present[np.argmax(rewards[present])])
