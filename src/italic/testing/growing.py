"""Drafts for the checks of models: how they are started, extended, and what states they are looked at in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from italic.core.drafts import Drafts
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.protocols import Model
from italic.core.questions import Extend
from italic.core.sampling import FINISH, Sampling, Until
from italic.testing.checks import PROMPTS

SAMPLING = Sampling(max_tokens=12)
ROWS = 6


def offers(*abilities: str) -> Callable[[Model], bool]:
    """Whether a model offers all of these."""
    return lambda model: set(abilities) <= model.offers


def start(
    model: Model, n: int = ROWS, prompt: Prompt = PROMPTS[0], sampling: Sampling = SAMPLING, path: str = ""
) -> Any:
    """n empty drafts."""
    return model.start(prompt, Key(7).at(prompt.id, path).seeds(n), sampling)


def grow(model: Model, drafts: Drafts, until: Until = FINISH) -> Any:
    """The drafts, extended."""
    return model.extend([Extend(drafts, until)])[0].drafts


def some_states(model: Model) -> list[Any]:
    """Batches of empty rows, of rows that have just begun together with finished ones, and of another prompt."""
    begun = grow(model, start(model), Until(steps=2))
    return [start(model), begun.concat(grow(model, start(model, 3, path="whole"))), start(model, 2, PROMPTS[1])]
