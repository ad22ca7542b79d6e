"""Chernoff baselines from reference rewards that are there already, in place of a pilot."""

from __future__ import annotations

import numpy as np
import pytest

import italic
from calibrations import calibration
from italic.core.errors import MismatchError, UsageError
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.laws.finite import tilt
from italic.methods.chernoff import Chernoff
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward

MODEL, REWARD, PROMPT, SAMPLING = (
    ToyModel(letters=3, length=3, seed=5),
    ToyReward(seed=1),
    Prompt("p", "p"),
    Sampling(4),
)
TEXTS, P = MODEL.law(PROMPT, SAMPLING)
R = np.array([REWARD.of(PROMPT.text, text) for text in TEXTS])


def known(k=200, prompt=PROMPT, **changes):
    """k reference rewards of the prompt."""
    rewards = np.random.default_rng(0).choice(R, size=k, p=P / P.sum())
    return calibration(
        [prompt], [rewards], **{"model": MODEL.name, "reward": REWARD.name, "sampling": SAMPLING} | changes
    )


def answered(method):
    return italic.align([PROMPT], MODEL, REWARD, method, sampling=SAMPLING)


def test_the_law_is_tilted_and_nothing_is_spent_on_a_pilot() -> None:
    n = 20_000
    found = answered(Chernoff(beta=1.0, tv=0.02, n=n, calibration=known()))
    outcome = found.results[0].outcome
    place = {text: i for i, text in enumerate(TEXTS)}
    counts = np.bincount([place[text] for text in outcome.drafts.texts], minlength=len(TEXTS))
    assert np.abs(counts / n - tilt(P, R, 1.0)).sum() / 2 < 0.02 + np.sqrt(len(TEXTS) / n)
    assert np.abs(counts / n - P).sum() / 2 > 0.2
    assert outcome.certificate.tv < 0.05


def test_the_pilot_is_what_is_saved() -> None:
    """A baseline from many references costs what one from as many pilot proposals costs, less these."""
    method = {"beta": 1.0, "tv": 0.02, "n": 50, "parallel": 1}
    with_file, with_pilot = (
        answered(Chernoff(**method, **more)) for more in ({"calibration": known()}, {"pilot": 200})
    )
    saved = with_pilot.usage.tokens_generated - with_file.usage.tokens_generated
    assert saved > 200


@pytest.mark.parametrize("changes", [{"baseline": "constant", "bound": 3.0}, {"pilot": 8}, {"block": 2}])
def test_a_calibration_takes_the_place_of_a_pilot_alone(changes) -> None:
    with pytest.raises(UsageError, match="Reference rewards take the place of a pilot"):
        Chernoff(calibration=known(), **changes)


@pytest.mark.parametrize(
    ("calibrated", "kind", "why"),
    [
        (known(prompt=Prompt("other", "other")), UsageError, "is not in the calibration"),
        (known(reward="another"), MismatchError, "was fitted to the model"),
        (known(sampling=Sampling(4, temperature=0.5)), UsageError, "sampled otherwise"),
    ],
    ids=["prompt", "reward", "sampling"],
)
def test_what_does_not_fit_is_refused(calibrated, kind, why) -> None:
    with pytest.raises(kind, match=why):
        answered(Chernoff(calibration=calibrated))
