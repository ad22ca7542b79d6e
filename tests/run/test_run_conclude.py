"""One generator over many prompts: batched, booked, translated and closed, as methods are that have one prompt each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from runkit import SHORT, Blocking, OddReward, prompts

from italic.core.drafts import Drafts
from italic.core.errors import ModelError, ProgramError, RewardError
from italic.core.keys import Key
from italic.core.outcome import Usage
from italic.core.protocols import Embedded, Grown, Scored, Spent, Weighed
from italic.core.questions import (
    Asking,
    Extend,
    Note,
    embed,
    extend,
    likeliest,
    likelihood,
    note,
    preview,
    score,
    together,
)
from italic.core.sampling import Until
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.conclude import conclude
from italic.run.ledger import Ledger

TOY, REWARD = ToyModel(), ToyReward()


@dataclass
class Seen(Blocking):
    """The toy model with previews. calls: the kind and the sizes of every call."""

    inner: ToyModel = field(default_factory=ToyModel)
    calls: list[tuple[str, list[int]]] = field(default_factory=list)

    def extend(self, jobs: Sequence[Extend]) -> list[Grown]:
        self.calls.append(("extend", [len(job.drafts) for job in jobs]))
        return super().extend(jobs)

    def preview(self, batches: Sequence[Drafts]) -> list[Grown]:
        self.before()
        self.calls.append(("preview", [len(b) for b in batches]))
        ends = self.inner.extend([Extend(b) for b in batches])
        return [Grown(g.drafts, Spent(positions=10 * len(g.drafts), calls=2)) for g in ends]

    def embed(self, batches: Sequence[Drafts]) -> list[Embedded]:
        self.before()
        self.calls.append(("embed", [len(b) for b in batches]))
        return self.inner.embed(batches)

    def likelihood(self, batches: Sequence[Drafts]) -> list[Weighed]:
        self.calls.append(("likelihood", [len(b) for b in batches]))
        return super().likelihood(batches)


def start(i: int, n: int) -> Any:
    prompt = prompts(i + 1)[i]
    return TOY.start(prompt, Key(0).at(prompt.id).seeds(n), SHORT)


def run(asking: Asking[Any], model: Any = None, reward: Any = None, **options: Any) -> tuple[Any, Usage]:
    ledger = Ledger()
    found = conclude(asking, model or Seen(), reward or OddReward(), ledger, **options)
    return found, ledger.usage


def one(i: int, n: int) -> Asking[tuple[Any, ...]]:
    drafts = yield from extend(start(i, n), Until(steps=2))
    features = yield from embed(drafts)
    guesses = yield from preview(drafts)
    rewards = yield from score(guesses)
    return drafts, features, guesses, rewards


def test_questions_of_children_are_answered_in_one_batch_a_kind() -> None:
    model, reward = Seen(), OddReward(deterministic=False)
    found, _ = run(together(one(0, 2), one(1, 3), one(2, 4)), model, reward)
    assert model.calls == [("extend", [2, 3, 4]), ("embed", [2, 3, 4]), ("preview", [2, 3, 4])]
    assert reward.seen == [2, 3, 4]
    for i, (drafts, features, guesses, rewards) in enumerate(found):
        alone = TOY.extend([Extend(start(i, i + 2), Until(steps=2))])[0].drafts
        assert drafts.texts == alone.texts
        assert np.array_equal(features, TOY.embed([alone])[0].features)
        assert guesses.texts == TOY.extend([Extend(alone)])[0].drafts.texts
        assert rewards.tolist() == [REWARD.of(guesses.prompt.last, text) for text in guesses.texts]


def test_kinds_that_are_asked_for_at_once_are_answered_at_once() -> None:
    """Each child in its place, whatever the kind."""
    model, reward = Seen(), OddReward()
    ends = TOY.extend([Extend(start(3, 2))])[0].drafts
    asking = together(embed(start(0, 2)), extend(start(1, 3)), score(ends), preview(start(2, 4)), embed(start(0, 1)))
    (first, grown, rewards, guesses, last), _ = run(asking, model, reward)
    assert model.calls == [("extend", [3]), ("embed", [2, 1]), ("preview", [4])]
    assert (first.shape, last.shape) == ((2, 6), (1, 6))
    assert grown.done.all()
    assert len(grown) == 3
    assert guesses.done.all()
    assert len(guesses) == 4
    assert rewards.tolist() == [REWARD.of(ends.prompt.last, text) for text in ends.texts]


def test_tokens_are_weighed_and_listed() -> None:
    model = Seen()
    (children, parents), (logprobs, entropies), other = run(
        together(likeliest(start(0, 2), 2), likelihood(start(1, 3)), likeliest(start(2, 1), 1)), model
    )[0]
    assert model.calls == [("likelihood", [3])]
    assert (len(children), parents.tolist(), other[1].tolist()) == (4, [0, 0, 1, 1], [0])
    assert logprobs.shape == entropies.shape == (3, 0)


def test_it_returns_what_the_generator_returns() -> None:
    def nothing() -> Asking[str]:
        yield from ()
        return "at once"

    assert run(nothing())[0] == "at once"
    assert run(together())[0] == []
    assert run(score(start(0, 2)[[]]))[0].tolist() == []


def test_notes_are_heard() -> None:
    heard: list[Note] = []

    def telling() -> Asking[None]:
        yield from note("begun", blocks=3)
        yield from extend(start(0, 1))

    run(telling(), listen=heard.append)
    run(telling())
    assert [(n.event, dict(n.values)) for n in heard] == [("begun", {"blocks": 3})]


def test_usage_is_booked() -> None:
    def costly(answers: list[Scored]) -> list[Scored]:
        return [replace(a, tokens=7 * len(a.rewards)) for a in answers]

    model = Seen()
    found, usage = run(together(one(0, 2), one(1, 3)), model, OddReward(costly))
    drawn = sum(int(drafts.steps.sum()) for drafts, *_ in found)
    spent = model.inner.embed([start(0, 2), start(1, 3)])
    different = sum(len(set(guesses.texts)) for _, _, guesses, _ in found)
    assert usage.tokens_generated == drawn
    assert usage.positions == drawn + sum(e.spent.positions for e in spent) + 10 * 5
    assert usage.model_calls > 2 * 2 + sum(e.spent.calls for e in spent)
    assert usage.reward_calls == different
    assert usage.reward_cached == 5 - different
    assert usage.reward_tokens == 7 * different
    assert usage.policy_seconds > 0
    assert usage.reward_seconds > 0


def test_equal_drafts_are_scored_once_a_prompt() -> None:
    """Within a question, in questions asked at once, and later; but another prompt's score is another."""
    ends = [TOY.extend([Extend(start(i, 300))])[0].drafts for i in range(2)]
    some = [d[[list(d.texts).index(text) for text in ("a", "b")]] for d in ends]

    def asking() -> Asking[list[Any]]:
        first = yield from together(score(some[0][[0, 0]]), score(some[0]), score(some[1]), score(some[0][[1]]))
        again = yield from together(score(some[1][::-1]), score(some[0]))
        return first + again

    reward = OddReward()
    found, usage = run(asking(), reward=reward)
    a, b = ([REWARD.of(d.prompt.last, text) for d in some] for text in ("a", "b"))
    assert a[0] != a[1]
    expected = [[a[0]] * 2, [a[0], b[0]], [a[1], b[1]], [b[0]], [b[1], a[1]], [a[0], b[0]]]
    assert [rewards.tolist() for rewards in found] == expected
    assert reward.seen == [1, 1, 2]
    assert (usage.reward_calls, usage.reward_cached) == (4, 7)
    noisy = OddReward(deterministic=False)
    run(asking(), reward=noisy)
    assert noisy.seen == [2, 2, 2, 1, 2, 2], "a noisy reward scores every row"


