"""Fits on the toy model, whose laws are known: what they are for new prompts, for blocks, and for bad settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from italic.core.errors import RunError, UsageError
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.laws.chernoff import quantile
from italic.laws.clipping import clipped_step
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.align import make_tasks
from italic.run.conclude import conclude
from italic.run.ledger import Ledger
from italic.train.baseline import FitBaseline, fit_baseline
from italic.train.regression import Recipe

MODEL, REWARD, SAMPLING = ToyModel(letters=2, length=3), ToyReward(), Sampling(max_tokens=4)
PROMPTS = [Prompt(f"p{i}", text=f"prompt {i}") for i in range(24)]
RECIPE = Recipe(hidden=(16,), steps=150)


def fitted(settings, prompts=PROMPTS, listen=None, seed=0, reward=REWARD):
    asking = fit_baseline(make_tasks(prompts, MODEL, seed, SAMPLING), settings, (MODEL.name, REWARD.name))
    return conclude(asking, MODEL, reward, Ledger(), listen)


def at(fit, prompt):
    (task,) = make_tasks([prompt], MODEL, 0, SAMPLING)
    return float(conclude(fit.at(task.start(1), np.zeros(1)), MODEL, REWARD, Ledger())[0])


def exactly(fit, prompts):
    """Total variation and draws of the whole response, means over prompts."""
    found = []
    for prompt in prompts:
        texts, p = MODEL.law(prompt, SAMPLING)
        f = np.array([REWARD.of(prompt.last, text) for text in texts]) / fit.beta
        found.append(clipped_step(p, f, at(fit, prompt)))
    return np.mean([s.tv for s in found]), np.mean([s.draws for s in found])


def test_a_head_aims_at_its_total_variation_on_new_prompts():
    fit = fitted(FitBaseline(tv=0.1, proposals=128, recipe=RECIPE), PROMPTS)
    unseen = [Prompt(f"q{i}", text=f"another {i}") for i in range(40)]
    tv, draws = exactly(fit, unseen)
    tighter = exactly(fitted(FitBaseline(tv=0.02, proposals=128, recipe=RECIPE)), unseen)
    assert 0.03 < tv < 0.2
    assert tighter[0] < tv
    assert tighter[1] > draws
    assert fit.report["draws"][0] < fit.report["draws_constant"][0]


def test_delta_is_the_share_above():
    fit = fitted(FitBaseline(delta=0.1, proposals=200, recipe=RECIPE), PROMPTS[:1])
    texts, p = MODEL.law(PROMPTS[0], SAMPLING)
    f = np.array([REWARD.of(PROMPTS[0].last, text) for text in texts])
    assert at(fit, PROMPTS[0]) == pytest.approx(quantile(f, 0.1, p), abs=0.35)
    assert fit.report["training_proposals"] == 400


@pytest.mark.parametrize(
    ("kind", "value"), [("conformal", "reward"), ("pinball", "completions:2"), ("pinball", "learned")]
)
def test_blocks_have_a_threshold_each(kind, value):
    settings = FitBaseline(
        kind=kind, value=value, block=2, delta=0.1, states=8, proposals=8, trajectories=16, recipe=RECIPE
    )
    heard = []
    fit = fitted(settings, listen=heard.append)
    assert len(fit.tau) == 2
    assert np.isfinite(fit.tau).all()
    assert (fit.baseline is None) == (kind == "conformal")
    assert (fit.worth is None) == (value != "learned")
    stages = {note.values["what"] for note in heard}
    assert stages >= {"start", "tau", "push"}
    assert all(note.values["done"] <= note.values["total"] for note in heard)


def test_the_same_seed_gives_the_same_fit_whatever_else_is_fitted():
    settings = FitBaseline(tv=0.1, proposals=16, recipe=RECIPE)
    one, again, other = fitted(settings), fitted(settings), fitted(settings, seed=1)
    assert np.array_equal(one.tau, again.tau)
    assert not np.array_equal(one.tau, other.tau)


def test_thresholds_are_set_on_prompts_that_the_network_has_not_seen():
    fit = fitted(FitBaseline(tv=0.1, proposals=10, recipe=RECIPE))
    assert fit.report["training_proposals"] == 10 * len(PROMPTS), "each prompt is drawn for once"
    assert fitted(FitBaseline(tv=0.1, proposals=10, recipe=RECIPE), PROMPTS[:4]).report["training_proposals"] == 80


def test_nothing_to_fit_to():
    class Hopeless:
        name, needs, partial, deterministic = "hopeless", frozenset({"texts"}), True, True

        def score(self, batches):
            return [replace(a, rewards=np.full(len(a.rewards), -np.inf)) for a in REWARD.score(batches)]

    with pytest.raises(RunError, match="no proposal has a score above -inf"):
        fitted(FitBaseline(tv=0.1, proposals=4), reward=Hopeless())


def test_too_few_proposals_for_delta():
    with pytest.raises(UsageError, match="999 are needed") as refusal:
        fitted(FitBaseline(delta=0.001, proposals=4, recipe=RECIPE))
    assert "more states or proposals" in refusal.value.hint


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"tv": 0.1, "delta": 0.1}, "either delta or tv"),
        ({}, "either delta or tv"),
        ({"tv": 1.0}, "a fit with tv=1"),
        ({"delta": 0.0}, "a fit with delta=0"),
        ({"tv": 0.1, "beta": 0.0}, "a fit with beta=0"),
        ({"tv": 0.1, "proposals": 0}, "proposals=0"),
        ({"tv": 0.1, "kind": "paper"}, "set by delta"),
        ({"tv": 0.1, "kind": "conformal"}, "no value before they end"),
        ({"tv": 0.1, "value": "reward"}, "no value before they end"),
        ({"tv": 0.1, "loss": "huber"}, "no loss 'huber'"),
    ],
)
def test_settings_that_make_no_fit(settings, why):
    with pytest.raises(UsageError, match=why) as refusal:
        FitBaseline(**settings)
    assert refusal.value.hint


def test_needs():
    assert FitBaseline(tv=0.1).needs == {"embed"}
    assert FitBaseline(tv=0.1, block=2).needs == {"embed", "resume", "partial"}
    assert FitBaseline(tv=0.1, block=2, kind="conformal", value="preview").needs == {"resume", "preview"}
    assert FitBaseline(tv=0.1, block=2, kind="conformal", value="learned").needs == {"embed", "resume"}
