"""The likeliest tokens: the top of a plain forward pass, for a position a row, in one pass for all; and their rows."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from italic.core.drafts import END, LENGTH, STOP, UNFINISHED, TextDrafts
from italic.core.errors import ModelError, ProgramError
from italic.core.keys import Key
from italic.core.protocols import Fanned, Spent
from italic.core.questions import Extend
from italic.core.sampling import Until
from italic.models.transformers import TransformersModel
from italic.models.transformers.sampling import likeliest
from tiny_decoders import KINDS, decoder, finish, letters, logits_after, model, start, tokenizer, tokens

PROMPTS = ("the thing", "a", "on the other hand, nothing")


def fan(made: TransformersModel, drafts: Any, k: int = 5) -> Fanned:
    """The children of one batch."""
    return made.likeliest([(drafts, k)])[0]


def wanted(made: TransformersModel, drafts: Any, k: int) -> list[tuple[int, list[int], float]]:
    """Parents, tokens and last log-probabilities, from plain forward passes."""
    found = []
    for i in np.flatnonzero(~drafts.done):
        law = torch.log_softmax(logits_after(made, np.concatenate((drafts.prompt_tokens, drafts.tokens[i]))), -1)
        top = torch.topk(law, k)
        for token, logp in zip(top.indices.tolist(), top.values.tolist(), strict=True):
            found.append((int(i), [*drafts.tokens[i].tolist(), token], logp))
    return found


def expect(fanned: Fanned, made: TransformersModel, drafts: Any, k: int = 5) -> None:
    """The children are those of plain passes."""
    told = wanted(made, drafts, k)
    assert fanned.parents.dtype == np.int64
    assert fanned.parents.tolist() == [parent for parent, *_ in told]
    assert tokens(fanned.drafts) == [row for _, row, _ in told]
    assert [row[-1] for row in fanned.drafts.logprobs] == pytest.approx([logp for *_, logp in told], abs=1e-4)
    for row, parent in zip(fanned.drafts.logprobs, fanned.parents, strict=True):
        assert np.array_equal(row[:-1], drafts.logprobs[parent])
    assert np.array_equal(fanned.drafts.seeds, drafts.seeds[fanned.parents])
    assert np.array_equal(fanned.drafts.steps, drafts.steps[fanned.parents] + 1)


@pytest.mark.parametrize("path", ["ragged", "plain"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_plain_pass_says_the_same(kind: str, path: str) -> None:
    made = TransformersModel(decoder(kind), tokenizer(), rows=4, path=path)
    empty = [start(made, text, n=n, max_tokens=12) for text, n in zip(PROMPTS, (3, 1, 2), strict=True)]
    begun = [a.drafts for a in made.extend([Extend(drafts, Until(steps=3)) for drafts in empty])]
    for batches in (empty, begun, [begun[0].concat(empty[0], finish(made, empty[0])), begun[2]]):
        for drafts, fanned in zip(batches, made.likeliest([(drafts, 5) for drafts in batches]), strict=True):
            expect(fanned, made, drafts)


@pytest.mark.parametrize("sampling", [{"temperature": 0.3}, {"top_k": 2}, {"top_p": 0.3}, {"temperature": 0}])
def test_it_is_the_models_own_law(sampling: dict[str, Any]) -> None:
    made = model()
    expect(fan(made, start(made, n=2, **sampling)), made, start(made, n=2))


def grown(made: TransformersModel, batches: list[Any], steps: int, pick: int = 0) -> tuple[list[Any], Spent]:
    """Each batch's rows, all alike, longer by their pick-th likeliest token, again and again; and what it cost."""
    spent = Spent()
    for _ in range(steps):
        answers = made.likeliest([(drafts, pick + 1) for drafts in batches])
        spent = sum((answer.spent for answer in answers), spent)
        batches = [answer.drafts[[-1]] for answer in answers]
    return batches, spent


@pytest.mark.parametrize("pick", [0, 2])
def test_twenty_tokens_cost_twenty_positions(pick: int) -> None:
    made = TransformersModel(decoder(), tokenizer(end=False), rows=4)
    empty = start(made, n=1, max_tokens=32)
    (row,), spent = grown(made, [empty], 20, pick)
    assert row.steps.tolist() == [20]
    assert spent == Spent(tokens=20, positions=len(empty.prompt_tokens) + 19, calls=1 + 19)
    text = row.tokens[0]
    for i in range(20):
        law = logits_after(made, np.concatenate((empty.prompt_tokens, text[:i])))
        assert int(torch.topk(law, pick + 1).indices[pick]) == text[i]
    rest = made.extend([Extend(row)])[0]
    assert rest.spent.positions == 12, "as if the row had been drawn: 11 of 12 tokens, and the pending one"


def test_the_plain_path_pays_for_every_position() -> None:
    made = TransformersModel(decoder(), tokenizer(end=False), rows=4, path="plain")
    empty = start(made, n=1, max_tokens=32)
    (row,), spent = grown(made, [empty], 6)
    lengths = [len(empty.prompt_tokens) + i for i in range(6)]
    assert spent == Spent(tokens=6, positions=sum(lengths), calls=6)
    ragged = TransformersModel(made.network.decoder, tokenizer(end=False), rows=4)
    assert tokens(grown(ragged, [empty], 6)[0][0]) == tokens(row)


