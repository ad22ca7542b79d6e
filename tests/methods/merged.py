"""Many runs of a method on the toy tree, fast: all runs ask, one merged extension a length answers, and again."""

from __future__ import annotations

import gc
from collections import defaultdict
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from enumerated import Tree

from italic.core.drafts import TextDrafts
from italic.core.outcome import Outcome
from italic.core.protocols import Method
from italic.core.questions import Extend, Note, Score

AT_ONCE = 1000


@dataclass(frozen=True)
class Spied:
    """A method whose questions and their answers are written down."""

    inner: Method
    asked: list[tuple[Any, Any]]

    def run(self, task):
        run, answer = self.inner.run(task), None
        while True:
            try:
                question = run.send(answer)
            except StopIteration as end:
                return end.value
            answer = yield question
            self.asked.append((question, answer))


def outcomes(tree: Tree, method: Method, seeds: range) -> list[Outcome]:
    """The outcome of a run a seed: that of `tree.drive`."""
    gc.disable()
    try:
        parts = [seeds[a : a + AT_ONCE] for a in range(0, len(seeds), AT_ONCE)]
        return [outcome for part in parts for outcome in _outcomes(tree, method, part)]
    finally:
        gc.enable()


def answers(tree: Tree, method: Method, seeds: range) -> np.ndarray:
    """How often each response is the answer: integers [N]."""
    chosen = [o.drafts[[o.chosen]] for o in outcomes(tree, method, seeds)]
    return np.bincount(tree.node(_joined(chosen)), minlength=tree.model.nodes)


def _outcomes(tree: Tree, method: Method, seeds: range) -> list[Outcome]:
    runs = [method.run(tree.task(seed)) for seed in seeds]
    results: dict[int, Outcome] = {}
    moves: list[tuple[int, Any]] = [(i, None) for i in range(len(runs))]
    while moves:
        extends, scores = defaultdict(list), []
        for i, answer in moves:
            try:
                question = runs[i].send(answer)
                while isinstance(question, Note):
                    question = runs[i].send(None)
            except StopIteration as end:
                results[i] = end.value
                continue
            if isinstance(question, Extend):
                extends[question.until].append((i, question.drafts))
            else:
                assert isinstance(question, Score)
                scores.append((i, question.drafts))
        moves = []
        for until, asked in extends.items():
            grown = tree.model.extend([Extend(_joined([d for _, d in asked]), until)])[0].drafts
            moves += _handed_back(asked, grown)
        if scores:
            moves += _handed_back(scores, tree.r[tree.node(_joined([d for _, d in scores]))])
    return [results[i] for i in range(len(runs))]


def _handed_back(asked: list[tuple[int, Any]], answer: Any) -> list[tuple[int, Any]]:
    ends = np.cumsum([len(drafts) for _, drafts in asked]).tolist()
    return [(i, answer[end - len(drafts) : end]) for (i, drafts), end in zip(asked, ends, strict=True)]


def _joined(batches: list[TextDrafts]) -> TextDrafts:
    """One batch of them all, as `concat` makes it, in one go."""
    width = max(d.ids.shape[1] for d in batches)
    ids = np.full((sum(map(len, batches)), width), -1, dtype=np.int32)
    logps = np.zeros(ids.shape, dtype=np.float32)
    start = 0
    for d in batches:
        at = slice(start, start + len(d)), slice(0, d.ids.shape[1])
        ids[at], logps[at] = d.ids, d.logps
        start += len(d)
    rest = {name: np.concatenate([getattr(d, name) for d in batches]) for name in ("steps", "reason", "seeds", "chars")}
    return replace(batches[0], ids=ids, logps=logps, memory=(None,) * len(ids), **rest)
