"""Calibrations of given rewards, of which only the rewards matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.values.calibration import Calibration
from italic.values.responses import Responses


def calibration(
    prompts: Sequence[Prompt],
    rewards: Sequence[Any],
    model: str = "toy",
    reward: str = "toy",
    sampling: Sampling | None = None,
    settings: dict[str, Any] | None = None,
) -> Calibration:
    """Responses without tokens to each prompt, with its rewards."""

    def of(prompt: Prompt, own: Any) -> Responses:
        n, nothing = len(own), tuple(np.zeros(0, dtype=np.int32) for _ in own)
        return Responses(
            prompt=prompt,
            prompt_reward=0.0,
            rewards=np.asarray(own, dtype=np.float64),
            steps=np.zeros(n, dtype=np.int64),
            finish=("end",) * n,
            completions=("",) * n,
            tokens=nothing,
            logprobs=np.zeros(n),
            entropies=tuple(row.astype(np.float32) for row in nothing),
            partial=np.zeros((0, n)),
        )

    rows = tuple(of(prompt, own) for prompt, own in zip(prompts, rewards, strict=True))
    return Calibration(model, reward, sampling or Sampling(), 3, 5, (), rows, settings or {})
