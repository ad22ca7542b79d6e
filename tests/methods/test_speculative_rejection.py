"""Speculative rejection: its cuts, its law against enumeration of all joint draws, its certificate, and its cost."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
from altered import Altered, each
from driven import driven
from enumerated import Tree
from merged import Spied, answers, outcomes

from italic.core.errors import MismatchError, RewardError, SpecError, UsageError
from italic.core.prompt import Prompt
from italic.core.protocols import check as check_match
from italic.core.questions import Extend, Note, Score
from italic.core.sampling import Sampling
from italic.core.spec import build_method, build_model
from italic.laws import finite
from italic.laws.best_of_n import kl_bound
from italic.laws.statistics import chi_square
from italic.methods.best_of_n import BestOfN
from italic.methods.speculative_rejection import SpeculativeRejection
from italic.models.toy import ToyModel
from italic.rewards.region import Region
from italic.rewards.toy import ToyReward
from italic.run.align import align, make_tasks
from italic.run.event import event_driven
from italic.run.ledger import Budget
from italic.run.lockstep import lockstep
from italic.testing import applicable, method_checks

RIGHT, WRONG, DRAWS = 1e-4, 1e-12, 3000
TREE = Tree(ToyModel(letters=2, length=2, seed=9), beta=0.7)
TEXTS = TREE.model.prefixes()
NODE = {text: node for node, text in enumerate(TEXTS)}
VALUES = np.random.default_rng(1).normal(size=len(TREE.r))
BASE = SpeculativeRejection(n=4, block=1, value=TREE.known(VALUES))


def worst_first(unfinished, length, texts, worth):
    """The drafts from the worst to the best by their first letters; of equals the later are worse."""
    return sorted(unfinished, key=lambda i: (worth[NODE[texts[i][:length]]], -i))


def winner(texts, n, block, drop, values, rewards, order=worst_first, ended_fill=False):
    """Who wins if the n drafts come to these texts, followed token by token: letters, then the end."""
    alive, length = list(range(n)), 0
    while unfinished := [i for i in alive if len(texts[i]) + 1 > length]:
        held = len(alive) if ended_fill else len(unfinished)
        if drop > 0 and len(unfinished) > 1 and held * (length + 1) > n * block:
            out = order(unfinished, length, texts, values)[: max(1, int(drop * len(unfinished)))]
            alive = [i for i in alive if i not in out]
        else:
            length += 1
    return min(alive, key=lambda i: (-rewards[NODE[texts[i]]], i))


def law(method, values=VALUES, tree=TREE, **rule):
    """The law of the answer, all joint draws of n texts enumerated; what is missing ranks below all."""
    values, rewards = (np.nan_to_num(x, nan=-2e9, neginf=-1e9) for x in (values, tree.r))
    exact = np.zeros(len(TEXTS))
    possible = [(text, p) for text, p in zip(TEXTS, tree.p, strict=True) if p > 0]
    for joint in product(possible, repeat=method.n):
        texts = [text for text, _ in joint]
        won = winner(texts, method.n, method.block, method.drop, values, rewards, **rule)
        exact[NODE[texts[won]]] += np.prod([p for _, p in joint])
    assert exact.sum() == pytest.approx(1)
    return exact


@cache
def right(method):
    return law(method)


@cache
def counts(method, tree=TREE):
    """How often each response is the answer."""
    return answers(tree, method, range(DRAWS))


CASES = {
    "halves": BASE,
    "three": replace(BASE, n=3),
    "a quarter": replace(BASE, drop=0.25),
    "nearly all": replace(BASE, drop=0.99),
    "blocks of two": replace(BASE, block=2),
    "room for all": replace(BASE, block=4),
    "no cut": replace(BASE, drop=0.0),
}


@pytest.mark.parametrize("name", CASES)
def test_its_law(name):
    assert chi_square(counts(CASES[name]), right(CASES[name])).p_value > RIGHT
    if name in ("room for all", "no cut"):
        assert right(CASES[name]) == pytest.approx(finite.best_of_n(TREE.p, TREE.r, 4), abs=1e-12)


def best_first(unfinished, length, texts, worth):
    return worst_first(unfinished, length, texts, worth)[::-1]


def by_chance(unfinished, length, texts, worth):
    return unfinished


WRONG_LAWS = {
    "the best go": law(BASE, order=best_first),
    "any go": law(BASE, order=by_chance),
    "the ended are in the memory": law(BASE, ended_fill=True),
    "other values": law(BASE, values=TREE.r),
    "none go": right(CASES["no cut"]),
    "more go": right(CASES["nearly all"]),
    "they go later": right(CASES["blocks of two"]),
    "n - 1": right(CASES["three"]),
    "the model": TREE.p,
}


@pytest.mark.parametrize("name", WRONG_LAWS)
def test_the_wrong_law_is_rejected(name):
    assert chi_square(counts(BASE), WRONG_LAWS[name]).p_value < WRONG


def test_the_certificate_bounds_the_divergence_whatever_goes():
    """No set is likelier than to be among n draws, which is what best-of-n makes of its best sets."""
    for name, exact in {**{name: right(method) for name, method in CASES.items()}, **WRONG_LAWS}.items():
        n = 3 if name in ("three", "n - 1") else 4
        assert finite.kl(exact, TREE.p) <= kl_bound(n)
        likeliest = np.argsort(-exact / TREE.p)
        assert np.all(np.cumsum(exact[likeliest]) <= 1 - (1 - np.cumsum(TREE.p[likeliest])) ** n + 1e-12)
    assert TREE.drive(BASE, 0).certificate.kl_bound == kl_bound(4)


def followed(method, seed, tree=TREE):
    """The outcome of a run, and its questions with their answers."""
    asked = []
    return tree.drive(Spied(method, asked), seed), asked


TIED = Tree(ToyModel(letters=3, length=4, seed=5), beta=1.0)
TIED = replace(TIED, given=np.round(TIED.r))


@pytest.mark.parametrize(("n", "block", "drop"), [(12, 1, 0.5), (9, 1, 0.3), (16, 2, 0.5), (10, 1, 0.05), (2, 1, 0.5)])
def test_every_cut_leaves_the_best_of_the_unfinished(n, block, drop):
    """Read off the questions: what was scored before a cut, and whose noise went on after it. The reward has ties."""
    method, equals, cuts = SpeculativeRejection(n=n, block=block, drop=drop), 0, 0
    for seed in range(40):
        outcome, asked = followed(method, seed, TIED)
        ended = {}
        for i, (question, answer) in enumerate(asked):
            if isinstance(question, Extend):
                assert len(question.drafts) <= n
                length, live = answer.steps.max(), np.sum(~answer.done)
                assert live < 2 or live * length <= n * block, "they fit"
            if isinstance(question, Score):
                drafts = question.drafts
                assert not ended.keys() & set(drafts.seeds.tolist()), "a final score is asked for once"
                ended.update(zip(drafts.seeds[drafts.done].tolist(), answer[drafts.done].tolist(), strict=True))
                live = np.flatnonzero(~drafts.done)
                if not len(live):
                    assert i == len(asked) - 1
                    continue
                length, left = drafts.steps[live[0]], len(live)
                assert left * (length + 1) > n * block, "not before the memory is full"
                while left > 1 and left * (length + 1) > n * block:
                    left -= max(1, int(drop * left))
                order = sorted(live, key=lambda row: (-answer[row], row))
                note, follow = asked[i + 1][0], asked[i + 2][0]
                assert isinstance(note, Note)
                assert note.values == {
                    "cut": note.values["cut"],
                    "steps": length,
                    "rows": len(live),
                    "dropped": len(live) - left,
                }
                assert follow.drafts.seeds.tolist() == drafts.seeds[sorted(order[:left])].tolist()
                equals += answer[order[left - 1]] == answer[order[left]]
                cuts += 1
        assert dict(zip(outcome.drafts.seeds.tolist(), outcome.rewards.tolist(), strict=True)) == ended
        assert outcome.drafts.done.all()
        assert outcome.chosen == np.argmax(outcome.rewards)
        assert outcome.drafts.seeds.tolist() == [s for s in TIED.task(seed).start(n).seeds.tolist() if s in ended]
    assert cuts > 10
    assert equals > 3


MODEL, SAMPLING = ToyModel(letters=7, length=4, seed=3), Sampling(max_tokens=5)
PROMPTS = [Prompt(f"p{i}", text=f"prompt {i}") for i in range(20)]
MANY = SpeculativeRejection(n=32, block=1)


def run(method=MANY, reward=None, sampling=SAMPLING, budget=None, driver=event_driven, seed=0):
    tasks = make_tasks(PROMPTS, MODEL, seed, sampling)
    return driven(tasks, method, MODEL, reward=reward, budget=budget, driver=driver)


@pytest.mark.parametrize("n", [1, 2, 16])
def test_without_cuts_it_is_best_of_n_to_the_token(n):
    for method in (SpeculativeRejection(n=n, drop=0), SpeculativeRejection(n=n, block=5), SpeculativeRejection(n=n)):
        (mine, cost), (theirs, paid) = run(method), run(BestOfN(n=n))
        assert cost.counts() == paid.counts()
        for a, b in zip(mine, theirs, strict=True):
            assert [t.tolist() for t in a.drafts.tokens] == [t.tolist() for t in b.drafts.tokens]
            assert np.array_equal(a.drafts.seeds, b.drafts.seeds)
            assert np.array_equal(a.rewards, b.rewards)
            assert (a.chosen, a.certificate) == (b.chosen, b.certificate)


def test_what_ends_is_what_best_of_n_would_have_drawn():
    for a, b in zip(run()[0], run(BestOfN(n=32))[0], strict=True):
        rows = np.flatnonzero(np.isin(b.drafts.seeds, a.drafts.seeds))
        assert a.drafts.texts == b.drafts[rows].texts
        assert a.reward <= b.reward


def test_it_costs_a_fraction_of_best_of_n():
    whole, mine = run(BestOfN(n=32))[1].tokens_generated, run()[1].tokens_generated
    assert mine < 0.6 * whole
    spent = [run(replace(MANY, drop=drop))[1].tokens_generated for drop in (0, 0.1, 0.5, 0.9)]
    assert spent == sorted(spent, reverse=True)


def test_a_missing_score_is_not_chosen():
    chosen, _ = run(reward=Altered(each(lambda text, r: np.nan if r > 0.8 else r)))
    assert all(o.reward <= 0.8 for o in chosen)
    assert all(o.certificate.kl_bound is None for o in chosen)


@pytest.mark.parametrize("out", [np.nan, -np.inf])
def test_what_has_no_value_goes_first(out):
    """What is missing below what is lowest."""
    values = np.where([text.startswith("a") for text in TEXTS], out, VALUES)
    values[NODE["b"]] = -np.inf
    method = replace(BASE, value=TREE.known(values))
    assert chi_square(counts(method), law(method, values)).p_value > RIGHT
    other = np.where(np.isnan(values), -np.inf, np.where(values == -np.inf, np.nan, values))
    rejected = chi_square(counts(method), law(method, other)).p_value < WRONG
    assert rejected == np.isnan(out)
    certain = {o.certificate.kl_bound is None for o in outcomes(TREE, method, range(50))}
    assert certain == ({True, False} if np.isnan(out) else {False})


def test_drafts_without_any_value_rank_alike():
    """The first drawn stay, and the rewards of those that end decide."""
    nothing = np.full_like(VALUES, np.nan)
    method = replace(BASE, value=TREE.known(nothing))
    assert chi_square(counts(method), law(method, nothing)).p_value > RIGHT


def test_nothing_but_the_lowest_reward():
    chosen, _ = run(reward=Altered(each(lambda text, r: -np.inf), ToyReward()))
    assert all(o.complete and o.reward == -np.inf and o.chosen == 0 for o in chosen)
    assert all(o.certificate.kl_bound == kl_bound(32) for o in chosen)


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_every_score_missing_is_an_error(drop):
    with pytest.raises(RewardError, match=r"every score that an answer to prompt 'p\d+' could be") as failure:
        run(replace(MANY, drop=drop), reward=Altered(each(lambda text, r: np.nan), ToyReward()))
    assert "italic doctor" in failure.value.hint


def test_responses_of_one_token():
    chosen, usage = run(SpeculativeRejection(n=5), sampling=Sampling(max_tokens=1))
    assert all(o.drafts.steps.tolist() == [1] * 5 for o in chosen)
    assert usage.tokens_generated == 5 * len(PROMPTS)


def test_one_draft_alone_may_outgrow_the_memory():
    lone, _ = run(SpeculativeRejection(n=2, block=1))
    assert max(int(o.drafts.steps.max()) for o in lone) == 5


@pytest.mark.parametrize("driver", [lockstep, event_driven])
def test_a_budget_ends_a_run_with_the_best_so_far(driver):
    whole, seen = run()[1].tokens_generated, 0
    for tokens in range(0, whole, whole // 8):
        some, usage = run(budget=Budget(tokens=tokens), driver=driver)
        assert usage.tokens_generated <= tokens
        assert len(some) < len(PROMPTS) or not all(o.complete for o in some)
        seen += sum(not o.complete and o.chosen is not None for o in some)
    assert seen > 0


@pytest.mark.parametrize(
    ("values", "needle"),
    [
        ({"n": 0}, "n=0"),
        ({"block": 0}, "block=0"),
        ({"drop": -0.1}, "drop=-0.1"),
        ({"drop": 1.0}, "drop=1.0"),
        ({"drop": float("nan")}, "drop=nan"),
    ],
)
def test_bad_parameters_are_refused_with_what_to_type(values, needle):
    with pytest.raises(UsageError) as refusal:
        SpeculativeRejection(**values)
    assert needle in refusal.value.message
    typed = refusal.value.hint.rpartition(": ")[2].rstrip(".")
    assert isinstance(build_method(typed), SpeculativeRejection)


def test_specs():
    spec = "speculative-rejection:n=8,drop=0.25,block=4"
    assert build_method(spec) == SpeculativeRejection(n=8, drop=0.25, block=4)
    with pytest.raises(SpecError, match="there is no value 'rewards'"):
        build_method("speculative-rejection:value=rewards")


def test_needs_depend_on_the_parameters():
    assert SpeculativeRejection().needs == {"resume", "partial"}
    assert SpeculativeRejection(value="completions:2").needs == {"resume"}
    assert SpeculativeRejection(drop=0).needs == frozenset()
    with pytest.raises(MismatchError, match="needs preview"):
        check_match(SpeculativeRejection(value="preview"), MODEL, ToyReward())


def test_denoising_steps_are_steps_too():
    texts, model, reward = [f"{i}" for i in range(200)], build_model("gaussian"), Region(scale=3, below=-1)
    plain = align(texts, model, reward, "sample")
    steered = align(texts, model, reward, "speculative-rejection:n=4,value=preview,block=10")
    assert np.mean(steered.rewards) > np.mean(plain.rewards) + 0.5
    assert steered.usage.tokens_generated < 4 * plain.usage.tokens_generated


SPECS = [
    "speculative-rejection",
    "speculative-rejection:n=6,block=1",
    "speculative-rejection:n=5,block=2,drop=0.3",
    "speculative-rejection:n=5,block=1,value=completions:2",
]


@pytest.mark.parametrize("check", applicable(method_checks, MANY), ids=lambda check: check.__name__)
@pytest.mark.parametrize("spec", SPECS)
def test_it_conforms(spec, check):
    check(build_method(spec))
