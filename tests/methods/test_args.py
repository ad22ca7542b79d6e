"""ARGS: its law against exact enumeration, what its parameters do at their ends, and what it costs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from altered import Altered
from enumerated import ROOT, Tree

import italic
from italic.core.drafts import END, LENGTH, STOP
from italic.core.errors import MismatchError, RewardError, UsageError
from italic.core.protocols import check
from italic.core.questions import Extend
from italic.core.sampling import Sampling
from italic.laws.statistics import chi_square
from italic.methods.args import Args
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.testing import Check, applicable, method_checks
from italic.testing.methods import the_seed_matters

RIGHT, WRONG = 1e-4, 1e-12
DRAWS = 3000
TREE = Tree(ToyModel(letters=3, length=3, seed=2), beta=1.0)
DRAWN = Args(weight=0.7, k=3, temperature=0.8)
MODEL, REWARD = ToyModel(letters=4, length=5, seed=2), ToyReward(seed=3)
PROMPTS = [italic.Prompt(f"p{i}", text=f"again {i}") for i in range(30)]
SHORT = Sampling(max_tokens=6)


@pytest.mark.parametrize("method", [DRAWN, Args(), Args(weight=0, k=1)], ids=str)
@pytest.mark.parametrize("check", applicable(method_checks, Args()), ids=lambda check: check.__name__)
def test_it_conforms(method: Args, check: Check) -> None:
    if check is the_seed_matters and not method.temperature:
        with pytest.raises(AssertionError, match="five seeds gave the same outcome"):
            check(method)
    else:
        check(method)


def scores(method: Args, p: np.ndarray, worth: np.ndarray) -> np.ndarray:
    """What each of the next tokens is judged by: -inf for all but the k likeliest."""
    heights = np.log(p) + method.weight * worth
    heights[np.argsort(-p, kind="stable")[method.k :]] = -np.inf
    return heights


def law_of(method: Args) -> np.ndarray:
    """The law of the response, compounded over the tree."""

    def kernel(_: int, p: np.ndarray, worth: np.ndarray) -> np.ndarray:
        heights = scores(method, p, worth)
        if not method.temperature:
            return np.eye(len(p))[heights.argmax()]
        weights = np.exp((heights - heights.max()) / method.temperature)
        return weights / weights.sum()

    return TREE.law(1, kernel, TREE.r)


def counts_of(method: Args) -> np.ndarray:
    """How often each response is the answer."""
    return sum(TREE.counts(method, seed) for seed in range(DRAWS))


@pytest.fixture(scope="module")
def counts() -> np.ndarray:
    return counts_of(DRAWN)


def test_the_law_of_the_drawn_version(counts: np.ndarray) -> None:
    law = law_of(DRAWN)
    assert np.sum(law > 0.01) > 10
    assert law.sum() == pytest.approx(1)
    assert chi_square(counts, law).p_value > RIGHT


@pytest.mark.parametrize("other", [{"temperature": 1.2}, {"weight": 0.2}, {"weight": 1.2}, {"k": 2}, {"k": 4}], ids=str)
def test_other_laws_are_rejected(counts: np.ndarray, other: dict[str, float]) -> None:
    assert chi_square(counts, law_of(replace(DRAWN, **other))).p_value < WRONG


def test_noise_that_does_not_depend_on_the_place_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same luck for the same rank at every token: each token alone would pass, not the response."""
    real = italic.core.keys.Key.at
    monkeypatch.setattr(italic.core.keys.Key, "at", lambda key, *path: real(key, *(path if path[0] != "token" else ())))
    assert chi_square(counts_of(DRAWN), law_of(DRAWN)).p_value < WRONG


@pytest.mark.parametrize("k", [1, 2, 3, 9])
@pytest.mark.parametrize("weight", [0.0, 0.3, 1.5, 1e9])
def test_the_greedy_version_is_a_walk(k: int, weight: float) -> None:
    method = Args(weight=weight, k=k)
    outcome = TREE.drive(method, 0)
    assert np.bincount(TREE.node(outcome.drafts), minlength=TREE.model.nodes).tolist() == law_of(method).tolist()
    assert outcome.rewards.tolist() == TREE.r[TREE.node(outcome.drafts)].tolist()
    assert outcome.chosen == 0


