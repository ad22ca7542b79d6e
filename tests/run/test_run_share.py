"""Prompts of a batch that share: who is told what and when, and that nothing hangs, whatever ends a member."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runkit import DRIVERS, SHORT, Blocking, Custom, OddReward, go, one, prompts, told

from italic.core.errors import ModelError, ProgramError
from italic.core.outcome import Outcome
from italic.core.prompt import Prompt
from italic.core.protocols import Task
from italic.core.questions import Asking, best, extend, score, share, together
from italic.core.sampling import Sampling
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.align import make_tasks
from italic.run.conclude import conclude
from italic.run.ledger import Budget, Ledger

pytestmark = pytest.mark.timeout(60)
TRIVIAL = ToyModel(letters=1, length=1)
Value = tuple[str, float]


@dataclass(frozen=True)
class Sharing(Custom):
    """A method from a function, whose prompts share."""

    batch: int | None = None


@dataclass
class Race:
    """Draws, and tells the others its best reward, round after round; is told its rank and the sum of all.

    draws: of each prompt, one number a round; 2 in each of three rounds if none are given. log: what happened.
    """

    draws: dict[str, list[int]] = field(default_factory=dict)
    log: list[tuple[str, Any]] = field(default_factory=list)

    def settle(self, values: Sequence[Value]) -> list[tuple[int, float]]:
        self.log.append(("settle", list(values)))
        rewards = [reward for _, reward in values]
        return [(sum(other > reward for other in rewards), sum(rewards)) for reward in rewards]

    def run(self, task: Task) -> Asking[Outcome]:
        name = task.prompt.id
        self.log.append(("begin", name))
        try:
            drafts, rewards = task.start(0), np.zeros(0)
            answers = []
            for i, n in enumerate(self.draws.get(name, [2, 2, 2])):
                if n:
                    more = yield from extend(task.start(n, i))
                    drafts = drafts.concat(more)
                    rewards = np.append(rewards, (yield from score(more)))
                answers.append((yield from share((name, float(rewards.max(initial=-9.0))), self.settle)))
            last = yield from extend(task.start(1, "last"))
            drafts, rewards = drafts.concat(last), np.append(rewards, (yield from score(last)))
            return Outcome(drafts, rewards, chosen=best(rewards), notes={"answers": answers})
        finally:
            self.log.append(("end", name))

    def method(self, batch: int | None = None) -> Sharing:
        return Sharing(self.run, batch)

    def told(self, what: str) -> list[Any]:
        return [value for kind, value in self.log if kind == what]

    @property
    def companies(self) -> list[list[str]]:
        """Who was asked, each time."""
        return [[name for name, _ in values] for values in self.told("settle")]


def right(race: Race, results: dict[str, Any]) -> None:
    """Everybody was told what follows from what all of them said."""
    for values in race.told("settle"):
        assert [name for name, _ in values] == sorted(name for name, _ in values)
    heard: dict[str, list[tuple[int, float]]] = {}
    for values in race.told("settle"):
        for name, reward in values:
            better = sum(other > reward for _, other in values)
            heard.setdefault(name, []).append((better, sum(other for _, other in values)))
    for name, result in results.items():
        if result.outcome.complete:
            assert result.outcome.notes["answers"] == heard.get(name, [])


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("blocking", [False, True], ids=["stepped", "whole"])
def test_each_is_told_what_follows_from_what_all_say(driver: str, blocking: bool) -> None:
    race, model = Race(), ToyModel()
    results, _ = go(race.method(), driver=driver, asked=prompts(12)[::-1], model=Blocking(model) if blocking else model)
    names = sorted(f"p{i}" for i in range(12))
    assert names[:4] == ["p0", "p1", "p10", "p11"]
    assert race.companies == [names] * 3
    right(race, results)
    for name, result in results.items():
        answers, rewards = result.outcome.notes["answers"], result.outcome.rewards
        assert [values[names.index(name)][1] for values in race.told("settle")] == [
            rewards[:k].max() for k in (2, 4, 6)
        ]
        assert len(answers) == 3
    for i in range(3):
        sums = {result.outcome.notes["answers"][i][1] for result in results.values()}
        ranks = sorted(result.outcome.notes["answers"][i][0] for result in results.values())
        assert len(sums) == 1
        assert ranks[0] == 0
        assert ranks[-1] > 5


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("rows", [1, 3, 64])
@pytest.mark.parametrize("window", [1, 2, 64])
def test_a_window_smaller_than_the_batch(driver: str, rows: int, window: int) -> None:
    """A prompt that waits takes up no room."""
    race, plain = Race(), Race()
    results, ledger = go(race.method(), driver=driver, model=ToyModel(rows=rows), asked=prompts(6), window=window)
    others, account = go(plain.method(), driver="lockstep", asked=prompts(6))
    assert {i: told(r.outcome) for i, r in results.items()} == {i: told(r.outcome) for i, r in others.items()}
    assert {i: r.outcome.notes for i, r in results.items()} == {i: r.outcome.notes for i, r in others.items()}
    assert ledger.usage.counts() == account.usage.counts()
    assert race.told("settle") == plain.told("settle")
    assert len(results) == 6


@pytest.mark.parametrize("driver", DRIVERS)
def test_those_who_share_before_they_draw_are_all_asked(driver: str) -> None:
    race = Race({f"p{i}": [0, 1] for i in range(9)})
    results, _ = go(race.method(), driver=driver, asked=prompts(9), model=ToyModel(rows=1), window=1)
    assert race.companies == [[f"p{i}" for i in range(9)]] * 2
    right(race, results)
    assert len(results) == 9


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_batch_is_answered_as_soon_as_it_is_complete(driver: str) -> None:
    """Nobody else is waited for. A third prompt begins when neither of the first two has anything to do."""
    race = Race()

    def method(task: Task) -> Asking[Outcome]:
        race.log.append(("begin", task.prompt.id))
        drafts = yield from extend(task.start(1))
        for _ in range(2):
            yield from share((task.prompt.id, float(drafts.steps[0])), race.settle)
        race.log.append(("end", task.prompt.id))
        return Outcome(drafts, np.zeros(1), chosen=0)

    go(Sharing(method, 2), driver=driver, asked=prompts(5), model=ToyModel(rows=1), window=1)
    expected: list[tuple[str, Any]] = []
    for pair in (["p0", "p1"], ["p2", "p3"], ["p4"]):
        expected += [("begin", name) for name in pair] + [("settle", pair)] * 2 + [("end", name) for name in pair]
    assert [(kind, [name for name, _ in it] if kind == "settle" else it) for kind, it in race.log] == expected


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("batch", [1, 2, 5, 9])
def test_batches_are_independent(driver: str, batch: int) -> None:
    """Each is as if it were alone."""
    race, asked = Race({"p0": [3, 0], "p3": [1]}), prompts(5)
    results, _ = go(race.method(batch), driver=driver, asked=asked)
    assert len(results) == 5
    for start in range(0, 5, batch):
        some = asked[start : start + batch]
        alone, _ = go(Race(race.draws).method(), driver="lockstep", asked=some)
        for prompt in some:
            assert told(results[prompt.id].outcome) == told(alone[prompt.id].outcome)
            assert results[prompt.id].outcome.notes == alone[prompt.id].outcome.notes


@pytest.mark.parametrize("driver", DRIVERS)
def test_who_is_through_is_not_waited_for(driver: str) -> None:
    race = Race({"p0": [1], "p3": [1, 1, 1, 1, 1, 1], "p4": []})
    results, _ = go(race.method(), driver=driver, asked=prompts(5))
    three, four = ["p1", "p2", "p3"], ["p0", "p1", "p2", "p3"]
    assert race.companies == [four, three, three, ["p3"], ["p3"], ["p3"]]
    assert all(r.outcome.complete for r in results.values())
    right(race, results)


@settings(max_examples=40)
@given(
    st.lists(st.lists(st.integers(0, 3), max_size=4), min_size=1, max_size=7),
    st.none() | st.integers(1, 4),
    st.sampled_from(sorted(DRIVERS)),
    st.booleans(),
    st.integers(1, 7),
    st.integers(1, 7),
)
def test_any_number_of_rounds_and_draws(
    draws: list[list[int]], batch: int | None, driver: str, blocking: bool, rows: int, window: int
) -> None:
    asked = prompts(len(draws))
    race = Race({prompt.id: some for prompt, some in zip(asked, draws, strict=True)})
    inner = ToyModel(rows=rows)
    model = Blocking(inner) if blocking else inner
    results, _ = go(race.method(batch), driver=driver, model=model, asked=asked, window=window)
    assert len(results) == len(draws)
    assert all(r.outcome.complete for r in results.values())
    right(race, results)
    size = batch or len(asked)
    expected = []
    for start in range(0, len(asked), size):
        some = sorted(p.id for p in asked[start : start + size])
        rounds = range(max(len(race.draws[name]) for name in some))
        expected += [[name for name in some if len(race.draws[name]) > i] for i in rounds]
    assert sorted(race.companies) == sorted(expected)


def limited(driver: str, window: int, blocking: bool, budget: Budget, asked: int = 5) -> tuple[Race, Any, Ledger]:
    race, inner = Race(), ToyModel(rows=2 * window)
    model = Blocking(inner) if blocking else inner
    results, ledger = go(
        race.method(),
        driver=driver,
        model=model,
        budget=budget,
        asked=prompts(asked),
        window=window,
        reward=OddReward(deterministic=False),
    )
    return race, results, ledger


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("blocking", [False, True], ids=["stepped", "whole"])
@pytest.mark.parametrize("window", [1, 64])
@pytest.mark.parametrize("resource", ["tokens", "reward_calls"])
def test_whom_a_budget_ends_is_not_waited_for(driver: str, blocking: bool, window: int, resource: str) -> None:
    free, whole, account = limited(driver, window, blocking, Budget())
    total = account.usage.tokens_generated if resource == "tokens" else account.usage.reward_calls
    assert all(r.outcome.complete for r in whole.values())
    went_on = left_out = cut_short = 0
    for amount in range(0, total, max(1, total // 8)):
        race, results, ledger = limited(driver, window, blocking, Budget(**{resource: amount}))  # type: ignore[arg-type]
        usage = ledger.usage
        assert (usage.tokens_generated if resource == "tokens" else usage.reward_calls) <= amount
        right(race, results)
        assert sorted(race.told("begin")) == sorted(race.told("end")) == sorted(results)
        assert len(results) < 5 or not all(r.outcome.complete for r in results.values())
        assert all(r.outcome.chosen is not None for r in results.values() if r.outcome.complete)
        companies = race.companies
        assert all(set(after) <= set(before) for before, after in pairwise(companies))
        went_on += any(len(after) < len(before) for before, after in pairwise(companies))
        left_out += 0 < len(results) < 5
        cut_short += any(not r.outcome.complete and r.outcome.chosen is not None for r in results.values())
    assert free.companies == [[f"p{i}" for i in range(5)]] * 3
    assert cut_short > 0
    if window == 1 and (resource == "reward_calls" or (driver == "event" and not blocking)):
        assert left_out > 0
    if resource == "reward_calls" or not blocking:
        assert went_on > 0


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("resource", ["tokens", "reward_calls"])
def test_those_for_whom_there_is_no_room_are_not_waited_for(driver: str, resource: str) -> None:
    """Two are through with what is paid for; the third to fifth are never begun."""
    race = Race()

    def once(task: Task) -> Asking[Outcome]:
        race.log.append(("begin", task.prompt.id))
        drafts = yield from extend(task.start(2))
        rewards = yield from score(drafts)
        answer = yield from share((task.prompt.id, float(rewards.max())), race.settle)
        return Outcome(drafts, rewards, chosen=best(rewards), notes={"answers": [answer]})

    def run(count: int, budget: Budget) -> tuple[dict[str, Any], Ledger]:
        race.log.clear()
        return go(
            Sharing(once), driver=driver, model=ToyModel(rows=1), window=1, budget=budget, asked=prompts(count),
            reward=OddReward(deterministic=False), sampling=Sampling(max_tokens=1),
        )  # fmt: skip

    alone, ledger = run(2, Budget())
    paid = ledger.usage.tokens_generated if resource == "tokens" else ledger.usage.reward_calls
    results, ledger = run(5, Budget(**{resource: paid}))  # type: ignore[arg-type]
    assert race.told("begin") == ["p0", "p1"]
    assert race.companies == [["p0", "p1"]]
    assert {i: told(r.outcome) for i, r in results.items()} == {i: told(r.outcome) for i, r in alone.items()}
    right(race, results)
    assert ledger.usage.reward_calls == 4


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("limits", [{"tokens": 0}, {"reward_calls": 0}, {"seconds": 0.0}], ids=str)
def test_a_budget_of_nothing_settles_nothing(driver: str, limits: dict[str, Any]) -> None:
    race = Race()
    results, ledger = go(race.method(2), driver=driver, budget=Budget(**limits))
    assert results == {}
    assert race.log == []
    assert ledger.usage.tokens_generated == ledger.usage.reward_calls == 0


@pytest.mark.parametrize("driver", DRIVERS)
def test_no_prompts_nothing_to_settle(driver: str) -> None:
    race = Race()
    assert go(race.method(), driver=driver, asked=[])[0] == {}
    assert race.log == []


def by_a_part(race: Race, task: Task) -> Asking[Any]:
    yield from together(one(task), share(("part", 0.0), race.settle))


def by_another_count(race: Race, task: Task, answers: int) -> Asking[Any]:
    yield from share((task.prompt.id, 0.0), lambda values: [0] * answers)


def by_a_failure(race: Race, task: Task) -> Asking[Any]:
    def fail(values: Sequence[Value]) -> list[int]:
        raise ZeroDivisionError("its own")

    yield from share((task.prompt.id, 0.0), fail)


def by_the_model(race: Race, task: Task) -> Asking[Any]:
    yield from share((task.prompt.id, 0.0), race.settle)
    drafts = yield from extend(task.start(1))
    yield from share((task.prompt.id, 0.0), race.settle)
    if task.prompt.id == "p2":
        yield from extend(drafts[[0, 0]].cut(0), key=task.key.at("again"))
    yield from share((task.prompt.id, 0.0), race.settle)


FAILURES: dict[str, tuple[Callable[..., Asking[Any]], type[Exception], str]] = {
    "a part shares": (by_a_part, ProgramError, "a part of Sharing shares by itself\nShare outside of `together`"),
    "too few answers": (
        lambda race, task: by_another_count(race, task, 3),
        ProgramError,
        "4 prompts shared, and 3 answers were found for them",
    ),
    "too many answers": (
        lambda race, task: by_another_count(race, task, 5),
        ProgramError,
        "4 prompts shared, and 5 answers were found for them",
    ),
    "settling fails": (by_a_failure, ZeroDivisionError, "its own"),
    "the model fails": (by_the_model, ModelError, "no room"),
}


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("name", FAILURES)
def test_a_failure_comes_out_and_closes_all(driver: str, name: str) -> None:
    body, kind, message = FAILURES[name]
    race, calls = Race(), []

    def method(task: Task) -> Asking[Any]:
        race.log.append(("begin", task.prompt.id))
        try:
            yield from one(task)
            yield from body(race, task)
            raise AssertionError
        finally:
            race.log.append(("end", task.prompt.id))

    def fail() -> None:
        calls.append(None)
        if name == "the model fails" and len(calls) == 3:
            raise MemoryError("no room")

    with pytest.raises(kind, match=message):
        go(Sharing(method), driver=driver, model=Blocking(ToyModel(), before=fail))
    assert sorted(race.told("end")) == sorted(race.told("begin")) == ["p0", "p1", "p2", "p3"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_leaving_closes_those_who_wait(driver: str) -> None:
    race = Race({"p0": []})
    run = DRIVERS[driver](make_tasks(prompts(3), TRIVIAL, 0, SHORT), race.method(), TRIVIAL, ToyReward(), Ledger())
    assert next(run).prompt.id == "p0"
    run.close()
    assert sorted(race.told("end")) == ["p0", "p1", "p2"]
    assert len(race.companies) <= 1


def test_a_generator_by_itself_shares_with_nobody() -> None:
    closed: list[bool] = []

    def asking() -> Asking[Any]:
        try:
            yield from share(1, lambda values: values)
        finally:
            closed.append(True)

    with pytest.raises(ProgramError, match="shares with nobody\nRun the method by a driver"):
        conclude(asking(), TRIVIAL, ToyReward(), Ledger())
    assert closed == [True]


def test_a_method_without_batches_shares_with_all() -> None:
    race = Race()
    results, _ = go(Custom(race.run))
    assert race.companies == [["p0", "p1", "p2", "p3"]] * 3
    right(race, results)


@pytest.mark.parametrize("driver", DRIVERS)
def test_sharing_again_and_again_needs_no_stack(driver: str) -> None:
    rounds = 3 * sys.getrecursionlimit()
    race = Race({"p0": [1] + [0] * rounds, "p1": [0] * (rounds // 2)})
    results, _ = go(race.method(), driver=driver, asked=prompts(2))
    assert [len(company) for company in race.companies] == [2] * (rounds // 2) + [1] * (rounds + 1 - rounds // 2)
    right(race, results)


def many(n: int) -> list[Prompt]:
    return [Prompt(f"p{i:05d}", text="the same") for i in range(n)]


def thrice(task: Task) -> Asking[Outcome]:
    drafts, total = task.start(0), 0.0
    for i in range(3):
        total = yield from share(total + 1, lambda values: [sum(values)] * len(values))
        drafts = yield from extend(task.start(1, i))
    return Outcome(drafts, np.zeros(1), chosen=0, notes={"total": total})


@pytest.mark.parametrize("driver", DRIVERS)
def test_many_prompts_cost_their_number(driver: str) -> None:
    """Function calls are counted, not seconds: four times the prompts make four times as many."""

    def calls(n: int) -> int:
        count = [0]

        def profile(frame: Any, event: str, _: Any) -> None:
            count[0] += event == "call"

        sys.setprofile(profile)
        try:
            results, _ = go(Sharing(thrice), driver=driver, model=TRIVIAL, asked=many(n), window=8)
        finally:
            sys.setprofile(None)
        assert len(results) == n
        return count[0]

    few = calls(100)
    assert calls(400) < 4.5 * few


@pytest.mark.parametrize("driver", DRIVERS)
def test_two_thousand_prompts(driver: str) -> None:
    results, _ = go(Sharing(thrice), driver=driver, model=TRIVIAL, asked=many(2000))
    assert {r.outcome.notes["total"] for r in results.values()} == {2000 * (2000 * 2001 + 1.0)}
    assert len(results) == 2000
