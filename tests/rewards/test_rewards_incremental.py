import numpy as np
import pytest
import tiny
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from italic.core.prompt import Prompt
from italic.rewards.classifier import Checkpoint, ClassifierReward
from italic.rewards.classifier.incremental import Incremental, obstacle
from italic.rewards.classifier.plain import Plain
from italic.rewards.classifier.prefixes import Block, Prefixes
from italic.rewards.classifier.render import Row

CHAT = Prompt(id="chat", messages=({"role": "user", "content": "hello there, how are you today?"},))
P = frozenset("p")
KINDS = ["llama", "grouped", "qwen2", "gpt2", "opt"]


def both(kind="llama", *, cache=512, **options):
    checkpoint = Checkpoint.of(tiny.model(kind), tiny.tokenizer())
    fast = ClassifierReward(checkpoint, cache=cache, **options)
    assert fast.path == "incremental", fast.why
    return fast, ClassifierReward(checkpoint, incremental=False)


def encode(scorer, prompt, reply, end="<|end|>"):
    messages = [*prompt.messages, {"role": "assistant", "content": reply}]
    words = scorer.checkpoint.tokenizer
    return words(words.apply_chat_template(messages, tokenize=False).removesuffix("<|end|>") + end)["input_ids"]


@pytest.mark.parametrize("kind", KINDS)
def test_growing_drafts_are_read_once(write, kind):
    fast, plain = both(kind, batch=3)
    prompt = len(encode(fast, CHAT, "", end=""))
    texts = [""] * 5
    pieces = [
        [" the cat", " a", " what", " how", " mat"],
        [" sat", " good", " a", " are", " and"],
        [" on the mat", " film", " bad", " you", " dog"],
    ]
    spent = 0
    for number, piece in enumerate(pieces):
        texts = [t + p for t, p in zip(texts, piece, strict=True)]
        drafts = write(CHAT, texts, done=number == 2)
        got, wanted = fast.score([drafts])[0], plain.score([drafts])[0]
        np.testing.assert_allclose(got.rewards, wanted.rewards, atol=1e-5)
        spent += got.tokens
    whole = sum(len(encode(fast, CHAT, t)) - prompt for t in texts)
    assert spent <= prompt + whole
    assert spent < wanted.tokens


def test_best_of_n_reads_the_prompt_once(write):
    fast, plain = both()
    replies = ["the cat", "what a film", "how are you", "the mat"]
    drafts = write(CHAT, replies)
    got, wanted = fast.score([drafts])[0], plain.score([drafts])[0]
    prompt = len(encode(fast, CHAT, "", end=""))
    common = prompt + (0 if len({r[0] for r in replies}) > 1 else 1)
    assert got.tokens == wanted.tokens - common * (len(replies) - 1)
    np.testing.assert_allclose(got.rewards, wanted.rewards, atol=1e-5)
    assert fast.score([drafts])[0].tokens == len(replies)


def test_the_same_drafts_again_and_cut_back(write):
    fast, plain = both(batch=2)
    for texts in (["the cat sat on the mat"], ["the cat", "the cat sat on a film"], ["the", "the cat", "the cat sat"]):
        drafts = write(CHAT, texts, done=False)
        np.testing.assert_allclose(fast.score([drafts])[0].rewards, plain.score([drafts])[0].rewards, atol=1e-5)


@pytest.mark.parametrize("cache", [20_000, 2**30])
@given(data=st.data())
@settings(max_examples=15, deadline=None)
def test_any_history_gives_the_plain_scores(cache, data):
    checkpoint = Checkpoint.of(tiny.model("grouped"), tiny.tokenizer())
    fast, plain = Incremental(checkpoint, 3, cache), Plain(checkpoint, 3)
    token = st.integers(0, 3)
    for _ in range(data.draw(st.integers(1, 4))):
        texts = data.draw(st.lists(st.lists(token, min_size=1, max_size=12), min_size=1, max_size=6))
        rows = [Row(np.array(ids, dtype=np.int32)) for ids in texts]
        got, positions = fast.score(rows)
        wanted, most = plain.score(rows)
        np.testing.assert_allclose(got, wanted, atol=1e-5)
        assert positions.sum() <= most.sum()
        assert fast.prefixes.size <= fast.prefixes.limit


def test_models_that_cannot_go_on_take_the_plain_path(write):
    cases = {
        "attend to everything": tiny.model("mistral", sliding_window=8),
        "dynamic": tiny.model("llama", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}),
        "left to right": tiny.model("bert"),
    }
    for why, model in cases.items():
        scorer = ClassifierReward(Checkpoint.of(model, tiny.tokenizer()))
        assert scorer.path == "plain"
        assert why in scorer.why
        assert np.isfinite(scorer.score([write(CHAT, ["the cat", "a"])])[0].rewards).all()


def test_the_trial_finds_models_that_only_seem_to_work():
    model = tiny.model("llama")

    class Ahead(torch.nn.Embedding):  # what it says of a token depends on the whole input
        def forward(self, ids):
            return super().forward(ids) + ids.float().mean()

    ahead = Ahead(350, 32)
    ahead.weight = model.model.embed_tokens.weight
    model.model.embed_tokens = ahead
    assert "a trial gave" in obstacle(Checkpoint.of(model, tiny.tokenizer()))

    def broken(*_, **__):
        raise RuntimeError("no cache here\nand more")

    model.model.forward = broken
    assert obstacle(Checkpoint.of(model, tiny.tokenizer())) == "RuntimeError: no cache here"


@pytest.mark.parametrize("incremental", [True, False])
def test_merged_batches_share_forward_passes(write, incremental):
    checkpoint = Checkpoint.of(tiny.model("grouped"), tiny.tokenizer())
    merged = ClassifierReward(checkpoint, merge=True, incremental=incremental)
    _, plain = both("grouped")
    forwards = []
    checkpoint.model.register_forward_hook(lambda *_: forwards.append(1))
    texts = [["the cat"], [" a film"], ["hello", "the mat", "hello"], []]
    for grown in ("", " and the dog", " and the dog ran"):
        batches = [write(f"p{i}", [t + grown for t in some], done=False) for i, some in enumerate(texts)]
        forwards.clear()
        got = merged.score(batches)
        assert len(forwards) == (2 if incremental and not grown else 1)
        for mine, theirs in zip(got, plain.score(batches), strict=True):
            np.testing.assert_allclose(mine.rewards, theirs.rewards, atol=1e-5)
            assert mine.tokens <= theirs.tokens


def block(*rows):
    ids = np.array(rows, dtype=np.int32)
    return Block(ids, [(torch.zeros(len(rows), 1, ids.shape[1], 2),) * 2])


def test_the_store_finds_the_longest_prefix_and_drops_the_longest_unused():
    first, second, third = block([1, 2, -1], [1, 3, 4]), block([1, 2, 3]), block([1, 3, 4])
    store = Prefixes(first.size + second.size)
    assert store.find("p", np.array([1])) is None
    store.add(P, first)
    store.add(P, second)
    found = store.find("p", np.array([1, 3, 4, 5]))
    assert (found.block, found.row, found.length) == (first, 1, 3)
    assert store.find("p", np.array([7])) is None
    assert store.find("q", np.array([1, 2])) is None
    store.add(frozenset("pq"), third)  # the second goes: the first was used since
    assert len(store) == 2
    assert store.find("p", np.array([1, 2, 3])).length == 2
    store.add(P, block([1] * 1000))
    assert len(store) == 2
    assert store.size <= store.limit
    store.add(P, first)
    store.add(P, second)  # the first and the third go, and with it the file of q
    assert store.find("q", np.array([1, 3])) is None