def test_finished_rows_are_not_extended() -> None:
    ends = TOY.extend([Extend(start(0, 5))])[0].drafts
    mixed = TOY.extend([Extend(start(1, 40), Until(steps=2))])[0].drafts
    assert 0 < mixed.done.sum() < 40
    model = Seen()
    (same, longer, none), usage = run(together(extend(ends), extend(mixed), extend(ends[[]])), model)
    assert same is ends
    assert len(none) == 0
    assert model.calls == [("extend", [40])]
    done = np.flatnonzero(mixed.done)
    assert longer[done].texts == mixed[done].texts
    assert longer.done.all()
    assert usage.tokens_generated == longer.steps.sum() - mixed.steps.sum()


def test_missing_scores() -> None:
    lost = OddReward(lambda answers: [Scored(a.rewards, ~a.missing) for a in answers])
    ends = TOY.extend([Extend(start(0, 5))])[0].drafts
    assert np.isnan(run(score(ends, strict=False), reward=lost)[0]).all()
    with pytest.raises(RewardError, match="every score of the reward odd for prompt 'p0' is missing"):
        run(score(ends), reward=lost)


def fail() -> None:
    raise MemoryError("no room")


def know() -> None:
    raise ProgramError("ours already")


def lose(answers: list[Scored]) -> list[Scored]:
    return answers[1:]


