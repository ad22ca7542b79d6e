from __future__ import annotations

import numpy as np
import pytest
import torch

from italic.train.tuning.packing import MOST_SCORES, ask, packs
from tiny_decoders import decoder

SIZES = ((5, (3, 9, 1)), (2, (9, 4)), (7, (2, 2, 6, 8)))
"""Prompts, and the responses to each."""
WIDTH = 9


def batch(seed=0):
    """Rows of prompts padded on the left and responses padded on the right, shuffled."""
    rng = np.random.default_rng(seed)
    rows = []
    for size, responses in SIZES:
        prompt = rng.integers(1, 200, size=size)
        for length in responses:
            row = np.zeros((4, 7 + WIDTH), dtype=np.int64)
            row[0, 7 - size : 7], row[1, 7 - size : 7] = prompt, 1
            row[2, 7 : 7 + length], row[3, 7 : 7 + length] = rng.integers(1, 200, size=length), 1
            rows.append(row)
    rows = torch.from_numpy(np.stack(rows)[rng.permutation(len(rows))])
    return rows[:, 0, :7], rows[:, 1, :7], rows[:, 2, 7:], rows[:, 3, 7:]


def alone(network, prompts, known, responses, there):
    """Log-probabilities of each response's tokens, every row by itself and unpadded."""
    found = torch.zeros(responses.shape)
    for row in range(len(prompts)):
        prompt, response = prompts[row][known[row].bool()], responses[row][there[row].bool()]
        logits = network(input_ids=torch.cat([prompt, response])[None], use_cache=False).logits[0]
        laws = logits[len(prompt) - 1 : -1].log_softmax(1)
        found[row, : len(response)] = laws.gather(1, response[:, None])[:, 0]
    return found


def together(network, prompts, known, responses, there, packed):
    asked = ask(prompts, known, responses, there, torch.float32, packed=packed)
    laws = asked.of(network, network).float().log_softmax(1)
    found = laws.gather(1, responses[there.bool()][:, None])[:, 0]
    return torch.zeros(responses.shape).masked_scatter(there.bool(), found)


def gradient(network, found):
    network.zero_grad()
    found.sum().backward()
    return torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2", "qwen3", "mistral", "gemma", "opt"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "row by row"])
def test_a_packed_row_is_as_good_as_a_row_alone(kind, packed) -> None:
    network, rows = decoder(kind), batch()
    assert packs(network)
    one, other = alone(network, *rows), together(network, *rows, packed)
    assert torch.allclose(one, other, atol=2e-4)
    gradients = [gradient(network, found) for found in (one, other)]
    scale = float(gradients[0].abs().max())
    assert torch.allclose(gradients[0], gradients[1], atol=1e-4 * scale)


@pytest.mark.parametrize("most", [MOST_SCORES, 0], ids=["by products", "by PyTorch"])
def test_with_products_in_bfloat16(most, monkeypatch) -> None:
    """As near to float32 as rows by themselves are."""
    monkeypatch.setattr("italic.train.tuning.packing.MOST_SCORES", most)
    network, rows = decoder(), batch()
    right = together(network, *rows, packed=False)
    expected = gradient(network, right)
    off = []
    for packed in (True, False):
        with torch.autocast("cpu", torch.bfloat16):
            found = together(network, *rows, packed)
        errors = (found - right).detach(), gradient(network, found) - expected
        off.append([float(error.square().mean().sqrt()) for error in errors])
    assert 0 < off[0][0] < 1.3 * off[1][0]
    assert 0 < off[0][1] < 1.3 * off[1][1]


def test_a_prompt_goes_through_once_and_nothing_is_padded() -> None:
    asked = ask(*batch(), torch.float32, packed=True)
    assert asked.inputs["input_ids"].shape == (1, sum(size + sum(lengths) for size, lengths in SIZES))


def test_networks_that_are_asked_row_by_row() -> None:
    """With an attention of their own, or if they compute their layers anew when another attention is on again."""
    network = decoder()
    together(network, *batch(), packed=True)
    assert network.config._attn_implementation == "sdpa"
    network.model.layers[1].gradient_checkpointing = True
    assert not packs(network)
    network.model.layers[1].gradient_checkpointing = False
    assert packs(network)
    network.set_attn_implementation("eager")
    assert not packs(network)
