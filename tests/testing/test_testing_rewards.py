"""The reward checks: registered rewards pass them, and for each check there is a broken reward that fails it."""

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from calibrations import calibration
from italic.core.protocols import Scored
from italic.core.registry import entries
from italic.rewards import combine
from italic.rewards.calibrated import Calibrated
from italic.rewards.classifier import Checkpoint, ClassifierReward
from italic.rewards.function import FunctionReward
from italic.rewards.region import Region
from italic.rewards.toy import ToyReward
from italic.testing import applicable, reward_checks
from italic.testing import rewards as suite
from italic.testing.rewards import toy_batches

sys.path.append(str(Path(__file__).parents[1] / "rewards"))
import tiny


def classifier(**options):
    return ClassifierReward(Checkpoint.of(tiny.model("llama"), tiny.tokenizer()), **options)


def calibrated(**options):
    """The toy reward, calibrated on the prompts of the suite."""
    inner, prompts, rng = ToyReward(seed=1), [batch.prompt for batch in toy_batches()], np.random.default_rng(0)
    known = calibration(prompts, [rng.normal(size=30) for _ in prompts], reward=inner.name)
    return Calibrated(inner, known, **options)


MAKERS = {
    "toy": ToyReward,
    "function": lambda: FunctionReward(lambda completions: [float(len(c)) for c in completions], partial=True),
    "combine": lambda: combine.load([(0.5, ToyReward()), (2.0, ToyReward(seed=1))]),
    "classifier": classifier,
    "classifier, plain": lambda: classifier(incremental=False),
    "classifier, merged": lambda: classifier(merge=True, batch=3),
    "calibrated": calibrated,
    "calibrated, transformed": lambda: calibrated(transform="log"),
    "ensemble": lambda: combine.Ensemble((ToyReward(), ToyReward(seed=1), ToyReward(seed=2)), k=0.5),
    "region": lambda: Region(scale=2.0, below=-1.0),
    "region, the other axis": lambda: Region(above=3.0, axis=1),
    "function with missing scores": lambda: FunctionReward(lambda completions: [len(c) or None for c in completions]),
}


@cache
def made(name):
    return MAKERS[name]()


def test_every_registered_reward_is_checked():
    ours = {name for name, entry in entries("rewards").items() if entry.module.startswith("italic.")}
    assert ours <= set(MAKERS), "say in MAKERS how to make the new reward"


@pytest.mark.parametrize(
    ("name", "check"),
    [(name, check) for name in MAKERS for check in reward_checks],
    ids=lambda v: getattr(v, "__name__", str(v)),
)
def test_registered_rewards_pass(name, check):
    reward = made(name)
    if not applicable([check], reward):
        assert not reward.partial
        return
    check(reward)


@dataclass
class Odd:
    """A reward of lengths with something wrong: in how it scores all texts of a call, or in what it answers."""

    of: object = staticmethod(lambda batches: [[float(len(t)) for t in b.texts] for b in batches])
    answer: object = staticmethod(lambda answers: answers)
    name: str = "odd"
    needs: frozenset[str] = frozenset({"texts"})
    partial: bool = True
    deterministic: bool = True

    def score(self, batches):
        scores = [np.array(s, dtype=np.float64) for s in self.of(batches)]
        return self.answer([Scored(s, np.isnan(s)) for s in scores])


def counting():
    calls = iter(range(1_000))

    def of(batches):
        call = next(calls)
        return [[call] * len(b) for b in batches]

    return Odd(of)


def scribble(batches):
    for batch in batches:
        batch.seeds[:] = 0
    return [[0.0] * len(b) for b in batches]


def each(change):
    return Odd(answer=lambda answers: [change(s) for s in answers])


