"""Where responses and extensions end: end of sequence, stop strings, entropy, length, and the budget."""

from typing import Any

import numpy as np
import pytest
import torch

from italic.core.drafts import END, LENGTH, STOP, UNFINISHED
from italic.core.questions import Extend
from italic.core.sampling import Until
from italic.models.transformers import TransformersModel
from italic.models.transformers.sampling import entropy
from tiny_decoders import decoder, finish, model, start, tokenizer, tokens


@pytest.fixture(scope="module", params=["ragged", "plain"])
def made(request: pytest.FixtureRequest) -> TransformersModel:
    return model(path=request.param, rows=8)


def test_end_of_sequence_and_length() -> None:
    made = model(rows=16)
    favourite = int(np.bincount(np.concatenate(tokens(finish(made, start(made, n=16, max_tokens=30))))).argmax())
    made.stops.ends[favourite] = True
    grown = finish(made, start(made, n=16, max_tokens=30))
    assert {END, LENGTH} == set(grown.reason)
    for row, reason in zip(tokens(grown), grown.reason, strict=True):
        assert (row[-1] == favourite or row[-1] == made.tokenizer.eos_token_id) == (reason == END)
        assert favourite not in row[:-1]
        assert len(row) == 30 or reason == END


def test_without_an_end_token_responses_end_by_length() -> None:
    made = model(end=False, rows=4)
    assert not made.stops.ends.any()
    grown = finish(made, start(made, n=4, max_tokens=9))
    assert (list(grown.reason), list(grown.steps)) == ([LENGTH] * 4, [9] * 4)


def test_an_extension_by_steps_leaves_rows_unfinished(made: TransformersModel) -> None:
    grown = finish(made, start(made, n=3, max_tokens=9), Until(steps=4))
    assert list(grown.steps) == [4] * 3
    assert list(grown.reason) == [UNFINISHED] * 3
    again = finish(made, grown, Until(steps=5))
    assert list(again.reason) == [LENGTH] * 3


@pytest.mark.parametrize("path", ["ragged", "plain"])
def test_stop_strings_straddle_tokens(path: str) -> None:
    """A string from across a token border of an unstopped response ends it there, and is no part of it."""
    made = TransformersModel(decoder(size=41), tokenizer(ascii_only=True), path=path, rows=8)
    free = finish(made, start(made, n=6, max_tokens=20))
    tried = 0
    for row, (said, full) in enumerate(zip(free.tokens, free.texts, strict=True)):
        borders = [len(made.codec.decode(free.prompt_tokens, said[:k])) for k in range(2, len(said))]
        stop = next((full[b - 1 : b + 2] for b in borders if b > 1 and full.find(full[b - 1 : b + 2]) == b - 1), None)
        if stop is None or len(stop) < 3:
            continue
        tried += 1
        stopped = finish(made, start(made, n=6, max_tokens=20, stop=("never said", stop)))
        assert stopped.reason[row] == STOP
        assert stopped.texts[row] == full[: full.find(stop)]
        assert tokens(stopped)[row] == said[: stopped.steps[row]].tolist()
        assert stop not in made.codec.decode(free.prompt_tokens, stopped.tokens[row][:-1])
    assert tried >= 4


def test_stop_strings_of_more_than_one_byte_a_letter() -> None:
    made = model(rows=8)
    suspects = made.stops.suspects(("né",))
    words = made.tokenizer
    completes = words("né")["input_ids"][-1]
    assert suspects[completes]
    assert not suspects[words("a")["input_ids"][0]]
    assert suspects[words.get_vocab()["\u00a9"]], "the second byte of é, which byte-level tokenizers write so"
    drafts = start(made, max_tokens=5, stop=("né",))
    assert made.stops.find(drafts, np.asarray(words("xné")["input_ids"], dtype=np.int32)) == 1


def test_a_special_token_may_be_a_stop_string() -> None:
    made = model(rows=8)
    special = made.codec.special["<u>"]
    drafts = start(made, max_tokens=5, stop=("<u>",))
    said = np.asarray([*made.tokenizer("thing")["input_ids"], special], dtype=np.int32)
    assert made.stops.suspects(("<u>",))[special]
    assert made.stops.find(drafts, said) == len("thing")
    assert made.stops.find(drafts, said[:-1]) == -1


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.5, "top_k": 7}], ids=str)
@pytest.mark.parametrize("untested", [1, 3])
def test_entropy_ends_before_the_uncertain_token(
    made: TransformersModel, sampling: dict[str, Any], untested: int
) -> None:
    """Extensions end exactly where a plain computation of the entropy, at temperature 1, says."""
    free = finish(made, start(made, n=4, max_tokens=16, **sampling))
    doubts = []
    for row in free.tokens:
        with torch.inference_mode():
            ids = torch.from_numpy(np.concatenate((free.prompt_tokens, row)).astype(np.int64))[None]
            logits = made.network.decoder(input_ids=ids, use_cache=False).logits[0, len(free.prompt_tokens) - 1 : -1]
        doubts.append(entropy(logits).tolist())
    threshold = float(np.median(np.concatenate(doubts))) + 1e-4
    drafts = start(made, n=4, max_tokens=16, **sampling)
    for _ in range(16):
        at = drafts.steps.copy()
        drafts = finish(made, drafts, Until(entropy=threshold, min_steps=untested))
        for i, doubt in enumerate(doubts):
            ends = [k for k in range(at[i] + untested, len(doubt)) if doubt[k] >= threshold]
            assert drafts.steps[i] == (ends[0] if ends else len(doubt))
        if drafts.done.all():
            break
    assert tokens(drafts) == tokens(free)


