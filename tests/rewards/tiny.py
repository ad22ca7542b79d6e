"""Small random classifiers with small tokenizers."""

from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    OPTConfig,
    OPTForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForSequenceClassification,
)

TEMPLATE = (
    "{{ '<|begin|>' }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
TEXTS = [
    "the cat sat on the mat and the dog ran",
    "what a good film, what a bad film",
    "hello there, how are you today?",
]
SPECIALS = ["<|pad|>", "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>", "<|system|>", "[CLS]", "[SEP]"]


def tokenizer(*, chat: bool = True, pad: bool = True, pair: bool = False) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=350, special_tokens=SPECIALS, initial_alphabet=alphabet, min_frequency=1, show_progress=False
        ),
    )
    if pair:
        core.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            pair="[CLS] $A [SEP] $B:1 [SEP]:1",
            special_tokens=[(t, core.token_to_id(t)) for t in ("[CLS]", "[SEP]")],
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=core,
        eos_token="<|end|>",
        pad_token="<|pad|>" if pad else None,
        model_max_length=128,
        padding_side="left",
    )
    if pair:
        fast.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
    fast.chat_template = TEMPLATE if chat else None
    return fast


SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
WIDE = {**SIZE, "intermediate_size": 48, "max_position_embeddings": 128}


def model(kind: str, *, labels: int = 1, pad: int | None = 0, **extra: Any) -> Any:
    torch.manual_seed(1)
    common = {"vocab_size": 350, "num_labels": labels, "pad_token_id": pad, **extra}
    match kind:
        case "llama":
            made = LlamaForSequenceClassification(LlamaConfig(**WIDE, **common))
        case "grouped":
            made = LlamaForSequenceClassification(LlamaConfig(**WIDE, **common, num_key_value_heads=2))
        case "qwen2":
            made = Qwen2ForSequenceClassification(Qwen2Config(**WIDE, **common, num_key_value_heads=2))
        case "gpt2":
            made = GPT2ForSequenceClassification(GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=128, **common))
        case "opt":
            config = OPTConfig(ffn_dim=48, max_position_embeddings=128, word_embed_proj_dim=32, **SIZE, **common)
            made = OPTForSequenceClassification(config)
        case "mistral":
            made = MistralForSequenceClassification(MistralConfig(**WIDE, **common, num_key_value_heads=2))
        case "bert":
            made = BertForSequenceClassification(BertConfig(**WIDE, **common))
        case _:
            raise ValueError(kind)
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.ndim == 2 and "norm" not in name.lower():
                weight.normal_(std=0.25)
    return made.eval()
