"""The roles: what a method, a model and a reward must be able to do. Anything that does is one; there is no base class.

A method declares what it `needs`, a model what it `offers`; `check` refuses a mismatch before anything is spent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts
from italic.core.errors import MismatchError
from italic.core.keys import Key, Seeds
from italic.core.outcome import Outcome
from italic.core.prompt import Prompt
from italic.core.questions import Asking, Extend
from italic.core.sampling import Sampling

ABILITIES = {
    "resume": "go on from an unfinished draft",
    "cut": "go on from a draft that was shortened",
    "entropy": "end an extension at the model's own uncertainty",
    "texts": "drafts have texts, tokens and log-probabilities",
    "latents": "drafts are points of a space",
    "preview": "guess how an unfinished draft will end",
    "embed": "describe a draft by the model's own features",
    "likelihood": "tell how likely and how uncertain each token of a draft was",
    "likeliest": "list the likeliest next tokens of a draft",
    "partial": "the reward's scores of unfinished drafts mean something",
}
"""What a method or a reward may need. A reward with `partial` set offers the last, a model offers the others."""


@dataclass(frozen=True)
class Paper:
    """A source: its arXiv id (or DOI), authors, title and year. `italic cite` prints it."""

    id: str
    authors: str
    title: str
    year: int


class Begin(Protocol):
    """Makes one empty draft a seed, sampled as the run says, or as `sampling` does."""

    def __call__(self, seeds: Seeds, sampling: Sampling | None = None) -> Drafts: ...


@dataclass(frozen=True)
class Task:
    """One prompt, as a method sees it. `start(n)` gives n empty drafts; `key` names this prompt's randomness."""

    prompt: Prompt
    key: Key
    begin: Begin

    def start(self, n: int, *path: str | int) -> Any:
        """n empty drafts with seeds of their own: those of `key.at("start", *path)`.

        The first k rows of `start(n)` are those of `start(k)`. Give a path to start again with other noise.
        """
        return self.begin(self.key.at("start", *path).seeds(n))


@runtime_checkable
class Method(Protocol):
    """A frozen dataclass whose fields are the parameters. `run(task)` asks questions and returns an Outcome.

    A method whose prompts `share` has `batch`, a field: how many consecutive prompts make a batch, None for all.
    """

    papers: ClassVar[tuple[Paper, ...]]

    @property
    def needs(self) -> frozenset[str]:
        """Abilities of `ABILITIES`; a class variable where they do not depend on the parameters."""

    def run(self, task: Task) -> Asking[Outcome]: ...


@dataclass(frozen=True)
class Spent:
    """What the model did for one extension: tokens drawn, positions through the network, its forward passes (calls)."""

    tokens: int = 0
    positions: int = 0
    calls: int = 0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.tokens + other.tokens, self.positions + other.positions, self.calls + other.calls)


@dataclass(frozen=True)
class Grown:
    """The answer to an extension. stopped: the budget ended it early, the drafts are as they stand."""

    drafts: Drafts
    spent: Spent
    stopped: bool = False

    @property
    def value(self) -> Drafts:
        """What a method that asked for a preview is sent."""
        return self.drafts


@runtime_checkable
class Model(Protocol):
    """A model that can be sampled.

    `start` makes one empty draft a seed and spends nothing. `extend` answers all `jobs` in order. A row's text may
    depend only on its prompt, its tokens so far, its sampling, its seed and `until`: not on the batch
    (`italic.testing` checks). Errors: ModelError for a back-end's failure, InputError for a prompt that
    cannot be rendered.
    """

    @property
    def name(self) -> str: ...

    @property
    def offers(self) -> frozenset[str]: ...

    def start(self, prompt: Prompt, seeds: Seeds, sampling: Sampling) -> Drafts: ...

    def extend(self, jobs: Sequence[Extend]) -> list[Grown]: ...


@dataclass(frozen=True)
class Embedded:
    """Features of one batch of drafts, float64 [n, d], and what they cost."""

    features: NDArray[np.float64]
    spent: Spent = Spent()

    @property
    def value(self) -> NDArray[np.float64]:
        """What a method that asked is sent."""
        return self.features


class Previewing(Model, Protocol):
    """A model that offers `preview`: finished guesses, a row each, that depend on the row alone."""

    def preview(self, batches: Sequence[Drafts]) -> list[Grown]: ...


class Embedding(Model, Protocol):
    """A model that offers `embed`: features, a row each, that depend on the row's prompt and state alone."""

    def embed(self, batches: Sequence[Drafts]) -> list[Embedded]: ...


