"""Adaptive best-of-n that knows the laws from reference rewards: nothing is left to explore."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from altered import Altered

import italic
from calibrations import calibration
from italic.core.errors import MismatchError, UsageError
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.methods.adaptive_best_of_n import AdaptiveBestOfN
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward

MODEL, SAMPLING = ToyModel(letters=10, length=4, seed=5, spread=0.3), Sampling(5)
PROMPTS = [Prompt(f"p{i}", f"prompt {i}") for i in range(8)]
SCALE = dict(zip((p.text for p in PROMPTS), (0.0, 0.0, 0.1, 0.1, 0.5, 1.0, 2.0, 4.0), strict=True))


class Scaled(Altered):
    """The toy reward, times what differs between prompts."""

    def score(self, batches):
        scored = zip(batches, self.base.score(batches), strict=True)
        return [replace(s, rewards=s.rewards * SCALE[drafts.prompt.text]) for drafts, s in scored]


REWARD = Scaled(lambda texts, rewards, done: rewards)


def known(prompts=PROMPTS, k=100, **changes):
    """k reference rewards of each prompt, exactly of its law."""
    luck, rewards = np.random.default_rng(0), []
    for prompt in prompts:
        texts, p = MODEL.law(prompt, SAMPLING)
        drawn = luck.choice(len(texts), size=k, p=p / p.sum())
        rewards.append([ToyReward(seed=1).of(prompt.text, texts[i]) * SCALE[prompt.text] for i in drawn])
    return calibration(prompts, rewards, **{"model": MODEL.name, "reward": REWARD.name, "sampling": SAMPLING} | changes)


def answered(method, prompts=PROMPTS, seed=0):
    return italic.align(prompts, MODEL, REWARD, method, sampling=SAMPLING, seed=seed)


def test_a_first_draw_each_and_the_rest_where_it_pays() -> None:
    found = answered(AdaptiveBestOfN(n=6, calibration=known()))
    drawn = [len(r.outcome.drafts) for r in found.results]
    assert sum(drawn) == 6 * len(PROMPTS)
    assert all(r.outcome.notes["draws"][0] == 1 for r in found.results)
    assert drawn[:2] == [1, 1], "a law without any spread needs no second draw"
    assert drawn[-1] > 10
    assert all(max(r.outcome.rewards) == r.outcome.rewards[r.outcome.chosen] for r in found.results)


def test_what_is_known_is_worth_something() -> None:
    """A larger sum of rewards than without references, from as many draws: 60 batches, three standard errors."""
    file, total = known(), []
    for method in (AdaptiveBestOfN(n=4, calibration=file), AdaptiveBestOfN(n=4)):
        sums = [sum(r.outcome.rewards[r.outcome.chosen] for r in answered(method, seed=s).results) for s in range(60)]
        total.append(np.array(sums))
    more = total[0] - total[1]
    assert more.mean() > 3 * more.std(ddof=1) / np.sqrt(len(more)), (more.mean(), more.std())


def test_tokens_count_from_the_start() -> None:
    found = answered(AdaptiveBestOfN(n=50, tokens=40, calibration=known()))
    drafts = [r.outcome.drafts for r in found.results]
    spent = sum(int(d.steps.sum()) for d in drafts)
    assert 0.9 * 40 * len(PROMPTS) < spent <= 40 * len(PROMPTS)
    assert len(drafts[0]) == 1


def test_rewards_that_are_quantiles_treat_all_scales_alike() -> None:
    found = answered(AdaptiveBestOfN(n=6, units="quantile", calibration=known()))
    drawn = [len(r.outcome.drafts) for r in found.results]
    assert sum(drawn) == 6 * len(PROMPTS)
    assert max(drawn[2:]) < 30


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rule": "ucb"}, "a calibration and rule=ucb"),
        ({"exploration": 2}, "a calibration and exploration=2"),
        ({"exploration": 0.5}, "a calibration and exploration=0.5"),
    ],
)
def test_what_would_be_ignored_is_refused(changes, says) -> None:
    with pytest.raises(UsageError, match=says):
        AdaptiveBestOfN(calibration="some.parquet", **changes)


def test_another_calibration_is_refused() -> None:
    with pytest.raises(UsageError, match="'p7' is not in the calibration"):
        answered(AdaptiveBestOfN(calibration=known(PROMPTS[:7])))
    with pytest.raises(MismatchError, match="another reward"):
        answered(AdaptiveBestOfN(calibration=known(reward="another reward")))
    with pytest.raises(UsageError, match=r"temperature 1\.0, there 0\.5"):
        answered(AdaptiveBestOfN(calibration=known(sampling=Sampling(5, temperature=0.5))))
    with pytest.raises(UsageError, match="parquet"):
        answered(AdaptiveBestOfN(calibration="nowhere.parquet"))
