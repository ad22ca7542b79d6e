"""The law of calibrate-and-transform training without training: exact given the references, its limits, its refusals.

The seeds are fixed, as in `test_laws.py`; each law also has wrong neighbours, which the same test rejects.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations_with_replacement
from math import factorial, prod

import numpy as np
import pytest
from altered import Altered, each
from batched import draw_texts, make_tasks
from driven import driven, same
from enumerated import Tree

import italic
from calibrations import calibration
from italic.core.errors import MismatchError, RewardError, SpecError, UsageError
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.core.spec import build_method, method_name, method_spec
from italic.laws import finite
from italic.laws.finite_tilt import beta_at
from italic.laws.inference_aware import exponential, fixed_point, identity, log
from italic.laws.procedures import best_of_n, plain, worst_of_n
from italic.laws.quantile import counts
from italic.laws.statistics import chi_square
from italic.methods.tilted import Tilted
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.align import make_tasks as make_all
from italic.run.ledger import Budget

RIGHT, WRONG, DRAWS = 1e-4, 1e-6, 20_000
TREE = Tree(ToyModel(letters=3, length=3, seed=5), beta=1.0)
TIED = Tree(TREE.model, beta=1.0, given=np.round(TREE.r))
LARGE = Tree(ToyModel(letters=26, length=2, seed=2, spread=0.3), beta=1.0)
SMALL = ToyModel(letters=1, length=2, seed=1)
TRANSFORMS = {
    "identity": identity(),
    "log": log(),
    "exp:t=10": exponential(10),
    "exp:t=-5": exponential(-5),
}


def drawn(tree, k, seed=0):
    """k reference rewards of a tree's prompt."""
    return np.random.default_rng(seed).choice(tree.r, size=k, p=tree.p / tree.p.sum())


def of_tree(tree, k, seed=0):
    return calibration([tree.prompt], [drawn(tree, k, seed)], sampling=tree.sampling)


def law(tree, reference, transform, beta):
    """p exp(Phi / beta) / Z."""
    phi = transform.estimate(counts(reference, tree.r)) / beta
    weights = tree.p * np.exp(phi - phi.max())
    return weights / weights.sum()


@pytest.mark.parametrize("tree", [TREE, TIED], ids=["smooth", "tied"])
@pytest.mark.parametrize("spec", TRANSFORMS)
def test_law_given_the_references(tree, spec):
    transform, reference = TRANSFORMS[spec], drawn(tree, 200)
    beta = beta_at(transform.tables(200), 0.8)
    method = Tilted(of_tree(tree, 200), transform=spec, kl=0.8, n=DRAWS)
    seen = tree.counts(method, 1)
    assert chi_square(seen, law(tree, reference, transform, beta)).p_value > RIGHT
    wrong = [beta * 1.3, beta / 1.3]
    assert all(chi_square(seen, law(tree, reference, transform, other)).p_value < WRONG for other in wrong)
    assert chi_square(seen, tree.p).p_value < WRONG
    others = [other for name, other in TRANSFORMS.items() if name != spec]
    for other in others:
        theirs = law(tree, reference, other, beta_at(other.tables(200), 0.8))
        assert chi_square(seen, theirs).p_value < WRONG
    by_beta = replace(method, kl=None, beta=beta)
    assert np.array_equal(tree.counts(by_beta, 1), seen)


@pytest.mark.parametrize(
    ("procedure", "spec"), [(best_of_n(4), "best-of-n:n=4"), (worst_of_n(4), "worst-of-n:n=4"), (plain(), "sample")]
)
def test_the_fixed_point_is_that_of_the_procedure(procedure, spec):
    transform, reference = fixed_point(procedure, 0.5), drawn(TREE, 100)
    method = Tilted(of_tree(TREE, 100), procedure=spec, kl=0.5, n=DRAWS)
    expected = law(TREE, reference, transform, beta_at(transform.tables(100), 0.5))
    assert chi_square(TREE.counts(method, 2), expected).p_value > RIGHT


def test_law_with_references_drawn_on_the_spot():
    """Every prompt has references of its own, so that the law is the mean over all sets of them."""
    sampling, prompt, reward, k, beta = Sampling(), Prompt("law", text="an ordinary prompt"), ToyReward(seed=1), 3, 0.3
    texts, p = SMALL.law(prompt, sampling)
    r = np.array([reward.of(prompt.last, text) for text in texts])
    expected = np.zeros(len(p))
    for rows in combinations_with_replacement(range(len(p)), k):
        chance = factorial(k) / prod(factorial(rows.count(i)) for i in set(rows)) * prod(p[list(rows)])
        phi = identity().estimate(counts(r[list(rows)], r)) / beta
        expected += chance * p * np.exp(phi) / (p @ np.exp(phi))
    method = Tilted(transform="identity", beta=beta, references=k)
    found = draw_texts(method, make_tasks(SMALL, prompt, sampling, 3, 4000), SMALL, reward)
    seen = np.array([found.count(text) for text in texts])
    assert chi_square(seen, expected).p_value > RIGHT
    assert chi_square(seen, p).p_value < WRONG


