import numpy as np
import pytest
import tiny
import torch
from transformers import LlamaForCausalLM

from italic.core.errors import RewardError, SpecError
from italic.core.prompt import Prompt
from italic.core.protocols import Reward
from italic.rewards.classifier import Checkpoint, ClassifierReward, load

CHAT = Prompt(id="chat", messages=({"role": "system", "content": "be kind"}, {"role": "user", "content": "hello"}))
REPLIES = ["the cat", "a good film, what a good film", "", "how are you today?", "the cat", "na\u00efve \u65e5\u672c"]
DECODERS = ["llama", "grouped", "qwen2", "gpt2", "opt"]


def reward(kind="llama", *, tokenizer=None, model=None, checkpoint=(), **options):
    model = tiny.model(kind) if model is None else model
    made = Checkpoint.of(model, tokenizer or tiny.tokenizer(), **dict(checkpoint))
    return ClassifierReward(made, **options)


def direct(scorer, text, *, special=False):
    """The logit that Transformers gives to one text on its own."""
    ids = scorer.checkpoint.tokenizer(text, add_special_tokens=special, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return float(scorer.checkpoint.model(ids).logits[0, scorer.checkpoint.label])


def render(messages, reply):
    return tiny.tokenizer().apply_chat_template([*messages, {"role": "assistant", "content": reply}], tokenize=False)


@pytest.mark.parametrize("incremental", [True, False])
@pytest.mark.parametrize("kind", DECODERS)
def test_score_is_the_logit_of_the_rendered_conversation(write, kind, incremental):
    scorer = reward(kind, incremental=incremental, batch=2)
    assert isinstance(scorer, Reward)
    assert (scorer.path, scorer.why) == (("incremental", "") if incremental else ("plain", "incremental=false"))
    scored = scorer.score([write(CHAT, REPLIES)])[0]
    wanted = [direct(scorer, render(CHAT.messages, r)) for r in REPLIES]
    np.testing.assert_allclose(scored.rewards, wanted, atol=1e-5)
    assert scored.rewards.dtype == np.float64
    assert not scored.missing.any()
    assert np.std(wanted) > 0.01


@pytest.mark.parametrize("incremental", [True, False])
def test_unfinished_drafts_lack_the_end(write, incremental):
    scorer = reward(incremental=incremental)
    scored = scorer.score([write(CHAT, ["the cat", "the cat", "caf\ufffd"], done=[False, True, False])])[0]
    whole = render(CHAT.messages, "the cat")
    wanted = [direct(scorer, whole.removesuffix("<|end|>")), direct(scorer, whole)]
    wanted.append(direct(scorer, render(CHAT.messages, "caf").removesuffix("<|end|>")))
    np.testing.assert_allclose(scored.rewards, wanted, atol=1e-5)


def test_text_prompts_are_one_user_message_or_plain_text(write):
    prompt = Prompt(id="p", text="the dog")
    chat = reward().score([write(prompt, [" ran"])])[0].rewards
    np.testing.assert_allclose(
        chat, direct(reward(), render([{"role": "user", "content": "the dog"}], " ran")), atol=1e-5
    )
    for scorer in (reward(chat="never"), reward(tokenizer=tiny.tokenizer(chat=False))):
        np.testing.assert_allclose(
            scorer.score([write(prompt, [" ran"])])[0].rewards, direct(scorer, "the dog ran", special=True), atol=1e-5
        )
    plain = reward(chat="never")
    np.testing.assert_allclose(
        plain.score([write(CHAT, ["hi"])])[0].rewards, direct(plain, "be kind\nhello\nhi", special=True), atol=1e-5
    )


def test_encoders_take_the_plain_path_and_pairs(write):
    prompt = Prompt(id="p", text="the dog")
    words = tiny.tokenizer(chat=False, pair=True)
    scorer = reward("bert", tokenizer=words)
    assert (scorer.path, scorer.partial) == ("plain", False)
    assert "left to right" in scorer.why
    replies = [" ran", " sat on the mat and ran"]
    wanted = [direct(scorer, "the dog" + r, special=True) for r in replies]
    np.testing.assert_allclose(scorer.score([write(prompt, replies)])[0].rewards, wanted, atol=1e-5)
    paired = reward("bert", tokenizer=words, pair=True)
    inputs = [words("the dog", r, return_tensors="pt") for r in replies]
    assert inputs[0]["token_type_ids"].max() == 1
    with torch.no_grad():
        wanted = [float(paired.checkpoint.model(**i).logits) for i in inputs]
    np.testing.assert_allclose(paired.score([write(prompt, replies)])[0].rewards, wanted, atol=1e-5)


def test_a_score_does_not_depend_on_other_batches(write):
    scorer = reward(incremental=False, batch=4)
    batches = [write(CHAT, REPLIES), write("p", REPLIES[::-1]), write("q", ["x"]), write("r", [])]
    together = scorer.score(batches)
    for batch, scored in zip(batches, together, strict=True):
        assert scorer.score([batch])[0].rewards.tolist() == scored.rewards.tolist()
    assert len(together[3].rewards) == 0


def test_positions_and_equal_rows(write):
    scorer = reward(incremental=False)
    length = [len(scorer.checkpoint.tokenizer(render(CHAT.messages, r))["input_ids"]) for r in ("a", "the cat")]
    assert scorer.score([write(CHAT, ["a", "the cat", "a", "a"])])[0].tokens == sum(length)


def test_several_labels_must_be_chosen_among(write):
    model = tiny.model("llama", labels=2)
    model.config.id2label = {0: "NEGATIVE", 1: "POSITIVE"}
    with pytest.raises(SpecError, match=r"2 labels: 0 \(NEGATIVE\), 1 \(POSITIVE\)") as error:
        reward(model=model)
    assert "label=POSITIVE" in error.value.hint
    values = [
        reward(model=model, checkpoint={"label": label}).score([write(CHAT, ["x"])])[0].rewards.tolist()
        for label in ("positive", 1, "1", "NEGATIVE", 0)
    ]
    assert values[0] == values[1] == values[2] != values[3] == values[4]
    with pytest.raises(SpecError, match="no label 'neutral'"):
        reward(model=model, checkpoint={"label": "neutral"})
    assert reward(checkpoint={"label": 0}).checkpoint.label == 0


@pytest.mark.parametrize("incremental", [True, False])
def test_padding(write, incremental):
    def make(pad_token):
        model = tiny.model("gpt2", pad=None)
        checkpoint = {"pad_token": pad_token}
        words = tiny.tokenizer(pad=False)
        return reward(model=model, tokenizer=words, checkpoint=checkpoint, incremental=incremental)

    with pytest.raises(SpecError, match="no padding token") as error:
        make(None)
    assert "pad_token=<|end|>" in error.value.hint
    with pytest.raises(SpecError, match="no token '<nothing>'"):
        make("<nothing>")
    # padded with the token that ends a conversation, the classifier reads the logit before it: so does Transformers
    for token in ("<|pad|>", "<|end|>"):
        scorer = make(token)
        wanted = [direct(scorer, render(CHAT.messages, r)) for r in REPLIES]
        np.testing.assert_allclose(scorer.score([write(CHAT, REPLIES)])[0].rewards, wanted, atol=1e-5)


def test_what_is_too_long_is_an_error_or_truncated(write):
    long = "the cat sat " * 60
    with pytest.raises(RewardError, match=r"prompt 'chat' with a response is \d+ tokens long; classifier reads 128"):
        reward().score([write(CHAT, ["a", long])])
    scorer = reward(truncate="left")
    ids = scorer.checkpoint.tokenizer(render(CHAT.messages, long))["input_ids"][-128:]
    with torch.no_grad():
        wanted = float(scorer.checkpoint.model(torch.tensor([ids])).logits)
    np.testing.assert_allclose(scorer.score([write(CHAT, [long])])[0].rewards, wanted, atol=1e-5)
    with pytest.raises(RewardError, match="reads 10"):
        reward(checkpoint={"max_length": 10}).score([write(CHAT, ["the cat sat on the mat"])])


@pytest.mark.parametrize("incremental", [True, False])
def test_nan_names_the_prompt(write, incremental):
    scorer = reward(incremental=incremental)
    scorer.checkpoint.model.score.weight.data.fill_(float("nan"))
    with pytest.raises(RewardError, match="NaN for prompt 'chat'"):
        scorer.score([write(CHAT, ["a"])])


def test_templates_that_do_not_show_the_reply_once_are_refused(write):
    words = tiny.tokenizer()
    words.chat_template = "{{ messages[0]['content'] }}"
    with pytest.raises(RewardError, match="shows the reply to prompt 'chat' 0 times"):
        reward(tokenizer=words).score([write(CHAT, ["a"])])
    words.chat_template = "{{ raise_exception('no system messages') }}"
    with pytest.raises(RewardError, match="no system messages"):
        reward(tokenizer=words).score([write(CHAT, ["a"])])
    with pytest.raises(SpecError, match="no chat template"):
        reward(tokenizer=tiny.tokenizer(chat=False), chat="always")
    marked = Prompt(id="m", messages=({"role": "user", "content": "ITALICREPLY0"},))
    scored = reward().score([write(marked, ["a"])])[0].rewards
    np.testing.assert_allclose(scored, direct(reward(), render(marked.messages, "a")), atol=1e-5)


def test_nothing_to_score(write):
    scorer = reward(tokenizer=tiny.tokenizer(chat=False))
    with pytest.raises(RewardError, match="no text to score"):
        scorer.score([write("", [""])])


def test_options():
    assert reward().partial
    assert not reward(partial=False).partial
    assert repr(reward()) == "ClassifierReward('classifier', incremental)"
    with pytest.raises(SpecError, match="batch of 0"):
        reward(batch=0)
    with pytest.raises(SpecError, match="cache of 0"):
        reward(cache=0)


def test_load(write, tmp_path):
    tiny.model("llama").save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    scorer = load(str(tmp_path), dtype="float32", device="cpu", batch=3)
    assert scorer.name == str(tmp_path)
    np.testing.assert_allclose(
        scorer.score([write(CHAT, REPLIES)])[0].rewards, reward().score([write(CHAT, REPLIES)])[0].rewards, atol=1e-6
    )
    assert load(str(tmp_path)).checkpoint.model.dtype == torch.float32
    half = load(str(tmp_path), dtype="bfloat16")
    assert half.path == "incremental"
    np.testing.assert_allclose(
        half.score([write(CHAT, REPLIES)])[0].rewards, scorer.score([write(CHAT, REPLIES)])[0].rewards, atol=0.2
    )


def test_load_says_what_is_wrong(tmp_path):
    with pytest.raises(SpecError, match="no bundled reward 'demo:beauty'"):
        load("demo:beauty")
    with pytest.raises(SpecError, match="cannot be loaded"):
        load(str(tmp_path))
    language = tiny.LlamaConfig(**tiny.WIDE, vocab_size=350, pad_token_id=0)
    LlamaForCausalLM(language).save_pretrained(tmp_path)
    tiny.tokenizer().save_pretrained(tmp_path)
    with pytest.raises(SpecError, match=r"no sequence classifier: its weights lack score\.weight"):
        load(str(tmp_path))
