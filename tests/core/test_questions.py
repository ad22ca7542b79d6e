from __future__ import annotations

import numpy as np
import pytest

from italic.core.drafts import END
from italic.core.errors import ProgramError, UsageError
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.questions import (
    Extend,
    Likeliest,
    Likelihood,
    Note,
    Score,
    Together,
    best,
    extend,
    likeliest,
    likelihood,
    note,
    score,
    together,
)
from italic.core.sampling import FINISH, Sampling, Until
from italic.models.toy import ToyModel

MODEL = ToyModel()


def start(seeds):
    return MODEL.start(Prompt("p", text="x"), np.array(seeds, np.uint64), Sampling())


def ask(generator):
    return next(generator)


def give(generator, answer):
    next(generator)
    with pytest.raises(StopIteration) as end:
        generator.send(answer)
    return end.value.value


def test_words_ask_questions_and_return_answers():
    drafts = start([1, 2])
    until = Until(steps=3)
    assert ask(extend(drafts, until)) == Extend(drafts, until)
    assert ask(extend(drafts)).until is FINISH
    assert ask(score(drafts)) == Score(drafts)
    assert ask(note("round", index=1)) == Note("round", {"index": 1})
    children = (score(drafts), score(drafts))
    assert ask(together(*children)) == Together(children)
    for words in (extend(drafts), score(drafts), together()):
        assert give(words, "answer") == "answer"
    assert give(note("round"), None) is None


def test_a_key_reseeds():
    drafts = start([1, 1])
    question = ask(extend(drafts, key=Key(3)))
    assert np.array_equal(question.drafts.seeds, Key(3).seeds(2))


def test_rows_that_would_draw_the_same_noise_are_refused():
    with pytest.raises(ProgramError, match="same seed") as refusal:
        Extend(start([5, 6, 5]))
    assert "key=task.key.at" in refusal.value.hint
    forked = start([5, 6])[[0, 0]]
    with pytest.raises(ProgramError, match="same seed"):
        Extend(forked)


def test_finished_rows_may_share_a_seed():
    done = MODEL.extend([Extend(start([5]))])[0].drafts
    assert done.reason[0] == END
    Extend(done[[0, 0]].concat(start([5])))


def test_step_limits_must_fit_the_rows():
    Extend(start([1, 2]), Until(steps=(1, 4)))
    with pytest.raises(UsageError, match="3 step limits for 2 rows"):
        Extend(start([1, 2]), Until(steps=(1, 2, 3)))


def test_the_likeliest_tokens_are_at_least_one():
    drafts = start([1, 2])
    assert ask(likeliest(drafts, 3)) == Likeliest(drafts, 3)
    assert ask(likelihood(drafts)) == Likelihood(drafts)
    with pytest.raises(ProgramError, match="the 0 likeliest next tokens"):
        Likeliest(drafts, 0)


@pytest.mark.parametrize(
    ("rewards", "row"),
    [([1.0, 3.0, 3.0], 1), ([np.nan, -1.0, np.nan], 1), ([-np.inf, -np.inf], 0), ([np.nan, -np.inf], 1)],
)
def test_best(rewards, row):
    assert best(np.array(rewards)) == row


@pytest.mark.parametrize("rewards", [[], [np.nan, np.nan]])
def test_best_of_nothing(rewards):
    with pytest.raises(ValueError, match="no reward"):
        best(np.array(rewards))
