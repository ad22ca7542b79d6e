"""What Chernoff baselines, SVDD and SMC promise beyond their laws: cost, certificates, missing scores, budgets."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from altered import Altered, each
from driven import driven
from enumerated import Tree

from italic.core.errors import MismatchError, RewardError, SpecError, UsageError
from italic.core.prompt import Prompt
from italic.core.protocols import check
from italic.core.sampling import Sampling
from italic.core.spec import build_method
from italic.laws.clipping import clipped_step
from italic.methods.chernoff import Chernoff
from italic.methods.smc import Smc
from italic.methods.svdd import Svdd
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.align import make_tasks
from italic.run.event import event_driven
from italic.run.ledger import Budget, Ledger
from italic.run.lockstep import lockstep
from italic.values.fitted import Fitted

TREE = Tree(ToyModel(letters=2, length=4, seed=3), beta=0.7)
REWARD, SAMPLING = ToyReward(seed=1), TREE.sampling
MANY = [Prompt(f"p{i}", text=f"prompt {i}") for i in range(30)]
PROMPTS = MANY[:6]


def run(method, *, prompts=PROMPTS, reward=REWARD, seed=0, budget=None, driver=event_driven):
    tasks = make_tasks(prompts, TREE.model, seed, SAMPLING)
    return driven(tasks, method, TREE.model, reward=reward, budget=budget, driver=driver)


def told(outcome):
    weights = None if outcome.log_weights is None else outcome.log_weights.tolist()
    return outcome.drafts.texts, outcome.rewards.tolist(), outcome.chosen, weights, outcome.certificate


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"baseline": "constant", "bound": 3.0, "max_draws": 7},
        {"proper": True},
        {"block": 1, "tv": 0.3},
        {"block": 3, "value": "completions:2", "n": 5},
        {"block": 2, "proper": True, "max_draws": 5},
    ],
    ids=str,
)
def test_how_many_are_under_way_changes_the_cost_alone(options):
    """Not even the last bit of the certificate."""
    method = Chernoff(**{"beta": 0.7, "n": 20, **options})
    (plain, least), *others = [run(replace(method, parallel=k), prompts=PROMPTS[:4]) for k in (1, 3, 64, 10_000)]
    spent = [least.tokens_generated]
    for outcomes, usage in others:
        assert [told(o) for o in outcomes] == [told(o) for o in plain]
        spent.append(usage.tokens_generated)
    assert spent == sorted(spent)
    assert options.get("block") or spent[0] < spent[-1] < 3 * spent[0]


def test_n_draws_are_n_rows_and_the_first_is_chosen():
    for n in (1, 7):
        outcomes, _ = run(Chernoff(n=n, block=2))
        assert all(len(o.drafts) == n and o.chosen == 0 and o.drafts.done.all() for o in outcomes)
        assert all(o.reward == REWARD.of(p.text, o.drafts.texts[0]) for o, p in zip(outcomes, PROMPTS, strict=True))


def test_rows_are_drawn_anew():
    (few, many), _ = zip(*(run(Chernoff(beta=0.7, n=n, baseline="constant", bound=2.5)) for n in (5, 12)), strict=True)
    for a, b in zip(few, many, strict=True):
        assert a.drafts.texts == b.drafts.texts[:5], "more draws keep the first ones"
        assert len(set(b.drafts.texts)) > 3


def test_the_certificate_of_whole_responses():
    bound, n = 1.0, 4000
    method = Chernoff(beta=TREE.beta, n=n, baseline="constant", bound=bound, parallel=10_000)
    found, truth = TREE.drive(method, 1).certificate, clipped_step(TREE.p, TREE.r / TREE.beta, bound / TREE.beta)
    assert found.accepted == n
    assert found.mean_draws == found.proposals / n == 1 / found.acceptance
    assert found.mean_draws == pytest.approx(float(truth.draws), rel=0.05)
    assert found.clip_rate == pytest.approx(float(truth.clip_rate), rel=0.2)
    assert found.tv == pytest.approx(float(truth.tv), rel=0.2)
    assert found.tv_interval[0] < found.tv < found.tv_interval[1]
    assert found.exhaustion_rate == 0
    assert found.bellman_residual is None, "there is no value to be wrong"


@pytest.mark.parametrize("proper", [False, True])
def test_the_certificate_of_blocks(proper):
    """Right values have no residual; values that are wrong show in it, by how much they are."""
    n = 4000
    method = Chernoff(beta=TREE.beta, n=n, block=1, value=TREE.known(), parallel=10_000, proper=proper)
    found = TREE.drive(method, 1).certificate
    assert found.accepted == found.proposals * found.acceptance
    assert found.mean_draws == pytest.approx((1 + proper) / found.acceptance * found.accepted / found.accepted, rel=0.6)
    assert 0 <= found.tv <= 0.15
    assert found.tv_interval[0] == 0
    assert found.tv_interval[1] >= found.tv
    assert found.bellman_residual < 0.1
    wrong = TREE.soft.copy()
    wrong[0] += 1.0
    residual = TREE.drive(replace(method, value=TREE.known(wrong)), 1).certificate.bellman_residual
    assert residual == pytest.approx(1 / TREE.beta, abs=0.1)


def test_the_cap_shows_in_the_certificate():
    hopeless = Chernoff(baseline="constant", bound=1000.0, n=5, max_draws=4)
    for outcome in run(hopeless)[0]:
        found = outcome.certificate
        assert outcome.complete
        assert (found.exhaustion_rate, found.acceptance, found.accepted) == (1, 0, 0)
        assert (found.mean_draws, found.proposals) == (4, 20)
        assert found.tv == found.tv_interval[1] == 1


BAD = {"aa", "ab", "b", "ba"}


@pytest.mark.parametrize(
    "method",
    [
        Chernoff(n=20),
        Chernoff(n=20, block=1),
        Chernoff(n=20, block=2, proper=True),
        Svdd(n=5, children=6, block=1),
        Smc(n=5, particles=30, block=1),
    ],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.parametrize("out", [np.nan, -np.inf])
def test_a_missing_score_is_not_chosen(method, out):
    for outcome in run(method, reward=Altered(each(lambda text, r: out if text in BAD else r)))[0]:
        assert outcome.reward > -np.inf
        if isinstance(method, Chernoff):
            assert not BAD & set(outcome.drafts.texts)
            assert outcome.certificate.tv is None or 0 <= outcome.certificate.tv <= 1


@pytest.mark.parametrize(
    "options",
    [
        {"baseline": "constant", "bound": 2.5},
        {"baseline": "constant", "bound": 2.5, "proper": True},
        {"pilot": 1},
        {"block": 1, "pilot": 1},
        {"block": 2, "tv": 0.5, "proper": True},
    ],
    ids=str,
)
def test_a_missing_score_is_as_good_as_the_lowest(options):
    """Also when it is the only one of its question: to the last bit, as all that counts is that it is not accepted."""
    method = Chernoff(beta=0.7, n=2, parallel=1, **options)
    missing = run(method, reward=Altered(each(lambda text, r: np.nan if text in BAD else r)))
    lowest = run(method, reward=Altered(each(lambda text, r: -np.inf if text in BAD else r)))
    assert [told(o) for o in missing[0]] == [told(o) for o in lowest[0]]
    assert missing[1].counts() == lowest[1].counts()
    assert any(o.certificate.acceptance < 0.5 for o in missing[0]), "some proposals were refused"


NEVER = Altered(each(lambda text, r: np.nan))
NEVER_AT_THE_END = Altered(lambda texts, rewards, done: np.where(done, np.nan, rewards))


@pytest.mark.parametrize("method", [Chernoff(), Chernoff(block=2), Chernoff(block=2, value="completions:2")], ids=str)
def test_a_draw_without_any_score_is_an_error(method):
    with pytest.raises(RewardError, match="every score of one draw's 7 proposals is missing") as failure:
        run(replace(method, max_draws=7), reward=NEVER)
    assert "italic doctor" in failure.value.hint


@pytest.mark.parametrize("alpha", [0.0, 1.0])
@pytest.mark.parametrize("reward", [NEVER, NEVER_AT_THE_END], ids=["never", "at the end"])
def test_an_answer_without_a_score_is_an_error(alpha, reward):
    """Also if the last scores alone are missing."""
    for method in (Svdd(n=2, block=1, alpha=alpha, children=2), Smc(n=2, block=1, particles=2)):
        with pytest.raises(RewardError, match="every score that an answer to prompt 'p0' could be") as failure:
            run(method, reward=reward, prompts=PROMPTS[:1])
        assert "italic doctor" in failure.value.hint


@pytest.mark.parametrize("method", [Svdd(n=6, children=1, block=1), Smc(n=6, particles=1, block=1)], ids=lambda m: m.n)
def test_the_first_answer_with_a_score_is_chosen(method):
    """A few answers have none; which others have one does not depend on them."""
    outcomes, _ = run(method, reward=Altered(each(lambda t, r: np.nan if t in BAD else r)), prompts=MANY)
    for outcome in outcomes:
        scored = ~np.isnan(outcome.rewards)
        if outcome.log_weights is not None and np.any(outcome.log_weights > -np.inf):
            scored &= outcome.log_weights > -np.inf
        assert outcome.chosen == np.flatnonzero(scored)[0]
    assert 0 < sum(o.chosen > 0 for o in outcomes) < len(outcomes)


def test_every_score_of_one_draw_missing_is_an_error():
    """The others have scores; but this draw has nothing to fall back on."""
    some = Altered(each(lambda text, r: np.nan if len(text) < 3 else r))
    with pytest.raises(RewardError, match="every score of one draw's 2 proposals is missing"):
        run(Chernoff(n=50, baseline="constant", bound=3.0, max_draws=2), reward=some)


@pytest.mark.parametrize(
    "method",
    [
        Chernoff(n=3, max_draws=5),
        Chernoff(n=3, max_draws=5, proper=True),
        Chernoff(n=3, max_draws=5, block=2),
        Chernoff(n=3, max_draws=5, block=2, proper=True),
        Svdd(n=3, block=2),
        Smc(block=2),
    ],
    ids=lambda m: type(m).__name__,
)
def test_nothing_but_the_lowest_reward(method):
    for outcome in run(method, reward=Altered(each(lambda text, r: -np.inf)))[0]:
        assert outcome.reward == -np.inf
        assert outcome.log_weights is None or np.all(outcome.log_weights == -np.inf)
        if isinstance(method, Chernoff):
            steps = method.block is not None
            assert outcome.certificate.mean_draws == (1 + method.proper if steps else 5), "one worth nothing will do"
            assert outcome.certificate.exhaustion_rate == (0 if steps else 1)
            assert outcome.certificate.tv is None


@pytest.mark.parametrize("driver", [event_driven, lockstep])
def test_a_budget_ends_whole_responses_with_what_was_tried(driver):
    method = Chernoff(beta=0.2, n=8, baseline="constant", bound=4.0, parallel=1, max_draws=10_000)
    for tokens in (60, 200, 1000):
        (outcome,), usage = run(method, prompts=PROMPTS[:1], budget=Budget(tokens=tokens), driver=driver)
        assert usage.tokens_generated <= tokens
        assert not outcome.complete
        assert len(outcome.drafts) == 8, "a row for each draw, accepted or not"
        assert outcome.certificate.exhaustion_rate > 0
        assert outcome.certificate.proposals >= 8
    (first,), _ = run(method, prompts=PROMPTS[:1], budget=Budget(tokens=3), driver=driver)
    assert not first.complete
    assert first.certificate is None, "not one round was through"
    (scored,), usage = run(method, prompts=PROMPTS[:1], budget=Budget(reward_calls=9), driver=driver)
    assert usage.reward_calls <= 9
    assert not scored.complete
    assert scored.chosen is not None


@pytest.mark.parametrize("driver", [event_driven, lockstep])
def test_a_budget_may_end_before_every_draw_has_a_score(driver):
    """Then there is no row for each draw, and the driver answers with the best finished draft that has a score."""
    method = Chernoff(beta=0.2, n=8, baseline="constant", bound=4.0, parallel=1, max_draws=10_000)
    some, seen = Altered(each(lambda text, r: r if len(text) > 3 else np.nan)), Counter()
    for tokens in range(44, 200, 12):
        for outcome in run(method, reward=some, prompts=PROMPTS[:1], budget=Budget(tokens=tokens), driver=driver)[0]:
            assert not outcome.complete
            assert outcome.chosen is not None
            assert len(outcome.drafts.texts[outcome.chosen]) > 3
            mine = outcome.certificate is not None
            assert not mine or (len(outcome.drafts) == 8 and not np.isnan(outcome.rewards).any())
            seen[mine] += 1
    assert seen[True] > 2
    assert seen[False] > 2


@pytest.mark.parametrize("driver", [event_driven, lockstep])
@pytest.mark.parametrize("method", [Chernoff(n=4, block=1), Svdd(n=4, block=1), Smc(n=4, particles=4, block=1)])
def test_a_budget_ends_blocks_with_the_best_so_far(method, driver):
    whole = run(method, prompts=PROMPTS[:1])[1].tokens_generated
    seen = 0
    for tokens in range(1, whole, max(1, whole // 12)):
        outcomes, usage = run(method, prompts=PROMPTS[:1], budget=Budget(tokens=tokens), driver=driver)
        assert usage.tokens_generated <= tokens
        (outcome,) = outcomes
        assert not outcome.complete
        if outcome.chosen is not None:
            seen += 1
            assert outcome.drafts.done[outcome.chosen]
            assert outcome.reward == REWARD.of(PROMPTS[0].text, outcome.drafts.texts[outcome.chosen])
    assert seen > 0


@pytest.mark.parametrize(
    ("kind", "values", "needle"),
    [
        (Chernoff, {"beta": 0.0}, "beta=0.0"),
        (Chernoff, {"beta": float("nan")}, "beta=nan"),
        (Chernoff, {"tv": 1.0}, "tv=1.0"),
        (Chernoff, {"delta": 0.0}, "delta=0.0"),
        (Chernoff, {"tv": 0.1, "delta": 0.1}, "both tv and delta"),
        (Chernoff, {"n": 0}, "n=0"),
        (Chernoff, {"pilot": 0}, "pilot=0"),
        (Chernoff, {"max_draws": 0}, "max_draws=0"),
        (Chernoff, {"parallel": 0}, "parallel=0"),
        (Chernoff, {"block": 0}, "block=0"),
        (Chernoff, {"baseline": "constant"}, "bound=None"),
        (Chernoff, {"bound": 1.0}, "baseline=pilot"),
        (Chernoff, {"value": "preview"}, "value=preview for whole responses"),
        (Chernoff, {"baseline": "/nowhere"}, "no fitted baseline in '/nowhere'"),
        (Svdd, {"n": 0}, "n=0"),
        (Svdd, {"children": 0}, "children=0"),
        (Svdd, {"block": 0}, "block=0"),
        (Svdd, {"alpha": -1.0}, "alpha=-1.0"),
        (Svdd, {"alpha": float("inf")}, "alpha=inf"),
        (Smc, {"particles": 0}, "particles=0"),
        (Smc, {"beta": 0.0}, "beta=0.0"),
        (Smc, {"ess": 1.5}, "ess=1.5"),
        (Smc, {"ess": float("nan")}, "ess=nan"),
    ],
)
def test_bad_parameters_are_refused_with_what_to_type(kind, values, needle):
    with pytest.raises(UsageError) as refusal:
        kind(**values)
    assert needle in refusal.value.message
    assert refusal.value.hint


def test_unknown_values_are_refused_when_the_method_is_made():
    for kind in (Svdd, Smc):
        with pytest.raises(SpecError, match="there is no value 'rewards'"):
            kind(value="rewards")
    with pytest.raises(SpecError, match="there is no value 'rewards'"):
        _ = Chernoff(block=2, value="rewards").plan


MADE = Fitted(
    kind="conformal",
    beta=0.7,
    block=2,
    horizon=5,
    tau=np.zeros(5),
    ceiling=np.full(5, 99.0),
    value="reward",
    model="toy",
    reward="toy",
)


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        ({"beta": 1.0}, "beta=1.0, and the baseline was fitted with beta=0.7"),
        ({"block": 3}, "block=3, and the baseline was fitted with block=2"),
        ({"value": "preview"}, "value=preview, and the baseline was fitted with value=reward"),
        ({"tv": 0.1}, "which baseline=a fitted conformal baseline has no use for"),
        ({"delta": 0.1}, "which baseline=a fitted conformal baseline has no use for"),
        ({"bound": 1.0}, "bound=1.0"),
    ],
)
def test_settings_that_contradict_the_fit_are_refused(options, needle):
    with pytest.raises(UsageError) as refusal:
        Chernoff(baseline=MADE, **options)
    assert needle in refusal.value.message
    assert Chernoff(baseline=MADE, beta=0.7, block=2, value="reward").plan == Chernoff(baseline=MADE).plan


def test_responses_longer_than_the_fit_are_refused():
    short = replace(MADE, horizon=4)
    with pytest.raises(UsageError, match="responses of up to 5 steps, and the baseline was fitted to 4"):
        run(Chernoff(baseline=short))


def test_needs_depend_on_the_parameters():
    assert Chernoff().needs == frozenset()
    assert Chernoff(block=2).needs == {"resume", "partial"}
    assert Chernoff(block=2, value="completions:2").needs == {"resume"}
    assert Chernoff(baseline=MADE).needs == {"resume", "partial"}
    assert Svdd(value="preview").needs == Smc(value="preview").needs == {"resume", "preview"}
    check(Chernoff(), TREE.model, REWARD)
    with pytest.raises(MismatchError, match="needs preview"):
        check(Svdd(value="preview"), TREE.model, REWARD)


@pytest.mark.parametrize(
    ("spec", "method"),
    [
        ("chernoff:tv=0.1,n=3", Chernoff(tv=0.1, n=3)),
        ("chernoff:baseline=constant,bound=4", Chernoff(baseline="constant", bound=4.0)),
        ("chernoff:block=2,value=completions:3,proper=true", Chernoff(block=2, value="completions:3", proper=True)),
        ("svdd:alpha=0,block=2", Svdd(alpha=0.0, block=2)),
        ("smc:particles=3,ess=1", Smc(particles=3, ess=1.0)),
    ],
)
def test_specs(spec, method):
    assert build_method(spec) == method


def test_longer_responses_than_the_model_makes():
    """max_tokens far above the longest response: the steps that nobody needs cost nothing."""
    results = event_driven(
        make_tasks(PROMPTS, TREE.model, 0, Sampling()), Chernoff(n=3, block=2), TREE.model, REWARD, Ledger()
    )
    for result in results:
        assert result.outcome.complete
        assert result.outcome.certificate.tv_interval is not None
