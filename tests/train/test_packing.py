from __future__ import annotations

import numpy as np
import pytest
import torch

from italic.train.tuning.packing import LONGEST, ask, pack
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
    laws = asked.pick(network(**asked.inputs, use_cache=False).logits).log_softmax(1)
    found = laws.gather(1, responses[there.bool()][:, None])[:, 0]
    return torch.zeros(responses.shape).masked_scatter(there.bool(), found)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3", "gemma"])
@pytest.mark.parametrize("packed", [True, False], ids=["packed", "row by row"])
def test_a_packed_row_is_as_good_as_a_row_alone(kind, packed) -> None:
    network, rows = decoder(kind), batch()
    one, other = alone(network, *rows), together(network, *rows, packed)
    assert torch.allclose(one, other, atol=2e-4)
    gradients = []
    for found in (one, other):
        network.zero_grad()
        found.sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    scale = float(gradients[0].abs().max())
    assert torch.allclose(gradients[0], gradients[1], atol=1e-4 * scale)


def test_a_prompt_goes_through_once() -> None:
    packed = pack(*batch(), torch.float32)
    assert packed.ids.shape == (3, 7 + 18)
    assert int((packed.ids > 0).sum()) == sum(size + sum(lengths) for size, lengths in SIZES)


def test_rows_that_would_be_too_long_are_left_alone() -> None:
    prompts, known, responses, _ = batch()
    long = torch.ones((len(responses), LONGEST // 4), dtype=torch.long)
    assert pack(prompts, known, long, long, torch.float32) is None
    asked = ask(prompts, known, long, long, torch.float32, packed=True)
    assert len(asked.place) == long.numel()
    assert asked.inputs["input_ids"].shape == (len(long), 7 + LONGEST // 4)
