"""The law that each method's docstring claims, against exact enumeration on the toy model.

100,000 draws a method: 25,000 for each of four seeds, on a reward without ties, and 10,000 on one with ties. The seeds
are fixed, so a failure is a change of the code; at 1e-4 a test, the 24 tests of right laws fail by chance with
probability 0.003 at most when a change of the randomness draws them anew. Each law also has wrong neighbours, which the
same test must reject with fewer draws.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from batched import draw_texts, make_tasks

from italic.core.outcome import Outcome
from italic.core.prompt import Prompt
from italic.core.questions import extend, score
from italic.core.sampling import Sampling
from italic.laws import finite
from italic.laws.statistics import chi_square
from italic.methods.best_of_n import BestOfN
from italic.methods.rejection import Rejection
from italic.methods.sample import Sample
from italic.methods.soft_best_of_n import SoftBestOfN
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward

SEEDS, DRAWS, FEW = (1, 2, 3, 4), 25_000, 5_000
RIGHT, WRONG = 1e-4, 1e-12
PROMPT, SAMPLING = Prompt("law", text="an ordinary prompt"), Sampling()
MODEL = ToyModel(letters=3, length=3, seed=5)
TEXTS, P = MODEL.law(PROMPT, SAMPLING)
SMOOTH, TIED = ToyReward(seed=1), ToyReward(seed=2, levels=3)
N, BETA = 4, 0.7


def rewards_of(reward):
    return np.array([reward.of(PROMPT.last, text) for text in TEXTS])


def rejection(reward, **changes):
    return Rejection(bound=rewards_of(reward).max(), beta=changes.get("beta", BETA), max_draws=64, parallel=8)


def cases(reward):
    """Each method and the law it claims."""
    r = rewards_of(reward)
    return {
        "sample": (Sample(n=1), P),
        "best-of-n": (BestOfN(n=N), finite.best_of_n(P, r, N)),
        "soft-best-of-n": (SoftBestOfN(n=N, beta=BETA), finite.soft_best_of_n(P, r, N, BETA)),
        "rejection": (rejection(reward), finite.tilt(P, r, BETA)),
    }


def counts_of(method, reward, seed, draws, sampling=SAMPLING):
    seen = Counter(draw_texts(method, make_tasks(MODEL, PROMPT, sampling, seed, draws), MODEL, reward))
    assert seen.keys() <= set(TEXTS)
    return np.array([seen[text] for text in TEXTS])


@pytest.mark.slow
@pytest.mark.parametrize("name", cases(SMOOTH))
def test_law(name):
    method, law = cases(SMOOTH)[name]
    counts = [counts_of(method, SMOOTH, seed, DRAWS) for seed in SEEDS]
    assert all(chi_square(c, law).p_value > RIGHT for c in counts)
    assert chi_square(sum(counts), law).p_value > RIGHT


@pytest.mark.parametrize("name", ["best-of-n", "soft-best-of-n", "rejection"])
def test_law_with_ties(name):
    method, law = cases(TIED)[name]
    assert chi_square(counts_of(method, TIED, 5, 2 * FEW), law).p_value > RIGHT


def test_law_of_the_fallback():
    """Rejection that accepts nothing chooses among its draws as soft best-of-n does."""
    law = finite.soft_best_of_n(P, rewards_of(SMOOTH), 6, BETA)
    hopeless = Rejection(bound=1000, beta=BETA, max_draws=6, parallel=4)
    assert chi_square(counts_of(hopeless, SMOOTH, 7, FEW), law).p_value > RIGHT


@dataclass(frozen=True)
class BestAccepted(Rejection):
    """Takes the best of the accepted instead of the first."""

    def run(self, task):
        drafts = yield from extend(task.start(self.max_draws))
        rewards = yield from score(drafts)
        accepted = np.log(task.key.at("accept").uniform(len(drafts))) < (rewards - self.bound) / self.beta
        return Outcome(drafts, rewards, chosen=int(np.argmax(np.where(accepted, rewards, -np.inf))))


@dataclass(frozen=True)
class ShortestTie(BestOfN):
    """Takes the shortest of equals instead of the first."""

    def run(self, task):
        drafts = yield from extend(task.start(self.n))
        rewards = yield from score(drafts)
        lengths = np.where(rewards == rewards.max(), drafts.steps, 99)
        return Outcome(drafts, rewards, chosen=int(np.argmin(lengths)))


@dataclass(frozen=True)
class LowestBound(Rejection):
    """Starts from a bound that is too low and raises it to the largest reward seen."""

    def run(self, task):
        drafts = yield from extend(task.start(self.max_draws))
        rewards = yield from score(drafts)
        bound = np.maximum.accumulate(rewards)
        accepted = np.log(task.key.at("accept").uniform(len(drafts))) < (rewards - bound) / self.beta
        return Outcome(drafts, rewards, chosen=int(np.argmax(accepted)))


TOP = rewards_of(SMOOTH).max()


@pytest.mark.parametrize(
    ("name", "reward", "wrong", "sampling"),
    [
        ("sample", SMOOTH, Sample(n=1), Sampling(temperature=0.7)),
        ("best-of-n", SMOOTH, BestOfN(n=N + 1), SAMPLING),
        ("best-of-n", TIED, ShortestTie(n=N), SAMPLING),
        ("soft-best-of-n", SMOOTH, SoftBestOfN(n=N, beta=BETA / 2), SAMPLING),
        ("soft-best-of-n", SMOOTH, SoftBestOfN(n=2 * N, beta=BETA), SAMPLING),
        ("rejection", SMOOTH, rejection(SMOOTH, beta=BETA / 1.2), SAMPLING),
        ("rejection", SMOOTH, BestAccepted(bound=TOP, beta=BETA, max_draws=8), SAMPLING),
        ("rejection", SMOOTH, LowestBound(bound=TOP, beta=BETA, max_draws=8), SAMPLING),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_the_wrong_law_is_rejected(name, reward, wrong, sampling):
    law = cases(reward)[name][1]
    assert chi_square(counts_of(wrong, reward, 6, FEW, sampling), law).p_value < WRONG
