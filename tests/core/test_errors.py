from __future__ import annotations

import pickle
import re

import numpy as np
import pytest

from italic.core import errors
from italic.core.errors import InputError, Interrupted, ItalicError, OutOfBudget, RunError
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.models.toy import ToyModel

ALL = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, ItalicError)]


def drawn_tree():
    """The (parent, child) pairs of the drawing at the top of the module."""
    pairs, path = set(), {}
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"^    ([│ ]*)(├── |└── )?(\w+)", line):
            depth = len(found[1]) // 4 + bool(found[2])
            path[depth] = found[3]
            if depth:
                pairs.add((path[depth - 1], found[3]))
        elif path:
            break
    return pairs


def test_the_tree_is_as_drawn():
    real = {(e.__base__.__name__, e.__name__) for e in ALL if e is not ItalicError}
    assert drawn_tree() == real
    assert len(real) == len(ALL) - 1


@pytest.mark.parametrize("kind", [e for e in ALL if e is not OutOfBudget], ids=lambda e: e.__name__)
def test_errors_survive_pickling(kind):
    error = kind("what went wrong", hint="Type this instead.")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert (copy.message, copy.hint, str(copy)) == (error.message, error.hint, "what went wrong\nType this instead.")


def test_out_of_budget_is_pickled_without_its_drafts():
    drafts = ToyModel().start(Prompt("p", text="x"), np.zeros(1, np.uint64), Sampling())
    error = OutOfBudget("reward_calls", drafts)
    assert error.drafts is drafts
    assert str(error) == "the budget of reward calls is used up\nRaise the budget to go on."
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.resource, copy.drafts, str(copy)) == ("reward_calls", None, str(error))


def test_message_without_a_hint_is_one_line():
    assert str(InputError("line 3 is empty")) == "line 3 is empty"


def test_only_an_interruption_may_be_retried_as_it_is():
    assert [e for e in ALL if e.retry] == [Interrupted]
    assert issubclass(Interrupted, RunError)


@pytest.mark.parametrize(
    "prompt", [{}, {"text": "x", "messages": ({"role": "user", "content": "x"},)}, {"messages": ()}]
)
def test_prompts_that_are_none(prompt):
    with pytest.raises(InputError, match="'p'"):
        Prompt("p", **prompt)


def test_what_a_prompt_shows():
    assert Prompt("p", text="x").last == "x"
    messages = ({"role": "user", "content": "one"}, {"role": "user", "content": "two"})
    assert Prompt("p", messages=messages).last == "two"
