"""A prompt: what the model is asked, under an identifier of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from italic.core.errors import InputError

Message: TypeAlias = Mapping[str, str]


@dataclass(frozen=True)
class Prompt:
    """One question to the model.

    id: names the prompt in the output and in the randomness: the same id, seed and settings give the same answer.
    messages: a conversation as OpenAI writes it, `({"role": "user", "content": "..."}, ...)`; the model's chat template
        renders it. Or text: a string that the model simply continues. Exactly one of the two.
    columns: the other fields of the input line, for rewards that need them (a gold answer, a category).
    """

    id: str
    text: str | None = None
    messages: tuple[Message, ...] | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.text is None) == (self.messages is None):
            raise InputError(
                f"prompt {self.id!r} needs either text or messages",
                hint='Give "prompt": "..." or "messages": [{"role": "user", "content": "..."}].',
            )
        if self.messages is not None and not self.messages:
            raise InputError(f"prompt {self.id!r} has no messages", hint="Give at least one user message.")

    @property
    def last(self) -> str:
        """The text, or the content of the last message: for showing the prompt to a person."""
        if self.messages is not None:
            return self.messages[-1]["content"]
        return self.text or ""
