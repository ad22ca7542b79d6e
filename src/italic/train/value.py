"""Learning what unfinished drafts are worth: V(x) / beta = log E[e^(r / beta) | x], by regression on the model's draws.

The network of a block is fitted to what its states are worth `REACH` blocks later, by the networks that were fitted
before: V(x) is the log-mean-exp of that too, and it varies less than the reward at the end. So the last block comes
first. A response that is any good is rare under the model itself, and then so are the states that lead to one. So all
is done twice: on responses of the model, then again on these and on states that the first networks steer to. Any states
will do, as long as what follows them is the model's own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import RunError
from italic.core.protocols import Task
from italic.core.questions import Asking, embed, extend, note, score, together
from italic.core.sampling import Until
from italic.laws.weights import gumbel
from italic.methods._rows import Rows, children, ranked, replaced
from italic.train.regression import Loss, Recipe, Regressor, fit, stack
from italic.values.networks import Networks

Array: TypeAlias = NDArray[np.float64]

WAVE = 16
"""Prompts that are drawn for at once: the progress moves on after each wave."""

REACH = 4
"""How many blocks ahead a state's worth is looked at."""

CHILDREN = 4
"""Proposals of which one is gone on with, on the way to the states of the second fit."""

HARDER = 2.0
"""How much more the steered states lean towards worth than the tilted law does: there they are worth knowing."""

TRIES = 4
"""How often the model goes on from each of these states, `REACH` blocks far."""


class Curriculum(NamedTuple):
    """beta, block: of the value. n: responses of the model a prompt, and as many steered ones."""

    beta: float
    block: int
    n: int
    loss: Loss
    recipe: Recipe


class Lesson(NamedTuple):
    """States [k, d] at the start of a block, by their features, and where they led: features [k, d] `REACH` blocks on,
    and the log-weights [k], nats, of those that had ended by then, NaN where the score is missing; ended: bool [k].
    """

    states: Array
    later: Array
    f: Array
    ended: NDArray[np.bool_]


Course: TypeAlias = tuple[list[Lesson], int]
"""A lesson a block, for one prompt, and the proposals of a block that they took."""


def learn_value(tasks: Sequence[Task], plan: Curriculum, blocks: int) -> Asking[tuple[Networks, int]]:
    """Value networks for the starts of all blocks, nats; and the proposals of a block that they took."""
    own: list[Course] = yield from waves(tasks, lambda task: _walk(task, plan), "value", 0, blocks)
    first = yield from _fit([lessons for lessons, _ in own], plan)
    steered: list[Course] = yield from waves(
        tasks, lambda task: _steer(task, plan, blocks, first), "steered", 0, blocks
    )
    networks = yield from _fit([lessons for lessons, _ in (*own, *steered)], plan)
    return networks, sum(spent for _, spent in (*own, *steered))


def _walk(task: Task, plan: Curriculum) -> Asking[Course]:
    """Responses of the model, and all the states they went through."""
    drafts: Any = task.start(plan.n, "value")
    seen: list[tuple[Rows, Array]] = []
    while not np.all(drafts.done):
        rows = np.flatnonzero(~drafts.done)
        features = yield from embed(drafts[rows])
        whole = np.full((plan.n, features.shape[1]), np.nan)
        whole[rows] = features
        seen.append((rows, whole))
        drafts = yield from extend(drafts, Until(steps=plan.block))
    f = (yield from score(drafts, strict=False)) / plan.beta
    lessons = []
    for block, (rows, features) in enumerate(seen):
        later = seen[block + REACH][1] if block + REACH < len(seen) else np.full_like(features, np.nan)
        lessons.append(Lesson(features[rows], later[rows], f[rows], np.asarray(np.isnan(later[rows]).any(axis=1))))
    return lessons, sum(len(rows) for rows, _ in seen)


