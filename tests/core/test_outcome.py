from __future__ import annotations

import numpy as np
import pytest

from italic.core.errors import ProgramError
from italic.core.outcome import Certificate, Outcome, Usage
from italic.core.prompt import Prompt
from italic.core.questions import Extend
from italic.core.sampling import Sampling
from italic.models.toy import ToyModel

MODEL = ToyModel()
OPEN = MODEL.start(Prompt("p", text="x"), np.arange(3, dtype=np.uint64), Sampling())
DONE = MODEL.extend([Extend(OPEN)])[0].drafts
REWARDS = np.array([0.5, np.nan, 2.0])


def test_a_good_outcome():
    outcome = Outcome(DONE, REWARDS, chosen=2, log_weights=np.zeros(3))
    assert outcome.reward == 2.0
    assert np.isnan(Outcome(DONE, REWARDS, chosen=1).reward)
    assert np.isnan(Outcome(OPEN, REWARDS, chosen=None, complete=False).reward)
    assert Outcome(OPEN, REWARDS, chosen=0, complete=False).reward == 0.5


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"drafts": DONE, "rewards": REWARDS[:2], "chosen": 0}, r"3 drafts with rewards of shape \(2,\)"),
        ({"drafts": DONE, "rewards": REWARDS, "chosen": 0, "log_weights": np.zeros((3, 1))}, r"log-weights .*\(3, 1\)"),
        ({"drafts": DONE, "rewards": REWARDS, "chosen": None}, "complete outcome chooses a draft"),
        ({"drafts": DONE, "rewards": REWARDS, "chosen": 3}, "3 drafts chooses row 3"),
        ({"drafts": DONE, "rewards": REWARDS, "chosen": -1}, "chooses row -1"),
        ({"drafts": OPEN, "rewards": REWARDS, "chosen": 0}, "finished draft"),
    ],
)
def test_refusals(values, message):
    with pytest.raises(ProgramError, match=message):
        Outcome(**values)


def test_usage_adds_up():
    one = Usage(model_calls=1, tokens_generated=2, seconds=0.5, cost=0.25)
    both = one + Usage(tokens_generated=3, reward_calls=4, cost=0.5)
    assert both == Usage(model_calls=1, tokens_generated=5, reward_calls=4, seconds=0.5, cost=0.75)
    assert both.counts()["tokens_generated"] == 5
    assert not {"model_calls", "seconds", "cost"} & both.counts().keys()
    assert all(isinstance(v, int) for v in both.counts().values())


def test_a_certificate_shows_what_it_knows():
    assert Certificate().known() == {}
    assert Certificate(tv=0.0, accepted=1).known() == {"tv": 0.0, "accepted": 1}
