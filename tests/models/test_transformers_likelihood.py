"""Likelihoods: what a plain forward pass of a row says of its tokens, whatever the decoder, the batch and the path."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from italic.core.drafts import TextDrafts
from italic.core.errors import ModelError, ProgramError
from italic.core.protocols import Spent, Weighed
from italic.core.sampling import Until
from italic.models.transformers import TransformersModel, weigh
from tiny_decoders import KINDS, decoder, finish, model, start, tokenizer, tokens

PROMPTS = ("the thing", "a", "on the other hand, nothing")


def rows_of(drafts: TextDrafts) -> list[NDArray[np.int32]]:
    """Prompt and response of each row."""
    return [np.concatenate((drafts.prompt_tokens, response)) for response in drafts.tokens]


def told(made: TransformersModel, drafts: TextDrafts) -> tuple[list[list[float]], list[list[float]]]:
    """Log-probabilities and entropies of each row, straight from the network: a forward pass a row, in float32."""
    logprobs, entropies = [], []
    for row in rows_of(drafts):
        with torch.inference_mode():
            ids = torch.from_numpy(row.astype(np.int64))[None]
            logits = made.network.decoder(input_ids=ids, use_cache=False).logits[0].float()
        laws = torch.log_softmax(logits, -1)[len(drafts.prompt_tokens) - 1 : -1]
        logprobs.append([float(law[i]) for law, i in zip(laws, row[len(drafts.prompt_tokens) :], strict=True)])
        entropies.append([float(torch.distributions.Categorical(logits=law).entropy()) for law in laws])
    return logprobs, entropies


def expect(weighed: Weighed, made: TransformersModel, drafts: TextDrafts, within: float = 1e-4) -> None:
    """The numbers of one batch are those of plain passes."""
    assert weighed.logprobs.shape == weighed.entropies.shape == (len(drafts), drafts.steps.max(initial=0))
    for numbers, wanted in zip((weighed.logprobs, weighed.entropies), told(made, drafts), strict=True):
        assert numbers.dtype == np.float64
        for i, row in enumerate(wanted):
            assert numbers[i, : len(row)] == pytest.approx(row, abs=within)
            assert np.isnan(numbers[i, len(row) :]).all()


def some(made: TransformersModel, text: str = "the thing", n: int = 4, most: int = 12, **sampling: Any) -> Any:
    """Rows of different lengths."""
    return finish(made, start(made, text, n=n, max_tokens=most, **sampling))


@pytest.mark.parametrize("path", ["ragged", "plain"])
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_plain_pass_says_the_same(kind: str, path: str) -> None:
    made = TransformersModel(decoder(kind), tokenizer(), rows=4, path=path)
    batches = [some(made, text, n) for text, n in zip(PROMPTS, (5, 2, 3), strict=True)]
    for drafts, weighed in zip(batches, made.likelihood(batches), strict=True):
        expect(weighed, made, drafts)


def test_a_sliding_window_too() -> None:
    with pytest.warns(UserWarning, match="slow plain path"):
        made = TransformersModel(decoder("mistral", sliding_window=8), tokenizer(), rows=4)
    drafts = some(made, most=24)
    assert drafts.steps.max() > 12
    expect(made.likelihood([drafts])[0], made, drafts)


def test_it_is_the_models_own_law() -> None:
    made = model()
    plain = some(made, n=6)
    for drafts in (plain, some(made, temperature=0.5, top_k=3), some(made, temperature=0)):
        expect(made.likelihood([drafts])[0], made, drafts)
    for mine, logps in zip(made.likelihood([plain])[0].logprobs, plain.logprobs, strict=True):
        assert mine[: len(logps)] == pytest.approx(logps, abs=1e-4)


def test_the_entropy_is_that_which_ends_an_extension() -> None:
    made = model()
    whole = finish(made, start(made, n=8, max_tokens=20))
    entropies = made.likelihood([whole])[0].entropies
    limit = float(np.nanmedian(entropies)) + 1e-3
    grown = finish(made, start(made, n=8, max_tokens=20), Until(entropy=limit))
    for i, row in enumerate(entropies):
        high = np.flatnonzero(row[1:] >= limit) + 1
        assert grown.steps[i] == (high[0] if len(high) else whole.steps[i])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype) -> None:
    made = TransformersModel(decoder().to(dtype), tokenizer(), rows=4)
    drafts = some(made)
    expect(made.likelihood([drafts])[0], made, drafts, 0.1)


def test_passes_are_as_large_as_the_logits_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever passes, the numbers are those of plain passes; each row's own positions are paid, but the last."""
    made = TransformersModel(decoder(), tokenizer(end=False), rows=8)
    batches = [some(made, text, n, 10) for text, n in zip(PROMPTS, (4, 3, 4), strict=True)]
    paid = [sum(len(row) - 1 for row in rows_of(drafts)) for drafts in batches]
    cost = 4 * made.network.vocabulary * 10
    calls = {}
    for rows in (1, 3, 8, 1000):
        monkeypatch.setitem(weigh.LOGITS, "cpu", rows * cost)
        answers = made.likelihood(batches)
        for drafts, weighed in zip(batches, answers, strict=True):
            expect(weighed, made, drafts)
        assert [w.spent.positions for w in answers] == paid
        assert all(w.spent.tokens == 0 for w in answers)
        calls[rows] = sum(w.spent.calls for w in answers)
    assert calls[1] == 11
    assert calls[3] <= 6
    assert calls[1000] == 3, "one pass a batch"