def burn(answers: list[Scored]) -> list[Scored]:
    raise RuntimeError("on fire")


@pytest.mark.parametrize(
    ("ask", "model", "reward", "kind", "message"),
    [
        (extend, {"before": fail}, {}, ModelError, r"the model toy:.* failed: MemoryError: no room"),
        (embed, {"before": fail}, {}, ModelError, r"the model toy:.* failed: MemoryError: no room"),
        (preview, {"before": fail}, {}, ModelError, r"the model toy:.* failed: MemoryError: no room"),
        (preview, {"before": know}, {}, ProgramError, "ours already"),
        (score, {}, {"change": burn}, RewardError, "the reward odd failed: RuntimeError: on fire"),
        (score, {}, {"change": lose}, ProgramError, "the reward odd answered 0 of 1 batches"),
    ],
)
def test_errors_are_translated_and_the_generators_closed(
    ask: Any, model: Any, reward: Any, kind: type[Exception], message: str
) -> None:
    closed: list[str] = []

    def child(name: str) -> Asking[Any]:
        try:
            return (yield from ask(start(0, 2)))
        finally:
            closed.append(name)

    def asking() -> Asking[Any]:
        try:
            return (yield from together(child("child"), extend(start(1, 1))))
        finally:
            closed.append("root")

    with pytest.raises(kind, match=message):
        run(asking(), Seen(**model), OddReward(**reward))
    assert closed == ["child", "root"]


def test_an_error_of_the_generator_comes_out() -> None:
    def broken() -> Asking[None]:
        yield from extend(start(0, 1))
        raise ZeroDivisionError("its own")

    with pytest.raises(ZeroDivisionError, match="its own"):
        run(broken())
    with pytest.raises(ZeroDivisionError, match="its own"):
        run(together(broken(), score(start(1, 2))))


def test_questions_of_closed_children_are_not_answered() -> None:
    """The second child fails at its answer, when the first one has already asked again."""

    def first() -> Asking[Any]:
        yield from embed(start(0, 1))
        yield from embed(start(0, 2))
        raise AssertionError

    def second() -> Asking[Any]:
        yield from embed(start(1, 3))
        raise ValueError

    def asking() -> Asking[str]:
        with pytest.raises(ValueError):  # noqa: PT011
            yield from together(first(), second())
        yield from embed(start(0, 4))
        return "went on"

    model = Seen()
    assert run(asking(), model)[0] == "went on"
    assert model.calls == [("embed", [1, 3]), ("embed", [4])]
