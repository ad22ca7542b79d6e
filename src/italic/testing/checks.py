"""What a check is, and what the suites share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from italic.core.drafts import Drafts, TextDrafts
from italic.core.latents import LatentDrafts
from italic.core.prompt import Prompt

Check = Callable[..., None]
C = TypeVar("C", bound=Check)

PROMPTS = (
    Prompt(id="weather", text="The weather today is"),
    Prompt(id="story", text="Once upon a time there was"),
    Prompt(id="sum", text="Two and two make"),
)


def expect(holds: object, otherwise: str) -> None:
    """Raise AssertionError with that sentence unless it holds."""
    if not holds:
        raise AssertionError(otherwise)


def only_if(applies: Callable[[Any], bool]) -> Callable[[C], C]:
    """A check that makes sense for some subjects only."""

    def mark(check: C) -> C:
        check.applies = applies  # type: ignore[attr-defined]
        return check

    return mark


def applicable(checks: Iterable[Check], subject: object) -> list[Check]:
    """The checks that make sense for this method, model or reward."""
    return [check for check in checks if getattr(check, "applies", lambda _: True)(subject)]


def rows(drafts: Drafts) -> list[Any]:
    """What of each row must be reproducible: its tokens, text and end; of latents, where they are, to the last bit."""
    if isinstance(drafts, TextDrafts):
        return list(zip((tuple(t.tolist()) for t in drafts.tokens), drafts.texts, drafts.reason.tolist(), strict=True))
    if isinstance(drafts, LatentDrafts):
        where = (tuple(x) for x in drafts.x.tolist())
        return list(zip(where, drafts.steps.tolist(), drafts.done.tolist(), strict=True))
    return list(zip(drafts.steps.tolist(), drafts.done.tolist(), strict=True))


def expect_same(got: Drafts, wanted: Drafts, otherwise: str) -> None:
    """Raise AssertionError, naming the first row that differs, unless both are the same, log-probabilities to 1e-3."""
    expect(len(got) == len(wanted), f"{otherwise}: {len(got)} rows instead of {len(wanted)}")
    for i, (mine, theirs) in enumerate(zip(rows(got), rows(wanted), strict=True)):
        expect(mine == theirs, f"{otherwise}: row {i} is {mine} instead of {theirs}")
    if isinstance(got, TextDrafts) and isinstance(wanted, TextDrafts):
        for i, (a, b) in enumerate(zip(got.logprobs, wanted.logprobs, strict=True)):
            expect(
                np.allclose(a, b, atol=1e-3), f"{otherwise}: the log-probabilities of row {i} are {a} instead of {b}"
            )


def snapshot(drafts: Drafts) -> list[Any]:
    """A copy of everything that must never change."""
    kept: list[Any] = [drafts.steps.copy(), drafts.done.copy(), drafts.seeds.copy()]
    if isinstance(drafts, TextDrafts):
        kept += [drafts.ids.copy(), drafts.logps.copy(), drafts.reason.copy(), drafts.chars.copy()]
    if isinstance(drafts, LatentDrafts):
        kept.append(drafts.x.copy())
    return kept


def expect_untouched(before: Sequence[Any], drafts: Drafts, otherwise: str) -> None:
    """Raise AssertionError unless the drafts are still as they were at the snapshot."""
    for old, new in zip(before, snapshot(drafts), strict=True):
        expect(np.array_equal(old, new), f"{otherwise}: {new} was {old}")