def test_short_rows_do_not_go_with_long_ones() -> None:
    made = TransformersModel(decoder(), tokenizer(end=False), rows=8)
    drafts = finish(made, start(made, n=4, max_tokens=40), Until(steps=(1, 2, 40, 39)))
    weighed = made.likelihood([drafts])[0]
    assert weighed.spent == Spent(positions=sum(len(row) - 1 for row in rows_of(drafts)), calls=2)
    expect(weighed, made, drafts)


def test_equal_rows_go_once() -> None:
    made = model(rows=8)
    drafts, other = some(made, n=3), some(made, "a", n=2)
    both = drafts.concat(drafts[::-1])
    first, second = made.likelihood([both, other])
    assert first.spent == Spent(positions=sum(len(row) - 1 for row in rows_of(drafts)), calls=1)
    assert np.array_equal(first.logprobs[3:][::-1], first.logprobs[:3], equal_nan=True)
    assert second.spent == Spent(positions=sum(len(row) - 1 for row in rows_of(other)), calls=1)


def test_other_batches_do_not_matter_to_the_last_digit() -> None:
    made = model(rows=16)
    batches = [some(made, text, n=3) for text in ("a", "the thing", "on")]
    for drafts, together in zip(batches, made.likelihood(batches), strict=True):
        (alone,) = made.likelihood([drafts])
        assert np.array_equal(alone.logprobs, together.logprobs, equal_nan=True)
        assert np.array_equal(alone.entropies, together.entropies, equal_nan=True)


def test_the_same_tokens_after_a_shorter_prompt_are_another_row() -> None:
    made = model()
    drafts = some(made, n=1)
    moved = TextDrafts.empty(drafts.prompt, drafts.sampling, drafts.codec, drafts.prompt_tokens[:-2], drafts.seeds)
    ids = np.concatenate((drafts.prompt_tokens[-2:], drafts.tokens[0]))[None]
    moved = replace(moved, ids=ids, steps=np.array([ids.shape[1]]))
    for one, weighed in zip((drafts, moved), made.likelihood([drafts, moved]), strict=True):
        expect(weighed, made, one)


