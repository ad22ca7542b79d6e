"""What every method must do, shown on the toy model and the toy reward."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from italic.core.drafts import TextDrafts
from italic.core.errors import ItalicError, RewardError
from italic.core.outcome import Outcome
from italic.core.protocols import ABILITIES, Method, Paper
from italic.run.ledger import Budget
from italic.testing.checks import Check, expect
from italic.testing.strict import MissingReward, StrictModel, StrictReward, plain
from italic.testing.trial import Trial, run, toy_model, toy_prompts, toy_reward


def it_is_a_frozen_dataclass(method: Method) -> None:
    """Its fields are its parameters, and they do not change."""
    expect(dataclasses.is_dataclass(method), f"{type(method).__name__} is no dataclass")
    frozen = type(method).__dataclass_params__.frozen  # type: ignore[attr-defined]
    expect(frozen, f"{type(method).__name__} is not frozen: write @dataclass(frozen=True)")
    before = repr(method)
    run(method)
    expect(repr(method) == before, f"running it changed its parameters: {before} became {method!r}")


def it_says_what_it_is(method: Method) -> None:
    """It has a docstring of its own, papers, and needs that are known abilities."""
    text = type(method).__dict__.get("__doc__") or ""
    generated = text.startswith(f"{type(method).__name__}(")
    expect(text.strip() and not generated, f"{type(method).__name__} has no docstring")
    expect(isinstance(method.needs, frozenset), f"needs is a {type(method.needs).__name__}, not a frozenset")
    unknown = method.needs - ABILITIES.keys()
    expect(not unknown, f"it needs {', '.join(sorted(unknown))}, which nothing offers")
    papers = isinstance(method.papers, tuple) and all(isinstance(p, Paper) for p in method.papers)
    expect(papers, f"papers is {method.papers!r}, not a tuple of Paper")


def its_outcome_is_true(method: Method) -> None:
    """It chooses a finished draft, and its rewards are those of its drafts; the certificate's numbers are possible."""
    reward = toy_reward()
    for name, outcome in run(method).outcomes.items():
        expect(outcome.complete, f"the run for prompt {name} is not complete, without a budget")
        drafts = outcome.drafts
        expect(outcome.chosen is not None and drafts.done[outcome.chosen], f"no finished draft was chosen for {name}")
        true = reward.score([drafts])[0].rewards
        wrong = ~np.isnan(outcome.rewards) & (outcome.rewards != true)
        expect(not wrong.any(), f"it says {outcome.rewards[wrong]} for rewards {true[wrong]}")
        _expect_possible(outcome, name)


def _expect_possible(outcome: Outcome, name: str) -> None:
    known = {} if outcome.certificate is None else outcome.certificate.known()
    for share in ("tv", "acceptance", "clip_rate", "exhaustion_rate"):
        expect(0 <= known.get(share, 0) <= 1, f"the certificate for {name} says {share} = {known.get(share)}")
    for least in ("kl_bound", "ess", "proposals", "accepted"):
        expect(known.get(least, 0) >= 0, f"the certificate for {name} says {least} = {known.get(least)}")
    weights = outcome.log_weights
    expect(weights is None or not np.isnan(weights).any(), f"the log-weights for {name} are {weights}")


def drivers_agree(method: Method) -> None:
    """The same outcome with either driver, one prompt at a time or many, in few rows or many."""
    plain = run(method, driver="lockstep", window=1)
    for driver, rows, window in (("lockstep", 64, 3), ("lockstep", 64, 64), ("event", 1, 64), ("event", 64, 64)):
        other = run(method, model=toy_model(rows), driver=driver, window=window)
        _expect_same(other, plain, f"the {driver} driver with {rows} rows and a window of {window}")


def prompts_do_not_depend_on_one_another(method: Method) -> None:
    """A prompt alone, or in another order, has the same outcome.

    For a method whose prompts share, it is a batch that does not depend on others, or on the order within it.
    """
    together = run(method)
    _expect_same(run(method, prompts=toy_prompts()[::-1]), together, "the prompts in reverse order")
    size = 1
    if hasattr(method, "batch"):
        method, size = dataclasses.replace(method, batch=2), 2  # type: ignore[type-var]
        together = run(method)
    prompts = toy_prompts()
    for start in range(0, len(prompts), size):
        some = {prompt.id: together.outcomes[prompt.id] for prompt in prompts[start : start + size]}
        part = dataclasses.replace(together, outcomes=some)
        _expect_same(run(method, prompts=prompts[start : start + size]), part, f"the prompts {sorted(some)} alone")


def the_seed_matters(method: Method) -> None:
    """The same seed gives the same outcome, other seeds give others."""
    first = run(method)
    _expect_same(run(method), first, "the same seed again")
    others = [run(method, seed=seed) for seed in range(1, 5)]
    expect(any(told(o) != told(first) for o in others), "five seeds gave the same outcome for every prompt")


