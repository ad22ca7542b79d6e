"""Small random decoders and tokenizers for the tests of the engine; nothing is downloaded."""

from __future__ import annotations

from string import ascii_lowercase
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.questions import Extend
from italic.core.sampling import FINISH, Sampling, Until
from italic.models.transformers import TransformersModel

CHAT = "{% for m in messages %}<u>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"
WORDS = ("th", "he", " t", "in", "er", "an", " a", "on", "the", " the", "ing", "é")


def tokenizer(chat: bool = False, end: bool = True, ascii_only: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE: 256 bytes (or a to z and the space), a few merges, <e> to end, <u> and <a> for chats."""
    letters = [*ascii_lowercase, "\u0120"] if ascii_only else sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {letter: i for i, letter in enumerate(letters)}
    merges = []
    split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    for word in WORDS[:-1] if ascii_only else WORDS:
        coded = split.pre_tokenize_str(word)[0][0]
        cut = next(i for i in range(len(coded) - 1, 0, -1) if coded[:i] in vocab and coded[i:] in vocab)
        merges.append((coded[:cut], coded[cut:]))
        vocab[coded] = len(vocab)
    for special in ("<e>", "<u>", "<a>"):
        vocab[special] = len(vocab)
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    core.pre_tokenizer = split
    core.decoder = decoders.ByteLevel()
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<e>" if end else None, additional_special_tokens=["<u>", "<a>"]
    )
    if chat:
        made.chat_template = CHAT
    return made


def letters(alphabet: str) -> PreTrainedTokenizerFast:
    """One token a letter; "$" ends."""
    vocab = {letter: i for i, letter in enumerate("$" + alphabet)}
    core = Tokenizer(models.WordLevel(vocab=vocab, unk_token="$"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="$")


SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 256}
KINDS: dict[str, Any] = {
    "llama": lambda **k: LlamaConfig(**SMALL, num_key_value_heads=2, intermediate_size=48, **k),
    "qwen2": lambda **k: Qwen2Config(**SMALL, num_key_value_heads=2, intermediate_size=48, **k),
    "qwen3": lambda **k: Qwen3Config(**SMALL, num_key_value_heads=2, head_dim=8, intermediate_size=48, **k),
    "mistral": lambda **k: MistralConfig(
        **SMALL, **{"num_key_value_heads": 2, "intermediate_size": 48, "sliding_window": None} | k
    ),
    "gemma": lambda **k: GemmaConfig(**SMALL, num_key_value_heads=1, head_dim=8, intermediate_size=48, **k),
    "gpt2": lambda **k: GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=256, **k),
    "opt": lambda **k: OPTConfig(**SMALL, ffn_dim=48, word_embed_proj_dim=32, **k),
}


def decoder(kind: str = "llama", size: int = 271, seed: int = 0, scale: float = 0.25, **extra: Any) -> Any:
    """A decoder with random weights, large enough that its laws are far from uniform."""
    torch.manual_seed(seed)
    special = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": None}
    network = AutoModelForCausalLM.from_config(KINDS[kind](vocab_size=size, **special, **extra)).eval()
    with torch.no_grad():
        for name, weight in network.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, scale)
            elif name.endswith("bias"):
                weight.normal_(0.0, 0.05)
    return network


def model(kind: str = "llama", *, chat: bool = False, end: bool = True, **extra: Any) -> TransformersModel:
    """A small model; `extra` goes to `TransformersModel`."""
    return TransformersModel(decoder(kind), tokenizer(chat, end), name=kind, **extra)


def start(made: TransformersModel, text: str = "the thing", n: int = 1, seed: int = 0, **sampling: Any) -> Any:
    """n empty drafts for a prompt named by its text."""
    return made.start(Prompt(text, text=text), Key(seed).at(text).seeds(n), Sampling(**sampling))


def finish(made: TransformersModel, drafts: Any, until: Until = FINISH) -> Any:
    """One extension."""
    return made.extend([Extend(drafts, until)])[0].drafts


def tokens(drafts: Any) -> list[list[int]]:
    """The token ids of all rows, for comparing."""
    return [row.tolist() for row in drafts.tokens]


def logits_after(made: TransformersModel, row: NDArray[np.integer]) -> torch.Tensor:
    """The logits after one row, straight from the network: float32 [V]."""
    with torch.inference_mode():
        ids = torch.from_numpy(np.asarray(row, dtype=np.int64))[None]
        return made.network.decoder(input_ids=ids, use_cache=False).logits[0, -1].float()
