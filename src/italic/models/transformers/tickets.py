"""The jobs of a session: which of their rows wait, grow or have left, and the drafts they come to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import LENGTH, UNFINISHED, TextDrafts
from italic.core.protocols import Grown, Spent
from italic.core.questions import Extend
from italic.models.transformers.lanes import Row
from italic.models.transformers.strands import Tokens


@dataclass(frozen=True, eq=False)
class Left:
    """A row that is through: what it grew by, why it ended, how much of its text counts, and its memory."""

    tokens: Tokens
    logps: NDArray[np.float32]
    reason: str
    chars: int
    note: Any


@dataclass(eq=False)
class Ticket:
    """One job under way.

    most: int64 [n], steps by which each row may grow. threshold: entropy that ends the extension, inf for none.
    untested: steps before the entropy is tested. open: rows that have not left. grown: those that have.
    """

    number: int
    drafts: TextDrafts
    most: NDArray[np.int64]
    threshold: float
    untested: int
    open: int
    grown: dict[int, Left] = field(default_factory=dict)
    tokens: int = 0
    positions: int = 0
    stopped: bool = False

    @classmethod
    def of(cls, number: int, drafts: TextDrafts, job: Extend) -> tuple[Ticket, list[int]]:
        """A ticket, and the rows that want to grow."""
        going = np.flatnonzero(~drafts.done & (drafts.room > 0)).tolist()
        ticket = cls(
            number=number,
            drafts=drafts,
            most=np.minimum(job.until.most(len(drafts)), drafts.room),
            threshold=np.inf if job.until.entropy is None else job.until.entropy,
            untested=job.until.min_steps,
            open=len(going),
        )
        return ticket, going

    def row(self, index: int) -> Row:
        """A row as it is now."""
        return row_of(self.drafts, index)

    def answer(self) -> Grown:
        """The drafts with what their rows grew by."""
        drafts, steps = self.drafts, self.drafts.steps.copy()
        for i, left in self.grown.items():
            steps[i] += len(left.tokens)
        more = ((0, 0), (0, max(int(steps.max(initial=0)) - drafts.ids.shape[1], 0)))
        ids, logps = np.pad(drafts.ids, more, constant_values=-1), np.pad(drafts.logps, more)
        reason, chars, memory = drafts.reason.copy(), drafts.chars.copy(), list(drafts.memory)
        for i, left in self.grown.items():
            ids[i, drafts.steps[i] : steps[i]] = left.tokens
            logps[i, drafts.steps[i] : steps[i]] = left.logps
            reason[i], chars[i], memory[i] = left.reason, left.chars, left.note
        reason[(reason == UNFINISHED) & (steps >= drafts.sampling.max_tokens)] = LENGTH
        longer = replace(drafts, ids=ids, logps=logps, steps=steps, reason=reason, chars=chars, memory=tuple(memory))
        return Grown(longer, Spent(self.tokens, self.positions), self.stopped)


def row_of(drafts: TextDrafts, index: int) -> Row:
    """One row of a batch. Rows without a response yet share one array of tokens."""
    steps, tokens = int(drafts.steps[index]), drafts.prompt_tokens
    if steps:
        tokens = np.concatenate((tokens, drafts.ids[index, :steps]))
    return Row(tokens, len(drafts.prompt_tokens), drafts.memory[index])
