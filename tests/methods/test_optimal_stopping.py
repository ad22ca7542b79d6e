"""Optimal stopping: best-of-n with n found on the way; Weitzman's rule where the law is known, near it elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from altered import Altered, each
from driven import draws, driven, same
from scipy import stats
from scipy.optimize import brentq
from scipy.special import ndtr

from italic.core.errors import RewardError, SpecError, UsageError
from italic.core.keys import Key, uniforms
from italic.core.prompt import Prompt
from italic.core.questions import Extend, Note, Score
from italic.core.sampling import Sampling
from italic.core.spec import build_method
from italic.laws.reward_laws import known
from italic.methods import optimal_stopping as module
from italic.methods.best_of_n import BestOfN
from italic.methods.optimal_stopping import OptimalStopping
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.align import make_tasks
from italic.run.event import event_driven
from italic.run.ledger import Budget, Ledger
from italic.run.lockstep import lockstep

INF, NAN = np.inf, np.nan
SAMPLING = Sampling(max_tokens=5)
PROMPTS = [Prompt(f"p{i}", text=f"prompt {i}") for i in range(8)]
USUAL = OptimalStopping(cost=0.05, n=20)


@cache
def model_of(rows: int = 64) -> ToyModel:
    return ToyModel(letters=10, length=4, seed=5, spread=0.3, rows=rows)


MODEL = model_of()


def run(method, *, reward=None, budget=None, driver=event_driven, rows=64, prompts=PROMPTS, seed=0):
    tasks = make_tasks(prompts, model_of(rows), seed, SAMPLING)
    return driven(tasks, method, model_of(rows), reward=reward, budget=budget, driver=driver)


def drive(method, rewards, notes: list[Note] | None = None) -> Any:
    """The outcome of a run whose i-th draw has the i-th of the rewards. Nothing is generated."""
    task = make_tasks(PROMPTS[:1], MODEL, 0, SAMPLING)[0]
    place = {seed: i for i, seed in enumerate(task.start(len(rewards)).seeds.tolist())}
    asking, answer = method.run(task), None
    while True:
        try:
            question = asking.send(answer)
        except StopIteration as end:
            return end.value
        answer = None
        if isinstance(question, Extend):
            answer = question.drafts.ended()
        elif isinstance(question, Score):
            answer = np.array([rewards[place[seed]] for seed in question.drafts.seeds.tolist()], dtype=float)
            if question.strict and np.isnan(answer).all():
                raise RewardError("every score is missing")
        elif notes is not None:
            notes.append(question)


@pytest.mark.parametrize("parallel", [1, 2, 5, 30])
def test_what_costs_nothing_is_best_of_n(parallel):
    for reward in (None, Altered(each(lambda text, r: 0.5))):
        mine, cost = run(OptimalStopping(cost=0, n=9, parallel=parallel), reward=reward)
        theirs, paid = run(BestOfN(n=9), reward=reward)
        assert cost.tokens_generated == paid.tokens_generated
        assert cost.reward_calls == paid.reward_calls
        for a, b in zip(mine, theirs, strict=True):
            same(a, b)


@pytest.mark.parametrize("exploration", [1, 2, 4, 9])
def test_what_costs_much_is_best_of_the_exploration(exploration):
    mine, cost = run(OptimalStopping(cost=1e9, n=9, exploration=exploration))
    theirs, paid = run(BestOfN(n=exploration))
    assert cost.counts() == paid.counts()
    for a, b in zip(mine, theirs, strict=True):
        same(a, b)
        assert a.notes["draws"] == exploration


@pytest.mark.parametrize("estimator", ["auto", "tail", "normal", "kde"])
def test_the_draws_are_the_first_of_best_of_n(estimator):
    seen, most = set(), run(BestOfN(n=20))[0]
    for cost, exploration, parallel in ((0.02, 4, 2), (0.05, 3, 1), (0.1, 2, 7), (0.005, 5, 4)):
        method = OptimalStopping(cost=cost, n=20, exploration=exploration, parallel=parallel, estimator=estimator)
        for a, b in zip(run(method)[0], most, strict=True):
            m = len(a.drafts)
            assert a.drafts.texts == b.drafts[:m].texts
            assert np.array_equal(a.rewards, b.rewards[:m])
            assert a.chosen == np.argmax(a.rewards)
            assert exploration <= m <= 20
            assert m == 20 or (m - exploration) % parallel == 0
            assert a.notes["draws"] == m
            assert a.notes["expected_gain"] <= cost or m == 20
            seen.add(m)
    assert len(seen) > 4


def test_a_dearer_draw_is_made_less_often():
    counts = [draws(run(OptimalStopping(cost=cost, n=20))[0]) for cost in (0.0, 0.01, 0.03, 0.1, 0.3, 1.0)]
    assert all(np.all(np.array(a) >= b) for a, b in pairwise(counts))
    assert counts[0] == [20] * 8
    assert counts[-1] == [4] * 8
    assert len({sum(c) for c in counts}) >= 5


def test_it_goes_on_as_long_as_the_expected_gain_is_above_the_cost():
    notes: list[Note] = []
    rewards = stats.expon().ppf(np.random.default_rng(3).random(40))
    outcome = drive(OptimalStopping(cost=0.03, n=40, exploration=3, parallel=2), rewards, notes)
    values = [note.values for note in notes]
    assert [note.event for note in notes] == ["drawn"] * len(notes)
    assert [v["total"] for v in values] == list(range(3, 3 + 2 * len(notes), 2))
    assert all(v["expected_gain"] > 0.03 for v in values[:-1])
    assert values[-1]["expected_gain"] <= 0.03
    assert outcome.notes == {"draws": values[-1]["total"], "expected_gain": values[-1]["expected_gain"]}
    assert 5 < len(outcome.drafts) < 40


@dataclass(frozen=True, eq=False)
class Setting:
    """Prompts whose rewards have one law, up to a factor of each; what a draw costs, and n draws are made at most.

    gain: E (R - m)_+ at scale 1, as a function of m.
    """

    law: Any
    gain: Callable[[float], float]
    cost: float
    scales: np.ndarray
    n: int = 64

    @cached_property
    def rewards(self) -> np.ndarray:
        """float64 [K, n]."""
        seeds = np.array([Key(7).at(i).seeds(self.n) for i in range(len(self.scales))])
        return np.asarray(self.law.ppf(uniforms(seeds, np.zeros(self.n, dtype=np.int64))) * self.scales[:, None])

    @cached_property
    def reservation(self) -> np.ndarray:
        """Of each prompt, the best at which another draw is just worth its cost: float64 [K]."""
        at = {s: brentq(lambda m, s=s: self.gain(m) - self.cost / s, -200, 40) for s in set(self.scales.tolist())}
        return np.array([s * at[s] for s in self.scales.tolist()])

    def net(self, counts) -> np.ndarray:
        """What is left after so many draws of each prompt: float64 [K]."""
        best = np.maximum.accumulate(self.rewards, axis=1)
        return best[np.arange(len(best)), np.asarray(counts) - 1] - self.cost * np.asarray(counts)

    def fixed(self) -> np.ndarray:
        """The mean of that for one number of draws: float64 [n]."""
        return np.array([self.net(np.full(len(self.scales), m)).mean() for m in range(1, self.n + 1)])

    def weitzman(self) -> np.ndarray:
        """How many draws the optimal rule makes, which knows the law."""
        good = np.maximum.accumulate(self.rewards, axis=1) >= self.reservation[:, None]
        return np.where(good.any(axis=1), good.argmax(axis=1) + 1, self.n)

    def counts(self, method) -> np.ndarray:
        return np.array([len(drive(method, rewards).drafts) for rewards in self.rewards])


def of_normal(m: float) -> float:
    return float(np.exp(-m * m / 2) / math.sqrt(2 * math.pi) - m * ndtr(-m))


ALIKE = Setting(stats.expon(), lambda m: math.exp(-max(m, 0)) - min(m, 0), 0.1, np.ones(600), n=120)


def test_with_a_known_law_the_rule_is_optimal(monkeypatch):
    """Its value is the reservation value itself (Weitzman); another cost, or a fixed number of draws, gives less."""
    grid = ALIKE.law.ppf((np.arange(1000) + 0.5) / 1000)
    monkeypatch.setattr(module, "gains", lambda draws, estimator: known(grid[None], draws.max(axis=1)))
    counts = ALIKE.counts(OptimalStopping(cost=0.1, n=120, exploration=1, parallel=1))
    assert np.mean(counts == ALIKE.weitzman()) > 0.99
    net, value = ALIKE.net(counts), ALIKE.reservation[0]
    assert value == pytest.approx(math.log(10), rel=1e-3)
    assert abs(net.mean() - value) < 2 * net.std() / math.sqrt(len(net))
    assert net.mean() > 1.1 * ALIKE.fixed().max()
    for other in (0.04, 0.4):
        less = net - ALIKE.net(ALIKE.counts(OptimalStopping(cost=other, n=120, exploration=1, parallel=1)))
        assert less.mean() > 3 * less.std() / math.sqrt(len(less))


SPREAD = np.exp(np.random.default_rng(0).uniform(math.log(0.05), math.log(3), size=60))
DIFFERENT = {
    "cheap": (Setting(stats.norm(), of_normal, 0.01, SPREAD), 0.9),
    "dear": (Setting(stats.norm(), of_normal, 0.03, SPREAD), 0.6),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_where_prompts_differ_it_beats_every_fixed_number_of_draws(name):
    """With laws that it has to estimate. How near it comes to the rule that knows them depends on the cost."""
    setting, part = DIFFERENT[name]
    counts = setting.counts(OptimalStopping(cost=setting.cost))
    net, best = setting.net(counts).mean(), setting.net(setting.weitzman()).mean()
    assert setting.fixed().max() < net < best
    assert net > part * best
    assert np.corrcoef(counts, setting.weitzman())[0, 1] > 0.5


@pytest.mark.parametrize("value", [0.0, 0.5, -3e7, 1e-9])
@pytest.mark.parametrize("exploration", [1, 2, 5])
def test_rewards_that_are_all_alike_are_given_up(value, exploration):
    outcome = drive(OptimalStopping(cost=1e-6, n=20, exploration=exploration), [value] * 20)
    assert len(outcome.drafts) == exploration
    assert outcome.notes["expected_gain"] == 0
    assert outcome.chosen == 0
    assert outcome.complete


def test_the_highest_reward_is_not_exceeded():
    assert len(drive(OptimalStopping(cost=1e-6, n=20), [0, 1, INF, 2, *range(16)]).drafts) == 4
    late = drive(OptimalStopping(cost=1e-6, n=20), [0, 1, 3, 2, 4, INF, *range(14)])
    assert len(late.drafts) == 6
    assert late.chosen == 5


@pytest.mark.parametrize("out", [NAN, -INF])
def test_draws_of_no_use_are_draws_and_not_chosen(out):
    lost = Altered(each(lambda text, r: out if len(text) < 4 or r > 1 else r), ToyReward(seed=1))
    outcomes, _ = run(USUAL, reward=lost)
    assert all(-INF < o.reward <= 1 for o in outcomes)
    assert all(len(o.drafts) >= 4 for o in outcomes)
    assert sum(int((~np.isfinite(o.rewards)).sum()) for o in outcomes) > 10
    low, _ = run(USUAL, reward=Altered(each(lambda text, r: -INF if len(text) < 4 or r > 1 else r), ToyReward(seed=1)))
    assert draws(outcomes) == draws(low)


@pytest.mark.parametrize("out", [NAN, -INF])
def test_as_long_as_nothing_is_known_it_goes_on(out):
    rewards = [out] * 9 + [0.1, 0.4, 0.2, 0.8, 0.1, 0.6]
    outcome = drive(OptimalStopping(cost=1e6, n=15), rewards)
    assert len(outcome.drafts) == 10
    assert outcome.chosen == 9


def test_every_score_missing_is_an_error_after_n_draws():
    tasks, ledger = make_tasks(PROMPTS[:1], MODEL, 0, SAMPLING), Ledger()
    missing = Altered(each(lambda text, r: NAN))
    with pytest.raises(RewardError, match="every score of the reward altered for prompt 'p0' is missing") as failure:
        list(event_driven(tasks, OptimalStopping(cost=5.0, n=9), MODEL, missing, ledger))
    assert "italic doctor" in failure.value.hint
    assert ledger.usage.tokens_generated == run(BestOfN(n=9), prompts=PROMPTS[:1])[1].tokens_generated


def test_nothing_but_the_lowest_reward():
    outcome = drive(OptimalStopping(cost=5.0, n=9), [-INF] * 9)
    assert len(outcome.drafts) == 9
    assert outcome.complete
    assert outcome.reward == -INF


@pytest.mark.parametrize("driver", [lockstep, event_driven], ids=["lockstep", "event"])
@pytest.mark.parametrize("resource", ["tokens", "reward_calls"])
def test_a_budget_ends_a_run_with_the_best_so_far(driver, resource):
    method = OptimalStopping(cost=0.01, n=12, estimator="kde")
    whole, account = run(method)
    amount = account.tokens_generated if resource == "tokens" else account.reward_calls
    seen = gone_on = 0
    for left in range(0, amount, amount // 7):
        some, usage = run(method, budget=Budget(**{resource: left}), driver=driver, rows=1 + left % 2 * 7)
        assert (usage.tokens_generated if resource == "tokens" else usage.reward_calls) <= left
        assert len(some) < len(PROMPTS) or not all(o.complete for o in some)
        for outcome in some:
            if outcome.complete:
                same(outcome, next(o for o in whole if o.drafts.prompt.id == outcome.drafts.prompt.id))
            elif outcome.chosen is not None:
                assert outcome.reward == np.nanmax(outcome.rewards)
                assert outcome.drafts.done[outcome.chosen]
                seen += 1
                gone_on += outcome.notes.get("draws", 0) > 4
    assert seen > 3
    assert gone_on > 0


def test_a_budget_of_scores_leaves_the_draws_that_have_one():
    whole, _ = run(USUAL, prompts=PROMPTS[3:4])
    assert len(set(whole[0].drafts.texts)) == len(whole[0].drafts) > 6
    (some,), usage = run(USUAL, prompts=PROMPTS[3:4], budget=Budget(reward_calls=6))
    assert usage.reward_calls == 6
    assert not some.complete
    assert np.array_equal(some.rewards, whole[0].rewards[:6])
    assert some.chosen == np.argmax(some.rewards)
    assert some.notes["draws"] == 6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("cost=-0.1", "cost=-0.1"),
        ("cost=nan", "cost=nan"),
        ("cost=inf", "cost=inf"),
        ("cost=0.1,n=0", "exploration=4,n=0,parallel=2"),
        ("cost=0.1,n=3", "exploration=4,n=3,parallel=2"),
        ("cost=0.1,exploration=0", "exploration=0,n=64,parallel=2"),
        ("cost=0.1,exploration=65", "exploration=65,n=64,parallel=2"),
        ("cost=0.1,parallel=0", "exploration=4,n=64,parallel=0"),
    ],
    ids=lambda value: value,
)
def test_bad_parameters_are_refused_with_what_to_type(values, message):
    with pytest.raises(UsageError) as refusal:
        build_method(f"optimal-stopping:{values}")
    assert refusal.value.message == f"optimal-stopping with {message}"
    typed = refusal.value.hint.rpartition(": ")[2].rstrip(".")
    spec = typed if typed.startswith("optimal-stopping") else f"optimal-stopping:cost=0.05,{typed}"
    assert isinstance(build_method(spec), OptimalStopping)


def test_bad_specs_are_refused():
    with pytest.raises(SpecError, match="optimal-stopping needs cost\nWrite for instance optimal-stopping:cost=1"):
        build_method("optimal-stopping")
    with pytest.raises(SpecError, match="estimator cannot be 'pareto'"):
        build_method("optimal-stopping:cost=0.1,estimator=pareto")
    with pytest.raises(UsageError, match="optimal-stopping with estimator=pareto\nChoose one of auto"):
        OptimalStopping(cost=0.1, estimator="pareto")  # type: ignore[arg-type]


def test_specs():
    spec = "optimal-stopping:cost=0.05,n=32,exploration=6,parallel=3,estimator=kde"
    assert build_method(spec) == OptimalStopping(cost=0.05, n=32, exploration=6, parallel=3, estimator="kde")
    assert build_method("optimal-stopping:cost=0.05") == OptimalStopping(cost=0.05)
