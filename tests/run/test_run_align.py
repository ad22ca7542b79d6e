"""The front door: what comes out, and what is refused before anything is spent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from runkit import SHORT, Blocking, Custom, OddReward, one, prompts

import italic
from italic.core.drafts import Drafts
from italic.core.errors import InputError, MismatchError, SpecError, UsageError
from italic.core.keys import Key
from italic.core.outcome import Outcome
from italic.core.prompt import Prompt
from italic.core.protocols import Paper, Task
from italic.core.questions import Asking
from italic.core.sampling import Sampling
from italic.methods.best_of_n import BestOfN
from italic.methods.sample import Sample
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.align import Alignment, align, chosen_text, make_tasks, stream
from italic.run.ledger import Budget, Ledger

TOY: dict[str, Any] = {"model": "toy", "reward": "toy", "sampling": SHORT}


def test_specs_and_objects_mean_the_same() -> None:
    by_spec = align(["a", "b"], "toy:letters=4", "toy:seed=2", "best-of-n:n=4", seed=3, sampling=SHORT)
    model, reward = ToyModel(letters=4), ToyReward(seed=2)
    by_object = align(["a", "b"], model, reward, BestOfN(n=4), seed=3, sampling=SHORT)
    assert by_spec.texts == by_object.texts
    assert (
        by_spec.rewards == by_object.rewards == [reward.of(p, str(t)) for p, t in zip("ab", by_spec.texts, strict=True)]
    )
    assert by_spec.complete
    assert by_spec.usage.counts() == by_object.usage.counts()
    assert isinstance(by_spec, Alignment)


def test_results_are_in_the_order_of_the_input() -> None:
    uneven = Custom(lambda task: one_or_many(task))
    found = align([f"prompt {i}" for i in range(6)], **TOY, method=uneven)
    assert [r.prompt.text for r in found.results] == [f"prompt {i}" for i in range(6)]
    assert [r.order for r in found.results] == list(range(6))


def one_or_many(task: Task) -> Asking[Outcome]:
    """The first prompts take the longest."""
    for i in range(6 - int(task.prompt.id)):
        yield from one(task, i)
    drafts, reward = yield from one(task, "last")
    return Outcome(drafts, np.array([reward]), chosen=0)


def test_the_kinds_of_prompt() -> None:
    conversation = {"id": "talk", "messages": [{"role": "user", "content": "hello"}]}
    found = align(["text", Prompt("mine", text="x"), {"prompt": "y", "gold": 1}, conversation], **TOY, method=Sample())
    assert [r.prompt.id for r in found.results] == ["1", "mine", "3", "talk"]
    assert found.results[2].prompt.columns == {"gold": 1}


def test_an_answer_belongs_to_its_id() -> None:
    """Not to its place, nor to its neighbours."""
    asked = prompts(5)
    whole = align(asked, **TOY, method=BestOfN(4))
    part = align([asked[3], asked[1]], **TOY, method=BestOfN(4), driver="lockstep")
    assert part.texts == [whole.texts[3], whole.texts[1]]
    renamed = align([Prompt("other", text=asked[0].text)], **TOY, method=BestOfN(4))
    assert renamed.results[0].outcome.drafts.texts != whole.results[0].outcome.drafts.texts


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ([3], "line 1: not an object but int"),
        ([{"promt": "x"}, "fine", {}], r"line 1: neither .*; line 3: neither"),
        ([Prompt("a", text="x"), Prompt("a", text="y")], "line 2: the id 'a' was used on line 1 already"),
        ("one prompt, not a list", "a single text"),
        ({"prompt": "one prompt, not a list"}, "a single text"),
    ],
)
def test_bad_prompts_are_named(asked: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        align(asked, **TOY)


def test_what_cannot_be_is_refused_before_anything_is_spent() -> None:
    with pytest.raises(SpecError, match="there is no method 'best-of-m'"):
        align(["x"], **TOY, method="best-of-m")
    with pytest.raises(UsageError, match=r"there is no driver 'fast'\nChoose one of event, lockstep"):
        align(["x"], **TOY, driver="fast")  # type: ignore[arg-type]
    model = Blocking(ToyModel(), offers=frozenset({"resume"}))
    with pytest.raises(MismatchError, match=r"the reward toy:.* needs texts"):
        align(["x"], model, "toy")
    assert model.asked == 0


@dataclass(frozen=True)
class Impatient:
    """A method that needs what nobody offers."""

    needs: ClassVar[frozenset[str]] = frozenset({"partial", "preview", "magic"})
    papers: ClassVar[tuple[Paper, ...]] = ()

    def run(self, task: Task) -> Asking[Outcome]:
        raise AssertionError
        yield


def test_a_mismatch_names_both_sides() -> None:
    reward = OddReward(partial=False)
    with pytest.raises(MismatchError) as caught:
        align(["x"], ToyModel(), reward, Impatient())
    text = str(caught.value)
    assert (
        "the method Impatient needs magic (unknown); partial (the reward's scores of unfinished drafts mean something)"
        in text
    )
    assert "preview (guess how an unfinished draft will end)" in text
    assert "the model toy:" in text
    assert "the reward odd" in text


def test_a_budget_ends_an_alignment_incomplete() -> None:
    found = align(prompts(5), **TOY, method=BestOfN(8), budget=Budget(tokens=60))
    assert not found.complete
    assert found.usage.tokens_generated <= 60
    assert len(found.results) <= 5
    assert len(found.texts) == len(found.rewards) == len(found.results)
    nothing = align(prompts(2), **TOY, budget=Budget(tokens=0))
    assert (nothing.results, nothing.texts, nothing.complete) == ((), [], False)
    assert align([], **TOY).complete


def test_an_unchosen_answer_has_no_text() -> None:
    found = align(["x"], **TOY, method=BestOfN(8), budget=Budget(tokens=1))
    assert found.texts == [None]
    assert np.isnan(found.rewards[0])


class Pixels:
    """Drafts that are no text."""

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: Any) -> Pixels:
        return self

    done = np.ones(1, dtype=np.bool_)


def test_drafts_without_text_say_so() -> None:
    drafts: Drafts = Pixels()  # type: ignore[assignment]
    with pytest.raises(UsageError, match="these drafts have no text"):
        chosen_text(Outcome(drafts, np.zeros(1), chosen=0))


def test_a_stream_yields_and_fills_the_ledger() -> None:
    model, reward, ledger = ToyModel(), ToyReward(), Ledger()
    heard: list[str] = []
    run = stream(
        prompts(3), model, reward, BestOfN(2), sampling=SHORT, ledger=ledger,
        progress=lambda account, under_way: heard.append("progress"), listen=lambda prompt, said: heard.append("note"),
    )  # fmt: skip
    assert ledger.usage.tokens_generated == 0, "nothing happens before it is asked"
    first = next(run)
    assert first.outcome.complete
    assert {r.prompt.id for r in [first, *run]} == {"p0", "p1", "p2"}
    assert ledger.usage.tokens_generated > 0
    assert set(heard) == {"progress"}
    assert len(list(stream(prompts(1), model, reward, BestOfN(2), sampling=SHORT))) == 1


def test_the_randomness_of_a_task_is_named_by_seed_and_id() -> None:
    (task,) = make_tasks(prompts(1), ToyModel(), 7, Sampling())
    assert task.key == Key(7).at("p0")
    start = task.start(3)
    assert start.seeds.tolist() == Key(7).at("p0").at("start").seeds(3).tolist()
    assert task.start(5).seeds[:3].tolist() == start.seeds.tolist()
    assert not set(task.start(3, "again").seeds.tolist()) & set(start.seeds.tolist())


def test_it_is_what_the_package_exports() -> None:
    assert italic.align is align
    assert italic.stream is stream
