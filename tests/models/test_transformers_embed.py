"""Features: the hidden state that the logits are read from, whatever the decoder, the batch and the path."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, OPTConfig

from italic.core.drafts import END, TextDrafts
from italic.core.errors import ModelError, ProgramError
from italic.core.protocols import Spent
from italic.core.sampling import Until
from italic.models.transformers import TransformersModel
from italic.models.transformers.features import Features
from tiny_decoders import decoder, finish, logits_after, model, start, tokenizer, tokens

WIDE = 32


def narrow_opt() -> Any:
    """An OPT whose hidden states are projected to fewer numbers before the output embedding reads them."""
    torch.manual_seed(1)
    sizes = {"hidden_size": WIDE, "word_embed_proj_dim": 24, "ffn_dim": 48, "vocab_size": 271}
    heads = {"num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    return AutoModelForCausalLM.from_config(OPTConfig(**sizes, **heads, **special)).eval()


NETWORKS = {"llama": decoder, "gpt2": lambda: decoder("gpt2"), "opt": lambda: decoder("opt"), "narrow opt": narrow_opt}


def rows_of(drafts: TextDrafts) -> list[NDArray[np.int32]]:
    """Prompt and response of each row."""
    return [np.concatenate((drafts.prompt_tokens, response)) for response in drafts.tokens]


def features_of(made: TransformersModel, drafts: TextDrafts) -> NDArray[np.float64]:
    """The features of one batch."""
    return made.embed([drafts])[0].features


@pytest.mark.parametrize("path", ["ragged", "plain"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_the_output_embedding_times_the_features_are_the_logits(kind: str, path: str) -> None:
    made = TransformersModel(NETWORKS[kind](), tokenizer(), rows=4, path=path)
    head: Tensor = made.network.decoder.get_output_embeddings().weight.detach().double()
    empty = start(made, n=3, max_tokens=9)
    for drafts in (empty, finish(made, empty, Until(steps=2)), finish(made, empty)):
        features = features_of(made, drafts)
        assert features.dtype == np.float64
        assert features.shape == (3, 24 if kind == "narrow opt" else WIDE)
        for row, numbers in zip(rows_of(drafts), features, strict=True):
            logits = head @ torch.from_numpy(numbers)
            assert torch.allclose(logits, logits_after(made, row).double(), atol=1e-4)


@pytest.mark.parametrize("kind", NETWORKS)
def test_features_are_of_the_row_alone_to_the_last_bit(kind: str) -> None:
    network = NETWORKS[kind]()

    def fresh() -> TransformersModel:
        return TransformersModel(network, tokenizer(), rows=4)

    made = fresh()
    batches = [finish(made, start(made, text, n=4, max_tokens=12)) for text in ("the thing", "a", "on the other hand")]
    together = [embedded.features for embedded in fresh().embed(batches)]
    backwards = [embedded.features for embedded in fresh().embed(batches[::-1])][::-1]
    for drafts, one, other in zip(batches, together, backwards, strict=True):
        assert np.array_equal(one, other)
        assert np.array_equal(features_of(fresh(), drafts[::-1])[::-1], one)
        for i in range(len(drafts)):
            assert np.array_equal(features_of(fresh(), drafts[[i]])[0], one[i])
        assert len(np.unique(one, axis=0)) == len({row.tobytes() for row in rows_of(drafts)})


def test_equal_rows_cost_one_pass() -> None:
    made = model(rows=4)
    empty = start(made, "the thing", n=16)
    length = len(empty.prompt_tokens)
    first, again = made.embed([empty, start(made, "the thing", n=5, seed=3)])
    assert first.spent == Spent(tokens=0, positions=length, calls=1)
    assert again.spent == Spent()
    assert np.array_equal(first.features[:5], again.features)
    assert len(np.unique(first.features, axis=0)) == 1
    assert made.embed([empty])[0].spent == Spent()
    other = start(made, "thing", n=2)
    assert made.embed([other])[0].spent == Spent(positions=len(other.prompt_tokens), calls=1)


def test_each_different_row_costs_its_tokens() -> None:
    made = model(rows=4)
    drafts = finish(made, start(made, n=6, max_tokens=8))
    drafts = drafts.concat(drafts)
    different = {row.tobytes(): len(row) for row in rows_of(drafts)}
    assert len(different) > 1
    assert made.embed([drafts])[0].spent == Spent(positions=sum(different.values()), calls=len(different))


def test_the_token_that_ends_a_row_counts() -> None:
    network = decoder()
    made = TransformersModel(network, tokenizer(), rows=4)
    drafts = finish(made, start(made, n=64, max_tokens=60))
    ended = drafts[np.flatnonzero(drafts.reason == END)]
    assert len(ended)
    before = ended.cut(ended.steps - 1)
    assert all(row[-1] == made.tokenizer.eos_token_id for row in ended.tokens)
    assert not np.any(np.all(features_of(made, ended) == features_of(made, before), axis=1))


def test_embedding_changes_no_draft_and_no_response() -> None:
    made, other = model(rows=4), model(rows=4)
    drafts = finish(made, start(made, n=4, max_tokens=12), Until(steps=3))
    before = tokens(drafts)
    made.embed([drafts])
    assert tokens(drafts) == before
    assert tokens(finish(made, drafts)) == tokens(finish(other, start(other, n=4, max_tokens=12)))


def test_no_rows_have_no_features() -> None:
    made = model()
    nothing = made.embed([start(made)[[]]])[0]
    assert nothing.features.shape == (0, WIDE)
    assert nothing.spent == Spent()
    assert made.embed([]) == []


def test_what_is_remembered_is_bounded() -> None:
    made = model()
    features = Features(made.network, most=2)
    a, b, c = (start(made, text) for text in ("a", "b", "c"))
    six = finish(made, start(made, n=6, max_tokens=8))
    with torch.inference_mode():
        assert [features.of(drafts).spent.calls for drafts in (a, b, a, c, a, b)] == [1, 1, 0, 1, 0, 1]
        assert np.array_equal(features.of(six).features, features_of(made, six))


def test_foreign_drafts_are_refused() -> None:
    made = model()
    for foreign in (start(model(chat=True)), object()):
        with pytest.raises(ProgramError, match="drafts it did not make"):
            made.embed([foreign])  # type: ignore[list-item]


def test_rows_of_no_tokens_are_refused() -> None:
    made = model()
    like = start(made)
    nothing = TextDrafts.empty(like.prompt, like.sampling, like.codec, [], like.seeds)
    with pytest.raises(ProgramError, match="'the thing' have no tokens"):
        made.embed([nothing])


def test_features_that_are_no_numbers_are_a_model_error_and_not_remembered() -> None:
    network = decoder()
    made = TransformersModel(network, tokenizer(), name="broken", rows=4)
    weight = network.model.norm.weight
    sound = weight.detach().clone()
    with torch.no_grad():
        weight[3] = float("nan")
    with pytest.raises(ModelError, match="features of prompt 'a' are NaN or infinite"):
        made.embed([start(made, "a")])
    with torch.no_grad():
        weight.copy_(sound)
    assert made.embed([start(made, "a")])[0].spent.calls == 1


def test_a_failing_network_is_a_model_error_and_leaves_no_hook() -> None:
    network = decoder()
    made = TransformersModel(network, tokenizer(), rows=4)
    inner = network.forward
    network.forward = lambda **_: (_ for _ in ()).throw(RuntimeError("matrix on fire"))
    with pytest.raises(ModelError, match="RuntimeError: matrix on fire"):
        made.embed([start(made)])
    assert not network.lm_head._forward_pre_hooks
    network.forward = inner
    made.embed([start(made)])
    assert not network.lm_head._forward_pre_hooks


def test_a_decoder_that_does_not_call_its_output_embedding_says_so() -> None:
    network = decoder()
    made = TransformersModel(network, tokenizer(), rows=4)
    inner = network.forward

    def forward(**inputs: Any) -> Any:
        network.lm_head.__class__ = Unread
        try:
            return inner(**inputs)
        finally:
            network.lm_head.__class__ = torch.nn.Linear

    network.forward = forward
    with pytest.raises(ModelError, match="LlamaForCausalLM does not call its output embedding"):
        made.embed([start(made)])


class Unread(torch.nn.Linear):
    """A layer whose weights are used without calling it as a module, so that no hook hears of it."""

    def __call__(self, rows: Tensor) -> Tensor:
        return self.forward(rows)


def test_half_precision_has_features_too() -> None:
    made = TransformersModel(decoder().to(torch.bfloat16), tokenizer(), rows=4)
    features = features_of(made, start(made, n=2))
    assert features.dtype == np.float64
    assert np.isfinite(features).all()
