from __future__ import annotations

import pytest

from italic.core.errors import UsageError
from italic.core.sampling import FINISH, Sampling, Until


@pytest.mark.parametrize(
    "values",
    [
        {"max_tokens": 0},
        {"temperature": -1},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_k": -1},
        {"top_p": 0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"min_p": 2},
        {"stop": "text"},
        {"stop": ("a", "")},
    ],
)
def test_sampling_refuses_and_says_what_to_type(values):
    with pytest.raises(UsageError, match=next(iter(values))) as refusal:
        Sampling(**values)
    assert refusal.value.hint.startswith("Give")


@pytest.mark.parametrize("values", [{"steps": 0}, {"steps": (1, 0)}, {"min_steps": 0}])
def test_until_refuses(values):
    with pytest.raises(UsageError, match=r"extension by|min_steps"):
        Until(**values)


def test_truncation():
    assert not Sampling().truncates
    assert not Sampling(temperature=0.5, stop=("x",)).truncates
    assert all(
        Sampling(**{k: v}).truncates for k, v in {"top_k": 1, "top_p": 0.9, "min_p": 0.1, "temperature": 0}.items()
    )


def test_step_limits():
    assert Until(steps=4).most(2).tolist() == [4, 4]
    assert Until(steps=(1, 2)).most(2).tolist() == [1, 2]
    assert FINISH.most(1)[0] > 10**18