def test_all_rows_of_all_batches_share_a_pass() -> None:
    made = TransformersModel(decoder(), tokenizer(end=False), rows=16)
    batches = [start(made, text, n=4, max_tokens=12) for text in PROMPTS]
    prompts = sum(len(drafts.prompt_tokens) for drafts in batches)
    first = made.likeliest([(drafts, 3) for drafts in batches])
    assert [sum(x) for x in zip(*((a.spent.positions, a.spent.calls) for a in first), strict=True)] == [prompts, 3]
    assert [a.spent.tokens for a in first] == [4, 4, 4]
    begun = [a.drafts for a in made.extend([Extend(drafts, Until(steps=2)) for drafts in batches])]
    second = made.likeliest([(drafts, 3) for drafts in begun])
    assert [a.spent for a in second] == [Spent(4, 4, 1), Spent(4, 4, 0), Spent(4, 4, 0)]
    for drafts, answer in zip(begun, second, strict=True):
        expect(answer, made, drafts, 3)


@pytest.mark.parametrize("pool", [{"rows": 3}, {"rows": 1}, {"rows": 3, "keep_bytes": 0}], ids=str)
def test_more_rows_than_lanes(pool: dict[str, int]) -> None:
    made, roomy = model(**pool), model(rows=32)
    for other in (made, roomy):
        batches = [finish(other, start(other, text, n=4, max_tokens=8), Until(steps=2)) for text in PROMPTS]
        for _ in range(3):
            answers = other.likeliest([(drafts, 3) for drafts in batches])
            for drafts, answer in zip(batches, answers, strict=True):
                expect(answer, other, drafts, 3)
            batches = [answer.drafts[1::2] for answer in answers]
    if pool == {"rows": 3}:
        assert made.likeliest([(drafts, 3) for drafts in batches])[0].spent.calls >= 5


def test_children_fork_and_go_on() -> None:
    """All children of a row go on from its keys and values: each as the row that draws its tokens."""
    made, other = model(rows=8), model(rows=8)
    parents = finish(made, start(made, n=2, max_tokens=16), Until(steps=4))
    children = fan(made, parents, 3).drafts
    again = fan(made, children, 3)
    expect(again, made, children, 3)
    going = int(np.sum(~children.done))
    assert again.spent == Spent(going, going, 1)
    seeds = Key(5).seeds(len(children))
    bare = replace(children, memory=(None,) * len(children))
    for index in (slice(None), slice(None, None, -1)):
        rows = children.reseed(seeds)[index]
        assert tokens(finish(made, rows)) == tokens(finish(other, bare.reseed(seeds)[index]))
    cut = again.drafts.cut(5).reseed(Key(6).seeds(len(again.drafts)))
    assert tokens(finish(made, cut)) == tokens(finish(other, replace(cut, memory=(None,) * len(cut))))


def test_rows_of_a_session_are_looked_at() -> None:
    """Keys and values may lie in the lanes of a session that a driver has opened."""
    made = model(rows=8)
    session = made.open()
    session.submit(0, Extend(start(made, n=4, max_tokens=16), Until(steps=5)))
    answered: list[Any] = []
    while session.busy:
        answered += session.step(None)
    drafts = answered[0][1].drafts
    going = int(np.sum(~drafts.done))
    fanned = fan(made, drafts)
    expect(fanned, made, drafts)
    assert fanned.spent == Spent(going, going, 1)
    session.submit(1, Extend(fanned.drafts.reseed(Key(3).seeds(len(fanned.drafts))), Until(steps=2)))
    while session.busy:
        answered += session.step(None)
    bare = replace(fanned.drafts, memory=(None,) * len(fanned.drafts)).reseed(Key(3).seeds(len(fanned.drafts)))
    other = model(rows=8)
    assert tokens(answered[1][1].drafts) == tokens(finish(other, bare, Until(steps=2)))


def test_looking_changes_nothing() -> None:
    made, other = model(rows=4), model(rows=4)
    drafts = finish(made, start(made, n=4, max_tokens=12), Until(steps=3))
    before, memory = tokens(drafts), drafts.memory
    fan(made, drafts)
    assert tokens(drafts) == before
    assert all(a is b for a, b in zip(drafts.memory, memory, strict=True))
    assert tokens(finish(made, drafts)) == tokens(finish(other, start(other, n=4, max_tokens=12)))


def test_the_end_of_sequence_token_ends_a_child() -> None:
    made = model()
    end = made.tokenizer.eos_token_id
    children = fan(made, start(made, max_tokens=5), 271).drafts
    ended = [i for i, row in enumerate(tokens(children)) if row == [end]]
    assert len(ended) == 1
    assert children.reason[ended[0]] == END
    assert all(reason == UNFINISHED for i, reason in enumerate(children.reason) if i not in ended)
    on = fan(made, start(made, max_tokens=5, ignore_eos=True), 271).drafts
    assert set(on.reason) == {UNFINISHED}
    assert set(fan(made, start(made, max_tokens=1), 271).drafts.reason) == {END, LENGTH}
    assert set(fan(made, start(made, max_tokens=1, ignore_eos=True), 271).drafts.reason) == {LENGTH}


