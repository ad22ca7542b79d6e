"""Drawing replies from the chat model."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedTokenizerFast

from bundled.chats import Chat
from bundled.tokens import ASSISTANT, encode, render


def prompt_ids(tokenizer: PreTrainedTokenizerFast, chats: list[Chat]) -> list[list[int]]:
    """Token ids of each chat without its last reply, ready for the assistant to speak."""
    texts = [render(Chat(chat.messages[:-1], chat.kind)) + ASSISTANT for chat in chats]
    return encode(tokenizer, texts)


@torch.inference_mode()
def decode(model: LlamaForCausalLM, prompts: list[list[int]], longest: int, rng: torch.Generator) -> list[list[int]]:
    """One reply at temperature 1 for every prompt; rows that have ended leave the batch."""
    pad, end = model.config.pad_token_id, model.config.eos_token_id
    width = max(map(len, prompts))
    ids = torch.tensor([[pad] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = (ids != pad).long()
    places = (mask.cumsum(1) - 1).clamp(min=0)
    alive = torch.arange(len(prompts))
    replies: list[list[int]] = [[] for _ in prompts]
    cache = DynamicCache(config=model.config)
    for _ in range(longest):
        out = model(input_ids=ids, attention_mask=mask, position_ids=places, cache=cache, logits_to_keep=1)
        mass = out.logits[:, -1].float().softmax(-1).cumsum(-1)
        chance = torch.rand(len(ids), 1, generator=rng) * mass[:, -1:]
        token = torch.searchsorted(mass, chance, right=True).clamp(max=mass.shape[1] - 1)
        for row, new in zip(alive.tolist(), token[:, 0].tolist(), strict=True):
            if not replies[row] or replies[row][-1] != end:
                replies[row].append(new)
        ids, places = token, places[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
        going = torch.tensor([replies[row][-1] != end for row in alive.tolist()])
        if not going.any():
            break
        if going.float().mean() < 0.8:
            kept = going.nonzero()[:, 0]
            cache.batch_select_indices(kept)
            ids, places, mask, alive = ids[kept], places[kept], mask[kept], alive[kept]
    return replies


def sample(
    path: Path, tokenizer: PreTrainedTokenizerFast, chats: list[Chat], seed: int, longest: int = 200, batch: int = 64
) -> list[list[int]]:
    """One reply of the model at `path` for every chat, as token ids with the end token if it was reached."""
    model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    rng = torch.Generator().manual_seed(seed)
    prompts = prompt_ids(tokenizer, chats)
    order = sorted(range(len(chats)), key=lambda i: (len(chats[i].reply) // 200, len(prompts[i])))
    replies: list[list[int]] = [[] for _ in chats]
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        for i, reply in zip(part, decode(model, [prompts[i] for i in part], longest, rng), strict=True):
            replies[i] = reply
    return replies
