"""The shape of an input row, as pydantic checks it. Imported when the first row is read."""

from __future__ import annotations

from typing import Annotated, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, StrictStr, model_validator


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as failure:
        raise ValueError(f"half a surrogate pair at character {failure.start + 1}, which is no text") from failure
    return text


Text: TypeAlias = Annotated[StrictStr, AfterValidator(_encodable)]


class ChatMessage(BaseModel):
    """One message of a conversation, as OpenAI writes it."""

    model_config = ConfigDict(extra="forbid")

    role: Text = Field(min_length=1)
    content: Text


class Row(BaseModel):
    """One prompt of the input; other columns are kept for rewards."""

    model_config = ConfigDict(extra="allow")

    id: Text | StrictInt | None = None
    prompt: Text | None = None
    messages: list[ChatMessage] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_of_the_two(self) -> Row:
        if self.prompt is None and self.messages is None:
            extra = ", ".join(self.model_extra or {}) or "none"
            raise ValueError(f"neither `prompt` nor `messages` (columns here: {extra})")
        if self.prompt is not None and self.messages is not None:
            raise ValueError("both `prompt` and `messages`")
        return self
