"""Hard budgets: never exceeded, and the answer is the best of what they paid for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runkit import DRIVERS, SYNTHETIC, Blocking, Clock, Custom, OddReward, go, one, prompts, told

from italic.core.errors import OutOfBudget, RewardError
from italic.core.outcome import Outcome
from italic.core.protocols import Method, Scored, Task
from italic.core.questions import Asking, best, extend, score, together
from italic.core.sampling import Until
from italic.core.spec import build_method
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.desk import Result
from italic.run.ledger import Budget, Ledger

METHODS: dict[str, Method] = {
    **{name: Custom(body) for name, body in SYNTHETIC.items()},
    "best-of-n": build_method("best-of-n:n=6"),
    "rejection": build_method("rejection:bound=4.5,beta=2,max_draws=24,parallel=5"),
}
TOKEN_PRICE, REWARD_PRICE = 1e5, 50.0
"""0.1 a token, 0.05 a scored draft."""

budgets = st.fixed_dictionaries(
    {},
    optional={
        "tokens": st.integers(0, 200),
        "reward_calls": st.integers(0, 60),
        "cost": st.floats(0, 20, allow_nan=False),
    },
)


def within(budget: Budget, ledger: Ledger) -> None:
    """No budget is exceeded."""
    usage = ledger.usage
    assert budget.tokens is None or usage.tokens_generated <= budget.tokens
    assert budget.reward_calls is None or usage.reward_calls <= budget.reward_calls
    assert budget.cost is None or usage.cost <= budget.cost + 1e-6


def sound(result: Result, reward: ToyReward) -> None:
    """What a cut-short outcome says is true."""
    outcome = result.outcome
    prompt = result.prompt.last
    finished = outcome.drafts.done
    rewards = [reward.of(prompt, text) for text in outcome.drafts.texts]
    scored = ~np.isnan(outcome.rewards)
    assert np.array_equal(outcome.rewards[scored], np.array(rewards)[scored])
    if outcome.chosen is not None:
        assert finished[outcome.chosen]
        assert scored[outcome.chosen]
        assert outcome.reward == np.nanmax(np.where(finished, outcome.rewards, np.nan))
    else:
        assert not outcome.complete
        assert not np.any(scored & finished), "a finished and scored draft is an answer"


@pytest.mark.parametrize("name", METHODS)
@settings(max_examples=30)
@given(budgets, st.sampled_from(sorted(DRIVERS)), st.booleans(), st.integers(1, 9))
def test_no_budget_is_ever_exceeded(name: str, limits: Any, driver: str, blocking: bool, rows: int) -> None:
    budget = Budget(**limits, token_price=TOKEN_PRICE, reward_price=REWARD_PRICE)
    model = ToyModel(rows=rows)
    results, ledger = go(
        METHODS[name],
        driver=driver,
        model=Blocking(model) if blocking else model,
        budget=budget,
        progress=lambda account, _: within(budget, account),
    )
    within(budget, ledger)
    free, unlimited = go(METHODS[name])
    for identity, result in results.items():
        if result.outcome.complete:
            assert told(result.outcome) == told(free[identity].outcome), "what is complete is as without a budget"
        elif name != "rejection":
            sound(result, ToyReward())
    if len(results) == 4 and all(r.outcome.complete for r in results.values()):
        assert ledger.usage.counts() == unlimited.usage.counts()
    parts = sum(r.outcome.usage.tokens_generated for r in results.values())
    assert parts == ledger.usage.tokens_generated, "every token belongs to a prompt of the results"
    assert sum(r.outcome.usage.reward_calls for r in results.values()) == ledger.usage.reward_calls


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("blocking", [False, True])
def test_a_budget_that_suffices_changes_nothing(driver: str, blocking: bool) -> None:
    free, unlimited = go(METHODS["segments"])
    exact = Budget(tokens=unlimited.usage.tokens_generated, reward_calls=unlimited.usage.reward_calls)
    ample = Budget(tokens=10**6, reward_calls=10**6)
    model = Blocking(ToyModel()) if blocking else ToyModel()
    for budget in (ample,) if blocking else (exact, ample):
        results, _ = go(METHODS["segments"], driver=driver, model=model, budget=budget)
        assert {i: told(r.outcome) for i, r in results.items()} == {i: told(r.outcome) for i, r in free.items()}


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("limits", [{"tokens": 0}, {"reward_calls": 0}, {"seconds": 0.0}, {"cost": 0.0}])
def test_a_budget_of_nothing_starts_nothing(driver: str, limits: dict[str, float]) -> None:
    budget = Budget(**limits, token_price=1.0)  # type: ignore[arg-type]
    results, ledger = go(METHODS["best-of-n"], driver=driver, budget=budget)
    assert results == {}
    assert ledger.usage.tokens_generated == ledger.usage.reward_calls == 0


@pytest.mark.parametrize("driver", DRIVERS)
def test_without_reward_calls_left_no_tokens_are_spent(driver: str) -> None:
    """A prompt that can no longer be scored is not started."""
    results, ledger = go(
        build_method("sample"), driver=driver, budget=Budget(reward_calls=2), asked=prompts(9), window=2,
        model=ToyModel(rows=1),
    )  # fmt: skip
    assert sum(r.outcome.complete for r in results.values()) == 2
    assert len(results) <= 4, "those under way when the budget ended, and no more"
    assert ledger.usage.reward_calls == 2


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_desk_scores_as_many_finished_drafts_as_can_be_paid(driver: str, k: int) -> None:
    results, ledger = go(
        build_method("best-of-n:n=6"),
        driver=driver,
        budget=Budget(reward_calls=k),
        asked=prompts(1),
        reward=OddReward(deterministic=False),
    )
    outcome = results["p0"].outcome
    assert not outcome.complete
    assert len(outcome.drafts) == k == ledger.usage.reward_calls
    assert outcome.chosen == best(outcome.rewards)
    free, _ = go(build_method("best-of-n:n=6"), asked=prompts(1))
    assert set(outcome.drafts.texts) <= set(free["p0"].outcome.drafts.texts)


@pytest.mark.parametrize("driver", DRIVERS)
def test_without_a_score_the_finished_drafts_come_back_unchosen(driver: str) -> None:
    def greedy(task: Task) -> Asking[Outcome]:
        drafts = yield from extend(task.start(2))
        rewards = yield from score(drafts)
        return Outcome(drafts, rewards, chosen=0)

    budget = Budget(reward_calls=2)
    results, _ = go(
        Custom(greedy), driver=driver, budget=budget, asked=prompts(2), reward=OddReward(deterministic=False)
    )
    incomplete = [r.outcome for r in results.values() if not r.outcome.complete]
    assert len(incomplete) == 1
    assert incomplete[0].chosen is None
    assert np.isnan(incomplete[0].rewards).all()
    assert np.isnan(incomplete[0].reward)
    assert incomplete[0].drafts.done.all()
    assert incomplete[0].usage.tokens_kept == 0


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_unfinished_draft_comes_back_as_it_stands(driver: str) -> None:
    results, ledger = go(build_method("sample"), driver=driver, budget=Budget(tokens=1), asked=prompts(1))
    outcome = results["p0"].outcome
    if driver == "event":
        assert outcome.drafts.steps.tolist() == [1] or outcome.drafts.done.all()
        assert ledger.usage.tokens_generated == 1
    assert outcome.complete == (outcome.chosen is not None)


def test_a_model_that_cannot_be_stopped_reserves_the_worst_case() -> None:
    model = Blocking(ToyModel())
    results, ledger = go(build_method("sample"), model=model, budget=Budget(tokens=13), asked=prompts(4), window=9)
    begun = [r for r in results.values() if r.outcome.usage.tokens_generated]
    assert len(begun) >= 2, "two times six tokens fit into thirteen"
    assert ledger.usage.tokens_generated <= 13
    results, ledger = go(build_method("sample"), model=model, budget=Budget(tokens=5), asked=prompts(4))
    assert ledger.usage.tokens_generated == 0
    assert len(results) == 4
    assert all(r.outcome.chosen is None for r in results.values())


def test_a_limited_extension_reserves_its_limit_only() -> None:
    def short(task: Task) -> Asking[Outcome]:
        drafts = yield from extend(task.start(2), Until(steps=(2, 1)))
        yield from score(drafts)
        drafts = yield from extend(drafts)
        rewards = yield from score(drafts)
        return Outcome(drafts, rewards, chosen=0)

    model = Blocking(ToyModel())
    _, ledger = go(Custom(short), model=model, budget=Budget(tokens=3), asked=prompts(1))
    assert 2 <= ledger.usage.tokens_generated <= 3


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("allowed", [0.5, 1.5, 2.5, 100.0])
def test_seconds_end_a_run_between_two_calls(driver: str, allowed: float) -> None:
    clock = Clock()

    def tick() -> None:
        clock.now += 1

    model = Blocking(ToyModel(), before=tick)
    results, ledger = go(
        METHODS["patient"], driver=driver, model=model, budget=Budget(seconds=allowed), clock=clock, asked=prompts(2)
    )
    assert ledger.usage.seconds == ledger.usage.policy_seconds == model.asked
    assert model.asked < allowed + 1
    assert all(r.outcome.complete for r in results.values()) == (allowed == 100.0)
    for result in results.values():
        sound(result, ToyReward())


@pytest.mark.parametrize("driver", DRIVERS)
def test_the_method_is_told_which_budget_and_what_it_has(driver: str) -> None:
    told_of: list[OutOfBudget] = []

    def curious(task: Task) -> Asking[Outcome]:
        drafts = task.start(3)
        try:
            drafts = yield from extend(drafts)
            rewards = yield from score(drafts)
        except OutOfBudget as stop:
            told_of.append(stop)
            return Outcome(stop.drafts or drafts, np.full(3, np.nan), chosen=None, complete=False)
        return Outcome(drafts, rewards, chosen=0)

    for budget, resource in (
        (Budget(tokens=4), "tokens"),
        (Budget(reward_calls=1), "reward_calls"),
        (Budget(cost=4e-6, token_price=1), "cost"),
        (Budget(cost=1e-3, reward_price=1), "cost"),
    ):
        results, _ = go(
            Custom(curious), driver=driver, budget=budget, asked=prompts(1), reward=OddReward(deterministic=False)
        )
        assert told_of[-1].resource == resource
        assert told_of[-1].drafts is not None
        assert len(told_of[-1].drafts) == 3
        assert results["p0"].outcome.chosen is None
        assert resource.replace("_", " ") in str(told_of[-1])


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_stopped_method_may_ask_for_what_is_left(driver: str) -> None:
    """Tokens are used up; scoring is not."""

    def thrifty(task: Task) -> Asking[Outcome]:
        done = yield from extend(task.start(1, "first"))
        try:
            while True:
                more = yield from extend(task.start(2, len(done)))
                done = done.concat(more)
        except OutOfBudget:
            rewards = yield from score(done)
            return Outcome(done, rewards, chosen=best(rewards), complete=False)

    results, ledger = go(Custom(thrifty), driver=driver, budget=Budget(tokens=60), asked=prompts(1))
    outcome = results["p0"].outcome
    assert outcome.chosen == best(outcome.rewards)
    assert not outcome.complete
    assert ledger.usage.reward_calls > 0


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_method_that_will_not_stop_is_stopped(driver: str) -> None:
    """One that catches OutOfBudget and asks on is told again and again, until it gives up."""
    refused: list[int] = []

    def stubborn(task: Task) -> Asking[Outcome]:
        for i in range(20):
            try:
                yield from extend(task.start(2, i))
            except OutOfBudget:
                refused.append(i)
        raise OutOfBudget("patience")

    results, ledger = go(Custom(stubborn), driver=driver, budget=Budget(tokens=20), asked=prompts(1))
    assert len(refused) >= 10
    assert not results["p0"].outcome.complete
    assert ledger.usage.tokens_generated <= 20


@pytest.mark.parametrize("driver", DRIVERS)
def test_children_keep_what_they_have(driver: str) -> None:
    def child(task: Task, i: int) -> Asking[float]:
        top = -np.inf
        try:
            for k in range(5):
                _, reward = yield from one(task, i, k)
                top = max(top, reward)
        except OutOfBudget:
            pass
        return float(top)

    seen: list[list[float]] = []

    def parent(task: Task) -> Asking[Outcome]:
        seen.append((yield from together(*(child(task, i) for i in range(3)))))
        drafts, reward = yield from one(task, "last")
        return Outcome(drafts, np.array([reward]), chosen=0)

    results, _ = go(Custom(parent), driver=driver, budget=Budget(tokens=45), asked=prompts(1))
    assert len(seen[0]) == 3
    outcome = results["p0"].outcome
    assert not outcome.complete
    assert outcome.reward >= max(seen[0]), "the desk remembers the best draft of all children"


@pytest.mark.parametrize("driver", DRIVERS)
def test_an_error_while_stopping_closes_the_other_children(driver: str) -> None:
    """Their questions, asked and refused alike, are forgotten."""

    def clumsy(task: Task, i: int) -> Asking[Any]:
        drafts = yield from extend(task.start(2, i))
        try:
            yield from score(drafts)
        except OutOfBudget:
            raise KeyError(i) from None
        return 0

    def parent(task: Task) -> Asking[Outcome]:
        with pytest.raises(KeyError):
            yield from together(*(clumsy(task, i) for i in range(4)))
        raise OutOfBudget("reward_calls")

    results, ledger = go(
        Custom(parent), driver=driver, budget=Budget(reward_calls=1), asked=prompts(2),
        reward=OddReward(deterministic=False),
    )  # fmt: skip
    assert len(results) == 2
    assert ledger.usage.reward_calls <= 1


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_is_known_already_costs_nothing_even_at_the_end(driver: str) -> None:
    def twice(task: Task) -> Asking[Outcome]:
        drafts = yield from extend(task.start(3))
        yield from score(drafts)
        rewards = yield from score(drafts)
        return Outcome(drafts, rewards, chosen=best(rewards))

    _, free = go(Custom(twice), driver=driver, asked=prompts(1))
    results, _ = go(Custom(twice), driver=driver, asked=prompts(1), budget=Budget(reward_calls=free.usage.reward_calls))
    assert results["p0"].outcome.complete


@pytest.mark.parametrize("driver", DRIVERS)
def test_all_scores_missing_at_the_end_is_an_error_all_the_same(driver: str) -> None:
    def lose(answers: list[Scored]) -> list[Scored]:
        return [Scored(s.rewards, np.ones(len(s.rewards), dtype=np.bool_)) for s in answers]

    with pytest.raises(RewardError, match="is missing"):
        go(build_method("best-of-n:n=6"), driver=driver, budget=Budget(reward_calls=2), reward=OddReward(lose))


@pytest.mark.parametrize("driver", DRIVERS)
def test_what_is_missing_at_the_end_does_not_matter_if_there_is_a_best(driver: str) -> None:
    def twice(task: Task) -> Asking[Outcome]:
        for i in range(2):
            drafts = yield from extend(task.start(2, i))
            rewards = yield from score(drafts)
        return Outcome(drafts, rewards, chosen=best(rewards))

    def lose(answers: list[Scored]) -> list[Scored]:
        return answers if len(answers[0].rewards) == 2 else [Scored(s.rewards, ~s.missing) for s in answers]

    reward = OddReward(lose, deterministic=False)
    results, _ = go(Custom(twice), driver=driver, asked=prompts(1), budget=Budget(reward_calls=3), reward=reward)
    outcome = results["p0"].outcome
    assert reward.seen == [2, 1]
    assert not outcome.complete
    assert np.isnan(outcome.rewards).tolist() == [False, True]
    assert outcome.chosen == 0
