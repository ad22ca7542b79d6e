"""The text that a reward model reads: the prompt, the response, and what closes a finished response."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import TextDrafts
from italic.core.errors import RewardError, SpecError
from italic.core.prompt import Prompt

Chat = Literal["auto", "always", "never"]
Truncate = Literal["no", "left"]


@dataclass(frozen=True)
class Frame:
    """What stands around every response to one prompt. before: up to the response. after: what closes it if finished.
    special: whether the tokenizer adds its special tokens (a chat template has written them already)."""

    before: str
    after: str
    special: bool


@dataclass(frozen=True, eq=False)
class Row:
    """One text as the model reads it: ids, int32 [L], and token types where the model has them, int32 [L].

    file: the text up to the response, which rows of one prompt have in common.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int32] | None = None
    file: str = ""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def key(self) -> tuple[bytes, bytes]:
        """Equal for equal rows."""
        return self.ids.tobytes(), b"" if self.types is None else self.types.tobytes()


@dataclass(frozen=True, eq=False)
class Renderer:
    """From drafts to rows of token ids. See `load` for the options.

    The response is always read as text and encoded here, never taken over as the policy's token ids: the ids that a
    model has drawn are often not those that a tokenizer gives to the same text, and a score must be one of the text.
    Raises SpecError for chat="always" without a template.
    """

    name: str
    tokenizer: Any
    longest: int
    chat: Chat = "auto"
    pair: bool = False
    truncate: Truncate = "no"

    def __post_init__(self) -> None:
        if self.chat == "always" and not self.tokenizer.chat_template:
            raise SpecError(f"the tokenizer of {self.name} has no chat template", hint="Leave chat out.")

    @property
    def templated(self) -> bool:
        """Whether the chat template is applied."""
        return self.chat != "never" and bool(self.tokenizer.chat_template)

    def frame(self, prompt: Prompt) -> Frame:
        """The surroundings of the responses to this prompt. Raises RewardError if the chat template refuses it.

        With a chat template: the conversation (a text is one user message) with a marker as the assistant's reply,
        split at the marker, so that an unfinished reply can be shown without its end. Without one: the text, or the
        messages' contents, a line each.
        """
        if not self.templated:
            text = prompt.text
            if text is None:
                text = "".join(f"{m['content']}\n" for m in prompt.messages or ())
            return Frame(text, "", special=True)
        messages = [dict(m) for m in prompt.messages or ({"role": "user", "content": prompt.text or ""},)]
        marker, number = "ITALICREPLY0", 0
        while any(marker in str(m) for m in messages):
            number += 1
            marker = f"ITALICREPLY{number}"
        try:
            text = self.tokenizer.apply_chat_template(
                [*messages, {"role": "assistant", "content": marker}], tokenize=False, add_generation_prompt=False
            )
        except Exception as error:  # a template is a program of its own and may raise anything
            raise RewardError(
                f"the chat template of {self.name} cannot render prompt {prompt.id!r}: {error}",
                hint="Check the roles and their order, or give chat=never.",
            ) from error
        if text.count(marker) != 1:
            raise RewardError(
                f"the chat template of {self.name} shows the reply to prompt {prompt.id!r} {text.count(marker)} times",
                hint="Give chat=never, or a template that shows the last reply once.",
            )
        before, after = text.split(marker)
        return Frame(before, after, special=False)

    def rows(self, frame: Frame, drafts: TextDrafts) -> list[Row]:
        """One row a draft. Raises RewardError for a text that is too long (unless truncated) or empty."""
        replies = [t + frame.after if d else t.rstrip("\ufffd") for t, d in zip(drafts.texts, drafts.done, strict=True)]
        inputs: dict[str, Any] = {"text": [frame.before + reply for reply in replies]}
        if self.pair:
            inputs = {"text": [frame.before] * len(replies), "text_pair": replies}
        if self.truncate == "left":
            self.tokenizer.truncation_side = "left"
            inputs |= {"truncation": True, "max_length": self.longest}
        encoded = self.tokenizer(**inputs, add_special_tokens=frame.special, return_attention_mask=False, verbose=False)
        types = encoded.get("token_type_ids", [None] * len(replies))
        rows = [
            Row(np.asarray(i, dtype=np.int32), None if t is None else np.asarray(t, dtype=np.int32), frame.before)
            for i, t in zip(encoded["input_ids"], types, strict=True)
        ]
        for row in rows:
            if not len(row):
                raise RewardError(f"prompt {drafts.prompt.id!r} and a response to it have no text to score")
            if len(row) > self.longest:
                raise RewardError(
                    f"prompt {drafts.prompt.id!r} with a response is {len(row)} tokens long; {self.name} reads"
                    f" {self.longest}",
                    hint="Give truncate=left to leave out its beginning, or a smaller max_tokens.",
                )
        return rows
