"""What is refused, what it says, and how prompts become tokens and tokens text."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from italic.core.errors import InputError, ModelError, ProgramError, UsageError
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.protocols import Stepping
from italic.core.questions import Extend
from italic.core.sampling import Sampling
from italic.core.spec import build_model
from italic.models.transformers import TransformersModel, load
from italic.models.transformers.codec import TokenizerCodec
from tiny_decoders import decoder, finish, model, start, tokenizer, tokens

SEEDS = Key(0).seeds(1)


def test_it_is_a_stepping_model() -> None:
    made = model()
    assert isinstance(made, Stepping)
    assert made.offers == {"resume", "cut", "entropy", "texts", "embed", "likelihood", "likeliest"}


def test_options_follow_the_name() -> None:
    made = build_model("demo:rows=8,chat=never")
    assert isinstance(made, TransformersModel)
    assert (made.rows, made.name) == (8, "demo")
    assert made.codec.encode(Prompt("p", text="hi")).tolist() == made.tokenizer("hi")["input_ids"]


def test_torch_loads_on_use() -> None:
    code = "import sys, italic.models.transformers as t; t.load; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_texts_and_chats() -> None:
    plain, chat = TokenizerCodec(tokenizer()), TokenizerCodec(tokenizer(chat=True))
    words = tokenizer()

    def ids(text: str) -> list[int]:
        return words(text)["input_ids"]

    user, answer = chat.special["<u>"], chat.special["<a>"]
    text, messages = Prompt("p", text="hi"), Prompt("p", messages=({"role": "user", "content": "hi"},))
    assert plain.encode(text).tolist() == ids("hi")
    assert chat.encode(text).tolist() == chat.encode(messages).tolist() == [user, *ids("hi"), answer]
    assert TokenizerCodec(tokenizer(chat=True), chat="never").encode(text).tolist() == ids("hi")
    assert TokenizerCodec(tokenizer(chat=True), chat="always").encode(text).tolist() == [user, *ids("hi"), answer]


def test_decoding_after_the_prompt() -> None:
    codec = TokenizerCodec(tokenizer())
    words = tokenizer()
    for text in ("the thing", "naïve café", "日本語です", " leading", ""):
        ids = np.asarray(words("on the " + text)["input_ids"], dtype=np.int32)
        for cut in range(1, len(ids)):
            said = codec.decode(ids[:cut], ids[cut:])
            assert said == "" or ("on the " + text).endswith(said)
    ids = np.asarray(words("日本")["input_ids"], dtype=np.int32)
    assert [codec.decode(ids[:0], ids[:k]) for k in range(7)] == ["", "", "", "日", "日", "日", "日本"]
    assert codec.decode(ids, np.asarray([codec.special["<e>"]], dtype=np.int32)) == ""


def test_fingerprints_tell_tokenizers_apart() -> None:
    prints = [
        TokenizerCodec(made).fingerprint
        for made in (tokenizer(), tokenizer(), tokenizer(chat=True), tokenizer(end=False))
    ]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("prompt", "sampling", "told"),
    [
        (Prompt("p7", text=""), Sampling(), "prompt 'p7' is empty and the tokenizer has no token to begin with"),
        (
            Prompt("p7", messages=({"role": "user", "content": "a"},)),
            Sampling(),
            "'p7' has messages, but .* no chat template",
        ),
        (Prompt("p7", text="x" * 300), Sampling(), "'p7' has 300 tokens, but the model llama has a context of 256"),
        (
            Prompt("p7", text="x" * 200),
            Sampling(max_tokens=57),
            "max_tokens is 57: together .* 256.*\nSet max_tokens to at most 56",
        ),
    ],
)
def test_prompts_that_cannot_be(prompt: Prompt, sampling: Sampling, told: str) -> None:
    with pytest.raises(InputError, match=told):
        model().start(prompt, SEEDS, sampling)


def test_a_broken_chat_template_is_named() -> None:
    words = tokenizer(chat=True)
    words.chat_template = "{{ raise_exception('roles must alternate') }}"
    made = TransformersModel(decoder(), words, name="m")
    with pytest.raises(InputError, match="'p' cannot be rendered by the chat template: roles must alternate"):
        made.start(Prompt("p", text="a"), SEEDS, Sampling())


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rows": 0}, "rows is 0"),
        ({"path": "fast"}, "path is 'fast'"),
        ({"chat": "yes"}, "chat is 'yes'"),
        ({"chat": "always"}, "no chat template"),
        ({"max_length": 1}, "max_length is 1"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        TransformersModel(decoder(), tokenizer(), **settings)


def test_a_full_context_is_used_to_its_end() -> None:
    made = model(end=False, max_length=40)
    drafts = start(made, "x" * 10, max_tokens=30, temperature=0)
    assert finish(made, drafts).steps.tolist() == [30]
    with pytest.raises(InputError, match="context of 40"):
        start(made, "x" * 40, max_tokens=1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0}, {"top_p": 0.5}], ids=str)
def test_logits_that_are_no_numbers(value: float, sampling: dict[str, Any]) -> None:
    network = decoder()
    made = TransformersModel(network, tokenizer(), name="broken", rows=4)
    with torch.no_grad():
        network.lm_head.weight[11] = value
    with pytest.raises(
        ModelError, match="broken gave logits that are NaN or infinite for prompt 'a', response token 0"
    ):
        finish(made, start(made, "a", n=2, max_tokens=5, **sampling))
    with torch.no_grad():
        network.lm_head.weight[11] = 0.0
    assert finish(made, start(made, "b", n=2, max_tokens=5, **sampling)).steps.max() == 5


def test_a_failing_network_is_a_model_error() -> None:
    network = decoder()
    made = TransformersModel(network, tokenizer(), rows=4)
    network.forward = lambda **_: (_ for _ in ()).throw(RuntimeError("matrix on fire"))
    with pytest.raises(ModelError, match="RuntimeError: matrix on fire"):
        finish(made, start(made, max_tokens=5))


def test_foreign_drafts_and_double_tickets() -> None:
    made, other = model(), model(chat=True)
    with pytest.raises(ProgramError, match="drafts it did not make"):
        finish(made, start(other, max_tokens=3))
    session = made.open()
    session.submit(1, Extend(start(made, max_tokens=3)))
    with pytest.raises(ProgramError, match="ticket 1"):
        session.submit(1, Extend(start(made, max_tokens=3)))


def test_loading(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        load(str(tmp_path / "nothing"), device="cpu")
    with pytest.raises(UsageError, match="dtype is 'float8'"):
        load(str(tmp_path), dtype="float8")
    decoder().save_pretrained(tmp_path)
    tokenizer(chat=True).save_pretrained(tmp_path)
    made = load(str(tmp_path), device="cpu", rows=3, attention="eager")
    assert (made.path, made.rows, made.network.dtype) == ("ragged", 3, torch.float32)
    assert load(str(tmp_path), device="cpu", dtype="bfloat16").network.dtype == torch.bfloat16
    words = tokenizer(chat=True)
    same = TransformersModel(decoder(), words)
    assert tokens(finish(made, start(made, n=2, max_tokens=8))) == tokens(finish(same, start(same, n=2, max_tokens=8)))
