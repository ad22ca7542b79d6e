"""What the tests of `italic.run` share: models that hide, rewards that misbehave, methods that try everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from italic.core.drafts import Drafts
from italic.core.errors import OutOfBudget
from italic.core.keys import Seeds
from italic.core.outcome import Outcome
from italic.core.prompt import Prompt
from italic.core.protocols import Fanned, Grown, Method, Model, Paper, Reward, Scored, Task, Weighed
from italic.core.questions import Asking, Extend, best, extend, note, score, together
from italic.core.sampling import Sampling, Until
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.align import make_tasks
from italic.run.desk import Result
from italic.run.event import event_driven
from italic.run.ledger import UNLIMITED, Budget, Ledger
from italic.run.lockstep import lockstep

DRIVERS = {"event": event_driven, "lockstep": lockstep}
SHORT = Sampling(max_tokens=6)


@dataclass
class Blocking:
    """A model that answers whole extensions only: `open` is hidden."""

    inner: ToyModel
    offers: frozenset[str] = frozenset({"resume", "cut", "entropy", "texts", "likelihood", "likeliest"})
    before: Callable[[], None] = lambda: None
    asked: int = 0

    @property
    def name(self) -> str:
        return self.inner.name

    def start(self, prompt: Prompt, seeds: Seeds, sampling: Sampling) -> Drafts:
        return self.inner.start(prompt, seeds, sampling)

    def extend(self, jobs: Sequence[Extend]) -> list[Grown]:
        self.before()
        self.asked += 1
        return self.inner.extend(jobs)

    def likelihood(self, batches: Sequence[Drafts]) -> list[Weighed]:
        self.before()
        return self.inner.likelihood(batches)

    def likeliest(self, batches: Sequence[tuple[Drafts, int]]) -> list[Fanned]:
        self.before()
        return self.inner.likeliest(batches)


@dataclass
class OddReward:
    """A reward whose answers go through `change` first; it counts the drafts it was given."""

    change: Callable[[list[Scored]], list[Scored]] = lambda answers: answers
    inner: ToyReward = field(default_factory=ToyReward)
    name: str = "odd"
    needs: frozenset[str] = frozenset({"texts"})
    partial: bool = True
    deterministic: bool = True
    seen: list[int] = field(default_factory=list)

    def score(self, batches: Sequence[Drafts]) -> list[Scored]:
        self.seen += [len(b) for b in batches]
        return self.change(self.inner.score(batches))


@dataclass
class Clock:
    """A clock that stands still unless told otherwise."""

    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Custom:
    """A method from a function."""

    body: Callable[[Task], Asking[Any]]
    needs: ClassVar[frozenset[str]] = frozenset()
    papers: ClassVar[tuple[Paper, ...]] = ()

    def run(self, task: Task) -> Asking[Any]:
        return self.body(task)


def segments(task: Task) -> Asking[Outcome]:
    """Keep the best half of the rows after every segment and fork them."""
    drafts = task.start(4)
    for i in range(8):
        drafts = yield from extend(drafts, Until(steps=2, entropy=1.0), key=task.key.at("segment", i))
        rewards = yield from score(drafts)
        if drafts.done.all():
            break
        order = np.argsort(-rewards, kind="stable")[:2]
        drafts = drafts[np.repeat(order, 2)]
    drafts = yield from extend(drafts, key=task.key.at("rest"))
    rewards = yield from score(drafts)
    return Outcome(drafts, rewards, chosen=best(rewards))


def cutting(task: Task) -> Asking[Outcome]:
    """Finish, cut back to a random length, try again, keep the better of the two."""
    drafts = yield from extend(task.start(3))
    rewards = yield from score(drafts)
    for i in range(3):
        key = task.key.at("try", i)
        lengths = (key.uniform(3) * drafts.steps).astype(np.int64)
        other = yield from extend(drafts.cut(lengths), key=key)
        theirs = yield from score(other)
        rows = np.where(theirs > rewards, np.arange(3) + 3, np.arange(3))
        drafts, rewards = drafts.concat(other)[rows], np.maximum(rewards, theirs)
    return Outcome(drafts, rewards, chosen=best(rewards))


def one(task: Task, *path: str | int, n: int = 2) -> Asking[tuple[Drafts, float]]:
    """The best of n draws, as a sub-method."""
    drafts = yield from extend(task.start(n, *path))
    rewards = yield from score(drafts)
    yield from note("one", path="/".join(map(str, path)), reward=float(rewards.max()))
    return drafts[[best(rewards)]], float(rewards.max())


def several(task: Task) -> Asking[Outcome]:
    """Sub-methods in sub-methods, of different sizes."""

    def pair(i: int) -> Asking[tuple[Drafts, float]]:
        found = yield from together(one(task, i, 0, n=1), one(task, i, 1, n=i + 1))
        return max(found, key=lambda f: f[1])

    found = yield from together(*(pair(i) for i in range(3)))
    drafts = found[0][0].concat(*(d for d, _ in found[1:]))
    rewards = np.array([r for _, r in found])
    return Outcome(drafts, rewards, chosen=best(rewards))


def patient(task: Task) -> Asking[Outcome]:
    """Draw one by one until a good one comes, or the budget ends: then return what there is."""
    kept: list[tuple[Drafts, float]] = []
    try:
        for i in range(6):
            kept.append((yield from one(task, i, n=1)))
            if kept[-1][1] > 1.5:
                break
    except OutOfBudget:
        if not kept:
            raise
        rewards = np.array([r for _, r in kept])
        return Outcome(kept[0][0].concat(*(d for d, _ in kept[1:])), rewards, chosen=best(rewards), complete=False)
    rewards = np.array([r for _, r in kept])
    return Outcome(kept[0][0].concat(*(d for d, _ in kept[1:])), rewards, chosen=best(rewards))


SYNTHETIC = {"segments": segments, "cutting": cutting, "several": several, "patient": patient}


def prompts(n: int) -> list[Prompt]:
    """n different prompts."""
    return [Prompt(f"p{i}", text=f"prompt {i}") for i in range(n)]


def go(
    method: Method,
    *,
    driver: str = "event",
    model: Model | None = None,
    reward: Reward | None = None,
    budget: Budget = UNLIMITED,
    asked: Sequence[Prompt] | None = None,
    seed: int = 0,
    sampling: Sampling = SHORT,
    clock: Callable[[], float] | None = None,
    **options: Any,
) -> tuple[dict[str, Result], Ledger]:
    """Run a method with a driver; the results by prompt id, and the ledger."""
    model = ToyModel() if model is None else model
    reward = ToyReward() if reward is None else reward
    ledger = Ledger(budget) if clock is None else Ledger(budget, clock)
    tasks = make_tasks(prompts(4) if asked is None else asked, model, seed, sampling)
    results = list(DRIVERS[driver](tasks, method, model, reward, ledger, **options))
    by_id = {r.prompt.id: r for r in results}
    assert len(by_id) == len(results), "no prompt is answered twice"
    assert all(tasks[r.order].prompt is r.prompt for r in results)
    return by_id, ledger


def told(outcome: Outcome) -> dict[str, Any]:
    """Everything of an outcome that must be reproducible."""
    return {
        "texts": outcome.drafts.texts,
        "tokens": [t.tolist() for t in outcome.drafts.tokens],
        "logprobs": [p.tolist() for p in outcome.drafts.logprobs],
        "reasons": outcome.drafts.reason.tolist(),
        "rewards": [repr(r) for r in outcome.rewards],
        "chosen": outcome.chosen,
        "log_weights": None if outcome.log_weights is None else outcome.log_weights.tolist(),
        "certificate": outcome.certificate,
        "complete": outcome.complete,
        "usage": outcome.usage.counts(),
    }
