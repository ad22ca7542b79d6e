"""Scores: each different draft once, missing kept apart, nonsense refused."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pytest
from runkit import prompts

from italic.core.drafts import STOP, TextDrafts
from italic.core.errors import ProgramError, RewardError
from italic.core.keys import Key
from italic.core.protocols import Scored
from italic.core.questions import Extend, Score
from italic.core.sampling import Sampling
from italic.models.toy import ToyModel
from italic.run.scores import complete, prepare

NAN = float("nan")


def finished(n: int) -> TextDrafts:
    model = ToyModel(letters=2, length=2)
    start = model.start(prompts(1)[0], Key(0).seeds(n), Sampling(max_tokens=3))
    return model.extend([Extend(start)])[0].drafts  # type: ignore[return-value]


def scored(*rewards: float, missing: tuple[int, ...] = ()) -> Scored:
    mask = np.isin(np.arange(len(rewards)), missing)
    return Scored(np.array(rewards), mask)


def test_equal_drafts_are_scored_once() -> None:
    drafts = finished(40)
    known: dict[Hashable, float] = {}
    sheet = prepare(Score(drafts), known)
    assert len(sheet.fresh) == len(set(drafts.texts)) < 40
    assert sorted(sheet.fresh.texts) == sorted(set(drafts.texts))
    values = np.arange(len(sheet.first), dtype=np.float64)
    rewards = complete(sheet, Scored(values, np.zeros(len(values), dtype=np.bool_)), "toy")
    by_text = dict(zip(sheet.fresh.texts, values, strict=True))
    assert rewards.tolist() == [by_text[t] for t in drafts.texts]
    again = prepare(Score(drafts[::-1]), known)
    assert len(again.first) == 0
    assert complete(again, None, "toy").tolist() == rewards[::-1].tolist()


def test_the_same_tokens_that_end_otherwise_are_another_draft() -> None:
    drafts = finished(1)
    from dataclasses import replace

    stopped = replace(drafts, reason=np.array([STOP]), chars=np.array([0]))
    assert len(prepare(Score(drafts.concat(stopped)), {}).first) == 2


def test_a_noisy_reward_scores_every_row() -> None:
    drafts = finished(10)[[0, 0, 1]]
    sheet = prepare(Score(drafts), None)
    assert len(sheet.first) == 3
    assert complete(sheet, scored(1, 2, 3), "toy").tolist() == [1, 2, 3]


def test_scores_on_their_way_are_not_asked_for_twice() -> None:
    drafts = finished(40)
    different = np.unique(drafts.texts, return_index=True)[1]
    known: dict[Hashable, float] = {}
    first, second = prepare(Score(drafts[different[:2]]), known), prepare(Score(drafts[different[1:3]]), known)
    rest = second.without({first.names[row] for row in first.first})
    assert rest.fresh.texts == drafts[different[2:3]].texts
    complete(first, scored(1, 2), "toy")
    assert complete(rest, scored(3), "toy").tolist() == [2, 3]
    assert len(second.without(()).first) == 0, "by now all are known"


def test_missing_scores_are_nan_and_stay_so() -> None:
    drafts = finished(40)
    different = drafts[np.unique(drafts.texts, return_index=True)[1][:3]]
    known: dict[Hashable, float] = {}
    rewards = complete(prepare(Score(different), known), scored(1, NAN, 3, missing=(1,)), "toy")
    assert np.isnan(rewards).tolist() == [False, True, False]
    sheet = prepare(Score(different), known)
    assert len(sheet.first) == 0, "a failed score is not asked for again"
    assert np.isnan(complete(sheet, None, "toy")).tolist() == [False, True, False]
    with pytest.raises(RewardError, match="every score of the reward toy for prompt 'p0' is missing"):
        complete(prepare(Score(different[[1]]), known), None, "toy")


def test_a_question_that_tries_again_may_miss_every_score() -> None:
    drafts = finished(1)
    known: dict[Hashable, float] = {}
    lenient = prepare(Score(drafts, strict=False), known)
    assert np.isnan(complete(lenient, scored(0.5, missing=(0,)), "toy")).tolist() == [True]
    assert np.isnan(complete(prepare(Score(drafts, strict=False), known), None, "toy")).tolist() == [True]
    assert np.isnan(complete(prepare(Score(drafts, strict=False), None), scored(0.5, missing=(0,)), "toy")).all()
    with pytest.raises(RewardError, match="returned NaN"):
        complete(prepare(Score(drafts, strict=False), {}), scored(NAN), "toy")
    with pytest.raises(RewardError, match="is missing"):
        complete(prepare(Score(drafts), known), None, "toy")


def test_a_number_under_the_mask_is_missing_all_the_same() -> None:
    drafts = finished(1)
    with pytest.raises(RewardError, match="is missing"):
        complete(prepare(Score(drafts), {}), scored(0.5, missing=(0,)), "toy")


def test_nan_is_an_error_that_names_the_prompt() -> None:
    drafts = finished(1)
    with pytest.raises(RewardError, match="the reward toy returned NaN for prompt 'p0'") as caught:
        complete(prepare(Score(drafts), {}), scored(NAN), "toy")
    assert "Return None" in caught.value.hint


def test_infinities_are_rewards() -> None:
    assert complete(prepare(Score(finished(1)), {}), scored(-np.inf), "toy").tolist() == [-np.inf]


@pytest.mark.parametrize(
    "answer",
    [scored(), scored(1, 2), Scored(np.ones((1, 1)), np.zeros(1, dtype=np.bool_)), Scored(np.ones(1), np.zeros(2) > 0)],
)
def test_a_wrong_count_is_a_bug_of_the_reward(answer: Scored) -> None:
    with pytest.raises(ProgramError, match="scores for 1 drafts of prompt 'p0'"):
        complete(prepare(Score(finished(1)), {}), answer, "toy")
