"""The library's front door: prompts, a model, a reward and a method in, answers out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from italic.core.drafts import TextDrafts
from italic.core.errors import InputError, UsageError
from italic.core.keys import Key, Seeds
from italic.core.outcome import Outcome, Usage
from italic.core.prompt import Prompt
from italic.core.protocols import Method, Model, Reward, Task, check
from italic.core.sampling import Sampling
from italic.core.spec import build_method, build_model, build_reward
from italic.run.calls import Progress
from italic.run.desk import Listener, Result
from italic.run.event import event_driven
from italic.run.inputs import collect
from italic.run.ledger import UNLIMITED, Budget, Ledger
from italic.run.lockstep import lockstep

Driver: TypeAlias = Literal["event", "lockstep"]
DRIVERS = {"event": event_driven, "lockstep": lockstep}
DEFAULT_SAMPLING = Sampling()


@dataclass(frozen=True, eq=False)
class Alignment:
    """The answers to a set of prompts, in the order of the input.

    results: one a prompt; prompts that a budget left no room for are missing. usage: the true total.
    complete: whether every prompt was carried through.
    """

    results: tuple[Result, ...]
    usage: Usage
    complete: bool

    @property
    def texts(self) -> list[str | None]:
        """The chosen answer of each result; None where a budget ended the run before there was one."""
        return [chosen_text(result.outcome) for result in self.results]

    @property
    def rewards(self) -> list[float]:
        """The reward of each chosen answer."""
        return [r.outcome.reward for r in self.results]


def chosen_text(outcome: Outcome) -> str | None:
    """The text of the chosen draft; None if there is none. Raises UsageError for drafts that are not text."""
    if outcome.chosen is None:
        return None
    chosen = outcome.drafts[[outcome.chosen]]
    if not isinstance(chosen, TextDrafts):
        raise UsageError("these drafts have no text", hint="Read result.outcome.drafts instead.")
    return chosen.texts[0]


def make_tasks(prompts: Sequence[Prompt], model: Model, seed: int, sampling: Sampling) -> list[Task]:
    """One task a prompt, its randomness named by the seed and the prompt's id."""
    root = Key(seed)

    given = sampling

    def task(prompt: Prompt) -> Task:
        def begin(seeds: Seeds, sampling: Sampling | None = None) -> Any:
            return model.start(prompt, seeds, given if sampling is None else sampling)

        return Task(prompt, root.at(prompt.id), begin)

    return [task(prompt) for prompt in prompts]


def stream(
    prompts: Sequence[Prompt],
    model: Model,
    reward: Reward,
    method: Method,
    *,
    seed: int = 0,
    sampling: Sampling = DEFAULT_SAMPLING,
    ledger: Ledger | None = None,
    driver: Driver = "event",
    listen: Listener | None = None,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """Run a method on prompts and yield each result as soon as it is there. `align` is this, collected.

    Raises MismatchError before anything is spent if the method needs what the model or the reward does not offer.
    """
    check(method, model, reward)
    if driver not in DRIVERS:
        raise UsageError(f"there is no driver {driver!r}", hint=f"Choose one of {', '.join(DRIVERS)}.")
    tasks = make_tasks(prompts, model, seed, sampling)
    ledger = Ledger() if ledger is None else ledger
    yield from DRIVERS[driver](tasks, method, model, reward, ledger, listen=listen, progress=progress)


def align(
    prompts: Sequence[str | Prompt | Mapping[str, Any]],
    model: str | Model = "demo",
    reward: str | Reward = "demo",
    method: str | Method = "best-of-n:n=16",
    *,
    seed: int = 0,
    sampling: Sampling = DEFAULT_SAMPLING,
    budget: Budget = UNLIMITED,
    driver: Driver = "event",
    listen: Listener | None = None,
    progress: Progress | None = None,
) -> Alignment:
    """Answer prompts with a model whose law is tilted towards a reward.

    prompts: texts, `Prompt`s, or mappings with `prompt` or `messages` as in an input file. model, reward, method:
    objects, or specs as on the command line ("demo", "demo:sentiment", "best-of-n:n=16"). The same arguments give the
    same answers, whatever the batch sizes and the driver. listen: told each `note` of the method, with its prompt.

    Raises InputError for a bad prompt, SpecError and MismatchError before anything is spent; ModelError and RewardError
    when a back-end fails.
    """
    if isinstance(prompts, str | Mapping):
        raise InputError("a single text or mapping where a list of prompts belongs", hint="Write align([prompt], ...).")
    read = collect(enumerate(prompts, 1))
    if read.problems:
        raise InputError("; ".join(read.problems), hint='Give texts, or {"prompt": ...}, or {"messages": [...]}.')
    ledger = Ledger(budget)
    results = stream(
        read.good,
        build_model(model),
        build_reward(reward),
        build_method(method),
        seed=seed,
        sampling=sampling,
        ledger=ledger,
        driver=driver,
        listen=listen,
        progress=progress,
    )
    ordered = tuple(sorted(results, key=lambda r: r.order))
    complete = len(ordered) == len(read.good) and all(r.outcome.complete for r in ordered)
    return Alignment(ordered, ledger.usage, complete)
