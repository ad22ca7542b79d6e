"""Drafts may be extended in pieces, cut, forked, extended twice and out of order: the tokens are those of one piece."""

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from italic.core.keys import Key
from italic.core.questions import Extend
from italic.core.sampling import Until
from italic.models.transformers import TransformersModel
from tiny_decoders import decoder, finish, model, start, tokenizer, tokens

POOLS = {"roomy": {"rows": 16}, "narrow": {"rows": 3}, "forgetful": {"rows": 3, "keep_bytes": 0}, "one": {"rows": 1}}
TEXTS = ("the thing", "an", "on the other hand")


@pytest.fixture(params=sorted(POOLS))
def made(request: pytest.FixtureRequest) -> TransformersModel:
    return model(**POOLS[request.param])


@pytest.fixture(scope="module")
def whole() -> dict[str, Any]:
    """What six rows of each prompt come to in one piece, on the plain path."""
    plain = model(path="plain", rows=8)
    return {text: finish(plain, start(plain, text, n=6, max_tokens=24)) for text in TEXTS}


def test_one_piece(made: TransformersModel, whole: dict[str, Any]) -> None:
    for text in TEXTS:
        assert tokens(finish(made, start(made, text, n=6, max_tokens=24))) == tokens(whole[text])


def test_in_pieces(made: TransformersModel, whole: dict[str, Any]) -> None:
    drafts = {text: start(made, text, n=6, max_tokens=24) for text in TEXTS}
    for steps in (1, 5, (1, 2, 3, 4, 5, 6), 2, None):
        answers = made.extend([Extend(d, Until(steps=steps)) for d in drafts.values()])
        drafts = dict(zip(drafts, (a.drafts for a in answers), strict=True))
    assert {text: tokens(d) for text, d in drafts.items()} == {text: tokens(d) for text, d in whole.items()}
    for text in TEXTS:
        np.testing.assert_allclose(drafts[text].logps, whole[text].logps, atol=1e-4)


def test_steps_for_each_row(made: TransformersModel, whole: dict[str, Any]) -> None:
    grown = finish(made, start(made, n=6, max_tokens=24), Until(steps=(1, 2, 3, 5, 8, 13)))
    told = tokens(whole["the thing"])
    assert tokens(grown) == [row[:k] for row, k in zip(told, (1, 2, 3, 5, 8, 13), strict=True)]
    assert list(grown.done) == [len(row) <= k for row, k in zip(told, (1, 2, 3, 5, 8, 13), strict=True)]


def test_cut_and_grown_again(made: TransformersModel, whole: dict[str, Any]) -> None:
    for text in TEXTS[:2]:
        for at in (0, np.array([0, 3, 6, 9, 12, 15])):
            assert tokens(finish(made, whole[text].cut(at))) == tokens(whole[text])
        mine = finish(made, start(made, text, n=6, max_tokens=24))
        for at in (9, 0, 20, 1):
            assert tokens(finish(made, mine.cut(at))) == tokens(whole[text])


def test_forked_rows_part(made: TransformersModel) -> None:
    plain = model(path="plain", rows=8)
    seeds = Key(5).seeds(6)
    stem = finish(made, start(made, n=2, max_tokens=24), Until(steps=6))
    forked = stem[[0, 0, 1, 0, 1, 1]].reseed(seeds)
    told = finish(plain, forked)
    assert tokens(finish(made, forked)) == tokens(told)
    assert tokens(finish(made, forked.cut(4))) == tokens(finish(plain, forked.cut(4)))
    assert len({tuple(row) for row in tokens(told)}) > 3


def test_drafts_are_extended_twice_and_out_of_order(made: TransformersModel, whole: dict[str, Any]) -> None:
    early = finish(made, start(made, n=6, max_tokens=24), Until(steps=4))
    late = finish(made, early, Until(steps=9))
    other = finish(made, early.reseed(Key(9).seeds(6)), Until(steps=7))
    again = finish(made, early, Until(steps=9))
    assert tokens(again) == tokens(late)
    assert tokens(other) != tokens(late)
    for drafts in (late, early, other.cut(4).reseed(early.seeds)):
        assert tokens(finish(made, drafts)) == tokens(whole["the thing"])
    assert tokens(finish(made, again[::-1])) == tokens(whole["the thing"])[::-1]


def test_the_order_of_jobs_and_the_number_of_rows_change_nothing(whole: dict[str, Any]) -> None:
    network, words = decoder(), tokenizer()
    for rows in (1, 7, 64):
        made = TransformersModel(network, words, rows=rows)
        for texts in (TEXTS, TEXTS[::-1]):
            answers = made.extend([Extend(start(made, text, n=6, max_tokens=24)) for text in texts])
            for text, answer in zip(texts, answers, strict=True):
                assert tokens(answer.drafts) == tokens(whole[text])


def test_a_draft_of_another_session_or_a_copy_is_computed_again(whole: dict[str, Any]) -> None:
    made = model(rows=4)
    session = made.open()
    session.submit(7, Extend(start(made, n=6, max_tokens=24), Until(steps=5)))
    answers = []
    while session.busy:
        answers += session.step(None)
    ((number, grown),) = answers
    assert number == 7
    del session
    assert tokens(finish(made, grown.drafts)) == tokens(whole["the thing"])
    assert copy.deepcopy(grown.drafts.memory) == pickle.loads(pickle.dumps(grown.drafts.memory)) == (None,) * 6


@pytest.mark.parametrize("n", [1, 8, 40])
def test_positions_are_the_prompt_once_and_a_token_each(n: int) -> None:
    made = model(rows=16)
    grown = made.extend([Extend(start(made, n=n, max_tokens=20))])[0]
    drafts, spent = grown.drafts, grown.spent
    assert spent.tokens == drafts.steps.sum()
    assert spent.positions == len(drafts.prompt_tokens) + (drafts.steps - 1).sum()


def test_positions_of_pieces_and_cuts() -> None:
    """However often rows are cut back and grown again, a token drawn costs at most one position."""
    made = model(rows=16)
    drafts = start(made, n=8, max_tokens=60)
    tokens_drawn, positions = 0, 0
    for i in range(12):
        grown = made.extend([Extend(drafts, Until(steps=7))])[0]
        tokens_drawn, positions = tokens_drawn + grown.spent.tokens, positions + grown.spent.positions
        drafts = grown.drafts.reseed(Key(i).seeds(8)).cut(grown.drafts.steps - i % 3)
    assert positions <= len(drafts.prompt_tokens) + tokens_drawn


def test_the_shelf_is_bounded() -> None:
    made = model(rows=4, keep_bytes=200_000)
    kept = [finish(made, start(made, text, n=6, max_tokens=24), Until(steps=20)) for text in TEXTS * 2]
    assert 0 < made._shelf.used <= 200_000
    again = made.extend([Extend(d) for d in kept])
    assert [tokens(g.drafts) for g in again[:3]] == [tokens(g.drafts) for g in again[3:]]
    del kept, again
    made._session = None
    assert made._shelf.used < 60_000
