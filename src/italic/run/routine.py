"""Advancing a method's generator, with the sub-methods it runs together.

A routine is a tree. Its root is the method's generator; a generator that asks `together(...)` gets a node for each
child, and waits until all of them have returned. The leaves are the generators that wait for an answer of the driver.

What is thrown goes down and up by three rules:
1. An answer, or an error, goes to the leaf that asked.
2. A child that ends with an error closes its brothers and sisters, and the error is thrown into the parent.
3. A child that ends with OutOfBudget does not: the others may still finish, each being told at its own question. When
   all have ended, the parent gets the list of results if every child returned one, else the OutOfBudget.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from italic.core.errors import OutOfBudget, ProgramError
from italic.core.questions import Aside, Asking, Extend, Note, Question, Score, Share, Together


@dataclass(eq=False)
class Node:
    """One generator of the tree. `alive` until it has returned, failed or been closed."""

    generator: Asking[Any]
    parent: Node | None = None
    place: int = 0
    alive: bool = True
    children: list[Node] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    waiting: int = 0
    stopped: OutOfBudget | None = None


Leaf = tuple[Node, Extend | Score | Aside | Share]
"""A generator and what it asks the driver."""


class Routine:
    """One method at work on one prompt. `result` is set once `done`; an uncaught error comes out of the call."""

    def __init__(self, generator: Asking[Any], listen: Callable[[Note], None] | None = None) -> None:
        self._root = Node(generator)
        self._listen = listen
        self.done = False
        self.result: Any = None

    def begin(self) -> list[Leaf]:
        """Run to the first questions."""
        return self._advance(self._root, None, None)

    def answer(self, node: Node, value: Any) -> list[Leaf]:
        """Give a leaf its answer; returns the questions this leads to."""
        return self._advance(node, value, None) if node.alive else []

    def throw(self, node: Node, error: Exception) -> list[Leaf]:
        """Throw an error into a leaf, at its question; returns the questions this leads to."""
        return self._advance(node, None, error) if node.alive else []

    def close(self) -> None:
        """End every generator of the tree, so that their `finally` clauses run."""
        _close(self._root)

    def _advance(self, node: Node, value: Any, error: Exception | None) -> list[Leaf]:
        while True:
            try:
                question = node.generator.throw(error) if error is not None else node.generator.send(value)
            except StopIteration as end:
                return self._returned(node, end.value)
            except OutOfBudget as stop:
                return self._ran_out(node, stop)
            except Exception as failure:
                return self._failed(node, failure)
            value, error = None, None
            if isinstance(question, Note):
                if self._listen is not None:
                    self._listen(question)
            elif isinstance(question, Together):
                if question.children:
                    return self._split(node, question)
                value = []
            elif isinstance(question, Extend | Score | Aside | Share):
                return [(node, question)]
            else:
                error = _no_question(question)

    def _split(self, node: Node, question: Together) -> list[Leaf]:
        node.children = [Node(child, node, i) for i, child in enumerate(question.children)]
        node.results = [None] * len(node.children)
        node.waiting = len(node.children)
        node.stopped = None
        leaves: list[Leaf] = []
        for child in list(node.children):
            if child.alive:
                leaves += self._advance(child, None, None)
        return [(leaf, asked) for leaf, asked in leaves if leaf.alive]

    def _returned(self, node: Node, result: Any) -> list[Leaf]:
        node.alive = False
        if node.parent is None:
            self.done, self.result = True, result
            return []
        node.parent.results[node.place] = result
        return self._one_less(node.parent)

    def _ran_out(self, node: Node, stop: OutOfBudget) -> list[Leaf]:
        node.alive = False
        if node.parent is None:
            raise stop
        node.parent.stopped = node.parent.stopped or stop
        return self._one_less(node.parent)

    def _one_less(self, parent: Node) -> list[Leaf]:
        parent.waiting -= 1
        if parent.waiting:
            return []
        parent.children = []
        return self._advance(parent, parent.results, parent.stopped)

    def _failed(self, node: Node, failure: Exception) -> list[Leaf]:
        node.alive = False
        parent = node.parent
        if parent is None:
            raise failure
        for child in parent.children:
            _close(child)
        parent.children = []
        return self._advance(parent, None, failure)


def _close(node: Node) -> None:
    for child in node.children:
        _close(child)
    if node.alive:
        node.alive = False
        node.generator.close()


def _no_question(asked: Question | Any) -> ProgramError:
    return ProgramError(
        f"a method asked {asked!r}, which is no question",
        hint="Write `yield from extend(...)`, `score(...)`, `share(...)`, `together(...)` or `note(...)`.",
    )
