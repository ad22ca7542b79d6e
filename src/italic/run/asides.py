"""Asides: the questions to a model beside the extensions. Of each kind all that wait are answered in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from italic.core.errors import ProgramError
from italic.core.protocols import Fanned, Model, Mused, Weighed
from italic.core.questions import Aside, Embed, Likeliest, Likelihood, Preview


@dataclass(frozen=True)
class Kind:
    """How a model is asked, and whether an answer to a question is of the right size. name: of the answers."""

    name: str
    ask: Callable[[Any, list[Any]], list[Any]]
    fits: Callable[[Any, Any], bool]


def muse(model: Model, asked: Sequence[Aside]) -> list[Mused]:
    """The answers to asides, in order. Raises ProgramError for an answer of the wrong size."""
    found: dict[int, Mused] = {}
    for question, kind in KINDS.items():
        mine = [i for i, one in enumerate(asked) if isinstance(one, question)]
        answers = kind.ask(model, [asked[i] for i in mine]) if mine else []
        fit = (kind.fits(asked[i], answer) for i, answer in zip(mine, answers, strict=False))
        if len(answers) != len(mine) or not all(fit):
            raise ProgramError(f"the model {model.name} did not answer its {kind.name} row by row")
        found.update(zip(mine, answers, strict=True))
    return [found[i] for i in range(len(asked))]


def price(question: Aside) -> int:
    """How many tokens it draws: of the children of a row one at most comes to be kept; other kinds draw none."""
    return int(np.sum(~question.drafts.done)) if isinstance(question, Likeliest) else 0


def _are_weighed(question: Likelihood, answer: Weighed) -> bool:
    size = len(question.drafts), int(question.drafts.steps.max(initial=0))
    return answer.logprobs.shape == answer.entropies.shape == size


def _are_children(question: Likeliest, answer: Fanned) -> bool:
    """Whether every unfinished row, and no other, has 1 to k children, each a step longer."""
    before, after, parents = question.drafts, answer.drafts, answer.parents
    if parents.shape != (len(after),) or np.any((parents < 0) | (parents >= len(before))):
        return False
    each = np.bincount(parents, minlength=len(before))
    going = ~before.done
    right = np.all((each >= going) & (each <= question.k * going))
    return bool(right and np.array_equal(after.steps, before.steps[parents] + 1))


KINDS: Mapping[type[Aside], Kind] = {
    Embed: Kind(
        "embeddings",
        lambda model, asked: model.embed([one.drafts for one in asked]),
        lambda one, answer: len(answer.features) == len(one.drafts),
    ),
    Preview: Kind(
        "previews",
        lambda model, asked: model.preview([one.drafts for one in asked]),
        lambda one, answer: len(answer.drafts) == len(one.drafts),
    ),
    Likelihood: Kind("likelihoods", lambda model, asked: model.likelihood([one.drafts for one in asked]), _are_weighed),
    Likeliest: Kind(
        "likeliest tokens",
        lambda model, asked: model.likeliest([(one.drafts, one.k) for one in asked]),
        _are_children,
    ),
}
"""The kinds, in the order in which a model is asked."""
