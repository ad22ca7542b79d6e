"""Building the model and the reward that a command names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from italic.cli.show import side
from italic.core.protocols import Method, Model, Reward, check
from italic.core.spec import build_model, build_reward

SHARED = ("dtype", "device")
"""Options that hold for the model and the reward alike."""


def build_pair(model: str, reward: str, options: Mapping[str, Any], method: Method) -> tuple[Model, Reward]:
    """The model with all options that were given, the reward with the shared ones, checked against the method."""
    given = {key: value for key, value in options.items() if value is not None}
    with side().status("loading the model and the reward"):
        built = build_model(model, **given)
        scorer = build_reward(reward, **{key: given[key] for key in SHARED if key in given})
    check(method, built, scorer)
    return built, scorer
