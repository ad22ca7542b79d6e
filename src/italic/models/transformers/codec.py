"""Between text and token ids: rendering prompts, decoding responses.

A response is decoded *after* its prompt, as the difference of two decodings, because a tokenizer's text for a token may
depend on what stands before it: SentencePiece drops the leading space of the first word, byte-level tokenizers
split a character over tokens. A character whose last bytes are not there yet is left out until they are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import InputError, UsageError
from italic.core.prompt import Message, Prompt

ANCHOR = 6
"""How many of the prompt's last tokens are decoded along with a response."""

CHAT = ("auto", "always", "never")
BROKEN = "\N{REPLACEMENT CHARACTER}"


class TokenizerCodec:
    """Text and chat rendering of one Transformers tokenizer. Implements `italic.core.drafts.Codec`."""

    def __init__(self, tokenizer: Any, chat: str = "auto") -> None:
        if chat not in CHAT:
            raise UsageError(f"chat is {chat!r}", hint=f"Give one of {', '.join(CHAT)}.")
        if chat == "always" and not tokenizer.chat_template:
            raise UsageError("chat is 'always', but the tokenizer has no chat template", hint="Give chat='never'.")
        self._tokenizer = tokenizer
        self._renders_text = chat == "always" or (chat == "auto" and bool(tokenizer.chat_template))

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the vocabulary, the tokenizer's rules and the chat template."""
        backend = getattr(self._tokenizer, "backend_tokenizer", None)
        rules = backend.to_str() if backend is not None else repr(sorted(self._tokenizer.get_vocab().items()))
        parts = (rules, repr(self._tokenizer.chat_template))
        return hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()

    @cached_property
    def special(self) -> dict[str, int]:
        """The special tokens, whose text is never part of a response: text to id."""
        ids = self._tokenizer.all_special_ids
        return dict(zip(self._tokenizer.convert_ids_to_tokens(ids), ids, strict=True))

    def messages(self, prompt: Prompt) -> Sequence[Message] | None:
        """The conversation that the chat template renders; None for a text that is continued as it is."""
        if prompt.messages is None and self._renders_text:
            return ({"role": "user", "content": prompt.text or ""},)
        return prompt.messages

    def encode(self, prompt: Prompt) -> NDArray[np.int32]:
        """The prompt's token ids, int32 [P], P >= 1. Raises InputError if there is nothing to start from."""
        messages = self.messages(prompt)
        if messages is None:
            ids = self._tokenizer(prompt.text)["input_ids"]
        else:
            ids = self._tokenizer(self._render(prompt.id, messages), add_special_tokens=False)["input_ids"]
        if not ids and self._tokenizer.bos_token_id is not None:
            ids = [self._tokenizer.bos_token_id]
        if not ids:
            raise InputError(
                f"prompt {prompt.id!r} is empty and the tokenizer has no token to begin with",
                hint="Give a prompt of at least one character.",
            )
        return np.asarray(ids, dtype=np.int32)

    def _render(self, name: str, messages: Any) -> str:
        if not self._tokenizer.chat_template:
            raise InputError(
                f"prompt {name!r} has messages, but the model's tokenizer has no chat template",
                hint='Give "prompt": "..." instead of "messages", or a model trained for chat.',
            )
        try:
            rendered = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=True
            )
        except Exception as error:
            raise InputError(
                f"prompt {name!r} cannot be rendered by the chat template: {error}",
                hint='Write messages as [{"role": "user", "content": "..."}], in the order the template expects.',
            ) from error
        return str(rendered)

    def decode(self, prompt_tokens: NDArray[np.int32], tokens: NDArray[np.int32]) -> str:
        """The text that `tokens` add after `prompt_tokens`: no special tokens, no unfinished character at the end."""
        if not len(tokens):
            return ""
        anchor = prompt_tokens[-ANCHOR:].tolist()
        before, both = self._text(anchor).rstrip(BROKEN), self._text(anchor + tokens.tolist())
        text = both[len(before) :] if both.startswith(before) else self._text(tokens.tolist())
        return text.rstrip(BROKEN)

    def _text(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def pieces(self, vocabulary: int) -> list[str]:
        """The text each token adds in the middle of a response: one string an id. Slow for large vocabularies."""
        known = [self._text([i]) for i in range(vocabulary)]
        plain = next((i for i, text in enumerate(known) if text.isalnum() and text.isascii()), None)
        if plain is None:
            return known
        start = len(known[plain])
        return [self._text([plain, i])[start:] for i in range(vocabulary)]
