"""The draws of a calibration are those of plain sampling, and its notes say what model and reward say of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from altered import Altered
from test_behaviour import A_MISSING, ALL_MISSING

from italic.core.errors import RewardError, UsageError
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.methods._reference import Reference
from italic.methods.sample import Sample
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.align import stream
from italic.run.ledger import Budget, Ledger

MODEL, REWARD, SAMPLING = ToyModel(letters=3, length=5, seed=1), ToyReward(seed=1), Sampling(max_tokens=6)
PROMPTS = [Prompt(f"p{i}", text=f"prompt {i}") for i in range(20)]
LENGTHS = (1, 2, 4)


def run(method, *, reward=REWARD, prompts=PROMPTS, model=MODEL, sampling=SAMPLING, **options):
    results = stream(prompts, model, reward, method, sampling=sampling, **options)
    return [result.outcome for result in sorted(results, key=lambda r: r.order)]


def test_it_draws_as_plain_sampling_does():
    for mine, plain in zip(run(Reference(4, LENGTHS, True)), run(Sample(n=4)), strict=True):
        assert mine.drafts.texts == plain.drafts.texts
        assert np.array_equal(mine.rewards, plain.rewards)
        assert mine.chosen == 0


def test_the_scores_of_beginnings_are_theirs():
    for prompt, outcome in zip(PROMPTS, run(Reference(6, LENGTHS, True)), strict=True):
        partial = outcome.notes["partial"]
        assert partial.shape == (3, 6)
        for length, scores in zip(LENGTHS, partial, strict=True):
            for text, steps, score in zip(outcome.drafts.texts, outcome.drafts.steps, scores, strict=True):
                expected = REWARD.of(prompt.last, text[:length]) if steps > length else np.nan
                assert score == pytest.approx(expected, nan_ok=True)
        assert outcome.notes["prompt_reward"] == REWARD.of(prompt.last, "")


@pytest.mark.parametrize("sampling", [SAMPLING, replace(SAMPLING, temperature=0.5, top_k=2)])
def test_likelihoods_and_entropies_are_the_models_own(sampling):
    for outcome in run(Reference(6), sampling=sampling):
        drafts, law = outcome.drafts, MODEL.table(outcome.drafts.prompt_tokens, SAMPLING)
        for row, tokens in enumerate(drafts.tokens):
            before = [int(MODEL.node(tokens[None, :k])[0]) for k in range(len(tokens))]
            own = sum(np.log(law.probabilities[node, token]) for node, token in zip(before, tokens, strict=True))
            assert outcome.notes["logprobs"][row] == pytest.approx(own)
            assert outcome.notes["entropies"][row] == pytest.approx(law.entropy[before])


def test_a_reward_of_whole_responses_is_asked_for_no_others():
    ledger = Ledger()
    outcomes = run(Reference(4), reward=Altered(lambda texts, rewards, done: rewards, partial=False), ledger=ledger)
    for outcome in outcomes:
        assert np.isnan(outcome.notes["prompt_reward"])
        assert outcome.notes["partial"].shape == (0, 4)
    assert ledger.usage.reward_calls + ledger.usage.reward_cached == 4 * len(PROMPTS)
    assert Reference(4).needs == {"likelihood", "texts"}
    assert Reference(4, LENGTHS, True).needs == {"likelihood", "texts", "partial"}
    assert Reference(4, LENGTHS, True, entropies=False).needs == {"texts", "partial"}


def test_a_score_that_is_missing_stays_so():
    outcomes = run(Reference(8, LENGTHS, True), reward=A_MISSING)
    for outcome in outcomes:
        texts, partial = outcome.drafts.texts, outcome.notes["partial"]
        begins = np.array([text.startswith("a") for text in texts])
        assert np.array_equal(np.isnan(outcome.rewards), begins)
        assert outcome.chosen == int(np.argmin(begins))
        assert np.all(np.isnan(partial[:, begins]))
        assert not np.isnan(outcome.notes["prompt_reward"])
    assert any(np.isnan(outcome.rewards).any() for outcome in outcomes)
    with pytest.raises(RewardError, match="missing"):
        run(Reference(2), reward=ALL_MISSING)


def test_the_driver_does_not_matter():
    one, other = (run(Reference(4, LENGTHS, True), driver=driver) for driver in ("event", "lockstep"))
    for mine, theirs in zip(one, other, strict=True):
        assert np.array_equal(mine.notes["partial"], theirs.notes["partial"], equal_nan=True)
        assert all(map(np.array_equal, mine.notes["entropies"], theirs.notes["entropies"]))


def test_a_budget_leaves_prompts_out():
    outcomes = run(Reference(4, LENGTHS, True), model=replace(MODEL, rows=8), ledger=Ledger(Budget(tokens=100)))
    assert {outcome.complete for outcome in outcomes} == {True, False}


@pytest.mark.parametrize(
    ("parameters", "why"),
    [((0,), "with 0 samples"), ((2, (0, 1)), "at the lengths 0, 1"), ((2, (4, 4)), "4, 4"), ((2, (3, 2)), "3, 2")],
)
def test_refusals(parameters, why):
    with pytest.raises(UsageError, match=why) as refusal:
        Reference(*parameters)
    assert "--" in refusal.value.hint