def test_with_a_huge_weight_the_reward_alone_decides() -> None:
    outcome = TREE.drive(Args(weight=1e9, k=3), 0)
    node = ROOT
    for token in outcome.drafts.tokens[0].tolist():
        ends = sorted(TREE.ahead(node), key=lambda end: -end[2])[:3]
        best = max(ends, key=lambda end: TREE.r[end[0]])
        assert best[1] == (token == TREE.model.letters)
        node = best[0]
    assert outcome.drafts.done[0]


def run(method: Args, *, sampling: Sampling = SHORT, reward=REWARD, model=MODEL, seed: int = 0, prompts=PROMPTS):
    answers = italic.align(prompts, model, reward, method, sampling=sampling, seed=seed)
    return [result.outcome for result in answers.results]


def greedy(model, prompts, sampling: Sampling) -> list[np.ndarray]:
    """The responses of plain greedy decoding."""
    cold = replace(sampling, temperature=0.0)
    jobs = [Extend(model.start(p, np.ones(1, dtype=np.uint64), cold)) for p in prompts]
    return [grown.drafts.tokens[0] for grown in model.extend(jobs)]


@pytest.mark.parametrize("method", [Args(weight=0), Args(weight=0, k=3), Args(k=1), Args(k=1, temperature=2)], ids=str)
@pytest.mark.parametrize("sampling", [SHORT, Sampling(max_tokens=3), Sampling(stop=("b", "ca"))], ids=str)
def test_without_a_weight_or_a_choice_it_is_greedy_decoding(method: Args, sampling: Sampling) -> None:
    found = [outcome.drafts for outcome in run(method, sampling=sampling)]
    assert [d.tokens[0].tolist() for d in found] == [row.tolist() for row in greedy(MODEL, PROMPTS, sampling)]
    ends = {END, STOP if sampling.stop else LENGTH if sampling.max_tokens == 3 else END}
    assert {str(d.reason[0]) for d in found} == ends
    assert not any(s in text for d in found for text in d.texts for s in sampling.stop)


def test_greedy_decoding_of_the_bundled_model_and_what_it_costs() -> None:
    model = italic.build_model("demo:dtype=float32,device=cpu")
    prompts = [italic.Prompt("fox", text="Write a short story about a fox."), italic.Prompt("hi", text="Hello!")]
    sampling = Sampling(max_tokens=20)
    answers = italic.align(prompts, model, "toy", Args(weight=0, k=4), sampling=sampling)
    rows = greedy(model, prompts, sampling)
    for result, row in zip(answers.results, rows, strict=True):
        assert result.outcome.drafts.tokens[0].tolist() == row.tolist()
        length = len(result.outcome.drafts.prompt_tokens)
        usage = result.outcome.usage
        assert usage.positions == length + len(row) - 1, "one position a token, whatever k"
        assert usage.tokens_generated == usage.tokens_kept == len(row)
        assert usage.reward_calls + usage.reward_cached == 4 * len(row)
    steered = italic.align(prompts, model, "toy", Args(weight=9, k=4), sampling=sampling)
    for result, row in zip(steered.results, rows, strict=True):
        drafts, usage = result.outcome.drafts, result.outcome.usage
        assert drafts.tokens[0].tolist() != row.tolist()
        assert usage.positions <= len(drafts.prompt_tokens) + drafts.steps[0] - 1, "less for a prompt seen before"
    assert steered.usage.model_calls <= 20


def test_the_seed_matters_only_if_tokens_are_drawn() -> None:
    def texts(method: Args, seed: int) -> list[str]:
        return [outcome.drafts.texts[0] for outcome in run(method, seed=seed)]

    assert texts(Args(), 0) == texts(Args(), 1)
    assert texts(DRAWN, 0) == texts(DRAWN, 0) != texts(DRAWN, 1)


def has_a(texts: np.ndarray) -> np.ndarray:
    return np.char.find(texts, "a") >= 0


