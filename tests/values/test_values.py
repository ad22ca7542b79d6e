"""What an unfinished draft is worth: each kind of value, against what it says it estimates."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from italic.core.errors import ProgramError, SpecError, UsageError
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.protocols import Scored
from italic.core.questions import Embed, Extend, Preview, Score
from italic.core.sampling import Sampling, Until
from italic.core.spec import build_model, build_reward
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.values.kinds import (
    Completions,
    Known,
    Learned,
    RewardOfPreview,
    RewardSoFar,
    build_value,
    by_state,
)
from italic.values.networks import Networks

BETA = 0.7
PROMPT, SAMPLING = Prompt("p", text="a prompt"), Sampling(max_tokens=5)
MODEL, REWARD = ToyModel(letters=3, length=4, seed=2), ToyReward(seed=1)


@dataclass
class Altered:
    """The toy reward with other scores for some texts: NaN is missing. asked: the texts of each question."""

    alter: object = lambda text, reward: reward

    def __post_init__(self):
        self.asked = []

    def score(self, batches):
        self.asked += [d.texts for d in batches]
        found = [np.array([self.alter(t, REWARD.of(PROMPT.last, t)) for t in d.texts], dtype=float) for d in batches]
        return [Scored(rewards, np.isnan(rewards)) for rewards in found]


def ask(asking, model=MODEL, reward=REWARD):
    """Answer all questions; the result, and the kinds of question."""
    answer, kinds = None, []
    while True:
        try:
            question = asking.send(answer)
        except StopIteration as end:
            return end.value, kinds
        kinds.append(type(question))
        if isinstance(question, Extend):
            answer = model.extend([question])[0].drafts
        elif isinstance(question, Score):
            answer = reward.score([question.drafts])[0].rewards
        elif isinstance(question, Preview):
            answer = model.preview([question.drafts])[0].drafts
        else:
            assert isinstance(question, Embed)
            answer = model.embed([question.drafts])[0].features


def drafts_after(steps, n=40, seed=0, model=MODEL):
    start = model.start(PROMPT, Key(seed).seeds(n), SAMPLING)
    return model.extend([Extend(start, Until(steps=steps))])[0].drafts


MIXED = drafts_after(2)


def soft(text, alter=lambda text, reward: reward):
    """V of an unfinished prefix, by listing the responses that begin with it; those without a score are left out."""
    texts, p = MODEL.law(PROMPT, SAMPLING)
    under = np.array([t.startswith(text) for t in texts])
    r = np.array([alter(t, REWARD.of(PROMPT.last, t)) for t in texts])
    return BETA * np.log(np.sum((p * np.exp(r / BETA))[under]) / p[under].sum())


def test_there_are_finished_and_unfinished_rows():
    assert 0 < MIXED.done.sum() < len(MIXED)


def test_the_reward_so_far():
    values, kinds = ask(RewardSoFar().of(MIXED, BETA))
    assert values.tolist() == [REWARD.of(PROMPT.last, t) for t in MIXED.texts]
    assert kinds == [Score]
    assert RewardSoFar().needs == {"partial"}


def test_the_reward_of_a_preview():
    gaussian, region = build_model("gaussian:steps=10"), build_reward("region:scale=3,below=-3")
    start = gaussian.start(PROMPT, Key(1).seeds(200), Sampling())
    half = gaussian.extend([Extend(start, Until(steps=7))])[0].drafts
    ended = gaussian.extend([Extend(half)])[0].drafts
    assert RewardOfPreview().needs == {"preview"} <= gaussian.offers
    for drafts in (start, half, ended, half.concat(ended)):
        values, kinds = ask(RewardOfPreview().of(drafts, BETA), gaussian, region)
        clean = gaussian.preview([drafts])[0].drafts.x
        assert np.array_equal(values, np.where(clean[:, 0] < -3, 3.0, 0.0))
        assert kinds == [Preview, Score]
    assert 0 < values.sum() < 3 * len(values)
    known, _ = ask(RewardOfPreview().of(ended, BETA), gaussian, region)
    assert np.array_equal(known, np.where(ended.x[:, 0] < -3, 3.0, 0.0)), "a finished draft is worth its reward"


def test_completions_are_consistent():
    """The error falls like 1 / sqrt(k), and the plain mean of the rewards would miss by much more."""
    rows = drafts_after(1, n=300)
    rows = rows[np.flatnonzero(~rows.done)]
    true = np.array([soft(text) for text in rows.texts])
    errors = []
    for k in (8, 128):
        values, kinds = ask(Completions(k).of(rows, BETA))
        assert kinds == [Extend, Score]
        errors.append(np.sqrt(np.mean((values - true) ** 2)))
        weights = np.exp((values - true) / BETA)
        assert abs(weights.mean() - 1) < 4.5 * weights.std() / np.sqrt(len(rows)), "exp(V / beta) is unbiased"
    assert 2.5 < errors[0] / errors[1] < 6
    cold, _ = ask(Completions(128).of(rows, 100.0))
    assert np.mean(true - cold) > 4 * errors[1], "beta matters: near infinity it is the plain mean"


def test_completions_belong_to_the_draft_and_its_seed():
    rows = MIXED[np.flatnonzero(~MIXED.done)]
    values, _ = ask(Completions(4).of(rows, BETA))
    again, _ = ask(Completions(4).of(rows[::-1], BETA))
    assert np.array_equal(values, again[::-1]), "whatever the batch"
    other, _ = ask(Completions(4).of(rows.reseed(Key(9).seeds(len(rows))), BETA))
    assert not np.any(values == other)
    same = np.flatnonzero(np.array(rows.texts) == rows.texts[0])
    assert len(same) > 1
    assert len(set(values[same])) > 1, "equal texts with seeds of their own have completions of their own"


def test_the_first_completions_of_many_are_those_of_few():
    rows, reward = MIXED[np.flatnonzero(~MIXED.done)], Altered()
    ask(Completions(2).of(rows, BETA), reward=reward)
    ask(Completions(5).of(rows, BETA), reward=reward)
    few, many = (np.array(texts).reshape(len(rows), -1) for texts in reward.asked)
    assert np.array_equal(few, many[:, :2])
    assert any(len(set(texts)) > 1 for texts in many.tolist()), "the completions of a draft differ"


def test_completions_without_a_score_are_left_out():
    rows = drafts_after(1, n=60)
    rows = rows[np.flatnonzero(~rows.done)]
    partly = Altered(lambda text, reward: np.nan if text.endswith("b") else reward)
    values, _ = ask(Completions(6).of(rows, BETA), reward=partly)
    each = np.array(partly.asked[0]).reshape(len(rows), 6)
    for value, texts in zip(values, each, strict=True):
        kept = [REWARD.of(PROMPT.last, str(t)) for t in texts if not str(t).endswith("b")]
        assert len(kept) == 0 or value == pytest.approx(BETA * np.log(np.mean(np.exp(np.array(kept) / BETA))))
        assert np.isnan(value) == (len(kept) == 0)
    nothing, _ = ask(Completions(3).of(rows, BETA), reward=Altered(lambda text, reward: np.nan))
    assert np.isnan(nothing).all()
    lowest, _ = ask(Completions(3).of(rows, BETA), reward=Altered(lambda text, reward: -np.inf))
    assert np.all(lowest == -np.inf)
    large, _ = ask(Completions(3).of(rows, 1e-3), reward=Altered(lambda text, reward: 1e6 * reward))
    assert np.isfinite(large).all()


def test_known_and_learned_are_asked_about_unfinished_rows_alone():
    asked = []

    def function(drafts):
        asked.append(drafts.texts)
        return np.array([soft(text) for text in drafts.texts])

    values, kinds = ask(Known(function).of(MIXED, BETA))
    expected = [REWARD.of(PROMPT.last, t) if done else soft(t) for t, done in zip(MIXED.texts, MIXED.done, strict=True)]
    assert values.tolist() == expected
    assert asked == [tuple(t for t, done in zip(MIXED.texts, MIXED.done, strict=True) if not done)]
    assert kinds == [Score]
    assert Known(function).needs == frozenset()


def networks(d, blocks=3, width=4, seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(d, width), (width, width), (width, 1)]
    return Networks(
        rng.normal(size=(blocks, d)),
        rng.uniform(0.5, 2, size=(blocks, d)),
        tuple(rng.normal(size=(blocks, *shape)) for shape in shapes),
        tuple(rng.normal(size=(blocks, shape[1])) for shape in shapes),
        np.full(blocks, -np.inf),
        np.full(blocks, np.inf),
    )


def plainly(nets, features, block):
    """The same, a number at a time."""
    answers = []
    for x, t in zip(features.tolist(), block.tolist(), strict=True):
        x = [(v - s) * c for v, s, c in zip(x, nets.shift[t], nets.scale[t], strict=True)]
        for layer, (weight, bias) in enumerate(zip(nets.weights, nets.biases, strict=True)):
            x = [sum(v * weight[t, i, j] for i, v in enumerate(x)) + bias[t, j] for j in range(weight.shape[2])]
            x = x if layer == 2 else [max(v, 0.0) for v in x]
        answers.append(x[0])
    return np.array(answers)


def test_a_learned_value_is_a_network_a_block_on_the_models_features():
    nets, at_end = networks(6), drafts_after(2)
    value = Learned(nets, block=2)
    assert value.needs == {"embed"}
    for drafts in (MIXED, at_end, MODEL.start(PROMPT, Key(0).seeds(3), SAMPLING)):
        values, kinds = ask(value.of(drafts, BETA))
        going = np.flatnonzero(~drafts.done)
        features = MODEL.embed([drafts[going]])[0].features
        expected = np.array([REWARD.of(PROMPT.last, t) for t in drafts.texts])
        expected[going] = BETA * plainly(nets, features, drafts.steps[going] // 2)
        assert values == pytest.approx(expected, abs=1e-12)
        assert kinds == ([Score, Embed] if drafts.done.any() else [Embed])


def test_networks_are_a_plain_loop_whatever_the_batch(monkeypatch):
    rng, nets = np.random.default_rng(1), networks(5)
    features, block = rng.normal(size=(101, 5)), rng.integers(0, 3, size=101)
    kept = features.copy()
    values = nets(features, block)
    assert values == pytest.approx(plainly(nets, features, block), abs=1e-12)
    monkeypatch.setattr("italic.values.networks.ROWS_AT_ONCE", 7)
    assert nets(features, block) == pytest.approx(values, abs=1e-12)
    assert np.array_equal(features, kept), "the features are as they were"
    assert nets(features[:0], block[:0]).shape == (0,)
    assert nets.blocks == 3


def test_networks_keep_their_answers_in_bounds():
    rng, free = np.random.default_rng(1), networks(5)
    features, block = rng.normal(size=(300, 5)), rng.integers(0, 3, size=300)
    low, high = np.array([-1.0, -np.inf, 0.5]), np.array([1.0, 0.0, 0.5])
    values = replace(free, low=low, high=high)(features, block)
    wild = free(features, block)
    assert np.array_equal(values, np.clip(wild, low[block], high[block]))
    assert np.all(values[block == 2] == 0.5)
    assert 0 < np.sum(values == wild) < 300


def test_networks_refuse_what_they_were_not_fitted_to():
    nets = networks(5)
    with pytest.raises(UsageError, match="fitted to 5 features, and the model gives 6") as wrong:
        nets(np.zeros((2, 6)), np.zeros(2, dtype=np.int64))
    assert "italic fit-baseline" in wrong.value.hint
    with pytest.raises(UsageError, match="block 3 of a response, and there are networks for 3"):
        nets(np.zeros((2, 5)), np.array([0, 3]))
    with pytest.raises(UsageError, match="fitted to 5 features"):
        ask(Learned(nets, 1).of(MIXED, BETA))


def test_rows_that_all_are_finished_or_none():
    finished = MIXED[np.flatnonzero(MIXED.done)]

    def nothing(rows):
        raise AssertionError

    values, kinds = ask(by_state(finished, nothing))
    assert values.tolist() == [REWARD.of(PROMPT.last, t) for t in finished.texts]
    assert kinds == [Score]
    going = MIXED[np.flatnonzero(~MIXED.done)]
    values, kinds = ask(Known(lambda rows: np.arange(len(rows), dtype=float)).of(going, BETA))
    assert (values.tolist(), kinds) == (list(range(len(going))), [])
    empty, kinds = ask(Known(lambda rows: np.zeros(0)).of(MIXED[[]], BETA))
    assert (empty.shape, kinds) == ((0,), [])


def test_missing_scores_of_finished_rows_are_missing_values():
    gone = MIXED.texts[np.flatnonzero(MIXED.done)[0]]
    some = Altered(lambda text, reward: np.nan if text == gone else reward)
    values, _ = ask(Known(lambda rows: np.zeros(len(rows))).of(MIXED, BETA), reward=some)
    expected = [done and text == gone for done, text in zip(MIXED.done, MIXED.texts, strict=True)]
    assert np.isnan(values).tolist() == expected
    assert any(expected)


def test_forks_with_one_seed_cannot_be_completed():
    """Two copies of a draft would have the same completions; the question itself refuses them."""
    rows = MIXED[np.flatnonzero(~MIXED.done)[[0, 0]]]
    with pytest.raises(ProgramError, match="the same seed"):
        ask(Completions(2).of(rows, BETA))


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        ("reward", RewardSoFar()),
        ("preview", RewardOfPreview()),
        ("completions", Completions(4)),
        ("completions:7", Completions(7)),
    ],
)
def test_specs(spec, value):
    assert build_value(spec) == value


@pytest.mark.parametrize("spec", ["rewards", "preview:2", "completions:x", "completions:-1", "", "learned", "./fit"])
def test_what_is_no_value(spec):
    with pytest.raises(SpecError, match="there is no value") as wrong:
        build_value(spec)
    assert "value=preview" in wrong.value.hint


def test_no_completions_are_no_value():
    with pytest.raises(SpecError, match="the mean of 0 completions"):
        build_value("completions:0")
