"""Asides through both drivers: merged, booked, checked; and scores of drafts that are no text.

`test_run_likeliest.py` has what is particular to the likeliest tokens: they are paid like tokens that are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from runkit import DRIVERS, SHORT, Blocking, Custom, OddReward, go, one, prompts, told

from italic.core.drafts import Drafts
from italic.core.errors import ModelError, ProgramError
from italic.core.latents import LatentDrafts
from italic.core.outcome import Outcome, Usage
from italic.core.protocols import Embedded, Fanned, Grown, Scored, Spent, Task, Weighed
from italic.core.questions import (
    Asking,
    Extend,
    Score,
    embed,
    extend,
    likeliest,
    likelihood,
    preview,
    score,
    together,
)
from italic.core.sampling import Until
from italic.core.spec import build_method, build_model, build_reward
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.align import make_tasks
from italic.run.ledger import Budget, Ledger
from italic.run.scores import complete, prepare

GAUSSIAN, REGION = build_model("gaussian:steps=10"), build_reward("region:scale=2,below=5")


@dataclass
class Musing(Blocking):
    """The toy model with previews too: its own continuations. calls: the kind and the sizes of every aside."""

    offers: frozenset[str] = ToyModel.offers | {"preview"}
    calls: list[tuple[str, list[int]]] = field(default_factory=list)

    def preview(self, batches: Sequence[Drafts]) -> list[Grown]:
        self.before()
        self.calls.append(("preview", [len(b) for b in batches]))
        ends = self.inner.extend([Extend(b) for b in batches])
        return [Grown(g.drafts, Spent(tokens=0, positions=10 * len(g.drafts), calls=2)) for g in ends]

    def embed(self, batches: Sequence[Drafts]) -> list[Embedded]:
        self.before()
        self.calls.append(("embed", [len(b) for b in batches]))
        return self.inner.embed(batches)

    def likelihood(self, batches: Sequence[Drafts]) -> list[Weighed]:
        self.calls.append(("likelihood", [len(b) for b in batches]))
        return super().likelihood(batches)

    def likeliest(self, batches: Sequence[tuple[Drafts, int]]) -> list[Fanned]:
        self.calls.append(("likeliest", [len(b) for b, _ in batches]))
        return super().likeliest(batches)


def children(drafts: Any) -> Asking[Any]:
    """The two likeliest tokens of each row."""
    return likeliest(drafts, 2)


KINDS = {"embeddings": embed, "previews": preview, "likelihoods": likelihood, "likeliest tokens": children}


class Stepped(Musing):
    """The same, stepped."""

    def open(self) -> Any:
        return self.inner.open()


def looking(task: Task) -> Asking[Outcome]:
    """Look before, in the middle, and at the end; keep by what was seen."""
    drafts = task.start(int(task.prompt.id[1:]) % 3 + 2)
    for i in range(3):
        features, guesses = yield from together(embed(drafts), preview(drafts))
        assert features.shape == (len(drafts), 6)
        assert guesses.done.all()
        assert len(guesses) == len(drafts)
        rewards = yield from score(guesses)
        rows = np.argsort(-rewards - 1e-3 * features[:, 0], kind="stable")
        drafts = yield from extend(drafts[rows], Until(steps=2), key=task.key.at("more", i))
        if drafts.done.all():
            break
    drafts = yield from extend(drafts)
    rewards = yield from score(drafts)
    return Outcome(drafts, rewards, chosen=int(np.argmax(rewards)))


METHOD = Custom(looking)


@pytest.mark.parametrize("window", [1, 4, 64])
@pytest.mark.parametrize("kind", [Musing, Stepped])
def test_the_drivers_agree(kind: type[Musing], window: int) -> None:
    plain, account = go(METHOD, driver="lockstep", model=Musing(ToyModel()), asked=prompts(7), window=1)
    for driver in DRIVERS:
        for rows in (1, 64):
            model = kind(ToyModel(rows=rows))
            found, other = go(METHOD, driver=driver, model=model, asked=prompts(7), window=window)
            assert {i: told(r.outcome) for i, r in found.items()} == {i: told(r.outcome) for i, r in plain.items()}
            assert other.usage.counts() == account.usage.counts()


def test_they_are_answered_in_one_call_a_kind() -> None:
    model = Musing(ToyModel())
    go(METHOD, driver="lockstep", model=model, asked=prompts(6))
    assert [kind for kind, _ in model.calls[:2]] == ["embed", "preview"]
    assert model.calls[0][1] == model.calls[1][1] == [2, 3, 4, 2, 3, 4]
    assert len(model.calls) <= 6, "three rounds of two kinds"


@pytest.mark.parametrize("kind", [Musing, Stepped])
def test_the_event_driver_merges_them_too(kind: type[Musing]) -> None:
    model = kind(ToyModel())
    go(METHOD, driver="event", model=model, asked=prompts(6), window=64)
    assert model.calls[0] == ("embed", [2, 3, 4, 2, 3, 4])
    assert model.calls[1] == ("preview", [2, 3, 4, 2, 3, 4])


@pytest.mark.parametrize("driver", DRIVERS)
def test_they_are_booked(driver: str) -> None:
    def method(task: Task) -> Asking[Outcome]:
        drafts = yield from extend(task.start(3), Until(steps=1))
        yield from embed(drafts)
        yield from preview(drafts[:2])
        yield from embed(drafts[[]])
        drafts = yield from extend(drafts)
        return Outcome(drafts, np.full(3, np.nan), chosen=0)

    found, ledger = go(Custom(method), driver=driver, model=Musing(ToyModel()), asked=prompts(2))
    drawn = sum(int(r.outcome.drafts.steps.sum()) for r in found.values())
    assert ledger.usage.tokens_generated == drawn, "asides draw nothing"
    assert ledger.usage.positions == drawn + 2 * (3 + 2 * 10)
    for result in found.values():
        steps = int(result.outcome.drafts.steps.sum())
        assert result.outcome.usage.positions == steps + 3 + 2 * 10
        assert result.outcome.usage.tokens_generated == steps
    extensions = go(METHOD_WITHOUT, driver=driver, model=Musing(ToyModel()), asked=prompts(2))[1].usage.model_calls
    assert ledger.usage.model_calls == extensions + 2 * (1 + 2), "a call an embedding, two a preview"
    assert ledger.usage.policy_seconds > 0


def without(task: Task) -> Asking[Outcome]:
    drafts = yield from extend(task.start(3), Until(steps=1))
    drafts = yield from extend(drafts)
    return Outcome(drafts, np.full(3, np.nan), chosen=0)


METHOD_WITHOUT = Custom(without)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("ask", KINDS.values())
def test_an_exception_of_the_model_becomes_a_model_error(driver: str, ask: Any) -> None:
    def method(task: Task) -> Asking[Outcome]:
        yield from ask(task.start(2))
        raise AssertionError

    def fail() -> None:
        raise MemoryError("no room")

    with pytest.raises(ModelError, match=r"the model toy:.* failed: MemoryError: no room"):
        go(Custom(method), driver=driver, model=Musing(ToyModel(), before=fail))

    def know() -> None:
        raise ProgramError("ours already")

    with pytest.raises(ProgramError, match="ours already"):
        go(Custom(method), driver=driver, model=Musing(ToyModel(), before=know))


class Short(Musing):
    """Loses a row, or a batch."""

    def preview(self, batches: Sequence[Drafts]) -> list[Grown]:
        return [replace(g, drafts=g.drafts[1:]) for g in super().preview(batches)]

    def embed(self, batches: Sequence[Drafts]) -> list[Embedded]:
        return super().embed(batches)[1:]

    def likelihood(self, batches: Sequence[Drafts]) -> list[Weighed]:
        return [replace(w, logprobs=w.logprobs[1:]) for w in super().likelihood(batches)]

    def likeliest(self, batches: Sequence[tuple[Drafts, int]]) -> list[Fanned]:
        return [replace(f, drafts=f.drafts[2:], parents=f.parents[2:]) for f in super().likeliest(batches)]


class Long(Musing):
    """Answers a row too many, or a batch."""

    def preview(self, batches: Sequence[Drafts]) -> list[Grown]:
        return super().preview([*batches, batches[0]])

    def embed(self, batches: Sequence[Drafts]) -> list[Embedded]:
        return [Embedded(np.concatenate([e.features, e.features])) for e in super().embed(batches)]

    def likelihood(self, batches: Sequence[Drafts]) -> list[Weighed]:
        return [replace(w, entropies=np.pad(w.entropies, ((0, 0), (0, 1)))) for w in super().likelihood(batches)]

    def likeliest(self, batches: Sequence[tuple[Drafts, int]]) -> list[Fanned]:
        return super().likeliest([(drafts, k + 1) for drafts, k in batches])


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize("kind", [Short, Long])
def test_a_model_must_answer_every_row(driver: str, what: str, kind: type[Musing]) -> None:
    def method(task: Task) -> Asking[Outcome]:
        yield from KINDS[what](task.start(2))
        raise AssertionError

    with pytest.raises(ProgramError, match=rf"the model toy:.* did not answer its {what} row by row"):
        go(Custom(method), driver=driver, model=kind(ToyModel()))


def test_each_kind_has_its_answer_in_its_place() -> None:
    model, toy = Musing(ToyModel()), ToyModel()

    def method(task: Task) -> Asking[Outcome]:
        drafts = yield from extend(task.start(3), Until(steps=2))
        asked = [children(drafts), likelihood(drafts), preview(drafts), embed(drafts), likeliest(drafts, 1)]
        two, (logprobs, entropies), ends, features, one_each = yield from together(*asked)
        for k, (longer, parents) in ((2, two), (1, one_each)):
            told = toy.likeliest([(drafts, k)])[0]
            assert longer.texts == told.drafts.texts
            assert parents.tolist() == told.parents.tolist()
        weighed = toy.likelihood([drafts])[0]
        assert np.array_equal(logprobs, weighed.logprobs, equal_nan=True)
        assert np.array_equal(entropies, weighed.entropies, equal_nan=True)
        assert np.array_equal(features, toy.embed([drafts])[0].features)
        rewards = yield from score(ends)
        return Outcome(ends, rewards, chosen=int(np.argmax(rewards)))

    go(Custom(method), driver="lockstep", model=model, asked=prompts(2))
    assert model.calls == [("embed", [3, 3]), ("preview", [3, 3]), ("likelihood", [3, 3]), ("likeliest", [3] * 4)]


@pytest.mark.parametrize("ask", KINDS.values())
@pytest.mark.parametrize("kind", [Musing, Stepped])
def test_asides_do_not_open_the_doors_to_all_prompts(ask: Any, kind: type[Musing]) -> None:
    """A method that begins with one puts no row into the model, so that it stays hungry; the window still holds."""
    began: list[str] = []
    most = []

    def method(task: Task) -> Asking[Outcome]:
        began.append(task.prompt.id)
        drafts = task.start(1)
        yield from ask(drafts)
        drafts = yield from extend(drafts)
        return Outcome(drafts, np.zeros(1), chosen=0)

    model = kind(ToyModel(rows=4))
    found, _ = go(
        Custom(method), model=model, asked=prompts(60), window=4, progress=lambda _, n: most.append((n, len(began)))
    )
    assert len(found) == 60
    assert most[0][1] <= 4, "the first prompts were worked on before the last ones began"
    assert max(len(sizes) for _, sizes in model.calls) <= 4
    assert max(n for n, _ in most) <= 12


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("ask", KINDS.values())
def test_a_method_that_waits_for_one_is_closed(driver: str, ask: Any) -> None:
    ended: list[str] = []

    def method(task: Task) -> Asking[Outcome]:
        try:
            drafts, reward = yield from one(task)
            while task.prompt.id != "p0":
                yield from ask(task.start(1))
            return Outcome(drafts, np.array([reward]), chosen=0)
        finally:
            ended.append(task.prompt.id)

    model = Musing(ToyModel())
    run = DRIVERS[driver](make_tasks(prompts(3), model, 0, SHORT), Custom(method), model, ToyReward(), Ledger())
    assert next(run).prompt.id == "p0"
    run.close()
    assert sorted(ended) == ["p0", "p1", "p2"]


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("ask", KINDS.values())
def test_answers_for_a_child_that_was_closed_meanwhile_are_booked_and_dropped(driver: str, ask: Any) -> None:
    """The first child's answer ends it with an error, which closes the second, whose answer is under way."""

    def broken(task: Task) -> Asking[Any]:
        yield from ask(task.start(2, "broken"))
        raise ValueError

    def method(task: Task) -> Asking[Outcome]:
        with pytest.raises(ValueError):  # noqa: PT011
            yield from together(broken(task), ask(task.start(3, "other")))
        drafts, reward = yield from one(task)
        return Outcome(drafts, np.array([reward]), chosen=0)

    model = Musing(ToyModel())
    found, ledger = go(Custom(method), driver=driver, model=model)
    assert len(found) == 4
    assert all(sizes == [2, 3] * (len(sizes) // 2) for _, sizes in model.calls)
    assert ledger.usage.counts() == sum((r.outcome.usage for r in found.values()), Usage()).counts()
    each = {embed: 1, preview: 10, likelihood: 0, children: 0}[ask]
    assert ledger.usage.positions == ledger.usage.tokens_generated + 4 * 5 * each


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_question_of_a_closed_child_is_not_asked(driver: str) -> None:
    """A child is scored and then fails; its sister asks for a preview in the same breath."""

    def broken(task: Task) -> Asking[Any]:
        yield from score(task.start(1))
        raise ValueError

    def late(task: Task) -> Asking[Any]:
        yield from score(task.start(2))
        yield from preview(task.start(3, "late"))

    def method(task: Task) -> Asking[Outcome]:
        with pytest.raises(ValueError):  # noqa: PT011
            yield from together(late(task), broken(task))
        drafts, reward = yield from one(task)
        return Outcome(drafts, np.array([reward]), chosen=0)

    model = Musing(ToyModel())
    found, _ = go(Custom(method), driver=driver, model=model, asked=prompts(1))
    assert len(found) == 1
    assert model.calls == []


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_budget_of_tokens_does_not_stop_asides(driver: str) -> None:
    found, ledger = go(METHOD, driver=driver, model=Musing(ToyModel()), asked=prompts(3), budget=Budget(tokens=12))
    assert ledger.usage.tokens_generated <= 12
    assert not all(r.outcome.complete for r in found.values())


def gaussian_drafts(n: int, steps: int | None = None) -> LatentDrafts:
    start = make_tasks(prompts(1), GAUSSIAN, 0, SHORT)[0].start(n)
    return GAUSSIAN.extend([Extend(start, Until(steps=steps))])[0].drafts


def test_points_are_scored_row_by_row() -> None:
    """Equal points too: they have no names, so nothing is remembered of them."""
    drafts = gaussian_drafts(5)[[0, 0, 1, 2, 2]]
    known: dict[Any, float] = {}
    sheet = prepare(Score(drafts), known)
    assert sheet.names is None
    assert len(sheet.fresh) == 5
    assert len(sheet.without({("anything",)}).first) == 5
    rewards = complete(sheet, Scored(np.arange(5.0), np.arange(5) == 3), "region")
    assert np.array_equal(rewards, [0, 1, 2, np.nan, 4], equal_nan=True)
    assert known == {}
    assert len(prepare(Score(drafts), known).first) == 5


@pytest.mark.parametrize("driver", DRIVERS)
def test_points_go_through_the_drivers(driver: str) -> None:
    reward = OddReward(inner=REGION, needs=frozenset({"latents"}))  # type: ignore[arg-type]

    def method(task: Task) -> Asking[Outcome]:
        drafts = yield from extend(task.start(4), Until(steps=3))
        guesses = yield from preview(drafts)
        yield from score(guesses)
        assert (yield from embed(drafts)).shape == (4, 2)
        drafts = yield from extend(drafts)
        first = yield from score(drafts)
        again = yield from score(drafts[::-1])
        assert np.array_equal(again[::-1], first)
        return Outcome(drafts, first, chosen=int(np.argmax(first)))

    found, ledger = go(Custom(method), driver=driver, model=GAUSSIAN, reward=reward, asked=prompts(3))
    assert ledger.usage.reward_calls == sum(reward.seen) == 3 * 12
    assert ledger.usage.reward_cached == 0
    assert ledger.usage.tokens_generated == 3 * 4 * GAUSSIAN.horizon, "a token is a transition"
    for result in found.values():
        x = result.outcome.drafts.x  # type: ignore[attr-defined]
        assert np.array_equal(result.outcome.rewards, np.where(x[:, 0] < 5, 2.0, 0.0))


@pytest.mark.parametrize(
    "spec", ["chernoff:block=2,value=preview,n=5", "svdd:block=2,value=preview,n=5", "smc:block=2,value=preview,n=5"]
)
def test_stepwise_methods_steer_points_by_previews(spec: str) -> None:
    def seen(driver: str, window: int) -> dict[str, Any]:
        found, _ = go(build_method(spec), driver=driver, model=GAUSSIAN, reward=REGION, asked=prompts(4), window=window)
        return {
            i: (
                r.outcome.drafts.x.tolist(),
                r.outcome.rewards.tolist(),
                r.outcome.certificate,
                r.outcome.usage.counts(),
            )  # type: ignore[attr-defined]
            for i, r in found.items()
        }

    plain = seen("lockstep", 1)
    assert plain == seen("event", 64) == seen("lockstep", 64)
    assert len(plain) == 4
