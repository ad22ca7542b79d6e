"""One run of a method on the toy model, as the method checks need it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from italic.core.outcome import Outcome, Usage
from italic.core.prompt import Prompt
from italic.core.protocols import Method, Model, Reward, check
from italic.core.questions import Note
from italic.core.sampling import Sampling
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.align import make_tasks
from italic.run.event import event_driven
from italic.run.ledger import UNLIMITED, Budget, Ledger
from italic.run.lockstep import lockstep

DRIVERS = {"event": event_driven, "lockstep": lockstep}
SAMPLING = Sampling(max_tokens=6)


@cache
def toy_model(rows: int = 64) -> ToyModel:
    """The toy model with that many rows, made once: it tabulates the law of each prompt when it first meets it."""
    return ToyModel(rows=rows)


@cache
def toy_reward() -> ToyReward:
    """The toy reward."""
    return ToyReward()


@dataclass(frozen=True)
class Trial:
    """outcomes: by the prompt's id. usage: of the whole run. notes: in the order they were made."""

    outcomes: Mapping[str, Outcome]
    usage: Usage
    notes: Sequence[Note]


def toy_prompts(n: int = 4) -> list[Prompt]:
    """n prompts for the toy model: each has a law of its own."""
    return [Prompt(id=f"p{i}", text=f"prompt {i}") for i in range(n)]


def run(
    method: Method,
    *,
    model: Model | None = None,
    reward: Reward | None = None,
    prompts: Sequence[Prompt] | None = None,
    seed: int = 0,
    driver: str = "event",
    window: int = 64,
    budget: Budget = UNLIMITED,
) -> Trial:
    """Run a method on the toy model and the toy reward, unless others are given."""
    model = toy_model() if model is None else model
    reward = toy_reward() if reward is None else reward
    check(method, model, reward)
    ledger = Ledger(budget)
    notes: list[Note] = []
    tasks = make_tasks(toy_prompts() if prompts is None else prompts, model, seed, SAMPLING)
    results = DRIVERS[driver](
        tasks, method, model, reward, ledger, window=window, listen=lambda _, note: notes.append(note)
    )
    return Trial({r.prompt.id: r.outcome for r in results}, ledger.usage, notes)
