"""Blockwise best-of-K: its schedule, its law against exact enumeration and wrong neighbours, certificate and cost."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from altered import Altered, each
from driven import driven
from enumerated import Tree
from hypothesis import given
from hypothesis import strategies as st
from merged import Spied, answers, outcomes

from italic.core.errors import MismatchError, RewardError, SpecError, UsageError
from italic.core.prompt import Prompt
from italic.core.protocols import check as check_match
from italic.core.questions import Extend, Note, Score
from italic.core.sampling import Sampling
from italic.core.spec import build_method, build_model
from italic.laws import finite
from italic.laws.best_of_n import kl_bound
from italic.laws.schedule import SHAPES, block_draws
from italic.laws.statistics import chi_square
from italic.methods import blockwise as module
from italic.methods.blockwise import Blockwise
from italic.methods.svdd import Svdd
from italic.models.toy import ToyModel
from italic.rewards.region import Region
from italic.rewards.toy import ToyReward
from italic.run.align import align, make_tasks
from italic.run.event import event_driven
from italic.run.ledger import Budget
from italic.run.lockstep import lockstep
from italic.testing import applicable, method_checks

RIGHT, WRONG, DRAWS, FEW = 1e-4, 1e-12, 3000, 1000
TREE = Tree(ToyModel(letters=3, length=2, seed=5), beta=0.7)
DEPTH = np.array([len(text) for text in TREE.model.prefixes()])
LONGEST = TREE.sampling.max_tokens
VALUES = TREE.soft + 0.7 * np.random.default_rng(0).normal(size=len(TREE.soft))
PROMPTS = [Prompt(f"p{i}", text=f"prompt {i}") for i in range(30)]
BASE = Blockwise(n=4, block=1, decay=0.5, value=TREE.known(VALUES))


def law(draws, block, tree=TREE, values=VALUES):
    """Of block j the best of draws[j]; what is missing ranks below all, -inf above it."""

    def kernel(v, p, worth):
        return finite.best_of_n(p, np.nan_to_num(worth, nan=-2e9, neginf=-1e9), int(draws[DEPTH[v] // block]))

    return tree.law(block, kernel, values)


@cache
def counts(method, tree=TREE, draws=DRAWS):
    """How often each response is the answer."""
    return answers(tree, method, range(draws))


@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from(SHAPES), st.floats(0, 1, exclude_min=True))
def test_a_schedule_spends_its_total_and_never_rises(n, blocks, shape, decay):
    draws = block_draws(n, blocks, shape, decay)
    assert draws.shape == (blocks,)
    assert draws.dtype == np.int64
    assert draws.sum() == n * blocks
    assert draws[-1] >= 1
    assert np.all(np.diff(draws) <= 0)
    if shape == "uniform":
        assert np.all(draws == n)


@given(st.integers(1, 60), st.integers(2, 60))
def test_a_linear_schedule_falls_to_one_in_equal_steps(n, blocks):
    draws = block_draws(n, blocks, "linear", 1.0)
    assert np.all(np.abs(draws - np.linspace(2 * n - 1, 1, blocks)) < 1)
    assert draws[-1] in (1, 2)


@given(st.integers(1, 60), st.integers(1, 60), st.floats(0.05, 1))
def test_an_exponential_schedule_is_in_proportion_but_for_the_floor(n, blocks, decay):
    low, high = 0.0, float(n * blocks)
    for _ in range(200):
        middle = (low + high) / 2
        ideal = np.maximum(1, middle * decay ** np.arange(blocks))
        low, high = (middle, high) if ideal.sum() < n * blocks else (low, middle)
    assert np.all(np.abs(block_draws(n, blocks, "exponential", decay) - ideal) < 1 + 1e-6)


def test_schedules_by_hand():
    assert block_draws(8, 4, "uniform", 0.5).tolist() == [8, 8, 8, 8]
    assert block_draws(8, 4, "linear", 0.5).tolist() == [15, 10, 6, 1]
    assert block_draws(8, 4, "exponential", 0.5).tolist() == [17, 9, 4, 2]
    assert block_draws(8, 4, "exponential", 1e-300).tolist() == [29, 1, 1, 1]
    assert block_draws(8, 4, "exponential", 1.0).tolist() == [8, 8, 8, 8]
    assert block_draws(8, 1, "linear", 0.5).tolist() == [8]
    assert Blockwise(n=4, block=16).draws(33).tolist() == block_draws(4, 3, "exponential", 0.8).tolist()


@pytest.mark.parametrize("bad", [(0, 3, "uniform", 0.5), (3, 0, "uniform", 0.5), (3, 3, "growth", 0.5)])
def test_no_schedule(bad):
    with pytest.raises(ValueError, match="draws a block for"):
        block_draws(*bad)
    for decay in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="decay"):
            block_draws(3, 3, "exponential", decay)


CASES = {
    "uniform": replace(BASE, schedule="uniform"),
    "linear": replace(BASE, schedule="linear"),
    "exponential": BASE,
    "steep": replace(BASE, decay=0.1),
    "blocks of two": replace(BASE, block=2),
    "one block": replace(BASE, block=LONGEST),
}


@pytest.mark.parametrize("name", CASES)
def test_each_block_is_best_of_k(name):
    method = CASES[name]
    draws = method.draws(LONGEST)
    assert draws.sum() == 4 * len(draws)
    assert chi_square(counts(method), law(draws, method.block)).p_value > RIGHT
    if len(draws) > 1 and name != "uniform":
        assert draws[0] > draws[-1]
        assert chi_square(counts(method), law(np.full_like(draws, 4), method.block)).p_value < WRONG, "constant K"
        assert chi_square(counts(method), law(draws[::-1], method.block)).p_value < WRONG, "most for the last"
    elif name == "one block":
        assert chi_square(counts(method), finite.best_of_n(TREE.p, TREE.r, 4)).p_value > RIGHT
    assert chi_square(counts(method), TREE.tilted).p_value < WRONG


@dataclass(frozen=True)
class Constant(Blockwise):
    """The same for all blocks."""

    def draws(self, longest):
        return np.full_like(super().draws(longest), self.n)


@dataclass(frozen=True)
class Growth(Blockwise):
    """The last block gets most."""

    def draws(self, longest):
        return super().draws(longest)[::-1]


def wrong(kind):
    return kind(n=4, block=1, decay=0.5, value=BASE.value)


def test_the_wrong_method_is_rejected(monkeypatch):
    right = law(BASE.draws(LONGEST), 1)
    for method in (wrong(Constant), wrong(Growth), replace(BASE, value="reward"), replace(BASE, value=TREE.known())):
        assert chi_square(counts(method, draws=FEW), right).p_value < WRONG
    monkeypatch.setattr(module, "ranked", lambda worth: -worth)
    assert chi_square(answers(TREE, BASE, range(FEW)), right).p_value < WRONG, "the worst is kept"


def test_one_draw_a_block_is_plain_sampling_in_one_go():
    method = replace(BASE, n=1)
    assert chi_square(counts(method), TREE.p).p_value > RIGHT
    asked = []
    TREE.drive(Spied(method, asked), 0)
    assert [type(q).__name__ for q, _ in asked] == ["Extend", "Score", "Note"]


@pytest.mark.parametrize("block", [1, 2])
def test_uniform_is_svdd_at_temperature_zero(block):
    """In law, and to the token, as the draws have the same names."""
    method = replace(BASE, schedule="uniform", n=3, block=block)
    expected = law(np.full(LONGEST, 3), block)
    greedy = Svdd(n=20_000, children=3, alpha=0.0, block=block, value=BASE.value)
    assert chi_square(counts(method), expected).p_value > RIGHT
    assert chi_square(TREE.counts(greedy, 3), expected).p_value > RIGHT
    for seed, mine in enumerate(outcomes(TREE, method, range(200))):
        theirs = TREE.drive(replace(greedy, n=1), seed)
        assert mine.drafts.texts == theirs.drafts.texts
        assert np.array_equal(mine.rewards, theirs.rewards)


@pytest.mark.parametrize("name", CASES)
def test_the_draws_are_those_of_the_schedule(name):
    method, lengths = CASES[name], set()
    planned = method.draws(LONGEST).tolist()
    for seed in range(60):
        asked = []
        outcome = TREE.drive(Spied(method, asked), seed)
        drawn = [len(q.drafts) for q, _ in asked if isinstance(q, Extend)]
        assert drawn == planned[: len(drawn)]
        assert [q.values["draws"] for q, _ in asked if isinstance(q, Note)] == drawn
        blocks = -(-int(outcome.drafts.steps[0]) // method.block)
        assert len(drawn) == blocks or planned[len(drawn) - 1] == 1, "over when the answer is"
        lengths.add(len(drawn))
    assert len(lengths) > 1 or len(planned) == 1


def test_the_first_of_equals_is_kept():
    tied = Tree(TREE.model, TREE.beta, given=np.sign(TREE.r))
    method, equals = replace(BASE, value="reward"), 0
    assert chi_square(counts(method, tied), law(method.draws(LONGEST), 1, tied, tied.r)).p_value > RIGHT
    for seed in range(150):
        asked = []
        outcome = tied.drive(Spied(method, asked), seed)
        grown = [answer for question, answer in asked if isinstance(question, Extend)]
        worth = [answer for question, answer in asked if isinstance(question, Score)]
        going_on = [question.drafts for question, _ in asked[3:] if isinstance(question, Extend)]
        for drawn, values, kept in zip(grown, worth, [*going_on, outcome.drafts], strict=True):
            top = np.flatnonzero(values == values.max())
            assert drawn.texts[top[0]] == kept.texts[0]
            equals += len({drawn.texts[i] for i in top}) > 1
    assert equals > 10, "and not the same"


@pytest.mark.parametrize("name", CASES)
def test_the_certificate_bounds_the_divergence(name):
    method = CASES[name]
    draws = method.draws(LONGEST)
    exact = law(draws, method.block)
    bound = TREE.drive(method, 0).certificate.kl_bound
    assert bound == pytest.approx(sum(kl_bound(int(k)) for k in draws))
    assert 0 < finite.kl(exact, TREE.p) <= bound
    upto = np.cumsum([kl_bound(int(k)) for k in draws])[np.minimum(DEPTH // method.block, len(draws) - 1)]
    assert finite.kl(exact, TREE.p) <= exact @ upto, "in the mean the blocks that an answer has would do"


def test_the_blocks_of_one_answer_alone_would_be_no_bound():
    exact = law(CASES["uniform"].draws(LONGEST), 1)
    assert finite.kl(exact, TREE.p) > kl_bound(4)
    assert exact[0] > 0.1, "an answer of one block"


GONE = np.array([text.startswith("a") for text in TREE.model.prefixes()])


@pytest.mark.parametrize("out", [np.nan, -np.inf])
def test_what_has_no_value_is_kept_only_if_nothing_has_one(out):
    """Prefixes without a value, below those of the lowest; their responses have rewards, some of them the lowest."""
    lowest = Tree(TREE.model, TREE.beta, given=np.where(TREE.r < np.median(TREE.r), -np.inf, TREE.r))
    values = np.where(GONE, out, VALUES)
    method = replace(BASE, n=2, value=lowest.known(values))
    exact = law(method.draws(LONGEST), 1, lowest, values)
    assert 0 < exact[GONE].sum() < TREE.p[GONE].sum() ** 2
    assert chi_square(counts(method, lowest), exact).p_value > RIGHT
    certain = {o.certificate.kl_bound is None for o in outcomes(lowest, method, range(50))}
    assert certain == ({True, False} if np.isnan(out) else {False})


def test_a_block_of_which_no_draw_has_a_value_keeps_the_first():
    nothing = np.full_like(VALUES, np.nan)
    method = replace(BASE, n=2, value=TREE.known(nothing))
    assert chi_square(counts(method), law(method.draws(LONGEST), 1, values=nothing)).p_value > RIGHT
    for seed in range(60):
        asked = []
        TREE.drive(Spied(method, asked), seed)
        grown = [answer for question, answer in asked if isinstance(question, Extend)]
        for before, after in pairwise(grown):
            assert before.texts[0] == after.texts[0][: len(before.texts[0])]
            assert not before.done.any(), "one that has ended has a reward"


MODEL, SAMPLING = ToyModel(letters=2, length=4, seed=3), Sampling(max_tokens=5)
SMALL = Blockwise(n=4, block=2)


def run(method=SMALL, reward=None, sampling=SAMPLING, budget=None, driver=event_driven, model=MODEL):
    tasks = make_tasks(PROMPTS, model, 0, sampling)
    return driven(tasks, method, model, reward=reward, budget=budget, driver=driver)


def test_a_missing_score_is_not_chosen():
    chosen, _ = run(replace(SMALL, n=8), reward=Altered(each(lambda text, r: np.nan if r > 0.8 else r)))
    assert all(o.reward <= 0.8 for o in chosen)
    assert {o.certificate.kl_bound is None for o in chosen} == {True, False}


def test_nothing_but_the_lowest_reward():
    chosen, _ = run(reward=Altered(each(lambda text, r: -np.inf), ToyReward()))
    assert all(o.complete and o.reward == -np.inf and o.certificate.kl_bound is not None for o in chosen)


@pytest.mark.parametrize("alter", [lambda text, r: np.nan, lambda text, r: r if len(text) == 2 else np.nan])
def test_every_score_missing_is_an_error(alter):
    with pytest.raises(RewardError, match=r"every score that an answer to prompt 'p\d+' could be") as failure:
        run(reward=Altered(each(alter), ToyReward()))
    assert "italic doctor" in failure.value.hint


def test_responses_of_one_token():
    outcomes, usage = run(Blockwise(n=5), sampling=Sampling(max_tokens=1))
    assert all(o.drafts.steps.tolist() == [1] for o in outcomes)
    assert usage.tokens_generated == 5 * len(PROMPTS)


def test_the_cost_is_at_most_the_schedule():
    whole, usage = run()
    planned = SMALL.draws(5)
    assert len(planned) == 3
    assert usage.tokens_generated <= len(PROMPTS) * planned @ [2, 2, 1]
    assert all(o.drafts.done.all() and len(o.drafts) == 1 for o in whole)


@pytest.mark.parametrize("driver", [lockstep, event_driven])
def test_a_budget_ends_a_run_with_the_best_so_far(driver):
    whole = run()[1].tokens_generated
    seen = 0
    for tokens in range(0, whole, whole // 8):
        outcomes, usage = run(budget=Budget(tokens=tokens), driver=driver)
        assert usage.tokens_generated <= tokens
        assert len(outcomes) < len(PROMPTS) or not all(o.complete for o in outcomes)
        seen += sum(not o.complete and o.chosen is not None for o in outcomes)
    assert seen > 0


@pytest.mark.parametrize(
    ("values", "needle"),
    [
        ({"n": 0}, "n=0"),
        ({"block": 0}, "block=0"),
        ({"schedule": "growth"}, "schedule=growth"),
        ({"decay": 0.0}, "decay=0.0"),
        ({"decay": 1.1}, "decay=1.1"),
        ({"decay": float("nan")}, "decay=nan"),
    ],
)
def test_bad_parameters_are_refused_with_what_to_type(values, needle):
    with pytest.raises(UsageError) as refusal:
        Blockwise(**values)
    assert needle in refusal.value.message
    typed = refusal.value.hint.rpartition(": ")[2].rstrip(".")
    assert isinstance(build_method(typed), Blockwise)


def test_specs():
    assert build_method("blockwise:n=4,schedule=linear") == Blockwise(n=4, schedule="linear")
    assert build_method("blockwise:decay=0.5,block=8") == Blockwise(decay=0.5, block=8)
    with pytest.raises(SpecError, match="schedule cannot be 'growth'"):
        build_method("blockwise:schedule=growth")
    with pytest.raises(SpecError, match="there is no value 'rewards'"):
        build_method("blockwise:value=rewards")


def test_needs_are_those_of_the_value():
    assert Blockwise().needs == {"resume", "partial"}
    assert Blockwise(value="completions:2").needs == {"resume"}
    with pytest.raises(MismatchError, match="needs preview"):
        check_match(Blockwise(value="preview"), MODEL, ToyReward())


def test_denoising_steps_are_blocks_too():
    model, reward = build_model("gaussian"), Region(scale=3, below=-1)
    plain = align([f"{i}" for i in range(200)], model, reward, "sample")
    steered = align([f"{i}" for i in range(200)], model, reward, "blockwise:n=4,value=preview,block=10")
    assert np.mean(steered.rewards) > np.mean(plain.rewards) + 0.5


SPECS = [
    "blockwise",
    "blockwise:block=2,n=3",
    "blockwise:block=1,schedule=linear",
    "blockwise:block=2,value=completions:2",
]


@pytest.mark.parametrize("check", applicable(method_checks, SMALL), ids=lambda check: check.__name__)
@pytest.mark.parametrize("spec", SPECS)
def test_it_conforms(spec, check):
    check(build_method(spec))
