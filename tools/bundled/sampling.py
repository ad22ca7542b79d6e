"""Drawing replies from the chat model."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from bundled.chats import Chat
from bundled.tokens import ASSISTANT, encode, render


def prompt_ids(tokenizer: PreTrainedTokenizerFast, chats: list[Chat]) -> list[list[int]]:
    """Token ids of each chat without its last reply, ready for the assistant to speak."""
    texts = [render(Chat(chat.messages[:-1], chat.kind)) + ASSISTANT for chat in chats]
    return encode(tokenizer, texts)


@torch.inference_mode()
def sample(
    path: Path, tokenizer: PreTrainedTokenizerFast, chats: list[Chat], seed: int, longest: int = 220, batch: int = 96
) -> list[list[int]]:
    """One reply of the model at temperature 1 for every chat, as token ids with the end token if it was reached."""
    model = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    torch.manual_seed(seed)
    prompts = prompt_ids(tokenizer, chats)
    short = {"dialogue": 0, "sentence": 0, "persona": 1}
    order = sorted(range(len(chats)), key=lambda i: (short.get(chats[i].kind, 2), len(chats[i].reply) // 200, len(prompts[i])))
    replies: list[list[int]] = [[] for _ in chats]
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        width = max(len(prompts[i]) for i in part)
        ids = torch.full((len(part), width), tokenizer.pad_token_id)
        for row, i in enumerate(part):
            ids[row, width - len(prompts[i]) :] = torch.tensor(prompts[i])
        mask = (ids != tokenizer.pad_token_id).long()
        new = 60 if chats[part[-1]].kind in short else longest
        out = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=True, top_k=0, top_p=1.0, temperature=1.0, max_new_tokens=new
        )
        for i, row in zip(part, out[:, width:].tolist()):
            end = row.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in row else len(row)
            replies[i] = [token for token in row[:end] if token != tokenizer.pad_token_id]
    return replies
