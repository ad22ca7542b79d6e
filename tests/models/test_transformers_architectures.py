"""Every architecture runs unchanged on the ragged path, and says the same as `generate` and as the plain path."""

import numpy as np
import pytest
import torch

from borders import NEAR, distances, parting
from italic.core.questions import Extend
from italic.models.transformers import TransformersModel, cpu
from tiny_decoders import KINDS, decoder, finish, logits_after, model, start, tokenizer, tokens

PROMPTS = ("the thing", "a", "on the other hand, nothing")


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_greedy_equals_generate(kind: str) -> None:
    made = model(kind, rows=4)
    assert (made.path, made.why) == ("ragged", "")
    drafts = [start(made, text, max_tokens=12, temperature=0) for text in PROMPTS]
    for draft, grown in zip(drafts, made.extend([Extend(d) for d in drafts]), strict=True):
        ids = torch.from_numpy(draft.prompt_tokens.astype(np.int64))[None]
        told = made.network.decoder.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            eos_token_id=made.tokenizer.eos_token_id,
            pad_token_id=0,
        )
        assert tokens(grown.drafts) == [told[0, ids.shape[1] :].tolist()]


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_ragged_equals_plain(kind: str) -> None:
    network, words = decoder(kind), tokenizer()
    seen = []
    for path in ("ragged", "plain"):
        made = TransformersModel(network, words, rows=5, path=path)
        drafts = [start(made, text, n=4, max_tokens=10, temperature=0.8) for text in PROMPTS]
        answers = [grown.drafts for grown in made.extend([Extend(d) for d in drafts])]
        seen.append(answers)
        assert sum(a.steps.sum() for a in answers) > 60
    exact = network.double()
    for one, other in zip(*seen, strict=True):
        for row in range(len(one)):
            at = parting(one.tokens[row], other.tokens[row])
            assert at is None or distances(exact, one, row)[at] < NEAR


def test_eager_attention_is_ragged_too() -> None:
    network = decoder()
    network.set_attn_implementation("eager")
    made = TransformersModel(network, tokenizer(), rows=4)
    assert made.path == "ragged"
    drafts = start(made, n=3, max_tokens=8)
    assert tokens(finish(made, drafts)) == tokens(finish(model(rows=4), drafts))


def test_log_probabilities_are_those_of_the_law() -> None:
    made = model()
    drafts = finish(made, start(made, n=2, max_tokens=6, temperature=0.7, top_k=20))
    for row, logps in zip(drafts.tokens, drafts.logprobs, strict=True):
        for i, (token, logp) in enumerate(zip(row, logps, strict=True)):
            scores = logits_after(made, np.concatenate((drafts.prompt_tokens, row[:i]))) / 0.7
            kept = torch.topk(scores, 20).values
            assert float(scores[token] - torch.logsumexp(kept, 0)) == pytest.approx(float(logp), abs=1e-4)
    greedy = finish(made, start(made, max_tokens=4, temperature=0))
    assert greedy.logps.tolist() == [[0.0] * 4]


def test_a_sliding_window_takes_the_plain_path_and_says_so() -> None:
    network = decoder("mistral", sliding_window=16)
    with pytest.warns(
        UserWarning, match="slow plain path: it attends to a window of 16 tokens; load with max_length=16"
    ):
        made = TransformersModel(network, tokenizer(), name="windowed", rows=4)
    assert made.path == "plain"
    grown = finish(made, start(made, max_tokens=30, temperature=0))
    told = np.concatenate((grown.prompt_tokens, grown.tokens[0][:-1]))
    assert int(logits_after(made, told).argmax()) == grown.tokens[0][-1]
    assert TransformersModel(network, tokenizer(), max_length=16).path == "ragged"


def test_a_network_that_ignores_the_cache_takes_the_plain_path() -> None:
    network = decoder("gpt2")
    inner = network.forward

    def forward(input_ids, attention_mask=None, use_cache=None, cache=None, **rest):  # type: ignore[no-untyped-def]
        if cache is not None and attention_mask is not None:
            raise ValueError("no masks of four dimensions here")
        return inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    network.forward = forward
    with pytest.warns(UserWarning, match="does not work with a ragged cache .*no masks of four dimensions"):
        made = TransformersModel(network, tokenizer(), rows=4)
    assert made.path == "plain"
    drafts = start(made, n=3, max_tokens=6)
    assert tokens(finish(made, drafts)) == tokens(finish(model("gpt2"), drafts))


def test_bfloat16_runs_and_its_trial_passes() -> None:
    network = decoder().to(torch.bfloat16)
    made = TransformersModel(network, tokenizer(), rows=4)
    assert (made.path, made.why) == ("ragged", "")
    assert finish(made, start(made, n=5, max_tokens=9)).steps.max() == 9


@pytest.mark.parametrize("kind", ["llama", "opt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layers_laid_out_for_a_cpu_say_the_same(kind: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "multiplies_bfloat16", lambda: False)
    network = decoder(kind).to(dtype)
    ids = torch.tensor([[5, 9, 4, 7, 8, 250]])
    with torch.inference_mode():
        before = network(input_ids=ids).logits.float()
    weights = {name: weight.clone() for name, weight in network.state_dict().items()}
    cpu.quicken(network)
    assert all(torch.equal(weight, weights[name]) for name, weight in network.state_dict().items())
    with torch.inference_mode():
        after = network(input_ids=ids).logits.float()
    assert float((after - before).abs().max()) <= (1e-4 if dtype == torch.float32 else 0.1) * float(before.std())


def test_products_in_bfloat16_are_taken_back() -> None:
    network = decoder("opt")
    ids = torch.tensor([[5, 9, 4, 7, 8, 250]])
    with torch.inference_mode():
        before = network(input_ids=ids).logits
        cpu.narrow(network)
        half = network(input_ids=ids).logits
        cpu.restore(network)
        assert torch.equal(network(input_ids=ids).logits, before)
    off = float((half - before).abs().max()) / float(before.std())
    assert half.dtype == torch.float32
    assert 0 < off < 0.1


def test_bfloat16_is_chosen_by_the_time_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = {torch.float32: 2.0, torch.bfloat16: 1.0}
    monkeypatch.setattr(cpu, "_quickest", lambda rows, weight: taken[rows.dtype])
    made = model("llama")
    cpu.multiplies_bfloat16.cache_clear()
    assert made.quicker_half
    taken[torch.bfloat16] = 3.0
    cpu.multiplies_bfloat16.cache_clear()
    assert not made.quicker_half
    cpu.multiplies_bfloat16.cache_clear()
