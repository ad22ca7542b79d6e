"""The tree of sub-methods: answers reach who asked, errors go up and close the others, OutOfBudget does neither."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from italic.core.errors import OutOfBudget, ProgramError
from italic.core.questions import Note, Score, Together, together
from italic.run.routine import Leaf, Routine

Asks = Generator[Any, Any, Any]


def ask(name: Any) -> Asks:
    """Ask one question and return its answer."""
    return (yield Score(name))


def names(leaves: list[Leaf]) -> list[Any]:
    """What the leaves ask."""
    return [question.drafts for _, question in leaves]


def test_an_answer_is_the_value_of_the_yield() -> None:
    def method() -> Asks:
        first = yield from ask("a")
        second = yield from ask("b")
        return [first, second]

    routine = Routine(method())
    ((node, question),) = routine.begin()
    assert question == Score("a")
    assert not routine.done
    ((node, question),) = routine.answer(node, 1)
    assert question == Score("b")
    assert routine.answer(node, 2) == []
    assert routine.done
    assert routine.result == [1, 2]
    assert routine.answer(node, 3) == []
    assert routine.throw(node, ValueError()) == []


def test_results_come_in_order_whatever_the_order_of_the_answers() -> None:
    routine = Routine(together(ask("a"), ask("b"), ask("c")))
    leaves = routine.begin()
    assert names(leaves) == ["a", "b", "c"]
    for i in (2, 0, 1):
        routine.answer(leaves[i][0], leaves[i][1].drafts.upper())
    assert routine.result == ["A", "B", "C"]


def test_together_of_nothing_is_an_empty_list_at_once() -> None:
    def method() -> Asks:
        assert (yield from together()) == []
        return (yield from ask("after"))

    assert names(Routine(method()).begin()) == ["after"]


def test_children_that_return_without_asking() -> None:
    def silent(value: int) -> Asks:
        return value
        yield

    routine = Routine(together(silent(1), silent(2)))
    assert routine.begin() == []
    assert routine.result == [1, 2]
    routine = Routine(together(silent(1), ask("x"), silent(2)))
    ((node, _),) = routine.begin()
    routine.answer(node, "X")
    assert routine.result == [1, "X", 2]


def test_together_again_and_again() -> None:
    def method() -> Asks:
        first = yield from together(ask(1), ask(2))
        second = yield from together(*(ask(x) for x in first), together(ask("in")))
        return second

    routine = Routine(method())
    waiting = routine.begin()
    while waiting:
        node, question = waiting.pop()
        waiting += routine.answer(node, question.drafts * 2)
    assert routine.result == [4, 8, ["inin"]]


def test_notes_are_heard_at_once_and_answered_with_none() -> None:
    heard: list[Note] = []

    def method() -> Asks:
        assert (yield Note("begin", {"n": 1})) is None
        yield Note("asking")
        return (yield from ask("a"))

    Routine(method(), heard.append).begin()
    assert heard == [Note("begin", {"n": 1}), Note("asking")]
    assert names(Routine(method()).begin()) == ["a"]


@pytest.mark.parametrize("nonsense", [None, 16, "extend", ask("never started")])
def test_what_is_no_question_is_thrown_back_at_its_yield(nonsense: Any) -> None:
    def careless() -> Asks:
        yield nonsense

    with pytest.raises(ProgramError, match="which is no question") as caught:
        Routine(careless()).begin()
    assert "yield from extend" in str(caught.value)

    def careful() -> Asks:
        with pytest.raises(ProgramError):
            yield nonsense
        return (yield from ask("a"))

    assert names(Routine(careful()).begin()) == ["a"]


def test_an_error_is_thrown_in_at_the_question() -> None:
    def method() -> Asks:
        try:
            yield from ask("a")
        except KeyError:
            return (yield from ask("instead"))

    routine = Routine(method())
    ((node, _),) = routine.begin()
    ((node, question),) = routine.throw(node, KeyError())
    assert question == Score("instead")
    routine.answer(node, 5)
    assert routine.result == 5
    failing = Routine(ask("a"))
    ((node, _),) = failing.begin()
    with pytest.raises(KeyError, match="gone"):
        failing.throw(node, KeyError("gone"))


def watched(name: str, log: list[str]) -> Asks:
    """Ask once; log how it ended."""
    try:
        answer = yield from ask(name)
        log.append(f"{name} returned")
        return answer
    except BaseException as end:
        log.append(f"{name} {type(end).__name__}")
        raise


def test_a_failing_child_closes_the_others_and_the_parent_may_go_on() -> None:
    log: list[str] = []

    def method() -> Asks:
        try:
            yield from together(watched("a", log), watched("b", log), together(watched("c", log), watched("d", log)))
        except ValueError as failure:
            return (yield from ask(str(failure)))

    routine = Routine(method())
    leaves = routine.begin()
    assert routine.answer(leaves[0][0], 1) == []
    assert names(routine.throw(leaves[1][0], ValueError("b broke"))) == ["b broke"]
    assert log == ["a returned", "b ValueError", "c GeneratorExit", "d GeneratorExit"]
    assert [routine.answer(node, 0) for node, _ in leaves] == [[], [], [], []]
    assert [routine.throw(node, KeyError()) for node, _ in leaves] == [[], [], [], []]
    assert not routine.done


def test_an_uncaught_error_comes_out_through_all_levels() -> None:
    log: list[str] = []
    routine = Routine(together(watched("a", log), together(watched("b", log), watched("c", log))))
    leaves = routine.begin()
    with pytest.raises(ValueError, match="c broke"):
        routine.throw(leaves[2][0], ValueError("c broke"))
    assert sorted(log) == ["a GeneratorExit", "b GeneratorExit", "c ValueError"]


def test_a_child_that_fails_before_it_asks() -> None:
    def broken() -> Asks:
        raise ValueError("at once")
        yield

    log: list[str] = []

    def method() -> Asks:
        with pytest.raises(ValueError, match="at once"):
            yield from together(watched("a", log), broken(), watched("never started", log))
        return (yield from ask("after"))

    leaves = Routine(method()).begin()
    assert names(leaves) == ["after"], "the question of the closed child is not handed out"
    assert log == ["a GeneratorExit"]


def test_out_of_budget_lets_the_others_finish() -> None:
    log: list[str] = []

    def method() -> Asks:
        with pytest.raises(OutOfBudget) as caught:
            yield from together(watched("a", log), watched("b", log), watched("c", log))
        return caught.value

    routine = Routine(method())
    leaves = routine.begin()
    first, second = OutOfBudget("tokens"), OutOfBudget("seconds")
    assert routine.throw(leaves[1][0], first) == []
    assert not routine.done
    assert routine.throw(leaves[2][0], second) == []
    assert not routine.done
    assert routine.answer(leaves[0][0], 1) == []
    assert routine.result is first
    assert log == ["b OutOfBudget", "c OutOfBudget", "a returned"]


def test_children_that_make_do_with_what_they_have() -> None:
    def child(name: str) -> Asks:
        try:
            return (yield from ask(name))
        except OutOfBudget:
            return "what I have"

    routine = Routine(together(child("a"), child("b")))
    leaves = routine.begin()
    routine.throw(leaves[0][0], OutOfBudget("tokens"))
    routine.answer(leaves[1][0], "all")
    assert routine.result == ["what I have", "all"]


def test_out_of_budget_of_the_root_comes_out() -> None:
    routine = Routine(together(ask("a"), ask("b")))
    leaves = routine.begin()
    routine.throw(leaves[0][0], OutOfBudget("tokens"))
    with pytest.raises(OutOfBudget):
        routine.throw(leaves[1][0], OutOfBudget("tokens"))


def test_an_error_beats_out_of_budget() -> None:
    log: list[str] = []
    routine = Routine(together(watched("a", log), watched("b", log), watched("c", log)))
    leaves = routine.begin()
    routine.throw(leaves[0][0], OutOfBudget("tokens"))
    with pytest.raises(ZeroDivisionError):
        routine.throw(leaves[1][0], ZeroDivisionError())
    assert log == ["a OutOfBudget", "b ZeroDivisionError", "c GeneratorExit"]


def test_a_stop_is_forgotten_by_the_next_together() -> None:
    def method() -> Asks:
        with pytest.raises(OutOfBudget):
            yield from together(ask("a"))
        return (yield from together(ask("b")))

    routine = Routine(method())
    ((node, _),) = routine.begin()
    ((node, _),) = routine.throw(node, OutOfBudget("tokens"))
    routine.answer(node, "B")
    assert routine.result == ["B"]


def test_close_ends_every_generator_children_first() -> None:
    log: list[str] = []

    def parent() -> Asks:
        try:
            yield from together(watched("a", log), watched("b", log))
        finally:
            log.append("parent")

    routine = Routine(parent())
    leaves = routine.begin()
    routine.close()
    routine.close()
    assert log == ["a GeneratorExit", "b GeneratorExit", "parent"]
    assert routine.answer(leaves[0][0], 1) == []
    assert not routine.done


# The law: running a tree of sub-methods together gives what running them one after another would.

Tree = Any
trees = st.recursive(
    st.tuples(st.just("ask"), st.integers(0, 9), st.integers(0, 3)),
    lambda inner: st.lists(inner, max_size=4),
    max_leaves=12,
)


def plant(tree: Tree, ended: list[str]) -> Asks:
    """A leaf asks `times` questions in turn; a branch runs its children together."""
    try:
        if isinstance(tree, list):
            return (yield Together(tuple(plant(child, ended) for child in tree)))
        _, value, times = tree
        answers = []
        for i in range(times):
            answers.append((yield Score((value, i))))
        return answers
    finally:
        ended.append("end")


def one_by_one(tree: Tree) -> Any:
    """What the tree returns."""
    if isinstance(tree, list):
        return [one_by_one(child) for child in tree]
    _, value, times = tree
    return [(value, i, "answer") for i in range(times)]


def generators(tree: Tree) -> int:
    """How many generators the tree has."""
    return 1 + sum(map(generators, tree)) if isinstance(tree, list) else 1


@given(trees, st.randoms(use_true_random=False))
def test_together_is_one_after_another(tree: Tree, luck: Any) -> None:
    ended: list[str] = []
    routine = Routine(plant(tree, ended))
    waiting = routine.begin()
    while waiting:
        node, question = waiting.pop(luck.randrange(len(waiting)))
        waiting += routine.answer(node, (*question.drafts, "answer"))
    assert routine.done
    assert routine.result == one_by_one(tree)
    assert len(ended) == generators(tree)


@given(trees, st.randoms(use_true_random=False), st.integers(0, 8))
def test_an_error_anywhere_ends_every_generator_once(tree: Tree, luck: Any, moment: int) -> None:
    ended: list[str] = []
    routine = Routine(plant(tree, ended))
    waiting = routine.begin()
    started = generators(tree)
    while waiting:
        node, question = waiting.pop(luck.randrange(len(waiting)))
        if moment == 0:
            with pytest.raises(ValueError, match="now"):
                routine.throw(node, ValueError("now"))
            assert len(ended) == started
            assert [routine.answer(n, None) for n, _ in waiting] == [[] for _ in waiting]
            return
        moment -= 1
        waiting += routine.answer(node, (*question.drafts, "answer"))


@given(trees, st.randoms(use_true_random=False))
def test_out_of_budget_is_told_to_every_leaf_and_then_comes_out(tree: Tree, luck: Any) -> None:
    ended: list[str] = []
    routine = Routine(plant(tree, ended))
    waiting = routine.begin()
    stops = 0
    while waiting:
        node, question = waiting.pop(luck.randrange(len(waiting)))
        try:
            if luck.random() < 0.3:
                stops += 1
                waiting += routine.throw(node, OutOfBudget("tokens"))
            else:
                waiting += routine.answer(node, (*question.drafts, "answer"))
        except OutOfBudget:
            assert waiting == [], "only when nobody else has a question open"
            break
    assert routine.done == (stops == 0)
    assert len(ended) == generators(tree)