def test_stop_strings_end_a_child() -> None:
    """As they end a row that was drawn: also over several tokens, and not where the end comes first."""
    made = TransformersModel(decoder(size=8), letters("abcdefg"), rows=4)
    begun = finish(made, start(made, "ab", n=8, max_tokens=9, stop=("c", "dd")), Until(steps=2))
    begun = begun[np.flatnonzero(~begun.done)]
    children = fan(made, begun, 8)
    ends = set()
    for text, row, reason, chars in zip(
        children.drafts.texts, tokens(children.drafts), children.drafts.reason, children.drafts.chars, strict=True
    ):
        whole = made.codec.decode(begun.prompt_tokens, np.array(row))
        found = [whole.find(s) for s in ("c", "dd") if s in whole]
        assert (reason, chars) == (STOP, min(found)) if found else (reason in (END, UNFINISHED) and chars == -1)
        assert text == (whole[: min(found)] if found else whole)
        ends.add(str(reason))
    assert ends == {STOP, END, UNFINISHED}
    assert len(children.parents) == 8 * len(begun)


def test_finished_rows_and_empty_batches_have_no_children() -> None:
    made = model()
    ended = finish(made, start(made, n=3, max_tokens=4))
    assert [len(f.drafts) for f in made.likeliest([(ended, 2), (start(made)[[]], 2)])] == [0, 0]
    assert all(f.spent == Spent() for f in made.likeliest([(ended, 2), (start(made)[[]], 2)]))
    assert made.likeliest([]) == []
    mixed = ended.concat(start(made, n=1, max_tokens=4))
    answers = made.likeliest([(mixed, 2), (start(made, "a", max_tokens=4), 300)])
    assert answers[0].parents.tolist() == [3, 3]
    expect(answers[0], made, mixed, 2)
    assert len(answers[1].drafts) == 271, "no more than there are tokens"


def test_the_first_of_equals() -> None:
    logits = torch.tensor([[1.0, 3, 3, 2, 3], [0, 0, 0, 0, 0], [5, -torch.inf, 4, -torch.inf, -torch.inf]])
    for dtype in (torch.float32, torch.bfloat16):
        rows, ids, logps = likeliest(logits.to(dtype), np.array([2, 4, 3]))
        assert rows.tolist() == [0, 0, 1, 1, 1, 1, 2, 2]
        assert ids.tolist() == [1, 2, 0, 1, 2, 3, 0, 2]
        assert logps[2:6] == pytest.approx(np.log(0.2))
        assert np.exp(logps[6:]).sum() == pytest.approx(1)
    rows, ids, logps = likeliest(torch.tensor([[1.0, torch.nan], [1.0, 2.0], [torch.inf, 0.0]]), np.array([1, 1, 2]))
    assert rows.tolist() == [0, 1, 2]
    assert np.isnan(logps).tolist() == [True, False, True]


def test_logits_that_are_no_numbers_are_a_model_error() -> None:
    network = decoder()
    made = TransformersModel(network, tokenizer(), name="broken", rows=4)
    drafts = finish(made, start(made, "a", max_tokens=4), Until(steps=2))
    with torch.no_grad():
        network.lm_head.weight[3, 0] = float("nan")
    with pytest.raises(
        ModelError, match="broken gave logits that are NaN or infinite for prompt 'a', response token 2"
    ):
        made.likeliest([(finish(made, start(made)[[]]), 2), (drafts, 2)])


def test_a_failing_network_is_a_model_error_and_the_next_question_begins_anew() -> None:
    network = decoder()
    made = TransformersModel(network, tokenizer(), rows=4)
    drafts = finish(made, start(made, n=2, max_tokens=8), Until(steps=2))
    inner = network.forward
    network.forward = lambda **_: (_ for _ in ()).throw(RuntimeError("matrix on fire"))
    with pytest.raises(ModelError, match="RuntimeError: matrix on fire"):
        fan(made, drafts)
    network.forward = inner
    expect(fan(made, drafts), made, drafts)


def test_foreign_drafts_are_refused() -> None:
    made = model()
    for foreign in (start(model(chat=True)), object()):
        with pytest.raises(ProgramError, match="drafts it did not make"):
            made.likeliest([(foreign, 2)])  # type: ignore[list-item]


def test_half_precision() -> None:
    made = TransformersModel(decoder().to(torch.bfloat16), tokenizer(), rows=4)
    drafts = finish(made, start(made, n=3, max_tokens=8), Until(steps=2))
    fanned = fan(made, drafts, 4)
    assert isinstance(fanned.drafts, TextDrafts)
    assert np.bincount(fanned.parents).tolist() == [4] * int(np.sum(~drafts.done))
    for row in fanned.drafts.logprobs:
        assert np.isfinite(row).all()