def test_ending_by_entropy_repeats_no_position() -> None:
    made = model(rows=8)
    drafts = start(made, n=4, max_tokens=24)
    drawn, positions = 0, 0
    while not drafts.done.all():
        grown = made.extend([Extend(drafts, Until(entropy=3.0))])[0]
        drafts, drawn, positions = grown.drafts, drawn + grown.spent.tokens, positions + grown.spent.positions
    assert positions == len(drafts.prompt_tokens) + drawn - 4


def test_finished_rows_come_back_as_they_were(made: TransformersModel) -> None:
    grown = finish(made, start(made, n=4, max_tokens=6))
    again = made.extend([Extend(grown)])[0]
    assert tokens(again.drafts) == tokens(grown)
    assert (again.spent.tokens, again.spent.positions) == (0, 0)
    half = grown.cut(np.array([6, 3, 6, 2]))
    assert tokens(finish(made, half)) == tokens(grown)


@pytest.mark.parametrize("path", ["ragged", "plain"])
@pytest.mark.parametrize("budget", [0, 1, 5, 50, 90, 200])
def test_the_allowance_is_never_exceeded(path: str, budget: int) -> None:
    made = model(path=path, rows=6, end=False)
    told = {n: tokens(finish(made, start(made, f"{n}", n=n, max_tokens=12))) for n in (2, 3, 4)}
    session = made.open()
    for n in told:
        session.submit(n, Extend(start(made, f"{n}", n=n, max_tokens=12)))
    answers: dict[int, Any] = {}
    steps = 0
    while session.busy:
        before = session.generated
        answers.update(session.step(budget - before))
        assert session.generated <= budget
        steps += 1
        assert steps < 200
    assert sorted(answers) == [2, 3, 4]
    assert sum(g.spent.tokens for g in answers.values()) == session.generated
    for n, grown in answers.items():
        assert grown.stopped == (not grown.drafts.done.all())
        for row, full in zip(tokens(grown.drafts), told[n], strict=True):
            assert row == full[: len(row)]
    assert all(not g.stopped for g in answers.values()) == (budget >= 108)
    assert sorted(g.stopped for g in answers.values()) == [answers[n].stopped for n in (2, 3, 4)], "newest first"
    rest = made.extend([Extend(g.drafts) for g in answers.values()])
    assert [tokens(g.drafts) for g in rest] == [told[n] for n in answers]


def test_jobs_join_at_any_time_and_are_answered_as_soon_as_they_are_through() -> None:
    made = model(rows=4, end=False)
    session = made.open()
    assert (session.busy, session.hungry) == (False, True)
    session.submit(1, Extend(start(made, "a", n=3, max_tokens=30)))
    assert (session.busy, session.hungry) == (True, True)
    assert session.step(None) == []
    session.submit(2, Extend(start(made, "b", n=1, max_tokens=3)))
    assert not session.hungry
    session.submit(3, Extend(finish(made, start(made, "c", n=2, max_tokens=2))))
    order = []
    while session.busy:
        order += [number for number, _ in session.step(None)]
    assert order == [3, 2, 1]
    assert session.generated == 93
    assert session.calls <= 30 + 3


def test_stop_strings_survive_a_second_extension() -> None:
    made = TransformersModel(decoder(size=41), tokenizer(ascii_only=True), rows=8)
    stop = (finish(made, start(made, n=4, max_tokens=20)).texts[0][5:7],)
    whole = finish(made, start(made, n=4, max_tokens=20, stop=stop))
    pieces = start(made, n=4, max_tokens=20, stop=stop)
    while not pieces.done.all():
        pieces = finish(made, pieces, Until(steps=3))
    assert pieces.texts == whole.texts
    assert pieces.reason.tolist() == whole.reason.tolist()
    assert whole.reason[0] == STOP
    assert finish(made, whole.cut(2)).texts == whole.texts


def test_torch_is_left_as_it_was() -> None:
    before = torch.is_inference_mode_enabled()
    made = model(rows=2)
    finish(made, start(made, n=2, max_tokens=2))
    assert torch.is_inference_mode_enabled() == before
