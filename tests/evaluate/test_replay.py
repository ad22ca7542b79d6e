"""Replays: best-of-n is worth its own budget, draws are those of the table, and no method gets more than its budget."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from italic.core.errors import MismatchError, UsageError
from italic.core.outcome import Outcome
from italic.core.questions import best, extend, score
from italic.core.spec import build_method
from italic.evaluate import replay as module
from italic.evaluate.replay import MOST, Plan, Replay, replay, replay_oracle, summaries, with_budget
from italic.evaluate.table import Table
from italic.laws.statistics import Interval, mean_interval
from italic.methods.adaptive_best_of_n import AdaptiveBestOfN
from italic.methods.best_of_n import BestOfN
from italic.run.record import plain

RNG = np.random.default_rng(0)
NAN, INF = math.nan, math.inf
TABLES = {
    "continuous": Table.of({f"c{i}": RNG.normal(i, 1 + i % 3, size=200) for i in range(6)}),
    "binary": Table.of({f"b{i}": [1.0] * i + [0.0] * (9 - i) for i in range(1, 7)}),
    "missing": Table.of({f"m{i}": np.where(RNG.random(200) < 0.4, NAN, RNG.normal(size=200)) for i in range(6)}),
    "lost": Table.of({f"l{i}": np.where(np.arange(40) < 4, RNG.normal(size=40), NAN) for i in range(6)}),
    "infinite": Table.of({f"i{i}": RNG.choice([INF, -INF, 0.0, 1.0, NAN], size=40) for i in range(6)}),
    "useless": Table.of({"u0": [-INF, NAN], "u1": [1.0, 2.0], "u2": [-INF], "u3": [0.0], "u4": [5.0], "u5": [NAN, 1]}),
    "constant": Table.of({f"k{i}": [0.1 * i] * (i + 1) for i in range(6)}),
    "few": Table.of({f"f{i}": RNG.normal(size=5).round(1) * (i + 1) for i in range(6)}),
    "ragged": Table.of({f"r{i}": RNG.normal(size=2 + i) for i in range(6)}),
    "sure": Table.of({"s0": [INF, INF], "s1": [INF, NAN], "s2": [INF], "s3": [INF], "s4": [INF], "s5": [INF]}),
}
EASY, HARD = [1.0] * 9 + [0.0], [0.0] * 9 + [1.0]
EASY_AND_HARD = Table.of({f"e{i}": EASY for i in range(4)} | {f"h{i}": HARD for i in range(4)})
FINITE = ("continuous", "binary", "constant", "few", "ragged")


@dataclass(frozen=True)
class OneMore(BestOfN):
    """A wrong neighbour of best-of-n: it takes `extra` draws too many."""

    extra: int = 1

    def run(self, task):
        drafts = yield from extend(task.start(self.n + self.extra))
        rewards = yield from score(drafts)
        return Outcome(drafts, rewards, chosen=best(rewards))


@dataclass(frozen=True)
class Worst(BestOfN):
    """Another one: the smallest reward is the answer."""

    def run(self, task):
        drafts = yield from extend(task.start(self.n))
        rewards = yield from score(drafts)
        return Outcome(drafts, rewards, chosen=best(-rewards))


def reaches(interval: Interval, value: float) -> bool:
    """Whether an interval of 95 % reaches the value when it is made twice as wide: about 4 standard errors."""
    below, above = interval.mean - interval.low, interval.high - interval.mean
    return interval.mean - 2 * below <= value <= interval.mean + 2 * above


@pytest.fixture
def sums(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[np.ndarray, np.ndarray, Replay]]:
    """The rows of each batch, the sums of rewards that a method reaches on them, and the replay."""
    seen = []
    real = module._judge

    def judge(table, chosen, found, *rest):
        seen.append((chosen, found))
        return real(table, chosen, found, *rest)

    monkeypatch.setattr(module, "_judge", judge)

    def run(*given, way=replay):
        result = way(*given)
        return *seen.pop(), result

    return run


@pytest.mark.parametrize("name", ["continuous", "binary", "missing"])
def test_best_of_n_is_worth_its_own_budget(name: str) -> None:
    plan = Plan(prompts=2, budget=2, batches=500)
    found = replay(TABLES[name], BestOfN(), plan)
    assert reaches(found.bwr, 0.5)
    assert found.bwr.high - found.bwr.low < 0.12
    assert reaches(found.n_star, 2)
    assert found.n_star.high - found.n_star.low < 0.8
    assert (found.draws, found.max_draws, found.max_prompt_draws) == (2, 4, 2)
    more = replay(TABLES[name], OneMore(), plan)
    assert not reaches(more.bwr, 0.5)
    assert not reaches(more.n_star, 2)
    assert reaches(more.n_star, 3)
    assert (more.draws, more.max_draws, more.max_prompt_draws) == (3, 6, 3)
    if name != "missing":
        assert reaches(found.gain, 0)
        assert not reaches(more.gain, 0)


@pytest.mark.parametrize("name", ["few", "binary"])
def test_sums_have_the_exact_mean_of_best_of_n(sums, name: str) -> None:
    chosen, found, _ = sums(TABLES[name], BestOfN(), Plan(prompts=3, budget=3, batches=600))
    exact = {n: mean_of_best(TABLES[name], n)[chosen].sum(axis=1) for n in (2, 3, 4)}
    assert reaches(mean_interval(found - exact[3]), 0)
    assert not reaches(mean_interval(found - exact[2]), 0)
    assert not reaches(mean_interval(found - exact[4]), 0)


def mean_of_best(table: Table, n: int) -> np.ndarray:
    """The mean of the best of n draws of each row, over all that can be drawn."""
    return np.array([np.mean([max(drawn) for drawn in itertools.product(r.rewards, repeat=n)]) for r in table.rows])


@pytest.mark.parametrize("name", ["few", "binary"])
def test_the_gain_is_over_uniform_best_of_the_budget(name: str) -> None:
    """`sample` answers with its first draw: what it lacks is known."""
    table = TABLES[name]
    found = replay(table, build_method("sample"), Plan(prompts=6, budget=3, batches=500))
    lack = {n: float(np.sum(mean_of_best(table, 1) - mean_of_best(table, n))) for n in (2, 3, 4)}
    assert [reaches(found.gain, lack[n]) for n in (2, 3, 4)] == [False, True, False]
    assert reaches(found.n_star, 1)


def test_a_score_that_is_missing_is_of_no_use(sums) -> None:
    chosen, found, _ = sums(TABLES["missing"], BestOfN(), Plan(prompts=2, budget=2, batches=600))
    lost = np.array([np.isnan(row.rewards).mean() for row in TABLES["missing"].rows])[chosen]
    useful = (found > -np.inf).astype(np.float64)
    assert reaches(mean_interval(useful - np.prod(1 - lost**2, axis=1)), 0)
    assert not reaches(mean_interval(useful - np.prod(1 - lost, axis=1)), 0)
    assert not np.isnan(found).any()


def test_batches_are_different_prompts_at_random(sums) -> None:
    chosen, _, _ = sums(TABLES["few"], BestOfN(), Plan(prompts=4, budget=1, batches=600))
    assert chosen.shape == (600, 4)
    assert all(len(set(rows)) == 4 for rows in chosen.tolist())
    counts = np.array([np.bincount(place, minlength=6) for place in chosen.T])
    assert np.all(np.abs(counts - 100) < 40), "each row as often as another, in every place"
    every, _, _ = sums(TABLES["few"], BestOfN(), Plan(prompts=6, budget=1, batches=3))
    assert all(sorted(rows) == list(range(6)) for rows in every.tolist())


def test_a_seed_names_the_draws(sums) -> None:
    table, plan = TABLES["continuous"], Plan(prompts=3, budget=4, batches=12, seed=5)
    for run in (lambda plan: replay(table, AdaptiveBestOfN(), plan), lambda plan: replay_oracle(table, plan)):
        assert run(plan) == run(plan)
        assert run(plan) != run(replace(plan, seed=6))
    for way, given in ((replay, (AdaptiveBestOfN(),)), (replay_oracle, ())):
        chosen, found, _ = sums(table, *given, plan, way=way)
        longer, more, _ = sums(table, *given, replace(plan, batches=20), way=way)
        assert np.array_equal(longer[:12], chosen)
        assert np.array_equal(more[:12], found), "further batches change nothing"
        assert len(set(more)) == 20


def test_progress_is_told() -> None:
    through, told = [], []
    found = replay(
        TABLES["few"],
        BestOfN(),
        Plan(prompts=3, budget=2, batches=5),
        through=lambda: through.append(1),
        progress=lambda ledger, under_way: told.append((ledger.usage.reward_calls, under_way)),
    )
    assert len(through) == 15
    assert told[-1][0] == 30
    assert found == replay(TABLES["few"], BestOfN(), Plan(prompts=3, budget=2, batches=5))


@pytest.mark.parametrize(
    ("spec", "prompts"),
    [
        ("adaptive-best-of-n:rounds=1", 3),
        ("adaptive-best-of-n:exploration=6,n=6", 3),
        ("adaptive-best-of-n", 1),
        ("adaptive-best-of-n:exploration=1,estimator=kde", 1),
        ("optimal-stopping:cost=0", 3),
        ("speculative-rejection:drop=0", 3),
    ],
    ids=["one-round", "all-at-first", "one-prompt", "one-prompt-kde", "no-cost", "no-drops"],
)
@pytest.mark.parametrize("name", ["continuous", "binary"])
def test_methods_that_are_best_of_n_do_as_it_does_to_the_last_bit(spec: str, prompts: int, name: str) -> None:
    plan = Plan(prompts, budget=6, batches=8)
    assert replay(TABLES[name], build_method(spec), plan) == replay(TABLES[name], BestOfN(), plan)


def test_adaptive_gives_hard_prompts_what_easy_ones_do_not_need() -> None:
    plan = Plan(prompts=6, budget=10, batches=40)
    adaptive, oracle = replay(EASY_AND_HARD, AdaptiveBestOfN(), plan), replay_oracle(EASY_AND_HARD, plan)
    assert adaptive.n_star.low > 1.2 * 10
    assert adaptive.bwr.low > 0.55
    assert adaptive.gain.low > 0.2
    assert adaptive.survival.mean > 16
    assert adaptive.max_prompt_draws > 20
    assert oracle.n_star.mean > adaptive.n_star.mean
    uniform = replay(EASY_AND_HARD, BestOfN(), plan)
    assert reaches(uniform.n_star, 10)
    assert uniform.max_prompt_draws == 10


@pytest.mark.parametrize(
    "spec", ["best-of-n", "adaptive-best-of-n", "adaptive-best-of-n:estimator=kde,rounds=2", "sample", "oracle"]
)
def test_nothing_is_gained_where_all_rewards_are_alike(spec: str) -> None:
    plan = Plan(prompts=4, budget=5, batches=6)
    table = TABLES["constant"]
    found = replay_oracle(table, plan) if spec == "oracle" else replay(table, build_method(spec), plan)
    assert found.bwr == (0.5, 0.5, 0.5)
    assert found.n_star == (5, 5, 5)
    assert found.gain == pytest.approx((0, 0, 0), abs=1e-12)


SPECS = (
    "best-of-n",
    "adaptive-best-of-n",
    "adaptive-best-of-n:exploration=1",
    "adaptive-best-of-n:n=7,exploration=7",
    "adaptive-best-of-n:exploration=0.75,rounds=2,estimator=kde",
    "adaptive-best-of-n:rounds=3,units=quantile",
    "adaptive-best-of-n:rounds=40,estimator=normal",
    "adaptive-best-of-n:estimator=discrete",
    "adaptive-best-of-n:rule=variance",
    "adaptive-best-of-n:rule=ucb",
    "oracle",
)


@pytest.mark.parametrize(("name", "prompts"), [*((name, 5) for name in TABLES), ("missing", 1), ("binary", 1)])
@pytest.mark.parametrize("spec", SPECS)
def test_every_batch_gets_its_budget_to_the_last_draw(spec: str, name: str, prompts: int) -> None:
    plan = Plan(prompts, budget=7, batches=2)
    found = replay_oracle(TABLES[name], plan) if spec == "oracle" else replay(TABLES[name], build_method(spec), plan)
    assert found.max_draws == prompts * 7
    assert found.draws == 7, "no batch has fewer"
    assert 7 <= found.max_prompt_draws <= prompts * 7
    assert 0 <= found.bwr.low <= found.bwr.mean <= found.bwr.high <= 1
    assert 0 < found.n_star.low <= found.n_star.mean <= found.n_star.high <= MOST * 7
    assert 0 <= found.survival.mean <= 14
    assert found.tokens is None
    if name in FINITE:
        assert np.isfinite(found.gain).all()


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 16, 33])
@pytest.mark.parametrize("spec", ["adaptive-best-of-n:exploration=1", "adaptive-best-of-n:rounds=2", "oracle"])
def test_budgets_of_all_sizes(spec: str, budget: int) -> None:
    plan, table = Plan(3, budget, batches=2, seed=budget), TABLES["missing"]
    found = replay_oracle(table, plan) if spec == "oracle" else replay(table, build_method(spec), plan)
    assert (found.max_draws, found.draws) == (3 * budget, budget)


def test_stopping_early_leaves_budget() -> None:
    found = replay(TABLES["constant"], build_method("optimal-stopping:cost=0.1"), Plan(4, 7, batches=3))
    assert (found.draws, found.max_draws, found.max_prompt_draws) == (4, 16, 4)
    some = replay(TABLES["continuous"], build_method("optimal-stopping:cost=0.3"), Plan(4, 9, batches=6))
    assert 4 < some.draws < some.max_draws / 4 < some.max_prompt_draws == 9


@pytest.mark.parametrize("name", ["continuous", "missing", "binary"])
def test_the_oracle_is_a_bound(name: str) -> None:
    plan = Plan(prompts=5, budget=6, batches=30, seed=4)
    oracle, adaptive = replay_oracle(TABLES[name], plan), replay(TABLES[name], AdaptiveBestOfN(), plan)
    assert oracle.n_star.mean > adaptive.n_star.mean
    assert oracle.n_star.low > 6, "better than uniform"
    assert oracle.bwr.low > 0.5
    assert (oracle.max_draws, oracle.draws) == (30, 6)


@pytest.mark.parametrize(
    ("first", "rounds"), [(1, 1), (1, 2), (3, 8), (6, 8), (99, 3), (0, 4)], ids=lambda value: f"{value}"
)
def test_the_oracle_spends_its_budget(first: int, rounds: int) -> None:
    found = replay_oracle(TABLES["continuous"], Plan(prompts=3, budget=6, batches=4), first, rounds)
    assert (found.max_draws, found.draws) == (18, 6)
    assert (found.max_prompt_draws == 6) == (rounds == 1 or first >= 6)


def test_the_oracle_of_one_prompt_is_uniform() -> None:
    found = replay_oracle(TABLES["continuous"], Plan(prompts=1, budget=2, batches=600))
    assert reaches(found.bwr, 0.5)
    assert reaches(found.n_star, 2)


def test_the_oracle_goes_where_a_better_reward_is() -> None:
    """One prompt has a prize, the others have nothing to find: all that is left goes to the prize."""
    table = Table.of({"prize": [0.0] * 99 + [INF]} | {f"k{i}": [float(i)] for i in range(3)})
    found = replay_oracle(table, Plan(prompts=4, budget=50, batches=20))
    assert (found.max_prompt_draws, found.draws) == (200 - 3, 50)
    assert replay_oracle(TABLES["sure"], Plan(prompts=4, budget=5, batches=2)).max_prompt_draws == 5


def test_a_budget_is_known_up_to_eight_times() -> None:
    plan = Plan(prompts=3, budget=2, batches=20)
    far = replay(TABLES["continuous"], OneMore(extra=400), plan)
    assert far.n_star == (16, 16, 16)
    assert far.survival.mean == 4
    bad = replay(TABLES["continuous"], Worst(), plan)
    assert bad.n_star.high < 1
    assert bad.bwr.high < 0.2
    assert bad.gain.high < 0


@pytest.mark.parametrize("spec", ["best-of-n", "adaptive-best-of-n", "optimal-stopping:cost=0.1", "sample", "oracle"])
@pytest.mark.parametrize("name", ["lost", "infinite", "useless", "sure"])
def test_rewards_that_are_not_finite(sums, name: str, spec: str) -> None:
    table, plan = TABLES[name], Plan(prompts=4, budget=4, batches=20)
    given = (table, plan) if spec == "oracle" else (table, build_method(spec), plan)
    way = replay_oracle if spec == "oracle" else replay
    _, found, result = sums(*given, way=way)
    assert not np.isnan(found).any()
    if name != "sure":
        assert -INF in found
    assert 0 < result.n_star.mean <= MOST * 4
    if name == "useless":
        assert result.bwr.low > 0.3, "most batches can be of no use to anybody, and so are equal"


def test_a_prompt_that_nobody_can_answer_makes_all_equal() -> None:
    table = Table.of({"none": [-INF, NAN], "some": [1.0, 2.0]})
    for method in (BestOfN(), AdaptiveBestOfN(), Worst()):
        found = replay(table, method, Plan(prompts=2, budget=3, batches=4))
        assert found.bwr == (0.5, 0.5, 0.5)
        assert found.n_star == (3, 3, 3)
        assert np.isnan(found.gain).all()


LENGTHS = Table.of(
    {f"t{i}": RNG.normal(size=60) for i in range(6)}, {f"t{i}": RNG.integers(1, 9, size=60) for i in range(6)}
)


def test_tokens_are_counted() -> None:
    plan = Plan(prompts=4, budget=6, batches=60)
    found = replay(LENGTHS, BestOfN(), plan)
    mean = float(np.mean([row.tokens.mean() for row in LENGTHS.rows]))
    assert found.tokens == pytest.approx(6 * mean, rel=0.05)
    assert found.uniform_tokens == pytest.approx(found.n_star.mean * mean, rel=0.02)
    fives = Table.of({row.prompt: row.rewards for row in LENGTHS.rows}, {row.prompt: [5] * 60 for row in LENGTHS.rows})
    plan = replace(plan, batches=5)
    for result in (replay(fives, AdaptiveBestOfN(), plan), replay_oracle(fives, plan)):
        assert result.tokens == 5 * 6
        assert result.uniform_tokens == pytest.approx(5 * result.n_star.mean)
    unknown = replay(TABLES["few"], BestOfN(), plan)
    assert (unknown.tokens, unknown.uniform_tokens) == (None, None)


@pytest.mark.parametrize("tokens", [20, 40, 90])
def test_a_bound_on_tokens_is_kept(tokens: int) -> None:
    plan = Plan(prompts=4, budget=1000, batches=3)
    found = replay(LENGTHS, AdaptiveBestOfN(n=1000, tokens=tokens), plan)
    assert found.tokens is not None
    assert found.tokens <= tokens
    assert found.tokens >= 0.98 * tokens - 8 / 4, "up to what may not be enough for another draw"
    one = replay(LENGTHS, AdaptiveBestOfN(n=1000, tokens=tokens), replace(plan, prompts=1, batches=2))
    assert one.tokens is not None
    assert one.tokens <= tokens
    few = replay(LENGTHS, AdaptiveBestOfN(tokens=tokens), replace(plan, budget=2))
    assert few.draws == 2, "the bound on draws holds beside it"


def test_a_bound_on_tokens_that_allows_no_draw() -> None:
    with pytest.raises(UsageError, match="tokens=7: 1 first draws may take 8 a prompt"):
        replay(LENGTHS, AdaptiveBestOfN(tokens=7), Plan(prompts=2, budget=4, batches=2))


@pytest.mark.parametrize(
    ("plan", "tells", "hint"),
    [
        (Plan(prompts=7), "batches of 7 prompts from a table of 6", "--prompts 6"),
        (Plan(batches=1), "one batch", "--batches 1000"),
        (Plan(batches=0), "batches=0", "1 or more"),
        (Plan(prompts=0), "prompts=0", "1 or more"),
        (Plan(budget=0), "budget=0", "1 or more"),
        (Plan(budget=-3), "budget=-3", "1 or more"),
    ],
    ids=["prompts-7", "batches-1", "batches-0", "prompts-0", "budget-0", "budget-3"],
)
def test_plans_that_cannot_be(plan: Plan, tells: str, hint: str) -> None:
    for run in (lambda: replay(TABLES["few"], BestOfN(), plan), lambda: replay_oracle(TABLES["few"], plan)):
        with pytest.raises(UsageError, match=tells) as caught:
            run()
        assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("spec", "kind", "tells"),
    [
        ("rejection:bound=1", UsageError, "Rejection has no number of draws"),
        ("cascade:r_star=1,tau_u=1", UsageError, "Cascade has no number of draws"),
        ("args", UsageError, "has no number of draws"),
        ("blockwise", MismatchError, "Blockwise needs partial .*resume .*not offered by the model table"),
        ("smc", MismatchError, "needs .*resume"),
        ("svdd", MismatchError, "needs .*resume"),
        ("speculative-rejection", MismatchError, "needs .*resume"),
    ],
    ids=["rejection", "cascade", "args", "blockwise", "smc", "svdd", "speculative"],
)
def test_methods_that_cannot_be_replayed(spec: str, kind: type[UsageError], tells: str) -> None:
    with pytest.raises(kind, match=tells) as caught:
        replay(TABLES["few"], build_method(spec), Plan(prompts=2, budget=4, batches=2))
    if kind is UsageError:
        assert "adaptive-best-of-n" in caught.value.hint


def test_a_budget_a_method_cannot_have() -> None:
    with pytest.raises(UsageError, match="exploration=9 and n=4"):
        replay(TABLES["few"], AdaptiveBestOfN(exploration=9), Plan(prompts=2, budget=4, batches=2))


def test_the_budget_is_n_and_the_batch_is_prompts() -> None:
    method = AdaptiveBestOfN(n=3, exploration=2, rounds=5, batch=9)
    assert with_budget(method, 12, 4) == AdaptiveBestOfN(n=12, exploration=2, rounds=5, batch=4)
    assert with_budget(BestOfN(3), 12, 4) == BestOfN(12)


def test_summaries_are_plain_values() -> None:
    plan = Plan(prompts=2, budget=3, batches=4, seed=9)
    found = replay(LENGTHS, BestOfN(), plan)
    unknown: Replay = replay(TABLES["useless"], BestOfN(), replace(plan, prompts=6))
    one, other = json.loads(json.dumps(plain(summaries([("a", found), ("b", unknown)], plan))))
    assert (one["method"], one["prompts"], one["budget"], one["batches"], one["seed"]) == ("a", 2, 3, 4, 9)
    assert (one["bwr"], *one["bwr_interval"]) == found.bwr
    assert (one["n_star"], *one["n_star_interval"]) == found.n_star
    assert (one["gain"], *one["gain_interval"]) == found.gain
    assert one["n_star_most"] == 24
    assert (one["draws"], one["max_draws"], one["max_prompt_draws"]) == (3, 6, 3)
    assert (one["survival_time"], one["tokens"]) == (found.survival.mean, found.tokens)
    assert one["uniform_tokens"] == found.uniform_tokens
    assert (other["gain"], other["gain_interval"], other["tokens"]) == (None, [None, None], None)
    assert one.keys() == other.keys()