@pytest.mark.parametrize("temperature", [0.0, 0.5])
@pytest.mark.parametrize("weight", [0.0, 1.0])
@pytest.mark.parametrize("other", [None, -np.inf])
def test_a_token_without_a_score_is_not_kept(weight: float, temperature: float, other: float | None) -> None:
    """Not even where all others have the lowest: with every letter but the a there is always one with a score."""
    reward = Altered(lambda texts, r, done: np.where(has_a(texts), np.nan, r if other is None else other))
    for outcome in run(Args(weight=weight, k=9, temperature=temperature), reward=reward):
        assert "a" not in outcome.drafts.texts[0]
        assert other is None or outcome.rewards.tolist() == [-np.inf]


def test_the_lowest_reward_is_passed_over_if_it_counts() -> None:
    reward = Altered(lambda texts, r, done: np.where(has_a(texts), -np.inf, r))
    assert not any("a" in outcome.drafts.texts[0] for outcome in run(Args(weight=0.01, k=9), reward=reward))
    plain = run(Args(weight=0, k=9), reward=reward)
    assert any("a" in outcome.drafts.texts[0] for outcome in plain), "without a weight it does not"
    assert [o.drafts.texts for o in plain] == [o.drafts.texts for o in run(Args(weight=0, k=9))]


@pytest.mark.parametrize("temperature", [0.0, 0.5])
def test_where_none_has_a_score_the_likeliest_is_kept(temperature: float) -> None:
    """Nothing but whole responses of the greedy kind has a score."""
    ends = {MODEL.codec.decode(np.zeros(0), row) for row in greedy(MODEL, PROMPTS[:1], SHORT)}
    reward = Altered(lambda texts, r, done: np.where(np.isin(texts, list(ends)), r, np.nan))
    (outcome,) = run(Args(k=3, temperature=temperature), reward=reward, prompts=PROMPTS[:1])
    assert set(outcome.drafts.texts) == ends
    assert len(outcome.drafts.texts[0]) > 1


def test_an_answer_without_a_score_is_an_error() -> None:
    with pytest.raises(RewardError, match="every score that an answer to prompt 'p0' could be chosen by is missing"):
        run(Args(), reward=Altered(lambda texts, r, done: np.full(len(r), np.nan)), prompts=PROMPTS[:1])


@pytest.mark.parametrize(
    ("sampling", "named"),
    [
        ({"temperature": 0.7}, "temperature"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_k": 5}, "top_k"),
        ({"top_p": 0.9, "min_p": 0.1}, "top_p and min_p"),
    ],
)
def test_samplings_that_would_not_be_used_are_refused(sampling: dict[str, float], named: str) -> None:
    with pytest.raises(UsageError, match=f"the run's {named} would not be used") as refusal:
        run(Args(), sampling=replace(SHORT, **sampling))
    assert "args:temperature=0.5,k=40" in refusal.value.hint


@pytest.mark.parametrize(
    ("values", "hint"),
    [
        ({"weight": -0.1}, "args:weight=1.5"),
        ({"weight": float("nan")}, "args:weight=1.5"),
        ({"weight": float("inf")}, "args:weight=1.5"),
        ({"k": 0}, "args:k=10"),
        ({"temperature": -1}, "args:temperature=0.5"),
        ({"temperature": float("inf")}, "args:temperature=0.5"),
    ],
)
def test_bad_parameters_are_refused_with_what_to_type(values: dict[str, float], hint: str) -> None:
    with pytest.raises(UsageError, match=f"args with {next(iter(values))}=") as refusal:
        Args(**values)
    assert hint in refusal.value.hint


def test_what_it_needs() -> None:
    assert italic.build_method("args:weight=2,k=5,temperature=0.3") == Args(2.0, 5, 0.3)
    assert Args.needs == {"likeliest", "resume", "texts", "partial"}
    check(Args(), MODEL, REWARD)
    with pytest.raises(MismatchError, match=r"Args needs likeliest \(list the likeliest next tokens of a draft\)"):
        check(Args(), italic.build_model("gaussian"), REWARD)
    with pytest.raises(MismatchError, match="Args needs partial"):
        check(Args(), MODEL, replace(Altered(lambda texts, r, done: r), partial=False))
