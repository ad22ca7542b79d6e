"""What Chernoff baselines, SVDD and SMC promise beyond their laws: cost, certificates, missing scores, budgets."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from enumerated import Tree

from italic.core.errors import MismatchError, RewardError, SpecError, UsageError
from italic.core.prompt import Prompt
from italic.core.protocols import Scored, check
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
PROMPTS = [Prompt(f"p{i}", text=f"prompt {i}") for i in range(6)]


@dataclass
class Altered:
    """The toy reward with other scores for some texts; NaN is missing."""

    alter: object
    name: str = "altered"
    needs: frozenset[str] = frozenset({"texts"})
    partial: bool = True
    deterministic: bool = True

    def score(self, batches):
        answers = []
        for drafts in batches:
            rewards = np.array([self.alter(t, REWARD.of(drafts.prompt.last, t)) for t in drafts.texts], dtype=float)
            answers.append(Scored(rewards, np.isnan(rewards)))
        return answers


def run(method, *, prompts=PROMPTS, reward=REWARD, seed=0, budget=None, driver=event_driven):
    ledger = Ledger() if budget is None else Ledger(budget)
    results = driver(make_tasks(prompts, TREE.model, seed, SAMPLING), method, TREE.model, reward, ledger)
    return [r.outcome for r in sorted(results, key=lambda r: r.order)], ledger.usage


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
    reward = Altered(lambda text, r: out if text in BAD else r)
    outcomes = []
    for prompt in PROMPTS:
        try:
            outcomes += run(method, reward=reward, prompts=[prompt])[0]
        except RewardError:  # a question about few rows, of which every score is missing, ends the run
            assert np.isnan(out)
    assert len(outcomes) >= (1 if np.isnan(out) else 6)
    for outcome in outcomes:
        assert outcome.reward > -np.inf
        if isinstance(method, Chernoff):
            assert not BAD & set(outcome.drafts.texts)
            assert outcome.certificate.tv is None or 0 <= outcome.certificate.tv <= 1


def test_every_score_missing_is_an_error():
    nothing = Altered(lambda text, r: np.nan)
    for method in (Chernoff(), Chernoff(block=2), Svdd(block=2), Smc(block=2)):
        with pytest.raises(RewardError, match="missing"):
            run(method, reward=nothing)


def test_every_score_of_one_draw_missing_is_an_error():
    """The others have scores, so the driver does not complain; but this draw has nothing to fall back on."""
    some = Altered(lambda text, r: np.nan if len(text) < 3 else r)
    with pytest.raises(RewardError, match="every score of one draw's 2 proposals is missing"):
        run(Chernoff(n=50, baseline="constant", bound=3.0, max_draws=2), reward=some)


WARNS = pytest.mark.xfail(strict=True, raises=RuntimeWarning, reason="Chernoff.run subtracts -inf from -inf")


@pytest.mark.parametrize(
    "method",
    [
        Chernoff(n=3, max_draws=5),
        pytest.param(Chernoff(n=3, max_draws=5, block=2), marks=WARNS),
        Svdd(n=3, block=2),
        Smc(block=2),
    ],
    ids=lambda m: type(m).__name__,
)
def test_nothing_but_the_lowest_reward(method):
    for outcome in run(method, reward=Altered(lambda text, r: -np.inf))[0]:
        assert outcome.reward == -np.inf
        assert not isinstance(method, Smc) or outcome.log_weights.tolist() == [-np.inf]


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
        ({"tv": 0.1}, "tv or delta, which a fitted baseline has settled"),
        ({"delta": 0.1}, "tv or delta, which a fitted baseline has settled"),
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
