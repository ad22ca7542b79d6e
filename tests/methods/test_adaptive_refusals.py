"""Adaptive best-of-n: what cannot be is refused, with what to type instead."""

from __future__ import annotations

import pytest

from italic.core.errors import SpecError, UsageError
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.core.spec import build_method
from italic.methods.adaptive_best_of_n import AdaptiveBestOfN
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.align import make_tasks
from italic.run.event import event_driven
from italic.run.ledger import Ledger

MODEL, SAMPLING = ToyModel(letters=3, length=3, seed=2), Sampling(max_tokens=4)
PROMPTS = [Prompt(f"p{i}", text=f"prompt {i}") for i in range(10)]


def test_too_few_tokens_are_refused_before_anything_is_spent():
    ledger = Ledger()
    tasks = make_tasks(PROMPTS, MODEL, 0, SAMPLING)
    for method, needle, hint in (
        (AdaptiveBestOfN(n=8, exploration=3, tokens=11), "tokens=11: 3 first draws may take 12", "exploration=1"),
        (AdaptiveBestOfN(n=8, tokens=3), "tokens=3: 1 first draws may take 4", "tokens=4"),
        (AdaptiveBestOfN(n=8, rounds=1, tokens=31), "tokens=31: 8 first draws may take 32", "tokens=32"),
    ):
        with pytest.raises(UsageError) as refusal:
            list(event_driven(tasks, method, MODEL, ToyReward(), ledger))
        assert needle in refusal.value.message
        assert hint in refusal.value.hint
        assert ("exploration=1" in refusal.value.hint) == (hint == "exploration=1")
    assert ledger.usage.tokens_generated == 0


@pytest.mark.parametrize(
    ("values", "message", "typed"),
    [
        ("n=0", "n=0", "adaptive-best-of-n:n=8"),
        ("rounds=0", "rounds=0", "adaptive-best-of-n:rounds=8"),
        ("tokens=0", "tokens=0", "adaptive-best-of-n:tokens=8"),
        ("batch=0", "batch=0", "adaptive-best-of-n:batch=8"),
        ("batch=-1", "batch=-1", "adaptive-best-of-n:batch=8"),
        ("exploration=0", "exploration=0 and n=16", "exploration=0.2"),
        ("exploration=-0.2", "exploration=-0.2 and n=16", "exploration=0.2"),
        ("exploration=1.5", "exploration=1.5 and n=16", "exploration=0.2"),
        ("n=4,exploration=5", "exploration=5 and n=4", "exploration=0.2"),
        ("exploration=nan", "exploration=nan and n=16", "exploration=0.2"),
        ("exploration=inf", "exploration=inf and n=16", "exploration=0.2"),
        ("tokens=100,rule=ucb", "tokens=100 and rule=ucb", "Leave out one of the two"),
        ("tokens=100,rule=variance", "tokens=100 and rule=variance", "Leave out one of the two"),
    ],
    ids=lambda value: value if "=" in str(value) else None,
)
def test_bad_parameters_are_refused_with_what_to_type(values, message, typed):
    with pytest.raises(UsageError) as refusal:
        build_method(f"adaptive-best-of-n:{values}")
    assert refusal.value.message == f"adaptive-best-of-n with {message}"
    assert typed in refusal.value.hint
    if typed.startswith("adaptive"):
        assert isinstance(build_method(typed), AdaptiveBestOfN)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("estimator=pareto", "estimator cannot be 'pareto'"),
        ("units=nats", "units cannot be 'nats'"),
        ("rule=thompson", "rule cannot be 'thompson'"),
        ("n=many", "n is 'many', not a whole number"),
        ("explore=1", "has no parameter 'explore'"),
    ],
    ids=lambda value: value if "=" in str(value) else None,
)
def test_bad_specs_are_refused(values, message):
    with pytest.raises(SpecError, match=message) as refusal:
        build_method(f"adaptive-best-of-n:{values}")
    assert refusal.value.hint


@pytest.mark.parametrize("name", ["estimator", "units", "rule"])
def test_unknown_names_are_refused_without_a_spec_too(name):
    with pytest.raises(UsageError, match=f"adaptive-best-of-n with {name}=none\nChoose one of"):
        AdaptiveBestOfN(**{name: "none"})


def test_specs():
    spec = "adaptive-best-of-n:n=9,exploration=0.75,rounds=2,estimator=kde,units=quantile,batch=4"
    method = AdaptiveBestOfN(n=9, exploration=0.75, rounds=2, estimator="kde", units="quantile", batch=4)
    assert build_method(spec) == method
    assert build_method("adaptive-best-of-n:tokens=300").tokens == 300
    assert build_method("adaptive-best-of-n") == AdaptiveBestOfN()
