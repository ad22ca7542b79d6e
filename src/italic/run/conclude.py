"""Running one generator over many prompts to its end: what fitting needs, where a method has one prompt.

The generator asks as methods do; `together` lets it ask for all prompts at once, and all questions that are open are
answered in one batch a kind. There is no budget: who fits says beforehand how much to draw.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

import numpy as np

from italic.core.errors import ProgramError
from italic.core.outcome import Usage
from italic.core.protocols import Model, Reward, Spent
from italic.core.questions import Asking, Extend, Note, Score, Share
from italic.run.asides import muse
from italic.run.calls import ask_reward, extend_whole, policy_call
from italic.run.ledger import Ledger
from italic.run.routine import Leaf, Node, Routine
from italic.run.scores import Sheet, complete, prepare

T = TypeVar("T")


def conclude(
    asking: Asking[T], model: Model, reward: Reward, ledger: Ledger, listen: Callable[[Note], None] | None = None
) -> T:
    """Answer a generator until it returns; what it returns. Raises ModelError and RewardError."""
    routine = Routine(asking, listen)
    known: dict[str, dict[Hashable, float]] = {}
    leaves = routine.begin()
    try:
        while not routine.done:
            moves = _answers(leaves, model, reward, ledger, known)
            asked = [leaf for node, value in moves for leaf in routine.answer(node, value)]
            leaves = [(node, question) for node, question in asked if node.alive]
    finally:
        routine.close()
    return cast(T, routine.result)


def _answers(
    leaves: list[Leaf], model: Model, reward: Reward, ledger: Ledger, known: dict[str, dict[Hashable, float]]
) -> list[tuple[Node, Any]]:
    """The answers to all open questions; known: the scores of each prompt's drafts so far."""
    answers: list[tuple[Node, Any]] = []
    extends = []
    for i, (node, question) in enumerate(leaves):
        if isinstance(question, Extend):
            if np.all(question.drafts.done):
                answers.append((node, question.drafts))
            else:
                extends.append((i, question))
    with policy_call(model.name, ledger):
        for i, grown in extend_whole(model, extends, None):
            answers.append((leaves[i][0], grown.drafts))
            _book(ledger, grown.spent)
    if any(isinstance(question, Share) for _, question in leaves):
        raise ProgramError("a generator that is run by itself shares with nobody", hint="Run the method by a driver.")
    asides = [(node, question) for node, question in leaves if not isinstance(question, Extend | Score | Share)]
    with policy_call(model.name, ledger):
        for (node, _), answer in zip(asides, muse(model, [question for _, question in asides]), strict=True):
            answers.append((node, answer.value))
            _book(ledger, answer.spent)
    scores = [(node, question) for node, question in leaves if isinstance(question, Score)]
    return answers + _rewards(scores, reward, ledger, known)


def _rewards(
    scores: list[tuple[Node, Score]], reward: Reward, ledger: Ledger, known: dict[str, dict[Hashable, float]]
) -> list[tuple[Node, Any]]:
    """The answers to questions for rewards: each different draft of a prompt is scored once."""
    sheets: list[tuple[Node, Sheet]] = []
    claimed: dict[str, set[Hashable]] = {}
    for node, question in scores:
        prompt = question.drafts.prompt.id
        others = claimed.setdefault(prompt, set())
        sheet = prepare(question, known.setdefault(prompt, {}) if reward.deterministic else None).without(others)
        others.update(sheet.claims)
        sheets.append((node, sheet))
    answers = []
    for (node, sheet), found in zip(sheets, ask_reward(reward, [sheet for _, sheet in sheets], ledger), strict=True):
        ledger.add(sheet.cost(found))
        answers.append((node, complete(sheet, found, reward.name) if len(sheet.drafts) else np.zeros(0)))
    return answers


def _book(ledger: Ledger, spent: Spent) -> None:
    ledger.add(Usage(tokens_generated=spent.tokens, positions=spent.positions, model_calls=spent.calls))
