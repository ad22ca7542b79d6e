"""The law that the cascade claims, segment by segment, against exact enumeration on the toy model.

A segment's ends are listed by walking the tree until a node of large entropy; the law of the first accepted try, and of
the best where all were rejected, is written out from the acceptance probabilities alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
from enumerated import ROOT, Tree

from italic.core.keys import Key
from italic.core.outcome import Outcome
from italic.core.protocols import Task
from italic.laws.statistics import chi_square
from italic.methods.cascade import Cascade
from italic.models.toy import ToyModel
from italic.run.ledger import Ledger
from italic.run.lockstep import lockstep

DRAWS, FEW, RIGHT, WRONG = 3_000, 1_200, 1e-4, 1e-12
TREE = Tree(ToyModel(letters=3, length=3, seed=26), beta=1.0)
LONGEST = TREE.sampling.max_tokens
BASE = {"r_star": 1.6, "tau_u": 1.15, "beta": 0.4, "min_segment": 1, "max_segment": 3, "tries": 200, "alpha": 0.0}


def cascade(kind: type[Cascade] = Cascade, **changes: float) -> Cascade:
    return kind(**(BASE | changes))


CASES = {
    "entropy": cascade(),
    "exhausted": cascade(beta=0.2, tries=2, alpha=0.5),
    "min-segment": cascade(tau_u=0, min_segment=2, alpha=0.5),
    "fixed": cascade(tau_u=np.inf, max_segment=2, alpha=1),
    "no-tries": cascade(tries=0),
}


def depths() -> np.ndarray:
    return np.array([len(text) for text in TREE.model.prefixes()])


def segments(method: Cascade, v: int) -> list[tuple[int, bool, float]]:
    """What the next segment after prefix v can be: its node, whether the response is finished, its probability."""
    ends, growing, grown = [], [(v, 1.0)], 0
    while growing:
        longer = [(w, done, mass * p) for u, mass in growing for w, done, p in TREE.ahead(u)]
        grown, growing = grown + 1, []
        for w, done, mass in longer:
            unsure = grown >= method.min_segment and TREE.table.entropy[w] >= method.tau_u
            if done or unsure or grown == method.max_segment:
                ends.append((w, done, mass))
            else:
                growing.append((w, mass))
    return ends


def law_of_best(free: np.ndarray, rejected: np.ndarray, m: int, r: np.ndarray) -> np.ndarray:
    """The best of m draws of one law and then one of another, the first drawn among equals."""
    law = np.zeros_like(free)
    for i, height in enumerate(r):
        less, most = rejected[r < height].sum(), rejected[r <= height].sum()
        law[i] = less**m * free[i]
        law[i] += sum(less**j * rejected[i] * most ** (m - 1 - j) for j in range(m)) * free[r <= height].sum()
    return law


def kernel(method: Cascade, own: float, ends: list[tuple[int, bool, float]]) -> np.ndarray:
    """The law of a segment over its ends."""
    p = np.array([mass for *_, mass in ends])
    r = np.array([TREE.r[w] for w, *_ in ends])
    t = np.array([LONGEST if done else depths()[w] for w, done, _ in ends])
    start = (1 - method.alpha) * own + method.alpha * method.r_star
    tau = np.minimum(start + t * (method.r_star - start) / LONGEST, method.r_star)
    a = np.minimum(1, np.exp((r - tau) / method._beta))
    chance, rejected = p @ a, p * (1 - a)
    if chance >= 1 - 1e-12:
        return p
    accepted = p * a / chance * (1 - (1 - chance) ** method.tries)
    return accepted + (1 - chance) ** method.tries * law_of_best(p, rejected / rejected.sum(), method.tries, r)


@cache
def law(name: str) -> np.ndarray:
    """The law of the response."""
    method, under_way, ended = CASES[name], np.zeros(TREE.model.nodes), np.zeros(TREE.model.nodes)
    under_way[ROOT] = 1.0
    for v in range(TREE.model.nodes):
        if under_way[v]:
            ends = segments(method, v)
            for (w, done, _), chance in zip(ends, kernel(method, TREE.r[ROOT], ends), strict=True):
                (ended if done else under_way)[w] += under_way[v] * chance
    assert ended.sum() == pytest.approx(1)
    return ended


def outcomes(method: Cascade, seed: int, n: int) -> list[Outcome]:
    """Runs with randomness of their own."""
    root = Key(seed)

    def begin(seeds, _=None):
        return TREE.model.start(TREE.prompt, seeds, TREE.sampling)

    tasks = [Task(TREE.prompt, root.at(i), begin) for i in range(n)]
    return [r.outcome for r in lockstep(tasks, method, TREE.model, TREE.reward, Ledger(), window=2000)]


def p_value(found: list[Outcome], wanted: np.ndarray) -> float:
    nodes = [int(TREE.node(outcome.drafts)[0]) for outcome in found]
    return chi_square(np.bincount(nodes, minlength=TREE.model.nodes), wanted).p_value


def test_the_cases_differ_and_cut() -> None:
    """There are segments of several lengths, and no case is another one, or plain sampling, in disguise."""
    lengths = {depths()[w] for w, done, _ in segments(CASES["entropy"], ROOT) if not done}
    assert len(lengths) > 1
    laws = [TREE.p, *(law(name) for name in CASES if name != "no-tries")]
    distances = [np.abs(one - other).sum() / 2 for i, one in enumerate(laws) for other in laws[:i]]
    assert min(distances) > 0.04
    assert np.allclose(law("no-tries"), TREE.p)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_law(name: str) -> None:
    assert p_value(outcomes(CASES[name], 1, DRAWS), law(name)) > RIGHT


@dataclass(frozen=True)
class BestOfFour(Cascade):
    """Takes the best of four responses."""

    def run(self, task):
        best = None
        for i in range(4):
            found = yield from super().run(Task(task.prompt, task.key.at(i), task.begin))
            best = found if best is None or found.reward > best.reward else best
        return best


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("entropy", cascade(beta=0.6)),
        ("entropy", cascade(min_segment=2)),
        ("entropy", cascade(alpha=1)),
        ("exhausted", cascade(beta=0.2, tries=3, alpha=0.5)),
        ("entropy", cascade(BestOfFour)),
    ],
    ids=["beta", "min-segment", "alpha", "tries", "best-of-four"],
)
def test_the_wrong_law_is_rejected(name: str, wrong: Cascade) -> None:
    assert p_value(outcomes(wrong, 2, FEW), law(name)) < WRONG


def divergence(q: np.ndarray) -> float:
    seen = q > 0
    return float(np.sum(q[seen] * np.log(q[seen] / TREE.p[seen])))


@pytest.mark.parametrize("name", ["entropy", "fixed", "exhausted"])
def test_the_mean_of_the_estimates_is_the_divergence(name: str) -> None:
    """Without exhaustion it is unbiased; with it, it is not below."""
    kl = np.array([outcome.certificate.kl for outcome in outcomes(CASES[name], 3, FEW)])
    error = kl.std() / np.sqrt(len(kl))
    above = (kl.mean() - divergence(law(name))) / error
    assert above > -4
    if name != "exhausted":
        assert above < 4
        assert error < divergence(law(name)) / 10


def test_how_many_are_drawn_at_once_changes_only_the_cost() -> None:
    def told(method: Cascade) -> list:
        found = outcomes(method, 4, 50)
        return sorted((o.drafts.texts[0], o.reward, o.certificate.kl, o.certificate.proposals) for o in found)

    few, many = cascade(parallel=1), cascade(parallel=64, eager=9)
    assert told(few) == told(many)
    spent = [sum(o.usage.tokens_generated for o in outcomes(method, 4, 50)) for method in (few, many)]
    assert spent[0] < spent[1]
