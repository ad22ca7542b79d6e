from __future__ import annotations

import numpy as np
import pytest

from italic.core.drafts import TextDrafts
from italic.core.errors import ItalicError, RewardError, SpecError, UsageError
from italic.core.keys import Key
from italic.core.latents import LatentDrafts
from italic.core.prompt import Prompt
from italic.core.protocols import Reward
from italic.core.sampling import Sampling
from italic.core.spec import build_reward
from italic.models.toy import ToyCodec
from italic.rewards.region import Region

PROMPT = Prompt("p", text="x")
POINTS = np.array([[-7.0, 1.0], [-7.5, 2.0], [np.nextafter(-7.0, -8), 9.0], [8.0, -9.0]])


def drafts(x=POINTS, steps=4):
    return LatentDrafts.at(PROMPT, np.array(x), np.full(len(x), steps), 4, Key(0).seeds(len(x)))


def test_the_default_is_the_benchmark():
    reward = build_reward("region")
    assert isinstance(reward, Reward)
    assert reward == Region(scale=1.0, below=-7.0)
    (scored,) = reward.score([drafts()])
    assert scored.rewards.tolist() == [0, 1, 1, 0]
    assert scored.rewards.dtype == np.float64
    assert not scored.missing.any()
    assert scored.tokens == 0


@pytest.mark.parametrize(
    ("spec", "rewards"),
    [
        ("region:scale=3", [0, 3, 3, 0]),
        ("region:above=-7", [0, 0, 0, 1]),
        ("region:below=1.5,axis=1,scale=-2", [-2, 0, 0, -2]),
        ("region:above=1.5,axis=1", [0, 1, 1, 0]),
    ],
)
def test_a_spec(spec, rewards):
    reward = build_reward(spec)
    first, empty = reward.score([drafts(), drafts(np.zeros((0, 2)))])
    assert first.rewards.tolist() == rewards
    assert empty.rewards.shape == empty.missing.shape == (0,)
    assert build_reward(reward.name) == reward, "the name is a spec of the same reward"


def test_names_tell_rewards_apart():
    names = {Region(1.0, -7.0).name, Region(1.0, -7.0000001).name, Region(1.0, None, -7.0).name, Region(2.0, -7.0).name}
    assert len(names) == 4


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("region:below=1,above=2", "one edge"),
        ("region:below=nan", "edge"),
        ("region:above=inf", "edge"),
        ("region:scale=0", "scale"),
        ("region:scale=nan", "scale"),
        ("region:axis=-1", "axis=0"),
    ],
)
def test_a_bad_spec(spec, why):
    with pytest.raises(UsageError, match=why) as caught:
        build_reward(spec)
    assert "region:" in caught.value.hint


def test_options_that_are_none():
    for spec in ("region:edge=1", "region:axis=x", "region:-7"):
        with pytest.raises(SpecError):
            build_reward(spec)


@pytest.mark.parametrize(
    ("reward", "scored", "hint"),
    [
        (Region(1.0, -7.0), drafts(steps=3), "preview"),
        (Region(1.0, -7.0, axis=2), drafts(), "0 to 1"),
        (Region(1.0, -7.0), TextDrafts.empty(PROMPT, Sampling(), ToyCodec(2), [], Key(0).seeds(1)), "latents"),
    ],
)
def test_what_it_cannot_score(reward, scored, hint):
    with pytest.raises(RewardError) as caught:
        reward.score([scored])
    assert hint in caught.value.hint
    assert isinstance(caught.value, ItalicError)
