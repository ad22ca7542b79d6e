import math

import numpy as np
import pytest

from italic.core.errors import ProgramError, RewardError, SpecError
from italic.core.protocols import Reward, Scored
from italic.rewards.combine import Ensemble, WeightedSum, load


class Fixed:
    """A reward of given scores, None for missing."""

    needs = frozenset({"texts"})

    def __init__(self, name, *values, partial=True, deterministic=True, tokens=10):
        self.name, self.values, self.tokens = name, values, tokens
        self.partial, self.deterministic = partial, deterministic

    def score(self, batches):
        at, answers = 0, []
        for batch in batches:
            part = np.array(self.values[at : at + len(batch)], dtype=np.float64)
            at += len(batch)
            answers.append(Scored(part, np.isnan(part), self.tokens))
        return answers


def test_weighted_sum(write):
    both = WeightedSum((Fixed("a", 1, 2, 3), Fixed("b", 10, None, 30, tokens=5)), (0.5, -2))
    assert isinstance(both, Reward)
    assert both.name == "0.5*a+-2*b"
    assert both.needs == {"texts"}
    first, second = both.score([write("p", ["x", "y"]), write("q", ["z"])])
    assert first.rewards[0] == -19.5
    assert second.rewards[0] == -58.5
    assert first.missing.tolist() == [False, True]
    assert np.isnan(first.rewards[1])
    assert first.tokens == 15


@pytest.mark.parametrize(
    "kind", [lambda *parts: WeightedSum(parts, (1.0,) * len(parts)), lambda *parts: Ensemble(parts)]
)
def test_properties_hold_only_if_all_parts_have_them(kind):
    yes, no = Fixed("a"), Fixed("b", partial=False, deterministic=False)
    assert kind(yes, yes).partial
    assert kind(yes, yes).deterministic
    assert not kind(yes, no).partial
    assert not kind(yes, no).deterministic


def test_ensemble_is_the_mean_less_k_standard_deviations(write):
    members = Fixed("a", 1, 4, 7), Fixed("b", 3, 4, None)
    scored = Ensemble(members, k=2).score([write("p", ["x", "y", "z"])])[0]
    assert scored.rewards[:2].tolist() == [0, 4]
    assert scored.missing.tolist() == [False, False, True]
    assert Ensemble(members, k=0).score([write("p", ["x"])])[0].rewards.tolist() == [2]
    assert Ensemble(members).name == "ensemble(a,b;k=1)"
    assert Ensemble(members[:1], k=3).score([write("p", ["x"])])[0].rewards.tolist() == [1]


def test_infinite_scores(write):
    inf = math.inf
    scored = Ensemble((Fixed("a", -inf, inf), Fixed("b", 1, inf))).score([write("p", ["x", "y"])])[0]
    assert scored.rewards.tolist() == [-inf, inf]
    with pytest.raises(RewardError, match="NaN for prompt 'p'"):
        Ensemble((Fixed("a", -inf), Fixed("b", inf))).score([write("p", ["x"])])
    total = WeightedSum((Fixed("a", -inf), Fixed("b", 1)), (1, 1)).score([write("p", ["x"])])[0]
    assert total.rewards.tolist() == [-inf]
    with pytest.raises(RewardError, match="NaN for prompt 'p'"):
        WeightedSum((Fixed("a", -inf), Fixed("b", inf)), (1, 1)).score([write("p", ["x"])])


def test_a_part_that_miscounts_is_named(write):
    with pytest.raises(ProgramError, match="reward short"):
        WeightedSum((Fixed("short", 1),), (1,)).score([write("p", ["x", "y"])])


def test_load():
    a, b = Fixed("a"), Fixed("b")
    assert load([(2, a), (3, b)]) == WeightedSum((a, b), (2, 3))
    with pytest.raises(SpecError, match="no list of rewards"):
        load("demo")


@pytest.mark.parametrize(
    "wrong",
    [
        lambda a: WeightedSum((), ()),
        lambda a: WeightedSum((a,), (1, 2)),
        lambda a: WeightedSum((a,), (0,)),
        lambda a: WeightedSum((a,), (math.nan,)),
        lambda a: Ensemble(()),
        lambda a: Ensemble((a,), k=-1),
        lambda a: Ensemble((a,), k=math.inf),
        lambda a: load([]),
    ],
)
def test_wrong_combinations_are_refused(wrong):
    with pytest.raises(SpecError):
        wrong(Fixed("a"))
