"""Calibrations of given numbers, and the toy reward calibrated on the prompts of the conformance suite."""

from __future__ import annotations

import numpy as np

from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.rewards.calibrated import Calibrated
from italic.rewards.toy import ToyReward
from italic.testing.rewards import toy_batches
from italic.values.calibration import Calibration
from italic.values.responses import Responses


def calibration(reward="fixed", settings=None, **rewards):
    """Reference rewards by prompt."""

    def of(prompt, own):
        n, nothing = len(own), tuple(np.zeros(0, dtype=np.int32) for _ in own)
        return Responses(
            prompt=prompt,
            prompt_reward=0.0,
            rewards=np.array(own, dtype=np.float64),
            steps=np.zeros(n, dtype=np.int64),
            finish=("end",) * n,
            completions=("",) * n,
            tokens=nothing,
            logprobs=np.zeros(n),
            entropies=tuple(row.astype(np.float32) for row in nothing),
            partial=np.zeros((0, n)),
        )

    rows = tuple(of(Prompt(name, text=name), own) for name, own in rewards.items())
    return Calibration("toy", reward, Sampling(), 3, 5, (), rows, settings or {})


def calibrated_toy(**changes):
    """The toy reward, calibrated on the prompts of the conformance suite."""
    inner, rng = ToyReward(seed=1), np.random.default_rng(0)
    known = calibration(inner.name, **{b.prompt.id: rng.normal(size=30) for b in toy_batches()})
    asked = [
        r.__class__(**{**vars(r), "prompt": b.prompt}) for r, b in zip(known.responses, toy_batches(), strict=True)
    ]
    return Calibrated(inner, Calibration(**{**vars(known), "responses": tuple(asked)}), **changes)
