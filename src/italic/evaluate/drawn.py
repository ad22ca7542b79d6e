"""A model whose responses are the draws of a table, taken with replacement, and the reward that looks them up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts, Index
from italic.core.errors import ProgramError
from italic.core.keys import Seeds, uniforms
from italic.core.prompt import Prompt
from italic.core.protocols import Grown, Scored, Spent
from italic.core.questions import Extend
from italic.core.sampling import Sampling
from italic.evaluate.table import Row, Table


@dataclass(frozen=True, eq=False)
class RowDrafts:
    """Draws of one row of a table. place: int64 [n], which of its draws each is, -1 while it is not drawn."""

    prompt: Prompt
    row: Row
    place: NDArray[np.int64]
    seeds: Seeds

    def __len__(self) -> int:
        return len(self.place)

    @property
    def done(self) -> NDArray[np.bool_]:
        return np.asarray(self.place >= 0)

    @property
    def steps(self) -> NDArray[np.int64]:
        return np.where(self.done, self.row.tokens[self.place], 0)

    @property
    def room(self) -> NDArray[np.int64]:
        return np.where(self.done, 0, self.row.tokens.max())

    def __getitem__(self, index: Index) -> RowDrafts:
        if not isinstance(index, slice):
            index = np.asarray(index)
            index = index if index.size else index.astype(np.int64)
        at = np.arange(len(self))[index]
        return replace(self, place=self.place[at], seeds=self.seeds[at])

    def cut(self, steps: int | NDArray[np.integer]) -> RowDrafts:
        raise ProgramError("the draws of a table are whole", hint='Declare that you need "cut".')

    def reseed(self, seeds: Seeds) -> RowDrafts:
        if len(seeds) != len(self):
            raise ProgramError(f"{len(seeds)} seeds for {len(self)} drafts", hint="Give one seed a row.")
        return replace(self, seeds=np.asarray(seeds, dtype=np.uint64))

    def concat(self, *others: RowDrafts) -> RowDrafts:
        parts = (self, *others)
        if any(p.prompt.id != self.prompt.id for p in parts):
            raise ProgramError("drafts of different prompts cannot be joined", hint="Keep one batch a prompt.")
        return replace(
            self, place=np.concatenate([p.place for p in parts]), seeds=np.concatenate([p.seeds for p in parts])
        )


@dataclass(frozen=True, eq=False)
class TableModel:
    """Draws from the row of the table that a prompt's column `row` names."""

    table: Table
    name: str = "table"
    offers: ClassVar[frozenset[str]] = frozenset()

    def start(self, prompt: Prompt, seeds: Seeds, sampling: Sampling) -> RowDrafts:
        return RowDrafts(prompt, self.table.rows[prompt.columns["row"]], np.full(len(seeds), -1), seeds)

    def extend(self, jobs: Sequence[Extend]) -> list[Grown]:
        return [self._draw(job.drafts) for job in jobs]

    def _draw(self, drafts: Drafts) -> Grown:
        assert isinstance(drafts, RowDrafts)
        luck = uniforms(drafts.seeds, np.zeros(len(drafts), dtype=np.int64))
        place = np.floor(luck * len(drafts.row.rewards)).astype(np.int64)
        drawn = replace(drafts, place=np.where(drafts.done, drafts.place, place))
        return Grown(drawn, Spent(tokens=int(drawn.steps[~drafts.done].sum()), calls=1))


@dataclass(frozen=True)
class TableReward:
    """The rewards that the table has; a score that is missing there is -inf: that draw was of no use."""

    name: str = "table"
    needs: ClassVar[frozenset[str]] = frozenset()
    partial: ClassVar[bool] = False
    deterministic: ClassVar[bool] = False

    def score(self, batches: Sequence[Drafts]) -> list[Scored]:
        return [self._score(batch) for batch in batches]

    def _score(self, drafts: Drafts) -> Scored:
        assert isinstance(drafts, RowDrafts)
        rewards = drafts.row.rewards[drafts.place]
        return Scored(np.where(np.isnan(rewards), -np.inf, rewards), np.zeros(len(drafts), dtype=np.bool_))