@dataclass(frozen=True)
class Weighed:
    """What the model's own law (temperature 1, whole vocabulary) says of one batch of drafts, and what it cost.

    logprobs: float64 [n, L], the log-probability of each token of each response; entropies: float64 [n, L], nats, of
    that law before each token; L = the longest row, both padded with NaN.
    """

    logprobs: NDArray[np.float64]
    entropies: NDArray[np.float64]
    spent: Spent = Spent()

    @property
    def value(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What a method that asked is sent."""
        return self.logprobs, self.entropies


class Weighing(Model, Protocol):
    """A model that offers `likelihood`: numbers, a row each, that depend on the row alone."""

    def likelihood(self, batches: Sequence[Drafts]) -> list[Weighed]: ...


@dataclass(frozen=True)
class Fanned:
    """The children of one batch of drafts: each a token longer. parents: int64 [m], the row that each child is of.

    spent: a token for each row that has children, however many they are: no more of them comes to be kept.
    """

    drafts: Drafts
    parents: NDArray[np.int64]
    spent: Spent = Spent()

    @property
    def value(self) -> tuple[Drafts, NDArray[np.int64]]:
        """What a method that asked is sent."""
        return self.drafts, self.parents


class Fanning(Model, Protocol):
    """A model that offers `likeliest`: for each unfinished row its at most k likeliest next tokens, likeliest first."""

    def likeliest(self, batches: Sequence[tuple[Drafts, int]]) -> list[Fanned]: ...


Mused: TypeAlias = Grown | Embedded | Weighed | Fanned
"""The answer to an aside; its `value` is what the method is sent."""


class Session(Protocol):
    """A model's continuous batch: jobs join at any time, and each is answered as soon as it is through."""

    def submit(self, ticket: int, job: Extend) -> None:
        """Take the job in; `ticket` names it in the answer."""

    def step(self, allowance: int | None) -> list[tuple[int, Grown]]:
        """Do a little work and return the jobs that are through.

        allowance: how many more tokens may be generated from now on, None for no bound. The step generates no more;
        jobs that it cannot carry on under the allowance come back `stopped`.
        """

    @property
    def busy(self) -> bool:
        """Whether any job is not yet answered."""

    @property
    def hungry(self) -> bool:
        """Whether more jobs would be worked on in the next step."""

    @property
    def generated(self) -> int:
        """Tokens generated since the session began, jobs under way included."""

    @property
    def calls(self) -> int:
        """Forward passes since the session began."""


@runtime_checkable
class Stepping(Model, Protocol):
    """A model that works in steps: it opens a session. Others are asked for whole extensions at once."""

    def open(self) -> Session: ...


@dataclass(frozen=True)
class Scored:
    """Rewards of one batch of drafts: float64 [n]; missing: bool [n]; tokens: positions through the reward model."""

    rewards: NDArray[np.float64]
    missing: NDArray[np.bool_]
    tokens: int = 0


@runtime_checkable
class Reward(Protocol):
    """A score of drafts, larger is better.

    partial: whether scores of unfinished drafts mean something. deterministic: whether the same text always gets the
    same score; if so a run scores it once. `score` answers every batch; each draft's score may depend on its own prompt
    and text alone. A score that failed is *missing*; NaN is an error. Errors: RewardError.
    """

    @property
    def name(self) -> str: ...

    @property
    def needs(self) -> frozenset[str]: ...

    @property
    def partial(self) -> bool: ...

    @property
    def deterministic(self) -> bool: ...

    def score(self, batches: Sequence[Drafts]) -> list[Scored]: ...


def check(method: Method, model: Model, reward: Reward) -> None:
    """Refuse a combination that cannot work, naming both sides. Raises MismatchError.

    A method that was fitted to a pair has `made_for`, their names; it is refused for any other.
    """
    made_for = getattr(method, "made_for", None)
    if made_for not in (None, (model.name, reward.name)):
        raise MismatchError(
            f"{type(method).__name__} was fitted to the model {made_for[0]} with the reward {made_for[1]}, and this is "
            f"{model.name} with {reward.name}",
            hint="Use it with that pair, or fit to this one: italic fit-baseline, italic calibrate.",
        )
    offers = model.offers | ({"partial"} if reward.partial else frozenset())
    sides = ((f"the method {type(method).__name__}", method.needs), (f"the reward {reward.name}", reward.needs))
    for who, needs in sides:
        missing = sorted(needs - offers)
        if missing:
            why = "; ".join(f"{ability} ({ABILITIES.get(ability, 'unknown')})" for ability in missing)
            raise MismatchError(
                f"{who} needs {why}: not offered by the model {model.name} with the reward {reward.name}",
                hint=f"Offered: {', '.join(sorted(offers)) or 'nothing'}. See `italic methods` and `italic models`.",
            )
