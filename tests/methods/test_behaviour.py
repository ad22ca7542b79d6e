"""What the simple methods promise beyond their laws: nestedness, determinism, missing scores, budgets, refusals."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from altered import Altered
from batched import draw_texts
from batched import make_tasks as toy_tasks

from italic.core.errors import RewardError, UsageError
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.core.spec import build_method
from italic.laws.best_of_n import kl_bound
from italic.laws.weights import effective_sample_size
from italic.methods.best_of_n import BestOfN
from italic.methods.rejection import Rejection
from italic.methods.sample import Sample
from italic.methods.soft_best_of_n import SoftBestOfN
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.align import make_tasks
from italic.run.event import event_driven
from italic.run.ledger import Budget, Ledger
from italic.run.lockstep import lockstep

MODEL, REWARD, SAMPLING = ToyModel(letters=3, length=4, seed=1), ToyReward(seed=1), Sampling(max_tokens=5)
PROMPTS = [Prompt(f"p{i}", text="again" if i % 2 else "and again") for i in range(40)]
METHODS = [Sample(n=4), BestOfN(n=4), SoftBestOfN(n=4, beta=0.5), Rejection(bound=3.5, max_draws=2000, parallel=4)]
NAMES = [type(m).__name__ for m in METHODS]


def is_a(texts):
    return np.char.startswith(texts, "a")


A_MISSING = Altered(lambda texts, rewards, done: np.where(is_a(texts), np.nan, rewards))
A_LOWEST = Altered(lambda texts, rewards, done: np.where(is_a(texts), -np.inf, rewards))
ALL_LOWEST = Altered(lambda texts, rewards, done: np.where(is_a(texts), np.nan, -np.inf))
ALL_MISSING = Altered(lambda texts, rewards, done: np.full(len(rewards), np.nan))


def run(method, *, reward=REWARD, prompts=PROMPTS, seed=0, budget=None, driver=lockstep, window=64, model=MODEL):
    tasks = make_tasks(prompts, model, seed, SAMPLING)
    ledger = Ledger() if budget is None else Ledger(budget)
    results = list(driver(tasks, method, model, reward, ledger, window=window))
    return [r.outcome for r in sorted(results, key=lambda r: r.order)]


def answers(outcomes):
    return [(o.drafts.texts[o.chosen], o.reward, o.certificate, o.usage.counts()) for o in outcomes]


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_the_driver_the_batch_and_the_order_do_not_matter(method):
    expected = answers(run(method))
    assert answers(run(method, driver=event_driven)) == expected
    assert answers(run(method, window=1)) == expected
    assert answers(run(method, driver=event_driven, model=replace(MODEL, rows=3))) == expected
    assert answers(run(method, prompts=PROMPTS[::-1]))[::-1] == expected
    assert [a[0] for a in answers(run(method, seed=1))] != [a[0] for a in expected]


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_the_fast_driver_of_the_law_tests_is_a_driver(method):
    tasks = toy_tasks(MODEL, PROMPTS[0], SAMPLING, 3, 50)
    outcomes = sorted(lockstep(tasks, method, MODEL, REWARD, Ledger()), key=lambda r: r.order)
    assert draw_texts(method, tasks, MODEL, REWARD) == [a[0] for a in answers(r.outcome for r in outcomes)]


@pytest.mark.parametrize("kind", [Sample, BestOfN, SoftBestOfN])
def test_more_draws_keep_the_first_ones(kind):
    for few, many in zip(run(kind(n=8)), run(kind(n=16)), strict=True):
        assert few.drafts.texts == many.drafts.texts[:8]
        assert np.array_equal(few.rewards, many.rewards[:8])
        assert kind is not BestOfN or many.reward >= few.reward


def test_one_draw_is_plain_sampling():
    expected = [(text, reward) for text, reward, *_ in answers(run(Sample()))]
    for method in (BestOfN(n=1), SoftBestOfN(n=1, beta=0.01), Rejection(bound=9, max_draws=1)):
        assert [(text, reward) for text, reward, *_ in answers(run(method))] == expected


def test_the_best_is_the_first_of_the_best():
    for outcome in run(BestOfN(n=8), reward=ToyReward(levels=2)):
        assert outcome.reward == outcome.rewards.max()
        assert outcome.chosen == np.flatnonzero(outcome.rewards == outcome.reward)[0]


def test_parallel_draws_change_only_the_cost():
    one, *others = (run(Rejection(bound=3.5, max_draws=300, parallel=k)) for k in (1, 3, 8, 1000))
    for other in others:
        assert [a[:3] for a in answers(other)] == [a[:3] for a in answers(one)]
    spent = [sum(o.usage.tokens_generated for o in outcomes) for outcomes in (one, *others)]
    assert spent == sorted(spent)
    assert spent[0] < spent[-1]


def test_certificates():
    assert all(o.certificate.kl_bound == kl_bound(4) for o in run(BestOfN(n=4)))
    for outcome in run(SoftBestOfN(n=4, beta=0.5)):
        assert np.array_equal(outcome.log_weights, outcome.rewards / 0.5)
        assert outcome.certificate.ess == effective_sample_size(outcome.log_weights)
    for outcome in run(Rejection(bound=3.5, max_draws=2000, parallel=1)):
        known = outcome.certificate.known()
        proposals = known.pop("proposals")
        assert known == {"tv": 0, "exhaustion_rate": 0, "acceptance": 1 / proposals, "accepted": 1}
        assert outcome.usage.reward_calls + outcome.usage.reward_cached == proposals


def test_rejection_that_accepts_nothing():
    for outcome in run(Rejection(bound=1000, max_draws=20, parallel=8)):
        assert outcome.complete
        assert outcome.certificate.known() == {"exhaustion_rate": 1, "acceptance": 0, "proposals": 20, "accepted": 0}


def test_a_bound_that_is_too_low_is_an_error():
    with pytest.raises(RewardError, match=r"prompt 'p\d+' is above rejection's bound of 0") as failure:
        run(Rejection(bound=0, beta=0.5))
    assert "rejection:bound=" in failure.value.hint


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_missing_scores_are_never_chosen(method):
    outcomes = run(method, reward=A_MISSING)
    assert not any(text.startswith("a") for text, *_ in answers(outcomes))
    assert all(np.array_equal(np.isnan(o.rewards), is_a(np.array(o.drafts.texts))) for o in outcomes)
    full = run(method)
    kept = [(o, f) for o, f in zip(outcomes, full, strict=True) if not np.isnan(o.rewards).any()]
    assert any(np.isnan(o.rewards).any() for o in outcomes) or isinstance(method, Rejection)
    assert all(o.drafts.texts[o.chosen] == f.drafts.texts[f.chosen] for o, f in kept) or isinstance(method, Rejection)


def test_certificates_with_missing_scores():
    for outcome in run(BestOfN(n=4), reward=A_MISSING):
        assert (outcome.certificate.kl_bound is None) == np.isnan(outcome.rewards).any()
    for outcome in run(SoftBestOfN(n=4), reward=A_MISSING):
        missing = np.isnan(outcome.rewards)
        assert np.array_equal(outcome.log_weights == -np.inf, missing)
        assert outcome.certificate.ess <= np.sum(~missing) + 1e-9


@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_every_score_missing_is_an_error(method):
    with pytest.raises(RewardError, match="missing"):
        run(method, reward=ALL_MISSING)


@pytest.mark.parametrize("method", METHODS[1:], ids=NAMES[1:])
def test_the_lowest_reward_is_not_chosen_if_there_is_another(method):
    for outcome in run(method, reward=A_LOWEST):
        assert outcome.reward > -np.inf or np.all(outcome.rewards == -np.inf)


@pytest.mark.parametrize("method", [*METHODS[:3], Rejection(bound=3.5, max_draws=12, parallel=6)], ids=NAMES)
def test_nothing_but_the_lowest_reward(method):
    for outcome in run(method, reward=ALL_LOWEST):
        assert outcome.reward == -np.inf
        first = np.flatnonzero(~np.isnan(outcome.rewards))[0]
        assert outcome.chosen == first


@pytest.mark.parametrize("driver", [lockstep, event_driven])
@pytest.mark.parametrize("method", METHODS, ids=NAMES)
def test_a_budget_ends_a_run_with_the_best_so_far(method, driver):
    for tokens in (0, 5, 60, 200):
        outcomes = run(method, budget=Budget(tokens=tokens), driver=driver)
        assert sum(o.usage.tokens_generated for o in outcomes) <= tokens
        assert not all(o.complete for o in outcomes) or len(outcomes) < len(PROMPTS)
    calls = run(method, budget=Budget(reward_calls=30), driver=driver)
    assert 0 < sum(o.usage.reward_calls for o in calls) <= 30
    for outcome in calls:
        assert outcome.complete <= (outcome.chosen is not None)


def test_rejection_falls_back_on_the_draws_it_has_tested():
    """Under an impossible bound the budget leaves a choice in proportion to exp(r / beta): at this beta, the best."""
    method = Rejection(bound=1000, beta=1e-3, parallel=1)
    (outcome,) = run(method, prompts=PROMPTS[:1], budget=Budget(tokens=100))
    proposals = outcome.certificate.proposals
    assert not outcome.complete
    assert outcome.certificate.known() == {
        "exhaustion_rate": 1,
        "acceptance": 0,
        "proposals": proposals,
        "accepted": 0,
    }
    (drawn,) = run(Sample(n=proposals), prompts=PROMPTS[:1])
    assert outcome.reward == drawn.rewards.max()


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Sample, {"n": 0}),
        (BestOfN, {"n": 0}),
        (SoftBestOfN, {"n": 0}),
        (SoftBestOfN, {"beta": 0.0}),
        (SoftBestOfN, {"beta": float("inf")}),
        (SoftBestOfN, {"beta": float("nan")}),
        (Rejection, {"bound": float("inf")}),
        (Rejection, {"bound": float("nan")}),
        (Rejection, {"bound": 1.0, "beta": -1.0}),
        (Rejection, {"bound": 1.0, "max_draws": 0}),
        (Rejection, {"bound": 1.0, "parallel": 0}),
    ],
)
def test_bad_parameters_are_refused_with_what_to_type(kind, values):
    with pytest.raises(UsageError) as refusal:
        kind(**values)
    name, _, example = refusal.value.hint.partition(": ")[2].partition(":")
    typed = build_method(f"{name}:{example.split('. ')[0].rstrip('.')}")
    assert isinstance(typed, kind)
    assert all(getattr(typed, key) != value for key, value in values.items() if key != "bound" or len(values) == 1)


@pytest.mark.parametrize(
    ("spec", "method"),
    [
        ("sample", Sample()),
        ("best-of-n:n=4", BestOfN(n=4)),
        ("soft-best-of-n:n=4,beta=0.5", SoftBestOfN(n=4, beta=0.5)),
        ("rejection:bound=2,max-draws=10", Rejection(bound=2.0, max_draws=10)),
    ],
)
def test_specs(spec, method):
    assert build_method(spec) == method
