from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from italic.core.errors import MismatchError
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.protocols import ABILITIES, Method, Model, Reward, Spent, Stepping, Task, check
from italic.core.sampling import Sampling
from italic.methods.best_of_n import BestOfN
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward

MODEL, REWARD = ToyModel(), ToyReward()


class Needy(BestOfN):
    needs = frozenset({"resume", "cut", "partial"})


def test_the_toys_play_their_roles():
    assert isinstance(MODEL, Model)
    assert isinstance(MODEL, Stepping)
    assert isinstance(REWARD, Reward)
    assert isinstance(BestOfN(), Method)
    assert MODEL.offers <= ABILITIES.keys()


def test_a_match_passes():
    check(BestOfN(), MODEL, REWARD)
    check(Needy(), MODEL, REWARD)


def test_a_mismatch_names_both_sides():
    poor = replace(MODEL, offers=frozenset({"texts", "resume"}))
    with pytest.raises(MismatchError) as refusal:
        check(Needy(), poor, REWARD)
    assert refusal.value.message == (
        "the method Needy needs cut (go on from a draft that was shortened): "
        f"not offered by the model {MODEL.name} with the reward {REWARD.name}"
    )
    assert refusal.value.hint.startswith("Offered: partial, resume, texts.")


def test_a_reward_that_judges_only_finished_texts():
    last = SimpleNamespace(name="last", needs=frozenset(), partial=False, deterministic=True)
    check(BestOfN(), MODEL, last)
    with pytest.raises(MismatchError, match=r"needs partial \(the reward's scores of unfinished drafts"):
        check(Needy(), MODEL, last)


def test_a_reward_that_needs_texts():
    mute = replace(MODEL, offers=frozenset())
    with pytest.raises(MismatchError, match=r"the reward toy:.* needs texts"):
        check(BestOfN(), mute, REWARD)
    with pytest.raises(MismatchError, match=r"(?s)Needy.*Offered: nothing"):
        check(Needy(), mute, SimpleNamespace(name="r", needs=frozenset(), partial=False))


class Fit(BestOfN):
    made_for = (MODEL.name, REWARD.name)


def test_what_was_fitted_to_a_pair_is_refused_for_another():
    check(Fit(), MODEL, REWARD)
    for model, reward in ((ToyModel(seed=1), REWARD), (MODEL, ToyReward(seed=1))):
        with pytest.raises(MismatchError, match=r"Fit was fitted to the model toy:.* with the reward toy:") as refusal:
            check(Fit(), model, reward)
        assert model.name in refusal.value.message
        assert reward.name in refusal.value.message
        assert "italic fit-baseline" in refusal.value.hint


def test_a_task_starts_drafts_by_name():
    prompt = Prompt("p", text="x")
    task = Task(prompt, Key(1), lambda seeds: MODEL.start(prompt, seeds, Sampling()))
    few, many = task.start(3), task.start(8)
    assert np.array_equal(few.seeds, many.seeds[:3])
    assert np.array_equal(few.seeds, task.start(3).seeds)
    assert not set(few.seeds.tolist()) & set(task.start(3, "again").seeds.tolist())


def test_spent_adds_up():
    assert Spent(1, 2, 3) + Spent(calls=1) == Spent(1, 2, 4)
