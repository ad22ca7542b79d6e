"""Many draws of a method on one toy prompt, fast: all runs ask, one merged extension answers, and again.

For methods that only start afresh. `test_behaviour.py` holds it to the real drivers.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from italic.core.drafts import TextDrafts
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.protocols import Method, Task
from italic.core.questions import Extend, Score
from italic.core.sampling import Sampling
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward

AT_ONCE = 1000


def make_tasks(model: ToyModel, prompt: Prompt, sampling: Sampling, seed: int, n: int) -> list[Task]:
    """n tasks of one prompt, and so of one law, with randomness of their own."""
    root = Key(seed)

    def begin(seeds, other=None):
        return model.start(prompt, seeds, other or sampling)

    return [Task(prompt, root.at(i), begin) for i in range(n)]


def draw_texts(method: Method, tasks: Sequence[Task], model: ToyModel, reward: ToyReward) -> list[str]:
    """The text that each run of the method chooses."""
    with _no_collection():
        parts = [tasks[a : a + AT_ONCE] for a in range(0, len(tasks), AT_ONCE)]
        return [text for part in parts for text in _draw_texts(method, part, model, reward)]


def _draw_texts(method: Method, tasks: Sequence[Task], model: ToyModel, reward: ToyReward) -> list[str]:
    texts = [""] * len(tasks)
    runs = [method.run(task) for task in tasks]
    moves: list[tuple[int, object]] = [(i, None) for i in range(len(tasks))]
    decoded: dict[tuple[int, ...], tuple[str, float]] = {}
    while moves:
        extends: list[tuple[int, TextDrafts]] = []
        scores: list[tuple[int, TextDrafts]] = []
        for i, answer in moves:
            try:
                question = runs[i].send(answer)
            except StopIteration as end:
                texts[i] = decoded[tuple(end.value.drafts.ids[end.value.chosen].tolist())][0]
                continue
            if isinstance(question, Extend):
                extends.append((i, question.drafts))
            else:
                assert isinstance(question, Score)
                scores.append((i, question.drafts))
        moves = [(i, np.array([decoded[tuple(row)][1] for row in drafts.ids.tolist()])) for i, drafts in scores]
        if extends:
            first = extends[0][1]
            fresh = model.start(first.prompt, np.concatenate([d.seeds for _, d in extends]), first.sampling)
            grown = model.extend([Extend(fresh)])[0].drafts
            assert isinstance(grown, TextDrafts)
            assert grown.done.all()
            for row in np.unique(grown.ids, axis=0):
                text = model.codec.decode(grown.prompt_tokens, row[row >= 0])
                decoded[tuple(row.tolist())] = text, reward.of(first.prompt.last, text)
            a = 0
            for i, d in extends:
                moves.append((i, grown[a : a + len(d)]))
                a += len(d)
    return texts


@contextmanager
def _no_collection() -> Iterator[None]:
    """Without the garbage collector, which finds nothing among these many small objects."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