def test_a_row_does_not_depend_on_its_batch() -> None:
    made = model(rows=16)
    batches = [some(made, text, 6, 30) for text in PROMPTS]
    together = made.likelihood(batches)
    for drafts, weighed in zip(batches, together, strict=True):
        for i in range(len(drafts)):
            alone = made.likelihood([drafts[[i]]])[0]
            width = alone.logprobs.shape[1]
            np.testing.assert_allclose(alone.logprobs[0], weighed.logprobs[i, :width], atol=1e-5)
            np.testing.assert_allclose(alone.entropies[0], weighed.entropies[i, :width], atol=1e-5)


def test_rows_without_a_response_cost_nothing() -> None:
    made = model()
    none = made.likelihood([start(made, n=3), start(made)[[]]])
    assert [w.logprobs.shape for w in none] == [(3, 0), (0, 0)]
    assert all(w.spent == Spent() for w in none)
    assert made.likelihood([]) == []
    mixed = start(made, n=1, max_tokens=12).concat(some(made, n=1))
    weighed = made.likelihood([mixed])[0]
    assert np.isnan(weighed.logprobs[0]).all()
    expect(weighed, made, mixed)


def test_nothing_else_changes() -> None:
    made, other = model(rows=4), model(rows=4)
    drafts = finish(made, start(made, n=4, max_tokens=12), Until(steps=3))
    before = tokens(drafts)
    made.likelihood([drafts])
    assert tokens(drafts) == before
    assert tokens(finish(made, drafts)) == tokens(finish(other, start(other, n=4, max_tokens=12)))


def test_a_decoder_that_gives_all_logits() -> None:
    network = decoder()
    inner = network.forward

    def forward(input_ids: Any, attention_mask: Any = None, position_ids: Any = None, **others: Any) -> Any:
        return inner(input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, **others)

    network.forward = forward
    made = TransformersModel(network, tokenizer(), rows=4)
    drafts = some(made)
    expect(made.likelihood([drafts])[0], made, drafts)


def test_foreign_drafts_are_refused() -> None:
    made = model()
    for foreign in (start(model(chat=True)), object()):
        with pytest.raises(ProgramError, match="drafts it did not make"):
            made.likelihood([foreign])  # type: ignore[list-item]


def test_rows_that_begin_with_nothing_are_refused() -> None:
    made = model()
    like = start(made)
    nothing = TextDrafts.empty(like.prompt, like.sampling, like.codec, [], like.seeds)
    with pytest.raises(ProgramError, match="'the thing' begin with no token"):
        made.likelihood([nothing])


def test_logits_that_are_no_numbers_are_a_model_error() -> None:
    network = decoder()
    made = TransformersModel(network, tokenizer(), name="broken", rows=4)
    drafts, other = some(made), some(made, "a")
    with torch.no_grad():
        network.lm_head.weight[3, 0] = float("nan")
    with pytest.raises(
        ModelError, match="broken gave logits that are NaN or infinite for prompt 'a', response token 0"
    ):
        made.likelihood([other, drafts[[]]])


def test_tokens_that_are_never_drawn_have_no_weight() -> None:
    """A decoder may rule tokens out by logits of -inf."""
    network = decoder()
    inner = network.forward

    def forward(**inputs: Any) -> Any:
        out = inner(**inputs)
        out.logits[..., 5:9] = -torch.inf
        return out

    made = TransformersModel(network, tokenizer(), rows=4, path="plain")
    drafts = some(made)
    network.forward = forward
    weighed = made.likelihood([drafts])[0]
    expect(weighed, made, drafts)
    assert not np.isnan(weighed.entropies[0, 0])
    barred = replace(drafts, ids=np.full_like(drafts.ids, 6))
    assert made.likelihood([barred])[0].logprobs[0, 0] == -np.inf


def test_a_failing_network_is_a_model_error() -> None:
    network = decoder()
    made = TransformersModel(network, tokenizer(), rows=4)
    drafts = some(made)
    network.forward = lambda **_: (_ for _ in ()).throw(RuntimeError("matrix on fire"))
    with pytest.raises(ModelError, match="RuntimeError: matrix on fire"):
        made.likelihood([drafts])