def _steer(task: Task, plan: Curriculum, blocks: int, networks: Networks) -> Asking[Course]:
    """States that the networks steer to, and where the model goes from each."""
    drafts: Any = task.start(plan.n, "steered")
    lessons: list[Lesson] = []
    spent = 0
    for block in range(blocks):
        rows = np.flatnonzero(~drafts.done)
        if not len(rows):
            break
        key, states = task.key.at("steered", block), drafts[rows]
        again = np.repeat(np.arange(len(rows)), TRIES)
        onward = states[again].reseed(key.at("onward").seeds(children(rows, np.arange(TRIES))))
        onward = yield from extend(onward, Until(steps=REACH * plan.block))
        features = yield from embed(states)
        f, later = yield from _look(onward, plan.beta, features.shape[1])
        lessons.append(Lesson(features[again], later, f, onward.done))
        numbers = children(rows, np.arange(CHILDREN))
        forks = states[np.repeat(np.arange(len(rows)), CHILDREN)].reseed(key.at("child").seeds(numbers))
        grown = yield from extend(forks, Until(steps=plan.block))
        spent += int(np.sum(-(-(onward.steps - states.steps[again]) // plan.block))) + len(grown)
        worth, later = yield from _look(grown, plan.beta, features.shape[1])
        going = np.flatnonzero(~grown.done)
        if len(going):
            known = np.minimum(grown.steps[going] // plan.block, networks.blocks - 1)
            worth[going] = networks(later[going], known)
        height = gumbel(ranked(HARDER * worth), key.at("keep").uniform(numbers))
        kept = np.arange(len(rows)) * CHILDREN + height.reshape(-1, CHILDREN).argmax(axis=1)
        drafts = replaced(drafts, rows, grown[kept])
    return lessons, spent


def _look(drafts: Any, beta: float, d: int) -> Asking[tuple[Array, Array]]:
    """The log-weights of finished rows, float64 [n], and the features of the others, [n, d]; NaN elsewhere."""
    f, features = np.full(len(drafts), np.nan), np.full((len(drafts), d), np.nan)
    done, going = np.flatnonzero(drafts.done), np.flatnonzero(~drafts.done)
    if len(done):
        f[done] = (yield from score(drafts[done], strict=False)) / beta
    if len(going):
        features[going] = yield from embed(drafts[going])
    return f, features


def _fit(courses: Sequence[list[Lesson]], plan: Curriculum) -> Asking[Networks]:
    """A network for each block that any chain reached, the last one first.

    States that led beyond all chains are left out. Raises RunError if a block has nothing to learn from.
    """
    regressors: dict[int, Regressor] = {}
    blocks = max(len(course) for course in courses)
    for block in reversed(range(blocks)):
        lessons = [course[block] for course in courses if block < len(course)]
        states = np.concatenate([lesson.states for lesson in lessons])
        targets = np.concatenate([lesson.f for lesson in lessons])
        later = np.concatenate([lesson.later for lesson in lessons])
        going = np.flatnonzero(~np.concatenate([lesson.ended for lesson in lessons]))
        if len(going) and block + REACH in regressors:
            targets[going] = regressors[block + REACH](later[going])
        there = ~np.isnan(targets)
        if not np.any(targets[there] > -np.inf):
            raise RunError(
                f"no response from block {block + 1} on has a score above -inf: there is nothing to learn a value from",
                hint="Give more trajectories or other prompts; `italic doctor` shows what a reward says.",
            )
        regressors[block] = fit(states[there], targets[there], plan.loss, plan.recipe, seed=block)
        yield from note("fit", what="network", block=block, blocks=blocks, done=blocks - block, total=blocks)
    return stack([regressors[block] for block in range(blocks)])


def waves(items: Sequence[Any], ask: Callable[[Any], Asking[Any]], what: str, block: int, blocks: int) -> Asking[Any]:
    """`ask` of every item, `WAVE` of them at once, and a note after each wave."""
    answers: list[Any] = []
    while len(answers) < len(items):
        wave = items[len(answers) : len(answers) + WAVE]
        answers += yield from together(*(ask(item) for item in wave))
        yield from note("fit", what=what, block=block, blocks=blocks, done=len(answers), total=len(items))
    return answers
