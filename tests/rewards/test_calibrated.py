"""A reward's quantile among the reference rewards of a prompt: its numbers, its file, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest

from calibrations import calibration as of_prompts
from italic.core.errors import ProgramError, RewardError, SpecError, UsageError
from italic.core.prompt import Prompt
from italic.core.protocols import Reward, Scored
from italic.core.spec import build_reward
from italic.laws.inference_aware import exponential, fixed_point, log
from italic.laws.procedures import best_of_n
from italic.laws.quantile import counts
from italic.rewards.calibrated import Calibrated
from italic.rewards.combine import WeightedSum
from italic.rewards.toy import ToyReward
from italic.values.calibration import Calibration

NAN, INF = np.nan, np.inf


class Fixed:
    """A reward of given scores by text; a text without one is missing."""

    needs = frozenset({"texts"})
    partial = True
    deterministic = True

    def __init__(self, name="fixed", **scores):
        self.name, self.scores = name, scores

    def score(self, batches):
        found = [np.array([self.scores.get(text, NAN) for text in batch.texts], dtype=np.float64) for batch in batches]
        return [Scored(rewards, np.isnan(rewards), 7) for rewards in found]


class Given(Fixed):
    """Says what it is given, whatever it is asked."""

    def __init__(self, *answers):
        super().__init__()
        self.answers = answers

    def score(self, batches):
        return list(self.answers)


def calibration(reward="fixed", settings=None, **rewards):
    """Reference rewards by prompt."""
    prompts = [Prompt(name, text=name) for name in rewards]
    return of_prompts(prompts, list(rewards.values()), reward=reward, settings=settings)


KNOWN = calibration(p=[1, 2, 2, 4], q=[10, 20, NAN])
SCORES = {"a": 0.0, "b": 1.0, "c": 2.0, "d": 3.0, "e": INF, "f": -INF}


def test_the_mid_rank_among_the_prompts_own_references(write):
    reward = Calibrated(Fixed(**SCORES), KNOWN)
    assert isinstance(reward, Reward)
    first, second, empty = reward.score([write("p", list("abcdefg")), write("q", ["d", "e"]), write("p", [])])
    assert first.rewards[:6].tolist() == [0, 1 / 8, 1 / 2, 3 / 4, 1, 0]
    assert first.missing.tolist() == [False] * 6 + [True]
    assert np.isnan(first.rewards[6])
    assert second.rewards.tolist() == [0, 1], "among the two references that are there"
    assert (first.tokens, len(empty.rewards)) == (7, 0)
    assert (reward.partial, reward.deterministic, reward.needs) == (False, True, {"texts"})
    assert reward.name == "calibrated(fixed;toy;samples=5;seed=3;identity)"


def test_a_prompt_is_known_by_what_it_asks(write):
    reward = Calibrated(Fixed(**SCORES), KNOWN)
    (again,) = reward.score([write(Prompt("other id", text="p"), ["d"])])
    assert again.rewards.tolist() == [3 / 4]


@pytest.mark.parametrize(
    ("changes", "transform", "told"),
    [
        ({"transform": "log"}, log(), "log"),
        ({"transform": "exp:t=3"}, exponential(3), "exp:t=3"),
        (
            {"transform": "fixed-point", "procedure": "best-of-n:n=4", "kl": 0.5},
            fixed_point(best_of_n(4), 0.5),
            "fixed-point;best-of-n:n=4;kl=0.5",
        ),
    ],
)
def test_a_transform_is_estimated(write, changes, transform, told):
    reward = Calibrated(Fixed(**SCORES), KNOWN, **changes)
    (scored,) = reward.score([write("p", list("abcdef"))])
    rewards = np.array(list(SCORES.values()))
    assert scored.rewards.tolist() == transform.estimate(counts(np.array([1.0, 2, 2, 4]), rewards)).tolist()
    assert reward.name.endswith(f";{told})")


def test_what_cannot_be_scored_is_refused(write):
    reward = Calibrated(Fixed(**SCORES), calibration(p=[1], gone=[NAN, NAN]))
    with pytest.raises(RewardError, match="prompt 'new' is not in the calibration") as failure:
        reward.score([write("p", ["a"]), write("new", ["a"])])
    assert "italic calibrate" in failure.value.hint
    with pytest.raises(RewardError, match="no reference reward of prompt 'gone'"):
        reward.score([write("gone", ["a"])])
    nan = Given(Scored(np.array([NAN]), np.array([False])))
    with pytest.raises(RewardError, match="fixed is NaN for prompt 'p'"):
        Calibrated(nan, KNOWN).score([write("p", ["a"])])
    with pytest.raises(ProgramError, match="one score a draft"):
        Calibrated(Given(), KNOWN).score([write("p", ["a"])])


def test_bad_parameters_are_refused():
    with pytest.raises(SpecError, match="the calibration is of the reward fixed, and this is other"):
        Calibrated(Fixed("other"), KNOWN)
    for changes in ({"transform": "square"}, {"procedure": "best"}):
        with pytest.raises(SpecError, match="there is no"):
            Calibrated(Fixed(), KNOWN, **changes)
    with pytest.raises(UsageError, match="best at one divergence"):
        Calibrated(Fixed(), KNOWN, transform="fixed-point")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "runs" / "c.parquet"
    calibration("toy:seed=1,scale=1", {"reward": "toy:seed=1"}, p=[-1, 0, 1]).save(path)
    return path


def test_a_spec_knows_the_reward_from_the_file(file, write):
    batch = write("p", ["x", "y"])
    inner = ToyReward(seed=1)
    expected = Calibrated(inner, Calibration.load(file)).score([batch])[0].rewards.tolist()
    for spec in (f"calibrated:{file}", f"calibrated:{file},reward=toy:seed=1"):
        reward = build_reward(spec)
        assert (reward.inner, reward.transform) == (inner, "identity")
        assert reward.score([batch])[0].rewards.tolist() == expected
    other = build_reward(f"calibrated:{file},transform=exp:t=10,procedure=best-of-n:n=4,kl=1")
    assert (other.transform, other.procedure, other.kl) == ("exp:t=10", "best-of-n:n=4", 1.0)
    total = build_reward(f"0.5*calibrated:{file} + 2*toy:seed=1")
    assert isinstance(total, WeightedSum)
    assert [type(part) for part in total.parts] == [Calibrated, ToyReward]


def test_the_name_serves_where_the_spec_is_not_kept(tmp_path):
    calibration("toy:seed=1,levels=3,scale=1", p=[0]).save(tmp_path / "c.parquet")
    assert build_reward(f"calibrated:{tmp_path / 'c.parquet'}").inner == ToyReward(seed=1, levels=3)


def test_bad_specs_are_refused(file):
    for spec, why in (
        ("calibrated", "lacks what to load"),
        (f"calibrated:{file},reward=toy:seed=2", "the calibration is of the reward toy:seed=1,scale=1"),
        (f"calibrated:{file},reward=tooy:seed=1", "there is no reward 'tooy"),
        (f"calibrated:{file},method=x", "has no option 'method'"),
        (f"calibrated:{file},dtype=float32", "has no option 'dtype'"),
    ):
        with pytest.raises(SpecError, match=why):
            build_reward(spec)
    with pytest.raises(UsageError, match="there is no calibration 'none"):
        build_reward("calibrated:none.parquet")


def test_a_name_that_is_no_spec(tmp_path):
    """Of a function, say: the hint tells how to name it."""
    calibration("toyy", p=[0]).save(tmp_path / "f.parquet")
    with pytest.raises(SpecError, match="cannot be built from its name") as failure:
        build_reward(f"calibrated:{tmp_path / 'f.parquet'}")
    assert "reward=SPEC" in failure.value.hint
