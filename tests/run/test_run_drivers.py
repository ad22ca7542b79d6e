"""The two drivers: the same outcomes and the same account, whatever the batches, the order and the model's rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runkit import DRIVERS, SHORT, SYNTHETIC, Blocking, Custom, OddReward, go, one, prompts, told

from italic.core.drafts import Drafts
from italic.core.errors import ModelError, ProgramError
from italic.core.outcome import Outcome, Usage
from italic.core.protocols import Grown, Method, Scored, Spent, Task
from italic.core.questions import Asking, Extend, extend, note, score, together
from italic.core.registry import entries
from italic.core.sampling import Sampling, Until
from italic.core.spec import build_method
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.align import make_tasks
from italic.run.event import SCORE_BATCH, event_driven
from italic.run.ledger import Ledger

VALUES = {
    "rejection": "rejection:bound=4.5,beta=2,max_draws=24,parallel=5",
    "cascade": "cascade:r_star=1,tau_u=1,min_segment=1",
    "optimal-stopping": "optimal-stopping:cost=0.2,n=12",
    "tilted": "tilted:transform=exp:t=5,kl=0.7,references=6,n=2,max_draws=24,parallel=5",
}
METHODS: dict[str, Method] = {
    **{name: Custom(body) for name, body in SYNTHETIC.items()},
    **{
        name: build_method(VALUES.get(name, name))
        for name, entry in entries("methods").items()
        if entry.module.startswith("italic.")
    },
}


def counts(usage: Usage) -> dict[str, int]:
    return usage.counts()


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("rows", [1, 5, 64])
def test_event_is_lockstep(name: str, rows: int) -> None:
    plain, account = go(METHODS[name], driver="lockstep", model=Blocking(ToyModel()), asked=prompts(6), window=1)
    fast, other = go(METHODS[name], driver="event", model=ToyModel(rows=rows), asked=prompts(6))
    assert {i: told(r.outcome) for i, r in fast.items()} == {i: told(r.outcome) for i, r in plain.items()}
    assert counts(account.usage) == counts(other.usage)
    assert len(fast) == 6


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=25)
@given(
    st.sampled_from(sorted(DRIVERS)),
    st.booleans(),
    st.integers(1, 9),
    st.integers(1, 9),
    st.permutations(range(5)),
    st.integers(1, 5),
)
def test_nothing_but_the_seed_matters(
    name: str, driver: str, blocking: bool, rows: int, window: int, order: list[int], some: int
) -> None:
    """Driver, batch size, order and company of the prompts: none of them changes an outcome, or what it cost.

    The company matters to a method whose prompts share a budget; nothing else does.
    """
    inner = ToyModel(rows=rows)
    model = Blocking(inner) if blocking else inner
    asked = [prompts(5)[i] for i in order[:some]]
    got, ledger = go(METHODS[name], driver=driver, model=model, asked=asked, window=window)
    shares = hasattr(METHODS[name], "batch")
    for prompt in asked:
        company = sorted(asked, key=lambda p: p.id) if shares else [prompt]
        alone, _ = go(METHODS[name], driver="lockstep", asked=company)
        assert told(got[prompt.id].outcome) == told(alone[prompt.id].outcome)
    parts = [r.outcome.usage for r in got.values()]
    assert counts(ledger.usage) == counts(sum(parts, Usage())), "the total is the sum of the prompts"


def test_another_seed_gives_other_answers() -> None:
    first, _ = go(METHODS["best-of-n"])
    second, _ = go(METHODS["best-of-n"], seed=1)
    assert {i: r.outcome.drafts.texts for i, r in first.items()} != {
        i: r.outcome.drafts.texts for i, r in second.items()
    }


def test_the_account_of_a_known_run() -> None:
    model = Blocking(ToyModel())
    reward = OddReward()
    results, ledger = go(build_method("best-of-n:n=8"), driver="lockstep", model=model, reward=reward)
    drafts = [r.outcome.drafts for r in results.values()]
    different = sum(len(set(d.texts)) for d in drafts)
    usage = ledger.usage
    assert usage.tokens_generated == sum(int(d.steps.sum()) for d in drafts) == usage.positions
    assert usage.tokens_kept == sum(int(r.outcome.drafts.steps[r.outcome.chosen]) for r in results.values())
    assert different <= usage.reward_calls == sum(reward.seen) < 32
    assert usage.reward_calls + usage.reward_cached == 32
    assert usage.reward_tokens > 0
    assert model.asked == 1
    assert usage.model_calls == max(int(d.steps.max()) for d in drafts)
    assert usage.seconds >= usage.policy_seconds + usage.reward_seconds > 0
    assert usage.cost == 0


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_noisy_reward_scores_every_draft(driver: str) -> None:
    reward = OddReward(deterministic=False)
    _, ledger = go(build_method("best-of-n:n=8"), driver=driver, reward=reward)
    assert ledger.usage.reward_calls == sum(reward.seen) == 32
    assert ledger.usage.reward_cached == 0


@pytest.mark.parametrize("driver", DRIVERS)
def test_finished_rows_are_not_extended_and_no_rows_are_not_scored(driver: str) -> None:
    def method(task: Task) -> Asking[Outcome]:
        drafts = yield from extend(task.start(3))
        again = yield from extend(drafts)
        assert again is drafts
        nothing = yield from extend(drafts[[]])
        assert len(nothing) == 0
        assert (yield from score(nothing)).shape == (0,)
        rewards = yield from score(again)
        same = yield from score(again)
        assert np.array_equal(rewards, same)
        return Outcome(drafts, rewards, chosen=0)

    model = Blocking(ToyModel())
    _, ledger = go(Custom(method), driver=driver, model=model, asked=prompts(1))
    assert model.asked == 1
    assert ledger.usage.reward_calls <= 3
    assert ledger.usage.reward_cached >= 3


@pytest.mark.parametrize("driver", DRIVERS)
def test_notes_are_heard_with_their_prompt(driver: str) -> None:
    heard: list[Any] = []

    def method(task: Task) -> Asking[Outcome]:
        yield from note("began", at=1)
        drafts, reward = yield from one(task)
        return Outcome(drafts, np.array([reward]), chosen=0)

    go(Custom(method), driver=driver, listen=lambda prompt, heard_note: heard.append((prompt.id, heard_note.event)))
    assert sorted(heard) == sorted((f"p{i}", event) for i in range(4) for event in ("began", "one"))


@pytest.mark.parametrize("driver", DRIVERS)
def test_progress_is_told(driver: str) -> None:
    told_of: list[tuple[int, int]] = []
    _, ledger = go(
        METHODS["segments"],
        driver=driver,
        progress=lambda account, n: told_of.append((account.usage.tokens_generated, n)),
        window=2,
    )
    assert [t for t, _ in told_of] == sorted(t for t, _ in told_of)
    assert told_of[-1] == (ledger.usage.tokens_generated, 0)
    assert max(n for _, n in told_of) >= 2


def test_the_event_driver_yields_a_prompt_as_soon_as_it_is_through() -> None:
    def uneven(task: Task) -> Asking[Outcome]:
        n = 1 if task.prompt.id == "p1" else 40
        drafts = task.start(n)
        for _ in range(1 if n == 1 else 6):
            drafts = yield from extend(drafts, Until(steps=1))
        drafts = yield from extend(drafts)
        rewards = yield from score(drafts)
        return Outcome(drafts, rewards, chosen=0)

    model, reward = ToyModel(length=8), ToyReward()
    ledger = Ledger()
    tasks = make_tasks(prompts(2), model, 0, Sampling(max_tokens=9))
    run = event_driven(tasks, Custom(uneven), model, reward, ledger)
    assert next(run).prompt.id == "p1"
    assert [r.prompt.id for r in run] == ["p0"]


def test_a_full_batch_of_drafts_is_scored_while_the_model_is_busy() -> None:
    reward = OddReward()

    def method(task: Task) -> Asking[Outcome]:
        drafts = yield from extend(task.start(SCORE_BATCH))
        rewards = yield from score(drafts)
        return Outcome(drafts, rewards, chosen=0)

    go(Custom(method), model=ToyModel(letters=5, rows=SCORE_BATCH), reward=reward, asked=prompts(6))
    assert len(reward.seen) == 6


@pytest.mark.parametrize("driver", DRIVERS)
def test_no_prompts_no_results(driver: str) -> None:
    results, ledger = go(METHODS["sample"], driver=driver, asked=[])
    assert results == {}
    assert ledger.usage.tokens_generated == 0


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("blocking", [False, True])
def test_leaving_early_closes_the_methods(driver: str, blocking: bool) -> None:
    ended: list[str] = []

    def method(task: Task) -> Asking[Outcome]:
        try:
            drafts, reward = yield from one(task)
            for i in range(0 if task.prompt.id == "p0" else 9):
                yield from one(task, "more", i)
            return Outcome(drafts, np.array([reward]), chosen=0)
        finally:
            ended.append(task.prompt.id)

    model = ToyModel()
    tasks = make_tasks(prompts(3), model, 0, SHORT)
    run = DRIVERS[driver](tasks, Custom(method), Blocking(model) if blocking else model, ToyReward(), Ledger())
    assert next(run).prompt.id == "p0"
    run.close()
    assert sorted(ended) == ["p0", "p1", "p2"]


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_error_of_a_method_comes_out_and_closes_the_others(driver: str) -> None:
    ended: list[str] = []

    def method(task: Task) -> Asking[Outcome]:
        try:
            drafts, reward = yield from one(task)
            if task.prompt.id == "p1":
                raise ZeroDivisionError
            yield from one(task, "more")
            return Outcome(drafts, np.array([reward]), chosen=0)
        finally:
            ended.append(task.prompt.id)

    with pytest.raises(ZeroDivisionError):
        go(Custom(method), driver=driver, asked=prompts(3))
    assert sorted(ended) == ["p0", "p1", "p2"]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("blocking", [False, True])
def test_a_method_that_outlives_the_failure_of_a_child(driver: str, blocking: bool) -> None:
    """Questions of the closed children are dropped, or, if the model is at them, booked and not answered."""

    def broken(task: Task) -> Asking[Any]:
        yield from extend(task.start(1, "broken"), Until(steps=1))
        raise ValueError

    def method(task: Task) -> Asking[Outcome]:
        with pytest.raises(ValueError):  # noqa: PT011
            yield from together(one(task, "a", n=3), broken(task), one(task, "b", n=3), late(task))
        drafts, reward = yield from one(task, "after")
        return Outcome(drafts, np.array([reward]), chosen=0)

    def late(task: Task) -> Asking[Any]:
        yield from score(task.start(1))
        return (yield from extend(task.start(2, "late")))

    def at_once(task: Task) -> Asking[Outcome]:
        drafts, reward = yield from one(task, "first")
        with pytest.raises(ValueError):  # noqa: PT011
            yield from together(one(task, "a", n=3), broken(task), one(task, "b", n=3), late(task))
        return Outcome(drafts, np.array([reward]), chosen=0)

    model = ToyModel(rows=3)
    for body in (method, at_once):
        results, ledger = go(Custom(body), driver=driver, model=Blocking(model) if blocking else model)
        assert len(results) == 4
        assert all(r.outcome.complete for r in results.values())
        assert ledger.usage.tokens_generated >= sum(r.outcome.usage.tokens_generated for r in results.values())


@pytest.mark.parametrize("driver", DRIVERS)
def test_scores_for_a_child_that_was_closed_meanwhile_are_kept(driver: str) -> None:
    """Two children are scored in one call; the first answer closes the second child."""

    def broken(task: Task, drafts: Drafts) -> Asking[Any]:
        yield from score(drafts)
        raise ValueError

    def method(task: Task) -> Asking[Outcome]:
        drafts = yield from extend(task.start(6))
        with pytest.raises(ValueError):  # noqa: PT011
            yield from together(broken(task, drafts[:3]), score(drafts[3:]))
        rewards = yield from score(drafts)
        return Outcome(drafts, rewards, chosen=0)

    results, ledger = go(Custom(method), driver=driver)
    different = sum(len(set(r.outcome.drafts.texts)) for r in results.values())
    assert ledger.usage.reward_calls == different, "nothing is scored twice"
    assert ledger.usage.counts() == sum((r.outcome.usage for r in results.values()), Usage()).counts()


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_method_may_ask_nothing(driver: str) -> None:
    def method(task: Task) -> Asking[Outcome]:
        return Outcome(task.start(1), np.full(1, np.nan), chosen=None, complete=False)
        yield

    results, ledger = go(Custom(method), driver=driver)
    assert len(results) == 4
    assert ledger.usage.tokens_generated == 0


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_method_must_return_an_outcome(driver: str) -> None:
    def method(task: Task) -> Asking[Any]:
        yield from extend(task.start(1))
        return "the answer"

    with pytest.raises(ProgramError, match=r"Custom\.run returned str\nReturn an Outcome"):
        go(Custom(method), driver=driver)


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_exception_of_the_model_becomes_a_model_error(driver: str) -> None:
    def fail() -> None:
        raise MemoryError("no room")

    with pytest.raises(ModelError, match=r"the model toy:.* failed: MemoryError: no room") as caught:
        go(METHODS["sample"], driver=driver, model=Blocking(ToyModel(), before=fail))
    assert isinstance(caught.value.__cause__, MemoryError)
    assert "--rows" in caught.value.hint

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        go(METHODS["sample"], driver=driver, model=Blocking(ToyModel(), before=interrupt))

    def know() -> None:
        raise ProgramError("ours already")

    with pytest.raises(ProgramError, match="ours already"):
        go(METHODS["sample"], driver=driver, model=Blocking(ToyModel(), before=know))


class Forgetful(Blocking):
    """Answers one extension less than it was asked."""

    def extend(self, jobs: Any) -> list[Grown]:
        return super().extend(jobs)[1:]


class Shrinking(Blocking):
    """Loses the first row of everything."""

    def extend(self, jobs: Any) -> list[Grown]:
        return [Grown(g.drafts[1:], g.spent) for g in super().extend(jobs)]


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_model_must_answer_every_row_of_every_job(driver: str) -> None:
    with pytest.raises(ProgramError, match="answered 3 of 4 extensions"):
        go(METHODS["sample"], driver=driver, model=Forgetful(ToyModel()))
    with pytest.raises(ProgramError, match="returned 0 of 1 rows"):
        go(METHODS["sample"], driver=driver, model=Shrinking(ToyModel()))


@dataclass
class Idler:
    """A session that takes jobs in and never does anything."""

    hungry: bool
    busy: bool = False
    generated: int = 0
    calls: int = 0

    def submit(self, ticket: int, job: Extend) -> None:
        self.busy = True

    def step(self, allowance: int | None) -> list[tuple[int, Grown]]:
        return []


class Lazy(Blocking):
    """A model with such a session."""

    hungry = True

    def open(self) -> Idler:
        return Idler(self.hungry)


class Sated(Lazy):
    """A model with a session that never wants a job."""

    hungry = False


def test_a_session_must_get_on() -> None:
    with pytest.raises(ProgramError, match="made a step in which nothing happened"):
        go(METHODS["sample"], model=Lazy(ToyModel()))


def test_a_session_must_want_work() -> None:
    with pytest.raises(ProgramError, match="wants no work"):
        go(METHODS["sample"], model=Sated(ToyModel()))


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (lambda a: a[1:], "ProgramError", r"the reward odd answered \d of \d batches"),
        (
            lambda a: [Scored(s.rewards[1:], s.missing[1:]) for s in a],
            "ProgramError",
            r"the reward odd answered \(0,\) scores for 1 drafts of prompt 'p\d'",
        ),
        (
            lambda a: [Scored(s.rewards * np.nan, s.missing) for s in a],
            "RewardError",
            r"the reward odd returned NaN for prompt 'p\d'",
        ),
        (
            lambda a: [Scored(s.rewards, ~s.missing) for s in a],
            "RewardError",
            r"every score of the reward odd for prompt 'p\d' is missing",
        ),
        (lambda a: [][0], "RewardError", "the reward odd failed: IndexError: list index out of range"),
    ],
)
def test_a_reward_must_answer_properly(driver: str, change: Any, kind: str, message: str) -> None:
    with pytest.raises(Exception, match=message) as caught:
        go(METHODS["sample"], driver=driver, reward=OddReward(change))
    assert type(caught.value).__name__ == kind


def test_an_error_of_ours_passes_through_the_reward() -> None:
    def refuse(answers: list[Scored]) -> list[Scored]:
        raise ModelError("the judge is a model")

    with pytest.raises(ModelError, match="the judge is a model"):
        go(METHODS["sample"], reward=OddReward(refuse))


@pytest.mark.parametrize("driver", DRIVERS)
def test_missing_scores_are_nan_for_the_method(driver: str) -> None:
    def lose(answers: list[Scored]) -> list[Scored]:
        return [Scored(s.rewards, np.arange(len(s.rewards)) % 2 == 0) for s in answers]

    results, _ = go(build_method("best-of-n:n=8"), driver=driver, reward=OddReward(lose, deterministic=False))
    for result in results.values():
        rewards = result.outcome.rewards
        assert np.isnan(rewards[::2]).all()
        assert result.outcome.chosen == int(np.nanargmax(rewards))


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_method_that_tries_again_may_miss_every_score(driver: str) -> None:
    def again(task: Task) -> Asking[Outcome]:
        for i in range(9):
            drafts = yield from extend(task.start(1, i))
            rewards = yield from score(drafts, strict=False)
            if not np.isnan(rewards[0]):
                return Outcome(drafts, rewards, chosen=0)
        raise AssertionError

    def lose(answers: list[Scored]) -> list[Scored]:
        asked.append(len(answers))
        return [Scored(s.rewards, s.missing | (len(asked) < 4)) for s in answers]

    asked: list[int] = []
    results, _ = go(Custom(again), driver=driver, reward=OddReward(lose, deterministic=False), asked=prompts(3))
    assert len(asked) > 3
    assert all(np.isfinite(r.outcome.rewards).all() for r in results.values())


def test_spent_adds_up() -> None:
    assert Spent(1, 2, 3) + Spent(10, 20, 30) == Spent(11, 22, 33)