def test_little_divergence_is_the_model():
    for spec in TRANSFORMS:
        seen = TREE.counts(Tilted(of_tree(TREE, 200), transform=spec, kl=1e-6, n=DRAWS), 4)
        assert chi_square(seen, TREE.p).p_value > RIGHT


@pytest.mark.parametrize("n", [2, 4, 8])
def test_the_logarithm_is_about_best_of_n(n):
    """As far as atoms allow: 703 responses, the likeliest of which has 0.05."""
    mine = law(LARGE, drawn(LARGE, 5000), log(), 1 / (n - 1))
    best = finite.best_of_n(LARGE.p, LARGE.r, n)
    assert np.abs(mine - best).sum() / 2 < 0.01
    assert np.abs(LARGE.p - best).sum() / 2 > 0.2
    method = Tilted(of_tree(LARGE, 5000), transform="log", beta=1 / (n - 1), n=4000)
    outcome = LARGE.drive(method, 5)
    assert outcome.certificate.mean_draws == pytest.approx(n, rel=0.1)
    assert outcome.certificate.kl == pytest.approx(np.log(n) - (n - 1) / n, abs=0.01)


@pytest.mark.parametrize(("spec", "draws"), [("identity", 7.35), ("log", 6.31), ("exp:t=10", 21.2)])
def test_what_an_answer_costs_at_one_nat(spec, draws):
    method = Tilted(of_tree(LARGE, 5000), transform=spec, kl=1.0, n=4000)
    certificate = LARGE.drive(method, 6).certificate
    assert certificate.mean_draws == pytest.approx(draws, rel=0.08)
    assert certificate.acceptance == pytest.approx(1 / certificate.mean_draws)
    assert (certificate.kl, certificate.exhaustion_rate, certificate.accepted) == (1.0, 0, 4000)
    assert certificate.tv is None


def test_the_fallback():
    """Nothing can beat references of inf, so that nothing is accepted: an answer is one of its six draws, by weight."""
    reference = np.concatenate([drawn(TREE, 100), np.full(100, np.inf)])
    known, beta = calibration([TREE.prompt], [reference], sampling=TREE.sampling), 0.01
    method = Tilted(known, transform="identity", beta=beta, n=DRAWS, max_draws=6)
    outcome = TREE.drive(method, 7)
    phi = identity().estimate(counts(reference, TREE.r))
    seen = np.bincount(TREE.node(outcome.drafts), minlength=TREE.model.nodes)
    certificate = outcome.certificate
    assert chi_square(seen, finite.soft_best_of_n(TREE.p, phi, 6, beta)).p_value > RIGHT
    assert (certificate.exhaustion_rate, certificate.acceptance, certificate.mean_draws) == (1, 0, 6)
    assert np.array_equal(outcome.rewards, TREE.r[TREE.node(outcome.drafts)])


MODEL, REWARD, LONG = ToyModel(), ToyReward(seed=1), Sampling(max_tokens=6)
PROMPTS = [Prompt(f"p{i}", text=f"prompt {i}") for i in range(6)]
EASY = Tilted(transform="exp:t=5", kl=1.0, references=8, n=2)


def go(method, reward=REWARD, prompts=PROMPTS, budget=None, seed=0):
    return driven(make_all(prompts, MODEL, seed, LONG), method, MODEL, reward=reward, budget=budget)


def of_prompts(**changes):
    rewards = [np.random.default_rng(i).normal(size=20) for i in range(len(PROMPTS))]
    return replace(calibration(PROMPTS, rewards, MODEL.name, REWARD.name, LONG), **changes)


@pytest.mark.parametrize("known", [None, of_prompts()], ids=["drawn", "calibrated"])
def test_how_many_are_drawn_at_once_changes_the_cost_alone(known):
    method = replace(EASY, calibration=known, references=None if known else 8)
    usual, spent = go(method)
    for parallel in (1, 3, 500):
        others, other = go(replace(method, parallel=parallel))
        for mine, theirs in zip(usual, others, strict=True):
            same(mine, theirs)
            assert mine.certificate == theirs.certificate
        assert parallel >= 64 or other.tokens_generated <= spent.tokens_generated


def test_references_are_paid_for():
    without, _ = go(replace(EASY, calibration=of_prompts(), references=None, parallel=1))
    for outcome, other in zip(go(replace(EASY, parallel=1))[0], without, strict=True):
        usage = outcome.usage
        assert usage.reward_calls + usage.reward_cached == 8 + outcome.certificate.proposals
        assert other.usage.reward_calls + other.usage.reward_cached == other.certificate.proposals


