"""Pessimism: its law for few draws by enumeration, its limit for many, and what it does with odd scores.

The seeds are fixed, as in `test_laws.py`: a failure is a change of the code. Each law also has wrong neighbours, which
the same test rejects with as many draws.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import combinations_with_replacement, pairwise
from math import factorial, prod

import numpy as np
import pytest
from altered import Altered
from batched import draw_texts, make_tasks
from scipy.optimize import brentq

import italic
from italic.core.errors import RewardError, UsageError
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.core.spec import build_method
from italic.laws import finite
from italic.laws.statistics import chi_square
from italic.laws.weights import effective_sample_size
from italic.methods.best_of_n import BestOfN
from italic.methods.pessimistic import Pessimistic
from italic.methods.sample import Sample
from italic.methods.soft_best_of_n import SoftBestOfN
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward

RIGHT, WRONG = 1e-4, 1e-6
INF, NAN = np.inf, np.nan
SEEDS, DRAWS, MANY = (1, 2), 2000, 100
PROMPT, SAMPLING = Prompt("law", text="an ordinary prompt"), Sampling()
MODEL, SMOOTH, TIED = ToyModel(letters=2, length=2, seed=33), ToyReward(seed=3), ToyReward(seed=3, levels=3)
TEXTS, P = MODEL.law(PROMPT, SAMPLING)
LARGER = ToyModel(letters=3, length=4, seed=1)
PROMPTS = [Prompt(f"p{i}", text="again" if i % 2 else "and again") for i in range(40)]
N, BETA = 4, 0.7


def rewards_of(reward):
    return np.array([reward.of(PROMPT.last, text) for text in TEXTS])


def weights_of(p, r, beta):
    """relu((r - lambda) / beta), lambda found by a search."""
    found = brentq(lambda t: p @ np.maximum((r - t) / beta, 0) - 1, p @ r - beta - 1, r.max(), xtol=1e-15)
    return np.maximum((r - found) / beta, 0)


def optimum(p, r, beta):
    """The chi-square regularised optimum: the limit for many draws."""
    return p * weights_of(p, r, beta)


def law_of(p, r, n, beta):
    """The method's law: over all multisets of n draws."""
    law = np.zeros(len(p))
    for rows in combinations_with_replacement(range(len(p)), n):
        drawn = list(rows)
        chance = factorial(n) / prod(map(factorial, Counter(rows).values())) * prod(p[drawn])
        weights = weights_of(np.full(n, 1 / n), r[drawn], beta)
        np.add.at(law, drawn, chance * weights / weights.sum())
    return law


def counts_of(method, reward, seed, draws=DRAWS):
    seen = Counter(draw_texts(method, make_tasks(MODEL, PROMPT, SAMPLING, seed, draws), MODEL, reward))
    assert seen.keys() <= set(TEXTS)
    return np.array([seen[text] for text in TEXTS])


def run(method, reward=SMOOTH, prompts=PROMPTS, seed=0):
    return [result.outcome for result in italic.align(prompts, LARGER, reward, method, seed=seed).results]


@pytest.mark.parametrize(("beta", "reward"), [(0.2, SMOOTH), (BETA, TIED), (3.0, SMOOTH)], ids=["0.2", "tied", "3"])
def test_the_law_of_few_draws(beta, reward):
    law = law_of(P, rewards_of(reward), N, beta)
    counts = [counts_of(Pessimistic(n=N, beta=beta), reward, seed) for seed in SEEDS]
    assert all(chi_square(c, law).p_value > RIGHT for c in counts)
    assert chi_square(sum(counts), law).p_value > RIGHT


@pytest.mark.parametrize("reward", [SMOOTH, TIED], ids=["smooth", "tied"])
def test_the_law_tends_to_the_optimum(reward):
    r = rewards_of(reward)
    away = [finite.total_variation(law_of(P, r, n, BETA), optimum(P, r, BETA)) for n in (1, 2, 4, 8)]
    assert all(b < 0.75 * a for a, b in pairwise(away)), away


@pytest.mark.parametrize("reward", [SMOOTH, TIED], ids=["smooth", "tied"])
def test_the_law_of_many_draws(reward):
    """It is the optimum, and no other law that it might be taken for."""
    r = rewards_of(reward)
    law = optimum(P, r, BETA)
    assert (law == 0).sum() == 2
    counts = [counts_of(Pessimistic(n=MANY, beta=BETA), reward, seed) for seed in SEEDS]
    assert all(chi_square(c, law).p_value > RIGHT for c in counts)
    assert chi_square(sum(counts), law).p_value > RIGHT
    for wrong in (optimum(P, r, 2 * BETA), optimum(P, r, BETA / 2), finite.tilt(P, r, BETA), law_of(P, r, 3, BETA)):
        assert all(chi_square(c, wrong).p_value < WRONG for c in counts)


@pytest.mark.parametrize(
    "wrong",
    [
        Pessimistic(n=N, beta=2 * BETA),
        Pessimistic(n=N, beta=BETA / 2),
        Pessimistic(n=N + 2, beta=BETA),
        SoftBestOfN(n=N, beta=BETA),
    ],
    ids=str,
)
def test_the_wrong_law_is_rejected(wrong):
    law = law_of(P, rewards_of(SMOOTH), N, BETA)
    assert chi_square(counts_of(wrong, SMOOTH, 6, 2 * DRAWS), law).p_value < WRONG


