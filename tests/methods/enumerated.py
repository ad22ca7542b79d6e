"""The toy model as a tree of which everything is known, and a driver that makes many draws of a method in one run.

A node is a prefix of letters, in the model's heap order; node v names both the unfinished draft with that text and the
response that ends there. So laws of responses, soft values and rewards are all float64 [N]. A *kernel* is what a step
of a method does, exactly: kernel(v, p, worth) -> the law [k] over the k ends of the next block of prefix v, whose model
probabilities are p and whose values are worth, in units of the reward. Compounded over the tree it is the method's law.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from scipy.special import chdtrc

from italic.core.drafts import Drafts, TextDrafts
from italic.core.keys import Key
from italic.core.outcome import Outcome
from italic.core.prompt import Prompt
from italic.core.protocols import Method, Task
from italic.core.questions import Embed, Extend, Likeliest, Likelihood, Note, Score
from italic.core.sampling import Sampling
from italic.laws import finite
from italic.laws.clipping import clipped_step
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.values.kinds import Known
from italic.values.networks import Networks

Kernel = Callable[[int, np.ndarray, np.ndarray], np.ndarray]
End = tuple[int, bool, float]
ROOT = 0


@dataclass(frozen=True, eq=False)
class Tree:
    """One prompt of a toy model, with rewards: of node v the toy reward of its text, unless they are given."""

    model: ToyModel
    beta: float
    given: np.ndarray | None = None
    prompt: ClassVar[Prompt] = Prompt("law", text="an ordinary prompt")
    reward: ClassVar[ToyReward] = ToyReward(seed=1)

    @cached_property
    def sampling(self) -> Sampling:
        """Long enough for every response to end by itself."""
        return Sampling(max_tokens=self.model.length + 1)

    @cached_property
    def table(self) -> Any:
        """The model's table of this prompt."""
        return self.model.table(np.asarray(self.model.codec.encode(self.prompt), dtype=np.int32), self.sampling)

    @cached_property
    def r(self) -> np.ndarray:
        """The reward of each node's text, finished or not."""
        if self.given is not None:
            return self.given
        return np.array([self.reward.of(self.prompt.last, text) for text in self.model.prefixes()])

    @cached_property
    def p(self) -> np.ndarray:
        """The probability of each response under the model."""
        return self.law(1, lambda v, p, worth: p, self.r)

    @cached_property
    def tilted(self) -> np.ndarray:
        """The law aimed at."""
        return finite.tilt(self.p, self.r, self.beta)

    @cached_property
    def z(self) -> float:
        """E exp(r / beta)."""
        return float(self.p @ np.exp(self.r / self.beta))

    @cached_property
    def soft(self) -> np.ndarray:
        """The exact soft value of each unfinished prefix, in units of the reward."""
        weight = np.zeros(self.model.nodes)
        for v in range(self.model.nodes)[::-1]:
            weight[v] = sum(p * (np.exp(self.r[w] / self.beta) if done else weight[w]) for w, done, p in self.ahead(v))
        with np.errstate(divide="ignore"):
            return np.asarray(self.beta * np.log(weight))

    def known(self, values: np.ndarray | None = None) -> Known:
        """The value that looks an unfinished draft up: in the exact soft values, unless others are given."""
        table = self.soft if values is None else values
        return Known(lambda drafts: table[self.node(drafts)])

    def node(self, drafts: Drafts) -> np.ndarray:
        """The node of each row."""
        assert isinstance(drafts, TextDrafts)
        return self.model.node(drafts.ids)

    def ahead(self, v: int, block: int = 1) -> list[End]:
        """What a block more of prefix v can be: its node, whether it is finished, and its probability."""
        ends, first = [(v, False, 1.0)], self.model.letters
        for _ in range(block):
            longer: list[End] = []
            for w, done, mass in ends:
                if done:
                    longer.append((w, done, mass))
                    continue
                chance = self.table.probabilities[w]
                longer.append((w, True, mass * chance[-1]))
                longer += [(first * w + 1 + i, False, mass * chance[i]) for i in range(first) if chance[i] > 0]
            ends = longer
        return ends

    def law(self, block: int, kernel: Kernel, values: np.ndarray) -> np.ndarray:
        """The law of the response that a kernel makes, block by block; values: [N], of the unfinished prefixes."""
        under_way, ended = np.zeros(self.model.nodes), np.zeros(self.model.nodes)
        under_way[ROOT] = 1.0
        for v in np.arange(self.model.nodes):
            if under_way[v] == 0:
                continue
            ends = self.ahead(v, block)
            worth = np.array([self.r[w] if done else values[w] for w, done, _ in ends])
            law = kernel(v, np.array([p for *_, p in ends]), worth)
            for (w, done, _), chance in zip(ends, law, strict=True):
                (ended if done else under_way)[w] += under_way[v] * chance
        return ended

    def clipped(self, block: int, b: np.ndarray | Callable[[int], float], values: np.ndarray) -> np.ndarray:
        """The law of clipped rejection: b(v), or b[v], is prefix v's baseline in nats."""
        base = b if callable(b) else b.__getitem__
        return self.law(block, lambda v, p, worth: clipped_step(p, worth / self.beta, base(v)).law, values)

    def task(self, seed: int) -> Task:
        """The prompt, with that seed's randomness."""
        return Task(self.prompt, Key(seed), lambda seeds, _=None: self.model.start(self.prompt, seeds, self.sampling))

    def drive(self, method: Method, seed: int) -> Outcome:
        """Run a method; rewards are looked up, so that 20,000 rows cost little."""
        run, answer = method.run(self.task(seed)), None
        while True:
            try:
                question = run.send(answer)
            except StopIteration as end:
                return end.value
            if isinstance(question, Extend):
                done = bool(np.all(question.drafts.done))
                answer = question.drafts if done else self.model.extend([question])[0].drafts
            elif isinstance(question, Score):
                answer = self.r[self.node(question.drafts)]
            elif isinstance(question, Embed):
                answer = self.model.embed([question.drafts])[0].value
            elif isinstance(question, Likelihood):
                answer = self.model.likelihood([question.drafts])[0].value
            elif isinstance(question, Likeliest):
                answer = self.model.likeliest([(question.drafts, question.k)])[0].value
            else:
                assert isinstance(question, Note)
                answer = None

    def counts(self, method: Method, seed: int) -> np.ndarray:
        """How often each response is among the n drafts of one run."""
        outcome = self.drive(method, seed)
        assert outcome.drafts.done.all()
        return np.bincount(self.node(outcome.drafts), minlength=self.model.nodes)