def test_a_file_is_the_calibration(tmp_path):
    known = of_prompts()
    known.save(tmp_path / "c.parquet")
    method = build_method(f"tilted:calibration={tmp_path / 'c.parquet'},transform=exp:t=10,kl=1")
    assert method.made_for == (MODEL.name, REWARD.name)
    assert method.needs == {"texts"}
    for mine, theirs in zip(go(method)[0], go(replace(method, calibration=known))[0], strict=True):
        same(mine, theirs)
    with pytest.raises(MismatchError, match="was fitted to"):
        italic.align(["prompt 1"], MODEL, ToyReward(seed=2), method)
    with pytest.raises(UsageError, match=r"max_tokens 9, there 6"):
        italic.align(["prompt 1"], MODEL, REWARD, method, sampling=Sampling(max_tokens=9))
    with pytest.raises(UsageError, match="prompt 'new' is not in the calibration"):
        go(method, prompts=[Prompt("new", text="new")])


def test_missing_references_are_left_out():
    some = np.array([0.0, np.nan, 1.0, np.nan, -1.0])
    mine, theirs = (
        go(Tilted(calibration(PROMPTS, [own] * 6, sampling=LONG), transform="log", beta=0.5))[0]
        for own in (some, some[~np.isnan(some)])
    )
    for one, other in zip(mine, theirs, strict=True):
        same(one, other)
    with pytest.raises(UsageError, match="no reference reward of prompt 'p0'"):
        go(Tilted(calibration(PROMPTS, [np.full(3, np.nan)] * 6, sampling=LONG), transform="log", beta=0.5))
    with pytest.raises(UsageError, match="3 reference rewards reach"):
        go(Tilted(calibration(PROMPTS, [some] * 6, sampling=LONG), transform="log", kl=1.9))


def test_missing_scores_are_never_accepted():
    holes = Altered(each(lambda text, reward: np.nan if text.startswith("a") else reward))
    for outcome in go(replace(EASY, n=20), reward=holes)[0]:
        assert not np.isnan(outcome.rewards).any()
        assert not any(text.startswith("a") for text in outcome.drafts.texts)
        assert outcome.certificate.proposals > 40
    with pytest.raises(RewardError, match="is missing"):
        go(EASY, reward=Altered(lambda texts, rewards, done: np.nan))
    nothing = Altered(lambda texts, rewards, done: np.nan)
    with pytest.raises(RewardError, match="proposals is missing"):
        go(Tilted(calibration(PROMPTS, [np.arange(4.0)] * 6, sampling=LONG), kl=0.5, max_draws=5), reward=nothing)


def test_a_budget_ends_it_with_what_there_is():
    whole = go(EASY)[1].tokens_generated
    seen = set()
    for left in range(1, whole, 37):
        outcomes, usage = go(EASY, budget=Budget(tokens=left))
        assert usage.tokens_generated <= left
        for outcome in outcomes:
            seen.add(outcome.complete)
            assert outcome.chosen is None or outcome.complete <= bool(outcome.drafts.done[outcome.chosen])
    assert seen == {True, False}


def test_a_spec_says_it_all():
    for spec in ("tilted:kl=1", "tilted:beta=0.3,transform=exp:t=10,procedure=best-of-n:n=4,n=3,references=9"):
        method = build_method(spec)
        assert build_method(method_spec(method, method_name(method))) == method
    assert build_method(spec) == Tilted(transform="exp:t=10", procedure="best-of-n:n=4", beta=0.3, n=3, references=9)
    assert (method.made_for, method.needs) == (None, frozenset())


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("tilted", "Give one of them"),
        ("tilted:kl=1,beta=1", "Give one of them"),
        ("tilted:kl=0", "kl=0"),
        ("tilted:beta=-1,transform=log", "beta=-1"),
        ("tilted:kl=inf", "kl=inf"),
        ("tilted:kl=nan", "kl=nan"),
        ("tilted:kl=1,n=0", "n=0"),
        ("tilted:kl=1,references=0", "references=0"),
        ("tilted:kl=1,max_draws=0", "max_draws=0"),
        ("tilted:kl=1,parallel=0", "parallel=0"),
        ("tilted:kl=1,calibration=c.parquet,references=8", "has them already"),
        ("tilted:beta=1", "best at one divergence"),
        ("tilted:kl=4.8", "64 reference rewards reach more than"),
        ("tilted:kl=1,references=1", "1 reference rewards reach"),
        ("tilted:kl=30", "a KL of 30 nats"),
    ],
)
def test_what_cannot_be_is_refused(spec, why):
    with pytest.raises(UsageError, match=why):
        build_method(spec)


@pytest.mark.parametrize("spec", ["tilted:kl=1,transform=square", "tilted:kl=1,procedure=best-of-n"])
def test_unknown_names_are_refused(spec):
    with pytest.raises(SpecError, match="there is no"):
        build_method(spec)


def test_a_calibration_that_is_not_there():
    with pytest.raises(UsageError, match=r"there is no calibration 'no\.parquet'"):
        italic.align(["a"], MODEL, REWARD, "tilted:kl=1,calibration=no.parquet")
