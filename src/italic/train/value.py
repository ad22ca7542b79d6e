"""Learning what unfinished drafts are worth: V(x) / beta = log E[e^(r / beta) | x], by regression on whole responses.

A response that is any good is rare under the model itself, and then so are the states that lead to one. So the networks
are fitted twice: first to responses of the model, from all the states they went through; then again to these and to
completions from states that the first networks steer to. Any states will do, as long as what follows them is the
model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from italic.core.protocols import Task
from italic.core.questions import Asking, embed, extend, note, score, together
from italic.core.sampling import Until
from italic.laws.weights import gumbel
from italic.methods._rows import Rows, children, replaced
from italic.train.regression import Loss, Recipe, fit, stack
from italic.values.networks import Networks

Array: TypeAlias = NDArray[np.float64]

WAVE = 16
"""Prompts that are drawn for at once: the progress moves on after each wave."""

CHILDREN = 4
"""Proposals of which one is gone on with, on the way to the states of the second fit."""

BLOCKS = 16
"""How many blocks of completions are drawn from each of these states: few long ones, or many short ones."""


class Lessons(NamedTuple):
    """For each block, features [k, d] of states at its start, and the log-weights [k] of responses from there, nats."""

    features: list[Array]
    f: list[Array]
    spent: int


class Curriculum(NamedTuple):
    """beta, block: of the value. n: responses of the model a prompt, and as many steered ones."""

    beta: float
    block: int
    n: int
    loss: Loss
    recipe: Recipe


def learn_value(tasks: Sequence[Task], plan: Curriculum, blocks: int) -> Asking[tuple[Networks, int]]:
    """Value networks for the starts of all blocks, nats; and the proposals of a block that they took."""
    own = yield from waves(tasks, lambda task: _walk(task, plan, blocks), "value", 0, blocks)
    first = yield from _fit(own, plan, blocks)
    steered = yield from waves(tasks, lambda task: _steer(task, plan, blocks, first), "steered", 0, blocks)
    networks = yield from _fit([*own, *steered], plan, blocks)
    return networks, sum(lessons.spent for lessons in (*own, *steered))


def _walk(task: Task, plan: Curriculum, blocks: int) -> Asking[Lessons]:
    """Responses of the model, and all the states they went through."""
    drafts: Any = task.start(plan.n, "value")
    seen: list[tuple[Rows, Array]] = []
    while not np.all(drafts.done):
        rows = np.flatnonzero(~drafts.done)
        seen.append((rows, (yield from embed(drafts[rows]))))
        drafts = yield from extend(drafts, Until(steps=plan.block))
    f = (yield from score(drafts)) / plan.beta
    spent = sum(len(rows) for rows, _ in seen)
    return Lessons([x for _, x in seen], [f[rows] for rows, _ in seen], spent)


def _steer(task: Task, plan: Curriculum, blocks: int, networks: Networks) -> Asking[Lessons]:
    """States that the networks steer to, and completions from each."""
    drafts: Any = task.start(plan.n, "steered")
    features: list[Array] = []
    found: list[Array] = []
    spent = 0
    for block in range(blocks):
        rows = np.flatnonzero(~drafts.done)
        if not len(rows):
            break
        key, states = task.key.at("steered", block), drafts[rows]
        times = max(1, BLOCKS // (blocks - block))
        again = np.repeat(np.arange(len(rows)), times)
        ends = states[again].reseed(key.at("end").seeds(children(rows, np.arange(times))))
        ends = yield from extend(ends)
        features.append((yield from embed(states))[again])
        found.append((yield from score(ends)) / plan.beta)
        spent += int(np.sum(-(-(ends.steps - states.steps[again]) // plan.block)))
        numbers = children(rows, np.arange(CHILDREN))
        forks = states[np.repeat(np.arange(len(rows)), CHILDREN)].reseed(key.at("child").seeds(numbers))
        grown = yield from extend(forks, Until(steps=plan.block))
        spent += len(grown)
        worth = np.full(len(grown), np.nan)
        going = np.flatnonzero(~grown.done)
        if len(going):
            worth[going] = networks((yield from embed(grown[going])), grown.steps[going] // plan.block)
        if np.any(grown.done):
            ended = np.flatnonzero(grown.done)
            worth[ended] = (yield from score(grown[ended])) / plan.beta
        height = gumbel(np.where(np.isnan(worth), -1e300, worth), key.at("keep").uniform(numbers))
        kept = np.arange(len(rows)) * CHILDREN + height.reshape(-1, CHILDREN).argmax(axis=1)
        drafts = replaced(drafts, rows, grown[kept])
    return Lessons(features, found, spent)


def _fit(found: Sequence[Lessons], plan: Curriculum, blocks: int) -> Asking[Networks]:
    """A network a block, bounded by the log-weights seen from there: no mean of them is beyond."""
    regressors = []
    for block in range(blocks):
        features = np.concatenate([lessons.features[block] for lessons in found if block < len(lessons.f)])
        f = np.concatenate([lessons.f[block] for lessons in found if block < len(lessons.f)])
        there = ~np.isnan(f)
        regressors.append(fit(features[there], f[there], plan.loss, plan.recipe, seed=block))
        yield from note("fit", what="network", block=block, blocks=blocks, done=block + 1, total=blocks)
    return stack(regressors)


def waves(items: Sequence[Any], ask: Callable[[Any], Asking[Any]], what: str, block: int, blocks: int) -> Asking[Any]:
    """`ask` of every item, `WAVE` of them at once, and a note after each wave."""
    answers: list[Any] = []
    while len(answers) < len(items):
        wave = items[len(answers) : len(answers) + WAVE]
        answers += yield from together(*(ask(item) for item in wave))
        yield from note("fit", what=what, block=block, blocks=blocks, done=len(answers), total=len(items))
    return answers
