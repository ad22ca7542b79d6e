"""The method checks: all registered methods pass them, and for each check there is a broken method that fails it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest

from italic.core.errors import OutOfBudget
from italic.core.outcome import Certificate, Outcome
from italic.core.protocols import Method, Task
from italic.core.questions import Asking, best, extend, note, score
from italic.core.registry import entries
from italic.core.sampling import Until
from italic.core.spec import build_method
from italic.testing import applicable, method_checks
from italic.testing import methods as suite

SPECS = {
    "args": "args:temperature=0.5,weight=1",
    "cascade": "cascade:r_star=1,tau_u=1,min_segment=1",
    "optimal-stopping": "optimal-stopping:cost=0.2,n=12",
    "rejection": "rejection:bound=4.5,beta=2,max_draws=24,parallel=5",
    "tilted": "tilted:transform=exp:t=5,kl=0.7,references=6,n=2,max_draws=24,parallel=5",
}
METHODS = [SPECS.get(n, n) for n, entry in entries("methods").items() if entry.module.startswith("italic.")]
MORE = [
    "tilted:procedure=best-of-n:n=2,kl=0.5,references=4",
    "chernoff:n=3,block=2",
    "chernoff:block=2,value=completions:2,proper=true",
    "chernoff:baseline=constant,bound=4,n=2",
    "svdd:block=2,n=2",
    "svdd:block=2,alpha=0,children=3,value=completions:2",
    "smc:block=2,n=2",
    "smc:block=1,ess=1,particles=4",
]


@pytest.mark.parametrize("check", method_checks, ids=lambda c: c.__name__)
@pytest.mark.parametrize("spec", [*METHODS, *MORE])
def test_registered_methods_pass(spec, check):
    check(build_method(spec))


def choose(task: Task, n: int = 6) -> Asking[Any]:
    drafts = yield from extend(task.start(n))
    rewards = yield from score(drafts)
    return drafts, rewards


@dataclass(frozen=True)
class Good:
    """Best of six."""

    n: int = 6

    needs: ClassVar[frozenset[str]] = frozenset()
    papers: ClassVar[tuple[Any, ...]] = ()

    def run(self, task: Task) -> Asking[Outcome]:
        drafts, rewards = yield from choose(task, self.n)
        return Outcome(drafts, rewards, chosen=best(rewards))


def broken(
    run: Callable[[Any, Task], Asking[Any]] = Good.run, doc: str = "Broken.", frozen: bool = True, **members: Any
) -> Method:
    """`Good` with another `run`, or other members."""
    fields = members.pop("fields", [("n", int, 6)])
    space = {"run": run, "needs": frozenset(), "papers": (), "__doc__": doc, **members}
    return dataclasses.make_dataclass("Broken", fields, namespace=space, frozen=frozen)()


def changes_itself(self, task):
    self.n -= 1
    return (yield from Good.run(Good(4), task))


def lies(self, task):
    drafts, rewards = yield from choose(task)
    return Outcome(drafts, rewards + 1, chosen=best(rewards))


def impossible(self, task):
    drafts, rewards = yield from choose(task)
    return Outcome(drafts, rewards, chosen=best(rewards), certificate=Certificate(acceptance=1.5))


def gives_up(self, task):
    drafts, rewards = yield from choose(task)
    return Outcome(drafts, rewards, chosen=0, complete=False)


class Remembers:
    """Counts its runs across prompts."""

    needs: ClassVar[frozenset[str]] = frozenset()
    papers: ClassVar[tuple[Any, ...]] = ()

    def __init__(self, each: int) -> None:
        self.runs, self.each = 0, each

    def run(self, task):
        self.runs += 1
        drafts, rewards = yield from choose(task)
        return Outcome(drafts, rewards, chosen=(self.runs // self.each) % 6)


OPEN = []


def looks_around(self, task):
    """How many other prompts are under way decides what is chosen."""
    OPEN.append(task)
    drafts, rewards = yield from choose(task)
    chosen = len(OPEN) % 6
    OPEN.remove(task)
    return Outcome(drafts, rewards, chosen=chosen)


def ignores_the_seed(self, task):
    def begin(seeds):
        return task.begin(np.arange(len(seeds), dtype=np.uint64))

    return (yield from Good.run(self, dataclasses.replace(task, begin=begin)))


def argmax(self, task):
    drafts, rewards = yield from choose(task)
    return Outcome(drafts, rewards, chosen=int(rewards.argmax()))


def swallows_the_budget(self, task):
    try:
        drafts, rewards = yield from choose(task)
    except OutOfBudget as stop:
        return stop
    return Outcome(drafts, rewards, chosen=best(rewards))


def claims_to_be_complete(self, task):
    first = yield from extend(task.start(1))
    rewards = yield from score(first)
    try:
        drafts, more = yield from choose(task, 20)
    except OutOfBudget:
        return Outcome(first, rewards, chosen=0)
    return Outcome(drafts, more, chosen=best(more))


def resumes(self, task):
    drafts = yield from extend(task.start(4), Until(steps=2))
    drafts = yield from extend(drafts)
    return Outcome(drafts, (yield from score(drafts)), chosen=0)


def uses_entropy(self, task):
    drafts = yield from extend(task.start(4), Until(entropy=99.0))
    return Outcome(drafts, (yield from score(drafts)), chosen=0)


def cuts(self, task):
    drafts, rewards = yield from choose(task)
    drafts.cut(1)
    return Outcome(drafts, rewards, chosen=0)


def reads(self, task):
    drafts, rewards = yield from choose(task)
    return Outcome(drafts, rewards, chosen=int(np.argmax([len(t) for t in drafts.texts])))


def weighs(self, task):
    drafts, rewards = yield from choose(task)
    return Outcome(drafts, rewards, chosen=int(np.argmin([t.sum() for t in drafts.logprobs])))


def scores_the_unfinished(self, task):
    drafts = task.start(4)
    yield from score(drafts)
    drafts = yield from extend(drafts)
    return Outcome(drafts, (yield from score(drafts)), chosen=0)


def notes_arrays(self, task):
    drafts, rewards = yield from choose(task)
    yield from note("scored", rewards=rewards)
    return Outcome(drafts, rewards, chosen=0)


def not_a_number(self, task):
    drafts, rewards = yield from choose(task)
    return Outcome(drafts, rewards, chosen=0, log_weights=rewards * np.nan)


BROKEN = [
    (suite.it_is_a_frozen_dataclass, lambda: broken(frozen=False), "is not frozen"),
    (suite.it_is_a_frozen_dataclass, lambda: broken(changes_itself, frozen=False), "is not frozen"),
    (suite.it_is_a_frozen_dataclass, lambda: Remembers(1), "is no dataclass"),
    (suite.it_says_what_it_is, lambda: broken(doc=""), "has no docstring"),
    (suite.it_says_what_it_is, lambda: broken(needs=frozenset({"magic"})), "needs magic"),
    (suite.it_says_what_it_is, lambda: broken(needs=["cut"]), "needs is a list"),
    (suite.it_says_what_it_is, lambda: broken(papers=["2401.01879"]), "papers is"),
    (suite.its_outcome_is_true, lambda: broken(lies), "it says"),
    (suite.its_outcome_is_true, lambda: broken(impossible), r"acceptance = 1\.5"),
    (suite.its_outcome_is_true, lambda: broken(gives_up), "is not complete"),
    (suite.its_outcome_is_true, lambda: broken(not_a_number), "the log-weights for p"),
    (suite.drivers_agree, lambda: broken(looks_around), "changed the chosen"),
    (suite.prompts_do_not_depend_on_one_another, lambda: Remembers(1), "changed the chosen"),
    (suite.the_seed_matters, lambda: broken(ignores_the_seed), "five seeds"),
    (suite.the_seed_matters, lambda: Remembers(4), "the same seed again"),
    (suite.a_missing_score_never_wins, lambda: broken(argmax), "whose score is missing"),
    (suite.a_budget_gives_an_outcome, lambda: broken(swallows_the_budget), "it raised ProgramError"),
    (suite.a_budget_gives_an_outcome, lambda: broken(claims_to_be_complete), "all outcomes are complete"),
    (suite.its_needs_suffice, lambda: broken(resumes), "uses resume"),
    (suite.its_needs_suffice, lambda: broken(uses_entropy), "uses entropy"),
    (suite.its_needs_suffice, lambda: broken(cuts), "uses cut"),
    (suite.its_needs_suffice, lambda: broken(reads), "uses texts"),
    (suite.its_needs_suffice, lambda: broken(weighs), "uses texts"),
    (suite.its_needs_suffice, lambda: broken(scores_the_unfinished), "uses partial"),
    (suite.notes_are_plain, lambda: broken(notes_arrays), "a ndarray"),
]


@pytest.mark.parametrize(("check", "make", "message"), BROKEN, ids=lambda v: getattr(v, "__name__", ""))
def test_broken_methods_fail(check, make, message):
    with pytest.raises(AssertionError, match=message):
        check(make())


def test_every_check_has_a_broken_method():
    assert {check for check, _, _ in BROKEN} == set(method_checks)
    assert applicable(method_checks, Good()) == list(method_checks)


@pytest.mark.parametrize(
    ("run", "needs"),
    [
        (resumes, {"resume"}),
        (uses_entropy, {"entropy"}),
        (cuts, {"cut"}),
        (reads, {"texts"}),
        (weighs, {"texts"}),
        (scores_the_unfinished, {"partial"}),
    ],
)
def test_declared_needs_are_given(run, needs):
    suite.its_needs_suffice(broken(run, needs=frozenset(needs)))


@pytest.mark.parametrize("check", method_checks, ids=lambda c: c.__name__)
def test_a_good_method_passes(check):
    check(Good())