def a_missing_score_never_wins(method: Method) -> None:
    """With the best texts' scores missing, it chooses a draft that has a score, unless a question has none at all."""
    reward = MissingReward()
    for prompt in toy_prompts(12):
        try:
            outcome = run(method, reward=reward, prompts=[prompt]).outcomes[prompt.id]
        except RewardError:
            continue  # every score of one question was missing: that ends the run
        expect(isinstance(outcome.drafts, TextDrafts), "its drafts are not those of the toy model")
        text = plain(outcome.drafts).texts[outcome.chosen]
        missing = math.isnan(reward.of(prompt.last, text))
        expect(not missing or reward.asked == 0, f"it chose {text!r} for prompt {prompt.id}, whose score is missing")


def a_budget_gives_an_outcome(method: Method) -> None:
    """Whatever the budget, it is kept, and every prompt that was begun has an outcome: the best so far."""
    whole = run(method)
    tokens, calls = whole.usage.tokens_generated, whole.usage.reward_calls
    budgets = [Budget(tokens=t) for t in (1, 3, tokens // 4, tokens // 2, tokens - 1) if 0 < t < tokens]
    budgets += [Budget(reward_calls=c) for c in (1, 2, calls // 2, calls - 1) if 0 < c < calls]
    for budget in budgets:
        for driver in ("lockstep", "event"):
            try:
                some = run(method, driver=driver, budget=budget)
            except ItalicError as error:
                raise AssertionError(f"with {budget} it raised {type(error).__name__}: {error}") from error
            used = some.usage
            expect(used.tokens_generated <= (budget.tokens or tokens), f"{used.tokens_generated} tokens with {budget}")
            expect(used.reward_calls <= (budget.reward_calls or calls), f"{used.reward_calls} scores with {budget}")
            expect(some.outcomes, f"with {budget} there is no outcome at all")
            cut = len(some.outcomes) < len(whole.outcomes) or any(not o.complete for o in some.outcomes.values())
            expect(cut, f"all outcomes are complete with {budget}, less than the whole run took")
    same = run(method, budget=Budget(tokens=tokens + 1000, reward_calls=calls + 1000))
    _expect_same(same, whole, "a budget that suffices")


def its_needs_suffice(method: Method) -> None:
    """It works with a model and a reward that offer what it needs and no more."""
    whole = run(method)
    try:
        strict = run(
            method, model=StrictModel(toy_model(), method.needs), reward=StrictReward(toy_reward(), method.needs)
        )
    except ItalicError as error:
        raise AssertionError(f"with no more than it needs it fails: {error}") from error
    _expect_same(strict, whole, "a model that offers only what it needs")


def notes_are_plain(method: Method) -> None:
    """The values of its notes are numbers, texts, truth values, None, or lists of these."""

    def plain(value: Any) -> bool:
        if isinstance(value, list | tuple):
            return all(plain(v) for v in value)
        if isinstance(value, Mapping):
            return all(isinstance(k, str) and plain(v) for k, v in value.items())
        return value is None or type(value) in (int, float, str, bool)

    for note in run(method).notes:
        for key, value in note.values.items():
            expect(plain(value), f"the note {note.event!r} has {key} = {value!r}, a {type(value).__name__}")


def told(trial: Trial) -> dict[str, Any]:
    """All of the outcomes that must be reproducible, by prompt."""
    return {name: _told(outcome) for name, outcome in sorted(trial.outcomes.items())}


def _told(outcome: Outcome) -> dict[str, Any]:
    drafts = plain(outcome.drafts)
    return {
        "texts": drafts.texts if isinstance(drafts, TextDrafts) else None,
        "steps": drafts.steps.tolist(),
        "rewards": [repr(r) for r in outcome.rewards.tolist()],
        "chosen": outcome.chosen,
        "log-weights": None if outcome.log_weights is None else [repr(w) for w in outcome.log_weights.tolist()],
        "certificate": outcome.certificate,
        "complete": outcome.complete,
    }


def _expect_same(got: Trial, wanted: Trial, what: str) -> None:
    mine, theirs = told(got), told(wanted)
    expect(mine.keys() == theirs.keys(), f"{what}: outcomes for {sorted(mine)} instead of {sorted(theirs)}")
    for name, parts in theirs.items():
        for part, value in parts.items():
            expect(mine[name][part] == value, f"{what} changed the {part} for {name}: {mine[name][part]}, was {value}")


method_checks: tuple[Check, ...] = (
    it_is_a_frozen_dataclass,
    it_says_what_it_is,
    its_outcome_is_true,
    drivers_agree,
    prompts_do_not_depend_on_one_another,
    the_seed_matters,
    a_missing_score_never_wins,
    a_budget_gives_an_outcome,
    its_needs_suffice,
    notes_are_plain,
)
