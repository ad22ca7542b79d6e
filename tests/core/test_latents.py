"""Drafts that are points: gathered, joined and renamed like others, and what they cannot do."""

from __future__ import annotations

import numpy as np
import pytest

from italic.core.drafts import Drafts
from italic.core.errors import ProgramError
from italic.core.keys import Key
from italic.core.latents import LatentDrafts
from italic.core.prompt import Prompt

PROMPT = Prompt("p", text="x")


def drafts(n: int = 4, prompt: Prompt = PROMPT) -> LatentDrafts:
    x = np.arange(2.0 * n).reshape(n, 2)
    return LatentDrafts.at(prompt, x, np.arange(n), 3, Key(0).seeds(n))


def test_they_are_drafts() -> None:
    made = drafts()
    assert isinstance(made, Drafts)
    assert made.done.tolist() == [False, False, False, True]
    assert made.room.tolist() == [3, 2, 1, 0]
    assert repr(made) == "LatentDrafts('p', 4 rows of 2, 1 done)"


@pytest.mark.parametrize("rows", [[2, 0, 0], np.array([3]), [], slice(1, 3), slice(None, None, -1)])
def test_rows_are_gathered(rows) -> None:
    made = drafts()
    made.guesses.clean[:], made.guesses.known[:] = made.x + 100, [True, False, True, False]
    some = made[rows]
    number = np.arange(4)[rows if isinstance(rows, slice) else np.asarray(rows, dtype=int)]
    assert np.array_equal(some.x, made.x[number])
    assert np.array_equal(some.steps, number)
    assert np.array_equal(some.seeds, made.seeds[number])
    assert np.array_equal(some.guesses.clean[some.place], some.x + 100), "what the network said comes along"
    both = some.concat(made, some)
    assert np.array_equal(both.x, np.concatenate([some.x, made.x, some.x]))
    assert np.array_equal(both.guesses.known[both.place], np.isin(both.steps, [0, 2]))


def test_other_seeds() -> None:
    made = drafts()
    other = made.reseed(Key(1).seeds(4))
    assert np.array_equal(other.seeds, Key(1).seeds(4))
    assert other.x is made.x


def test_what_they_cannot_do() -> None:
    made = drafts()
    assert made.cut(3) is made
    for act, message in (
        (lambda: made[np.array([[0]])], "gathered by a list of rows"),
        (lambda: made[2], "gathered by a list of rows"),
        (lambda: made.cut(2), "do not remember the way they came"),
        (lambda: made.cut(np.array([0, 1, 2, 2])), "do not remember the way they came"),
        (lambda: made.reseed(Key(1).seeds(3)), "3 seeds for 4 drafts"),
        (lambda: made.concat(drafts(2, Prompt("q", text="x"))), "different prompts cannot be joined"),
    ):
        with pytest.raises(ProgramError, match=message) as wrong:
            act()
        assert wrong.value.hint