def test_it_is_the_papers_rejection_on_the_draws_at_hand():
    """Proposing draws uniformly and accepting with probability min(1, w / M) returns them as the weights say."""
    (outcome,) = run(Pessimistic(n=6, beta=BETA), prompts=PROMPTS[:1])
    weights, rng = np.exp(outcome.log_weights), np.random.default_rng(0)
    proposed, luck = rng.integers(6, size=100_000), rng.random(100_000)
    for most in (weights.max(), 2 * weights.max()):
        counts = np.bincount(proposed[luck < np.minimum(weights[proposed] / most, 1)], minlength=6)
        assert chi_square(counts, weights / weights.sum()).p_value > RIGHT


@pytest.mark.parametrize("reward", [SMOOTH, TIED], ids=["smooth", "tied"])
def test_the_ends_of_beta(reward):
    r = rewards_of(reward)
    assert law_of(P, r, N, 1e-5) == pytest.approx(finite.best_of_n(P, r, N), abs=1e-9)
    assert law_of(P, r, N, 1e9) == pytest.approx(P, abs=1e-8)
    top = run(Pessimistic(n=8, beta=1e-9), reward)
    assert [o.reward for o in top] == [o.reward for o in run(BestOfN(n=8), reward)]
    assert any(o.chosen != np.argmax(o.rewards) for o in top), "among equals any may be chosen"
    assert chi_square(counts_of(Pessimistic(n=N, beta=1e9), reward, 3), P).p_value > RIGHT


def test_one_draw_is_plain_sampling():
    plain = [o.drafts.texts for o in run(Sample())]
    assert [o.drafts.texts for o in run(Pessimistic(n=1, beta=0.01))] == plain


def test_more_draws_keep_the_first_ones():
    for few, many in zip(run(Pessimistic(n=8)), run(Pessimistic(n=16)), strict=True):
        assert few.drafts.texts == many.drafts.texts[:8]
        assert np.array_equal(few.rewards, many.rewards[:8])


@pytest.mark.parametrize("beta", [0.05, 0.5, 5.0])
def test_weights_and_certificate(beta):
    for outcome in run(Pessimistic(n=8, beta=beta)):
        weights = np.exp(outcome.log_weights)
        assert weights == pytest.approx(weights_of(np.full(8, 1 / 8), outcome.rewards, beta), abs=1e-9)
        assert weights[outcome.chosen] > 0
        assert outcome.certificate.known() == {"ess": effective_sample_size(outcome.log_weights)}
        assert outcome.certificate.ess >= 8 / (1 + outcome.rewards.var() / beta**2) - 1e-9


def altered(missing, other):
    """Scores of texts that start with a are `missing`, of those that start with b `other`."""

    def alter(texts, rewards, done):
        first = np.where(np.char.startswith(texts, "b"), other, rewards)
        return np.where(np.char.startswith(texts, "a"), missing, first)

    return Altered(alter)


@pytest.mark.parametrize("beta", [0.01, 1.0, 100.0])
def test_missing_scores_are_never_chosen(beta):
    seen = 0
    for outcome in run(Pessimistic(n=8, beta=beta), altered(NAN, 0.3)):
        missing = np.isnan(outcome.rewards)
        seen += missing.sum()
        assert not missing[outcome.chosen]
        assert np.all(outcome.log_weights[missing] == -INF)
        assert np.exp(outcome.log_weights)[~missing].mean() == pytest.approx(1, abs=1e-12)
        assert outcome.certificate.ess <= np.sum(~missing) + 1e-9
    assert seen > 20


def test_every_score_missing_is_an_error():
    with pytest.raises(RewardError, match="missing"):
        run(Pessimistic(), Altered(lambda texts, rewards, done: np.full(len(rewards), NAN)))


def test_infinite_rewards():
    """inf takes all the weight, -inf has none unless there is nothing else; equals have equal chances."""
    for outcome in run(Pessimistic(n=8), altered(-INF, INF)):
        weights, top = np.exp(outcome.log_weights), outcome.rewards == INF
        if top.any():
            assert np.array_equal(weights, top)
            assert outcome.certificate.ess == pytest.approx(top.sum())
        assert top[outcome.chosen] == top.any()
        assert np.all(weights[outcome.rewards == -INF] == 0) or np.all(outcome.rewards == -INF)
    lowest = run(Pessimistic(n=8), Altered(lambda texts, rewards, done: np.full(len(rewards), -INF)))
    assert all(np.array_equal(o.log_weights, np.zeros(8)) for o in lowest)
    assert len({o.chosen for o in lowest}) > 3


def test_constant_rewards_are_plain_sampling():
    outcomes = run(Pessimistic(n=8, beta=0.1), Altered(lambda texts, rewards, done: 2.5))
    assert all(np.array_equal(o.log_weights, np.zeros(8)) for o in outcomes)
    assert all(o.certificate.ess == pytest.approx(8) for o in outcomes)
    assert len({o.chosen for o in outcomes}) > 3


@pytest.mark.parametrize(
    ("values", "message", "hint"),
    [
        ({"n": 0}, "pessimistic with n=0", r"pessimistic:n=16\.$"),
        ({"n": -3}, "pessimistic with n=-3", "1 or more"),
        ({"beta": 0.0}, "with beta=0.0", r"pessimistic:beta=1\. "),
        ({"beta": -1.0}, "with beta=-1.0", "a positive number"),
        ({"beta": INF}, "with beta=inf", "near infinity sample"),
        ({"beta": NAN}, "with beta=nan", "Near 0 it is best-of-n"),
    ],
    ids=str,
)
def test_bad_parameters_are_refused_with_what_to_type(values, message, hint):
    with pytest.raises(UsageError, match=message) as refusal:
        Pessimistic(**values)
    assert re.search(hint, refusal.value.hint)


def test_spec():
    assert build_method("pessimistic:n=4,beta=0.5") == Pessimistic(n=4, beta=0.5)
    assert build_method("pessimistic") == Pessimistic(n=16, beta=1.0)
