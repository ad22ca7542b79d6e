"""The shape of a table's line, as pydantic checks it. Imported when the first line is read."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr, field_validator, model_validator

from italic.evaluate.table import TOO_LONG


class TableRow(BaseModel):
    """One prompt and the rewards of its draws; null is a missing score."""

    model_config = ConfigDict(extra="ignore")

    prompt: StrictStr | StrictInt
    rewards: list[float | None] = Field(min_length=1)
    tokens: list[Annotated[int, Field(ge=1, lt=TOO_LONG)]] | None = None

    @field_validator("rewards")
    @classmethod
    def _numbers(cls, rewards: list[float | None]) -> list[float | None]:
        present = [reward for reward in rewards if reward is not None]
        if any(math.isnan(reward) for reward in present):
            raise ValueError("a reward is NaN; a missing score is null")
        if not present:
            raise ValueError("every score is missing")
        return rewards

    @model_validator(mode="after")
    def _of_one_length(self) -> TableRow:
        if self.tokens is not None and len(self.tokens) != len(self.rewards):
            raise ValueError(f"{len(self.rewards)} rewards and {len(self.tokens)} lengths")
        return self
