"""Adaptive best-of-n: it is best-of-n with other numbers of draws, their sum is kept, and they go where they pay."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pytest
from altered import Altered, each
from driven import draws, driven, same

from italic.core.errors import RewardError, UsageError
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.questions import Extend, Note, Score, Share
from italic.core.sampling import Sampling
from italic.laws.allocation import by_deviation, by_upper_confidence
from italic.methods.adaptive_best_of_n import AdaptiveBestOfN, Report
from italic.methods.best_of_n import BestOfN
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.align import make_tasks
from italic.run.event import event_driven
from italic.run.ledger import Budget
from italic.run.lockstep import lockstep

INF, NAN = np.inf, np.nan
MODEL, SAMPLING = ToyModel(letters=3, length=3, seed=2), Sampling(max_tokens=4)
WIDE, FIVE = ToyModel(letters=10, length=4, seed=5, spread=0.3), Sampling(max_tokens=5)
PROMPTS = [Prompt(f"p{i}", text=f"prompt {i}") for i in range(10)]
ESTIMATORS, OFTEN = ["auto", "tail", "normal", "kde", "discrete"], [0.15, 0.1, 0.15, 0.4, 0.2]
SMALL = AdaptiveBestOfN(n=6, exploration=2, rounds=3)


@dataclass(frozen=True)
class ByPrompt(Altered):
    """The toy reward, changed by `alter(number of the prompt, text, reward)`."""

    def score(self, batches):
        return [answer for drafts in batches for answer in self._changed(drafts).score([drafts])]

    def _changed(self, drafts):
        return Altered(each(partial(self.alter, int(drafts.prompt.id[1:]))), self.base)


def run(method, prompts=6, *, model=MODEL, reward=None, seed=0, budget=None, driver=event_driven, sampling=SAMPLING):
    asked = PROMPTS[:prompts] if isinstance(prompts, int) else prompts
    tasks = make_tasks(asked, model, seed, sampling)
    return driven(tasks, method, model, reward=reward, budget=budget, driver=driver)


def settle_of(method, room: int = 4) -> Callable[..., Any]:
    """What the prompts ask after the first round, as a function of their reports."""
    asking = method.run(make_tasks(PROMPTS[:1], MODEL, 0, Sampling(max_tokens=room))[0])
    answer: Any = None
    while not isinstance(question := asking.send(answer), Share):
        answer = None
        if isinstance(question, Extend):
            answer = MODEL.extend([question])[0].drafts
        elif isinstance(question, Score):
            answer = np.arange(float(len(question.drafts)))
    return question.settle


def reports(rewards, tokens=None, room=4) -> list[Report]:
    tokens = [len(r) for r in rewards] if tokens is None else tokens
    return [Report(np.array(r, dtype=float), t, room) for r, t in zip(rewards, tokens, strict=True)]


@pytest.mark.parametrize("batch", [None, 4], ids=str)
@pytest.mark.parametrize(
    "method",
    [
        AdaptiveBestOfN(n=7, rounds=1),
        AdaptiveBestOfN(n=7, rounds=1, tokens=7 * 4),
        AdaptiveBestOfN(n=7, exploration=7),
        AdaptiveBestOfN(n=1, rounds=9),
        AdaptiveBestOfN(n=5, exploration=0.99, rounds=2),
    ],
    ids=["one round", "with tokens", "all at first", "one draw", "rounded up"],
)
def test_without_a_second_round_it_is_best_of_n(method, batch):
    (mine, cost), (theirs, paid) = run(replace(method, batch=batch)), run(BestOfN(n=method.n))
    assert cost.counts() == paid.counts()
    for a, b in zip(mine, theirs, strict=True):
        same(a, b)
        assert a.notes == {"draws": [method.n, 0], "expected_gain": [0.0]}


def configured(rng: np.random.Generator) -> AdaptiveBestOfN:
    """Any configuration."""
    n = int(rng.integers(1, 13))
    tokens = int(rng.integers(4, 50)) if rng.random() < 0.4 else None
    return AdaptiveBestOfN(
        n=n,
        exploration=float(rng.choice([0.05, 0.2, 0.5, 0.75, 0.99, *range(1, n + 1)])),
        rounds=int(rng.integers(1, 7)),
        estimator=str(rng.choice(ESTIMATORS, p=OFTEN)),  # type: ignore[arg-type]
        units=str(rng.choice(["reward", "quantile"])),  # type: ignore[arg-type]
        tokens=tokens,
        batch=[None, 1, 2, 3][rng.integers(4)],
        rule="greedy" if tokens else str(rng.choice(["greedy", "greedy", "variance", "ucb"])),  # type: ignore[arg-type]
    )


REWARDS: dict[str, Callable[[int, str, float], float]] = {
    "plain": lambda prompt, text, r: r,
    "constant": lambda prompt, text, r: 0.5,
    "two values": lambda prompt, text, r: float(r > 0.5),
    "missing": lambda prompt, text, r: NAN if r > 0.8 else r,
    "lowest": lambda prompt, text, r: -INF if r < 0.2 else r,
    "highest": lambda prompt, text, r: INF if r > 1.2 else r,
    "only the lowest": lambda prompt, text, r: -INF,
    "only the highest": lambda prompt, text, r: INF,
    "all kinds": lambda prompt, text, r: float(np.select([r > 1, r > 0.6, r < -1], [INF, NAN, -INF], r)),
    "missing for one prompt": lambda prompt, text, r: NAN if prompt == 0 else r,
    "different scales": lambda prompt, text, r: r * 10.0**prompt,
}


@cache
def pool(prompt: int, seed: int):
    """The first 72 draws of a prompt, and their rewards."""
    task = make_tasks(PROMPTS[prompt : prompt + 1], MODEL, seed, SAMPLING)[0]
    drafts = MODEL.extend([Extend(task.start(72))])[0].drafts
    return task, drafts, ToyReward(seed=seed).score([drafts])[0].rewards


def run_by_hand(method, prompts: int, alter, seed: int):
    """The outcomes of a run, each extension answered from the pool of its prompt."""
    outcomes: dict[int, Any] = {}
    size = method.batch or prompts
    for start in range(0, prompts, size):
        asking = {i: method.run(pool(i, seed)[0]) for i in range(start, min(start + size, prompts))}
        answers: dict[int, Any] = dict.fromkeys(asking)
        while asking:
            shared = {}
            for i in list(asking):
                _, drafts, rewards = pool(i, seed)
                try:
                    while not isinstance(question := asking[i].send(answers[i]), Share):
                        answers[i] = None
                        if not isinstance(question, Note):
                            rows = [drafts.seeds.tolist().index(s) for s in question.drafts.seeds.tolist()]
                        if isinstance(question, Extend):
                            answers[i] = drafts[rows]
                        elif isinstance(question, Score):
                            answers[i] = np.array([alter(i, drafts.texts[row], rewards[row]) for row in rows])
                            if question.strict and np.isnan(answers[i]).all():
                                raise RewardError(f"p{i}")
                    shared[i] = question
                except StopIteration as end:
                    outcomes[i] = end.value
                    del asking[i]
            if shared:
                settled = next(iter(shared.values())).settle([question.value for question in shared.values()])
                answers = dict(zip(shared, settled, strict=True))
    return [outcomes[i] for i in range(prompts)]


def test_a_thousand_configurations():
    """The sum of the draws of a batch is kept exactly, the first ones are those of best-of-n, and so is the answer."""
    rng, seen, refused = np.random.default_rng(0), Counter(), 0
    for i in range(1000):
        method, prompts, name = configured(rng), int(rng.integers(1, 7)), str(rng.choice(list(REWARDS)))
        least = method.exploration if method.exploration >= 1 else 1
        if method.tokens is not None and method.tokens < 4 * (method.n if method.rounds == 1 else least):
            with pytest.raises(UsageError, match="first draws may take"):
                run_by_hand(method, prompts, REWARDS[name], i % 10)
            refused += 1
            continue
        try:
            outcomes = run_by_hand(method, prompts, REWARDS[name], i % 10)
        except RewardError as failure:
            seen[name, failure.message] += 1
            continue
        seen[name] += 1
        assert all(o.complete and not np.isnan(o.reward) for o in outcomes)
        assert draws(outcomes) == [sum(o.notes["draws"]) for o in outcomes]
        for prompt, outcome in enumerate(outcomes):
            rounds, worth = outcome.notes["draws"], np.array(outcome.notes["expected_gain"])
            assert len(worth) == len(rounds) - 1
            assert np.all(worth >= 0)
            assert np.all(np.isfinite(worth))
            assert rounds[0] >= least
            assert outcome.chosen == np.flatnonzero(outcome.rewards == np.nanmax(outcome.rewards))[0]
            assert np.array_equal(outcome.drafts.seeds, pool(prompt, i % 10)[1].seeds[: len(outcome.drafts)])
            if method.tokens is None:
                assert len(rounds) <= max(2, method.rounds)
        size = method.batch or prompts
        for start in range(0, prompts, size):
            some = outcomes[start : start + size]
            if method.tokens is None:
                assert sum(draws(some)) == method.n * len(some)
            else:
                assert sum(draws(some)) <= method.n * len(some)
                assert sum(int(o.drafts.steps.sum()) for o in some) <= method.tokens * len(some)
        if i % 10 == 0:
            theirs, _ = run(method, prompts, reward=ByPrompt(REWARDS[name], ToyReward(seed=0)), driver=lockstep)
            for a, b in zip(outcomes, theirs, strict=True):
                same(a, b)
                assert a.notes == b.notes
    assert refused > 50
    assert all(seen[name] > 40 for name in REWARDS if name != "missing for one prompt")
    assert seen["missing for one prompt"] == 0
    assert seen["missing for one prompt", "p0"] > 40
    assert {key[0] for key in seen if isinstance(key, tuple)} <= {"missing", "all kinds", "missing for one prompt"}


def test_the_draws_are_the_first_of_best_of_n():
    outcomes, _ = run(AdaptiveBestOfN(n=8, exploration=2, rounds=4), reward=ByPrompt(REWARDS["different scales"]))
    assert len(set(draws(outcomes))) > 2
    for outcome in outcomes:
        theirs = run(
            BestOfN(n=len(outcome.drafts)), [outcome.drafts.prompt], reward=ByPrompt(REWARDS["different scales"])
        )
        same(outcome, theirs[0][0])


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_batches_are_independent(batch):
    method = replace(SMALL, batch=batch)
    whole, _ = run(method)
    for start in range(0, 6, batch):
        alone, _ = run(method, PROMPTS[:6][start : start + batch])
        for a, b in zip(whole[start : start + batch], alone, strict=True):
            same(a, b)
            assert a.notes == b.notes
    if batch == 1:
        assert draws(whole) == [6] * 6


@pytest.mark.parametrize("rounds", [2, 3, 5, 40])
def test_further_rounds_are_of_equal_budget_and_not_empty(rounds):
    outcomes, _ = run(AdaptiveBestOfN(n=6, exploration=2, rounds=rounds))
    sums = np.sum([o.notes["draws"] for o in outcomes], axis=0)
    assert sums[0] == 12
    assert sums.sum() == 36
    assert len(sums) == 1 + min(rounds - 1, 24)
    assert sums[1:].max() - sums[1:].min() <= 1


def test_the_first_draws():
    def first(room=4, **values):
        return AdaptiveBestOfN(**values).first(room)

    assert first(n=100, exploration=0.75) == 75
    assert first(n=100, exploration=0.2) == 20
    assert first(n=16, exploration=0.1) == 4
    assert first(n=2, exploration=0.1) == 2
    assert first(n=9, exploration=5) == 5
    assert first(n=9, rounds=1) == 9
    assert first(n=100, exploration=0.2, tokens=200) == 10
    assert first(n=100, exploration=0.2, tokens=9) == 2
    assert first(n=100, exploration=0.2, tokens=7) == 1
    assert first(n=100, exploration=1, tokens=9) == 1
    assert first(n=3, exploration=0.5, tokens=900) == 3


def test_the_first_of_the_best_is_the_answer():
    ties = 0
    for seed in range(4):
        for outcome in run(SMALL, reward=ByPrompt(REWARDS["two values"]), seed=seed)[0]:
            tops = np.flatnonzero(outcome.rewards == outcome.rewards.max())
            assert outcome.chosen == tops[0]
            ties += len(tops) > 1
    assert ties > 5


def luck(chances: list[float]) -> ByPrompt:
    """1 with the chance of the prompt, else 0."""
    return ByPrompt(lambda i, text, r: float(Key(i).at(text).uniform(1)[0] < chances[i]))


@pytest.mark.parametrize(
    ("chances", "estimator"), [([0.9, 0.1], "discrete"), ([0.9, 0.1] * 3, "auto")], ids=["a pair", "six"]
)
def test_draws_go_to_the_hard_prompts_until_they_succeed(chances, estimator):
    method, late, total = AdaptiveBestOfN(n=8, exploration=3, rounds=6, estimator=estimator), 0, np.zeros(len(chances))
    for seed in range(12):
        outcomes, _ = run(method, len(chances), model=WIDE, reward=luck(chances), seed=seed, sampling=FIVE)
        ends = np.cumsum([o.notes["draws"] for o in outcomes], axis=1)
        for i in range(1, ends.shape[1]):
            solved = np.array([o.rewards[:end].max() == 1 for o, end in zip(outcomes, ends[:, i - 1], strict=True)])
            given = ends[:, i] - ends[:, i - 1]
            if solved.any() and not solved.all():
                assert not given[solved].any(), "nothing is gained above 1"
                late += 1
        assert sum(draws(outcomes)) == 8 * len(chances)
        total += draws(outcomes)
    assert late > 12
    assert total[1::2].sum() > 1.25 * total[::2].sum()


@pytest.mark.parametrize("estimator", ["kde", "auto"])
def test_a_constant_prompt_gets_little_where_others_vary(estimator):
    reward = ByPrompt(lambda i, text, r: 0.5 if i == 2 else r)
    method = AdaptiveBestOfN(n=10, exploration=3, rounds=5, estimator=estimator)
    for seed in range(3):
        outcomes, _ = run(method, 4, model=WIDE, reward=reward, seed=seed, sampling=FIVE)
        assert draws(outcomes)[2] <= 5


def test_units():
    """A prompt on a wider scale gets nearly all in units of the reward, and what it got before in quantiles."""

    def given(units, scale):
        method = AdaptiveBestOfN(n=16, exploration=3, rounds=4, units=units, estimator="kde")
        reward = ByPrompt(lambda i, text, r: scale * r if i == 0 else r)
        return np.array([draws(run(method, 4, model=WIDE, reward=reward, seed=s, sampling=FIVE)[0]) for s in range(6)])

    assert given("reward", 128.0)[:, 0].mean() > 45
    assert np.array_equal(given("quantile", 128.0), given("quantile", 1.0))
    assert given("quantile", 1.0)[:, 0].mean() < 25


@pytest.mark.parametrize("rule", ["variance", "ucb"])
def test_the_baselines(rule):
    """They are the rules of the allocation, by the draws so far."""
    method = AdaptiveBestOfN(n=10, exploration=3, rounds=4, rule=rule)
    said = [[0, 1, 5], [0, NAN, 3], [2, 2, 2], [1, 4, -INF]]
    orders = settle_of(method)(reports(said))
    table = np.where(np.isnan(said), -INF, said)
    amount = (40 - 12) // 3
    given = {"variance": by_deviation, "ucb": by_upper_confidence}[rule](table, amount)
    assert [order.draws for order in orders] == given.tolist()
    assert given.sum() == amount
    assert len(set(given.tolist())) > 2
    assert not any(order.last for order in orders)


def test_the_next_round_is_told_to_all():
    settle = settle_of(AdaptiveBestOfN(n=5, exploration=2, rounds=2, estimator="discrete"))
    orders = settle(reports([[0, 0], [1, 1], [0, 0]]))
    assert [order.draws for order in orders] == [5, 0, 4]
    assert orders[0].gain == orders[2].gain > orders[1].gain == 0
    assert all(order.last for order in orders)


def test_a_draw_of_no_use_is_a_draw():
    lost = ByPrompt(lambda i, text, r: NAN if r > 0.3 else r)
    low = ByPrompt(lambda i, text, r: -INF if r > 0.3 else r)
    (mine, cost), (theirs, paid) = (run(SMALL, model=WIDE, reward=reward, sampling=FIVE) for reward in (lost, low))
    assert sum(draws(mine)) == 36
    assert cost.counts() == paid.counts()
    assert sum(int(np.isnan(o.rewards).sum()) for o in mine) > 5
    for a, b in zip(mine, theirs, strict=True):
        assert a.drafts.texts == b.drafts.texts
        assert a.chosen == b.chosen
        assert a.notes == b.notes


def test_who_has_the_highest_reward_gets_no_more():
    settle = settle_of(AdaptiveBestOfN(n=10, exploration=4, rounds=2))
    assert [order.draws for order in settle(reports([[0, 1, 2, 4], [INF, 1, 5, 9], [3, 1, 2, 0]]))][1] == 0


def test_every_score_missing_is_an_error():
    """As it is for best-of-n; in any round."""
    for method in (BestOfN(n=6), SMALL, replace(SMALL, tokens=24)):
        with pytest.raises(RewardError, match="every score of the reward altered for prompt 'p3' is missing"):
            run(method, reward=ByPrompt(lambda i, text, r: NAN if i == 3 else r))


LONG, LENGTH = ToyModel(letters=4, length=6, seed=3), Sampling(max_tokens=7)


@pytest.mark.parametrize("rounds", [2, 5, 30])
@pytest.mark.parametrize("exploration", [0.2, 1, 3])
def test_a_budget_of_tokens_is_kept_and_used(rounds, exploration):
    """All but 2 %, or what a further response might need, as long as another draw is worth anything."""
    rng, stuck = np.random.default_rng(rounds), 0
    for seed in range(5):
        prompts, tokens = int(rng.integers(1, 7)), int(rng.integers(28, 250))
        method = AdaptiveBestOfN(n=1000, tokens=tokens, exploration=exploration, rounds=rounds)
        method = replace(method, estimator="auto" if rounds == 5 else "kde")
        outcomes, usage = run(method, prompts, model=LONG, seed=seed, reward=ToyReward(seed=seed), sampling=LENGTH)
        used = usage.tokens_generated / tokens / prompts
        assert used <= 1
        if max(outcome.notes["expected_gain"][-1] for outcome in outcomes) > 0:
            assert (1 - used) * tokens * prompts < max(0.02 * tokens * prompts, 7) + 1e-9
            assert used > 0.75
        else:
            stuck += 1
    assert stuck <= 1


def test_the_bound_on_draws_holds_with_that_on_tokens():
    outcomes, usage = run(AdaptiveBestOfN(n=6, exploration=2, tokens=500), 4, model=WIDE, sampling=FIVE)
    assert sum(draws(outcomes)) == 24
    assert usage.tokens_generated < 4 * 500


def test_tokens_go_where_the_gain_for_a_token_is_largest():
    said = [[0.0, 1.0, 3.0, 7.0], [0.1, 1.1, 3.1, 7.1]]
    plain = [o.draws for o in settle_of(AdaptiveBestOfN(n=20, exploration=4, rounds=2), 50)(reports(said, [40, 160]))]
    method = AdaptiveBestOfN(n=20, exploration=4, rounds=2, tokens=250)
    by_cost = [o.draws for o in settle_of(method, 50)(reports(said, [40, 160], 50))]
    assert abs(plain[0] - plain[1]) <= 1
    assert by_cost[0] > 2 * by_cost[1]
    assert 50 * sum(by_cost) <= 500 - 200


def test_who_has_spent_the_share_of_those_that_left_goes_no_further():
    """A budget of the run ended the others of the batch, whose share this prompt has used."""
    for method in (AdaptiveBestOfN(n=5, exploration=2, tokens=20), AdaptiveBestOfN(n=5, exploration=2)):
        (order,) = settle_of(method)(reports([[0, 1, 2, 3, 4, 5]], [24]))
        assert order.draws == 0
        assert order.last


BUDGETED = [
    replace(SMALL, estimator="kde"),
    AdaptiveBestOfN(n=12, exploration=1, tokens=30, estimator="kde"),
    AdaptiveBestOfN(n=12, exploration=2, tokens=24, rounds=3),
]


@pytest.mark.parametrize("driver", [lockstep, event_driven], ids=["lockstep", "event"])
@pytest.mark.parametrize("method", BUDGETED, ids=["draws", "tokens from one draw", "tokens"])
@pytest.mark.parametrize("resource", ["tokens", "reward_calls"])
def test_a_budget_of_the_run_ends_it_with_the_best_so_far(method, driver, resource):
    free, account = run(method, model=LONG, sampling=LENGTH)
    whole = account.tokens_generated if resource == "tokens" else account.reward_calls
    seen = went_on = 0
    for amount in range(0, whole, max(1, whole // 7)):
        model = replace(LONG, rows=1 + amount % 7)
        some, usage = run(method, model=model, budget=Budget(**{resource: amount}), driver=driver, sampling=LENGTH)
        assert (usage.tokens_generated if resource == "tokens" else usage.reward_calls) <= amount
        assert len(some) < 6 or not all(o.complete for o in some)
        for outcome in some:
            if outcome.chosen is not None:
                assert outcome.reward == np.nanmax(outcome.rewards)
                assert outcome.drafts.done[outcome.chosen]
                seen += not outcome.complete
            if outcome.complete:
                assert sum(outcome.notes["draws"]) == len(outcome.drafts)
                went_on += 1
    assert all(o.complete for o in free)
    assert seen > 2
    assert went_on > 0 or method.tokens is not None or resource == "tokens"


def test_a_budget_of_the_run_keeps_a_better_draw_of_an_earlier_round():
    """All but the last round is paid for."""
    whole, _ = run(SMALL)
    calls = run(SMALL)[1].reward_calls
    some, _ = run(SMALL, budget=Budget(reward_calls=calls - 1))
    assert not all(o.complete for o in some)
    for cut, full in zip(some, whole, strict=True):
        early = np.cumsum(full.notes["draws"])[1]
        assert full.rewards[:early].max() <= cut.reward <= full.reward


def ahead(reward, seeds: int, prompts: int = 8) -> tuple[float, float, float]:
    """How much better than best-of-n with as many draws: mean difference, standard error, mean of best-of-n."""
    mine, theirs = AdaptiveBestOfN(n=8), BestOfN(n=8)
    gained, level = [], []
    for seed in range(seeds):
        both = (run(m, prompts, model=WIDE, reward=reward, seed=seed, sampling=FIVE)[0] for m in (mine, theirs))
        ours, uniform = (np.mean([o.reward for o in outcomes]) for outcomes in both)
        gained.append(ours - uniform)
        level.append(uniform)
    return float(np.mean(gained)), float(np.std(gained, ddof=1) / math.sqrt(seeds)), float(np.mean(level))


def test_it_is_no_worse_than_best_of_n():
    """Even where all prompts are alike, so that there is nothing to be gained but by luck."""
    gain, error, _ = ahead(ToyReward(seed=1), 24)
    assert gain > -2 * error


def test_it_is_better_than_best_of_n_where_prompts_differ():
    gain, error, level = ahead(ByPrompt(lambda i, text, r: 2.0**i * r), 20)
    assert gain > 2 * error
    assert gain > 0.05 * level
