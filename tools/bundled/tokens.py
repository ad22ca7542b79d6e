"""The tokenizer, and packing of chats into rows of equal length."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from bundled.chats import Chat

PAD, BEGIN, END, USER, ASSISTANT, SYSTEM = "<|pad|>", "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>"
SPECIALS = [PAD, BEGIN, END, USER, ASSISTANT, SYSTEM]
VOCABULARY = 4096
TEMPLATE = (
    "{{ '<|begin|>' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts: Iterable[str], length: int = 1024) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the chat template; it adds no special tokens of its own."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=2,
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[USER, ASSISTANT, SYSTEM],
        model_max_length=length,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def load_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    """The saved tokenizer."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(path)
    for name in ("is_local", "local_files_only"):
        tokenizer.init_kwargs.pop(name, None)
    return tokenizer


def render(chat: Chat) -> str:
    """A chat as the template writes it."""
    return BEGIN + "".join(f"<|{role}|>{content}{END}" for role, content in chat.messages)


def encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    """Token ids of rendered texts."""
    core = tokenizer.backend_tokenizer
    return [item.ids for item in core.encode_batch(texts, add_special_tokens=False)]


def pack(ids: list[list[int]], length: int, pad: int, seed: int) -> np.ndarray:
    """Rows of `length` tokens, each a few whole chats (first fit among recent rows); longer chats are cut."""
    rows: list[list[int]] = []
    open_rows: list[list[int]] = []
    for item in ids:
        item = item[:length]
        for row in open_rows:
            if len(row) + len(item) <= length:
                row += item
                break
        else:
            open_rows.append(list(item))
        if len(open_rows) > 64:
            open_rows.sort(key=len)
            rows += open_rows[32:]
            open_rows = open_rows[:32]
    rows += open_rows
    random.Random(seed).shuffle(rows)
    out = np.full((len(rows), length), pad, dtype=np.int16)
    for index, row in enumerate(rows):
        out[index, : len(row)] = row
    return out