BROKEN = [
    (suite.it_says_what_it_is, lambda: Odd(name=""), "name is ''"),
    (suite.it_says_what_it_is, lambda: Odd(needs={"texts"}), "needs is a set"),
    (suite.it_says_what_it_is, lambda: Odd(needs=frozenset({"magic"})), "needs magic"),
    (suite.it_says_what_it_is, lambda: Odd(partial=None), "partial is None"),
    (suite.it_says_what_it_is, lambda: Odd(deterministic=1), "deterministic is 1"),
    (suite.every_draft_has_a_score, lambda: Odd(answer=lambda a: a[:-1]), "3 answers to 4 batches"),
    (suite.every_draft_has_a_score, lambda: each(lambda s: Scored(s.rewards[1:], s.missing)), "rewards of shape"),
    (
        suite.every_draft_has_a_score,
        lambda: each(lambda s: Scored(s.rewards.astype(np.float32), s.missing)),
        "float32, not float64",
    ),
    (suite.every_draft_has_a_score, lambda: each(lambda s: Scored(s.rewards, s.missing[1:])), "missing of shape"),
    (suite.every_draft_has_a_score, lambda: each(lambda s: Scored(s.rewards, s.missing * 1)), "not bool"),
    (
        suite.every_draft_has_a_score,
        lambda: each(lambda s: Scored(s.rewards * np.nan, s.missing)),
        "NaN but not missing",
    ),
    (suite.every_draft_has_a_score, lambda: each(lambda s: Scored(s.rewards, s.missing, -1)), "tokens is -1"),
    (suite.every_draft_has_a_score, lambda: each(lambda s: Scored(s.rewards, ~s.missing)), "every score is missing"),
    (suite.drafts_are_left_alone, lambda: Odd(scribble), "scoring changed the drafts"),
    (suite.asking_again_gives_the_same_score, counting, "scored again"),
    (
        suite.asking_again_gives_the_same_score,
        lambda: Odd(lambda batches: [list(np.arange(len(b)) % 2) for b in batches]),
        "every draft twice",
    ),
    (
        suite.a_batch_of_one_is_a_batch_of_many,
        lambda: Odd(lambda batches: [[float(len(b))] * len(b) for b in batches]),
        "row 0 alone",
    ),
    (
        suite.batches_do_not_depend_on_one_another,
        lambda: Odd(lambda batches: [[float(len(batches))] * len(b) for b in batches]),
        "alone, compared with all at once",
    ),
    (
        suite.batches_do_not_depend_on_one_another,
        lambda: Odd(lambda batches: [[float(i)] * len(b) for i, b in enumerate(batches)]),
        "in reverse order",
    ),
    (
        suite.rows_in_another_order_have_their_own_scores,
        lambda: Odd(lambda batches: [list(range(len(b))) for b in batches]),
        "rows in reverse order",
    ),
    (
        suite.unfinished_drafts_have_scores,
        lambda: Odd(lambda batches: [[1.0 if d else np.nan for d in b.done] for b in batches]),
        "unfinished drafts is missing",
    ),
]


@pytest.mark.parametrize(("check", "make", "message"), BROKEN, ids=lambda v: getattr(v, "__name__", ""))
def test_broken_rewards_fail(check, make, message):
    with pytest.raises(AssertionError, match=message):
        check(make())


def test_every_check_has_a_broken_reward():
    assert {check for check, _, _ in BROKEN} == set(reward_checks)


@pytest.mark.parametrize("check", reward_checks, ids=lambda c: c.__name__)
def test_the_odd_reward_without_oddities_passes(check):
    check(Odd())


@dataclass
class OddPoints:
    """How far a point is from the origin, or what `of` says of the points of a batch; it must not see a text."""

    of: object = staticmethod(lambda x: np.sqrt(np.sum(x * x, axis=1)))
    name: str = "odd points"
    needs: frozenset[str] = frozenset({"latents"})
    partial: bool = True
    deterministic: bool = True

    def score(self, batches):
        scores = [self.of(b.x) for b in batches]
        return [Scored(s, np.isnan(s)) for s in scores]


@pytest.mark.parametrize("check", reward_checks, ids=lambda c: c.__name__)
def test_rewards_of_points_are_checked_with_points(check):
    check(OddPoints())


@pytest.mark.parametrize(
    ("check", "of"),
    [
        (suite.asking_again_gives_the_same_score, lambda x: np.arange(len(x)) % 2.0),
        (suite.a_batch_of_one_is_a_batch_of_many, lambda x: x[:, 0] - x[:, 0].mean()),
        (suite.rows_in_another_order_have_their_own_scores, lambda x: np.arange(len(x)) * 1.0),
        (suite.drafts_are_left_alone, lambda x: np.add(x, 1, out=x)[:, 0]),
        (suite.unfinished_drafts_have_scores, lambda x: np.full(len(x), np.nan)),
    ],
    ids=lambda v: getattr(v, "__name__", ""),
)
def test_broken_rewards_of_points_fail(check, of):
    with pytest.raises(AssertionError, match=r"row|every draft|every score|scoring changed"):
        check(OddPoints(of))


def test_the_points_tell_the_sides_of_a_region_apart():
    finished = suite.default_batches(Region(below=0.0))
    assert all(b.done.all() for b in finished)
    for axis in (0, 1):
        (scored, _) = Region(above=0.0, axis=axis).score(finished)
        assert 0 < scored.rewards.sum() < 6
    assert not any(b.done.any() for b in suite.unfinished_batches(Region(below=0.0)))


def test_checks_apply_to_what_is_declared():
    checks = applicable(reward_checks, Odd(partial=False, deterministic=False))
    assert suite.unfinished_drafts_have_scores not in checks
    assert suite.asking_again_gives_the_same_score not in checks
    assert suite.every_draft_has_a_score in checks