def mean_is_zero(samples: np.ndarray) -> float:
    """The p-value of independent vectors, [n, m], having mean 0: Hotelling's test for large n."""
    values, vectors = np.linalg.eigh(np.cov(samples, rowvar=False))
    along, seen = samples.mean(axis=0) @ vectors, values > 1e-12 * values.max()
    assert np.abs(along[~seen]).max(initial=0) < 1e-6, "off the mean where nothing varies"
    return float(chdtrc(seen.sum(), len(samples) * np.sum(along[seen] ** 2 / values[seen])))


def unnormalised(tree: Tree, outcome: Outcome) -> np.ndarray:
    """weight * 1[response] - p exp(r / beta), [n, groups], for weights that are exp(r / beta) of whole responses."""
    return np.exp(outcome.log_weights)[:, None] * _marks(tree, outcome) - tree.z * tree.tilted @ _groups(tree)


def normalised(tree: Tree, outcome: Outcome) -> np.ndarray:
    """weight * (1[response] - tilted), [n, groups], of mean 0 if weighted frequencies are those of the tilted law."""
    weights = np.exp(outcome.log_weights)
    return weights[:, None] / weights.mean() * (_marks(tree, outcome) - tree.tilted @ _groups(tree))


def _groups(tree: Tree) -> np.ndarray:
    """0 and 1, [N, groups]: the responses by themselves, but the rare ones as one, so that means are nearly normal."""
    common = np.flatnonzero(tree.tilted > 0.03)
    return np.column_stack((np.eye(tree.model.nodes)[:, common], tree.tilted <= 0.03))


def _marks(tree: Tree, outcome: Outcome) -> np.ndarray:
    return _groups(tree)[tree.node(outcome.drafts)]


def drafts_at(tree: Tree, depth: int) -> tuple[np.ndarray, TextDrafts]:
    """The unfinished prefixes of that many letters: their nodes, and drafts of them, each with a seed of its own."""
    letters = tree.model.letters
    first = sum(letters**k for k in range(depth))
    nodes = first + np.arange(letters**depth)
    digits = (nodes[:, None] - first) // letters ** np.arange(depth)[::-1] % letters
    empty = tree.model.start(tree.prompt, Key(depth).at("known").seeds(len(nodes)), tree.sampling)
    return nodes, replace(
        empty,
        ids=digits.astype(np.int32),
        logps=np.zeros(digits.shape, dtype=np.float32),
        steps=np.full(len(nodes), depth, dtype=np.int64),
    )


def lookup_networks(tree: Tree, block: int | None, table: np.ndarray) -> Networks:
    """Networks that give each prefix at the end of a block its number of the table, [N]: random ReLUs, then a fit."""
    depths = [0] if block is None else range(0, tree.model.length + 1, block)
    width, d = 4 * tree.model.letters**tree.model.length, tree.model.letters + 3
    rng = np.random.default_rng(7)
    weight, bias, last = rng.normal(size=(d, width)), rng.normal(size=width), []
    for depth in depths:
        nodes, drafts = drafts_at(tree, depth)
        hidden = np.maximum(tree.model.embed([drafts])[0].features @ weight + bias, 0)
        last.append(np.linalg.lstsq(hidden, table[nodes], rcond=None)[0][:, None])
        assert np.allclose(hidden @ last[-1][:, 0], table[nodes])
    count = len(last)
    return Networks(
        shift=np.zeros((count, d)),
        scale=np.ones((count, d)),
        weights=(np.repeat(weight[None], count, axis=0), np.array(last)),
        biases=(np.repeat(bias[None], count, axis=0), np.zeros((count, 1))),
        low=np.full(count, -np.inf),
        high=np.full(count, np.inf),
    )
