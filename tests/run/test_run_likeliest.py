"""The likeliest next tokens through both drivers: paid and refused like tokens, and their finished children kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from runkit import DRIVERS, Blocking, Clock, Custom, go, prompts, told

from italic.core.drafts import Drafts
from italic.core.errors import OutOfBudget, ProgramError
from italic.core.outcome import Outcome
from italic.core.protocols import Fanned, Model, Task
from italic.core.questions import Asking, best, embed, extend, likeliest, likelihood, note, score, together
from italic.core.sampling import Until
from italic.models.toy import ToyModel
from italic.run.event import SCORE_BATCH
from italic.run.ledger import Budget

MODELS: dict[str, Any] = {"stepped": ToyModel, "whole": lambda: Blocking(ToyModel())}


def greedy(task: Task) -> Asking[Outcome]:
    """Of the two likeliest tokens the one of more reward, to the end."""
    drafts = task.start(1)
    rewards = np.zeros(1)
    while not drafts.done.all():
        children, _ = yield from likeliest(drafts, 2)
        rewards = yield from score(children)
        kept = [best(rewards)]
        drafts, rewards = children[kept], rewards[kept]
    return Outcome(drafts, rewards, chosen=0)


def beam(task: Task) -> Asking[Outcome]:
    """Three rows, one of them drawn; the children of all that are unfinished, the best of which go on."""
    drafts = yield from extend(task.start(3), Until(steps=1))
    while not drafts.done.all():
        children, parents = yield from likeliest(drafts, 3)
        assert set(parents) == set(np.flatnonzero(~drafts.done))
        both = children.concat(drafts[np.flatnonzero(drafts.done)])
        rewards = yield from score(both)
        drafts = both[np.argsort(-rewards, kind="stable")[:3]]
    rewards = yield from score(drafts)
    return Outcome(drafts, rewards, chosen=0)


METHODS = {"greedy": Custom(greedy), "beam": Custom(beam)}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("window", [1, 64])
def test_the_drivers_agree(name: str, window: int) -> None:
    plain, account = go(METHODS[name], driver="lockstep", asked=prompts(7), window=1)
    for driver in DRIVERS:
        for model in (ToyModel(rows=1), ToyModel(), Blocking(ToyModel())):
            found, other = go(METHODS[name], driver=driver, model=model, asked=prompts(7), window=window)
            assert {i: told(r.outcome) for i, r in found.items()} == {i: told(r.outcome) for i, r in plain.items()}
            assert other.usage.counts() == account.usage.counts()


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_token_a_row_is_booked_however_many_children_it_has(driver: str) -> None:
    found, ledger = go(Custom(greedy), driver=driver, asked=prompts(5))
    kept = sum(int(r.outcome.drafts.steps[0]) for r in found.values())
    assert ledger.usage.tokens_generated == ledger.usage.tokens_kept == ledger.usage.positions == kept
    assert all(r.outcome.usage.tokens_generated == r.outcome.drafts.steps[0] for r in found.values())


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", METHODS)
def test_a_budget_of_tokens_is_never_exceeded(name: str, model: str, driver: str) -> None:
    free, account = go(METHODS[name], driver=driver, model=MODELS[model](), asked=prompts(5))
    needed = account.usage.tokens_generated
    for tokens in range(needed):
        found, ledger = go(
            METHODS[name], driver=driver, model=MODELS[model](), asked=prompts(5), budget=Budget(tokens=tokens)
        )
        assert ledger.usage.tokens_generated <= tokens
        assert len(found) < 5 or not all(r.outcome.complete for r in found.values())
        for identity, result in found.items():
            if result.outcome.complete:
                assert told(result.outcome) == told(free[identity].outcome)
    found, _ = go(METHODS[name], driver=driver, model=MODELS[model](), asked=prompts(5), budget=Budget(tokens=needed))
    assert name == "beam" or all(r.outcome.complete for r in found.values())


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_method_is_told_what_it_could_not_pay(driver: str) -> None:
    clock, refused = Clock(), []

    def careful(task: Task) -> Asking[Outcome]:
        drafts = yield from extend(task.start(3), Until(steps=1))
        going = drafts[np.flatnonzero(~drafts.done)]
        yield from note("begun")
        try:
            yield from likeliest(going, 2)
        except OutOfBudget as stop:
            refused.append((stop.resource, stop.drafts is going))
        features, (logprobs, _) = yield from together(embed(drafts), likelihood(drafts))
        assert len(features) == len(logprobs) == 3
        none, parents = yield from likeliest(drafts[np.flatnonzero(drafts.done)], 2)
        assert len(none) == len(parents) == 0
        return Outcome(drafts, np.full(3, np.nan), chosen=None, complete=False)

    for budget in (Budget(tokens=4), Budget(cost=4.0, token_price=1e6), Budget(seconds=5)):
        clock.now = 100.0

        def late(*_: Any) -> None:
            clock.now += 10

        found, ledger = go(Custom(careful), driver=driver, asked=prompts(1), budget=budget, clock=clock, listen=late)
        assert not found["p0"].outcome.complete
        assert ledger.usage.tokens_generated == 3
    assert refused == [("tokens", True), ("cost", True), ("seconds", True)]


@pytest.mark.parametrize("driver", DRIVERS)
def test_finished_children_are_the_best_so_far(driver: str) -> None:
    """They are scored when the budget ends a method that did not ask for their scores itself."""

    def silent(task: Task) -> Asking[Outcome]:
        drafts = task.start(1)
        for _ in range(4):
            children, _ = yield from likeliest(drafts, 4)
            drafts = children[np.flatnonzero(~children.done)[:1]]
        raise AssertionError

    found, ledger = go(Custom(silent), driver=driver, budget=Budget(tokens=3), asked=prompts(1))
    outcome = found["p0"].outcome
    assert ledger.usage.tokens_generated == 3
    assert not outcome.complete
    assert outcome.drafts.steps.tolist() == [1, 2, 3], "each time the end was among the children"
    assert outcome.drafts.done.all()
    assert outcome.chosen == best(outcome.rewards)
    assert outcome.usage.reward_calls == 3


@pytest.mark.parametrize("driver", DRIVERS)
def test_unfinished_children_are_what_there_is_if_none_finished(driver: str) -> None:
    def silent(task: Task) -> Asking[Outcome]:
        child, _ = yield from likeliest(task.start(1), 1)
        assert not child.done[0]
        yield from likeliest(child, 4)
        raise AssertionError

    found, _ = go(Custom(silent), driver=driver, budget=Budget(tokens=1), asked=prompts(4)[1:2])
    outcome = found["p1"].outcome
    assert outcome.chosen is None
    assert outcome.drafts.steps.tolist() == [1]


class Wrong(Blocking):
    """Answers in a way that is no answer."""

    change: Any = None

    def likeliest(self, batches: Sequence[tuple[Drafts, int]]) -> list[Fanned]:
        return [
            self.change(drafts, answer) for (drafts, _), answer in zip(batches, super().likeliest(batches), strict=True)
        ]


@pytest.mark.parametrize(
    "change",
    [
        lambda drafts, answer: replace(answer, parents=answer.parents[1:]),
        lambda drafts, answer: replace(answer, parents=answer.parents - 1),
        lambda drafts, answer: replace(answer, parents=answer.parents + len(drafts)),
        lambda drafts, answer: replace(answer, parents=np.zeros_like(answer.parents)),
        lambda drafts, answer: replace(answer, drafts=answer.drafts.cut(1)),
        lambda drafts, answer: replace(answer, drafts=drafts, parents=np.arange(len(drafts))),
    ],
)
def test_children_are_checked(change: Any) -> None:
    def method(task: Task) -> Asking[Outcome]:
        drafts = yield from extend(task.start(40), Until(steps=1))
        assert 0 < drafts.done.sum() < 40
        yield from likeliest(drafts, 2)
        raise AssertionError

    model = Wrong(ToyModel())
    model.change = change
    with pytest.raises(ProgramError, match="did not answer its likeliest tokens row by row"):
        go(Custom(method), model=model, asked=prompts(1))


@pytest.mark.parametrize("model", MODELS)
def test_scores_that_wait_come_before_further_prompts(model: str) -> None:
    """A method that never extends leaves the model hungry; all the same not all prompts are begun at once."""
    began: list[str] = []
    most: list[int] = []

    def method(task: Task) -> Asking[Outcome]:
        began.append(task.prompt.id)
        return (yield from greedy(task))

    made: Model = MODELS[model]()
    found, _ = go(Custom(method), model=made, asked=prompts(300), window=4, progress=lambda _, n: most.append(n))
    assert len(found) == len(began) == 300
    assert max(most) < 300 / 2
    assert max(most) >= SCORE_BATCH / 2 - 4
