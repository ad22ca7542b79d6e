"""The draws of a table as drafts, a model and a reward."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest

from italic.core.drafts import Drafts
from italic.core.errors import ProgramError
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.questions import Extend
from italic.core.sampling import Sampling
from italic.evaluate.drawn import RowDrafts, TableModel, TableReward
from italic.evaluate.table import Table
from italic.testing import applicable, model_checks
from italic.testing.models import steps_are_kept

RNG = np.random.default_rng(0)
NAN, INF = math.nan, math.inf
LENGTHS = Table.of(
    {f"t{i}": RNG.normal(size=60) for i in range(6)}, {f"t{i}": RNG.integers(1, 9, size=60) for i in range(6)}
)


def start(n: int = 6, row: int = 0, prompt: str = "p") -> RowDrafts:
    """Rows that are not drawn yet, of a row of LENGTHS."""
    asked = Prompt(id=prompt, text="x", columns={"row": row})
    return TableModel(LENGTHS).start(asked, Key(1).at(prompt).seeds(n), Sampling(max_tokens=1))


def drawn(drafts: RowDrafts) -> RowDrafts:
    (grown,) = TableModel(LENGTHS).extend([Extend(drafts)])
    assert isinstance(grown.drafts, RowDrafts)
    return grown.drafts


def test_drafts_are_rows() -> None:
    empty, full = start(), drawn(start())
    assert isinstance(empty, Drafts)
    assert not empty.done.any()
    assert empty.steps.tolist() == [0] * 6
    assert empty.room.tolist() == [LENGTHS.rows[0].tokens.max()] * 6
    assert full.done.all()
    assert full.room.tolist() == [0] * 6
    assert np.array_equal(full.steps, LENGTHS.rows[0].tokens[full.place])
    assert np.array_equal(full.seeds, empty.seeds)


@pytest.mark.parametrize(
    ("index", "places"),
    [
        ([4, 0, 4], [4, 0, 4]),
        (np.array([1, -1]), [1, 5]),
        ([False, True, False, False, True, True], [1, 4, 5]),
        (np.arange(6) > 3, [4, 5]),
        (np.zeros(6, dtype=bool), []),
        (slice(1, None, 2), [1, 3, 5]),
        (slice(None, None, -1), [5, 4, 3, 2, 1, 0]),
        ([], []),
        (np.zeros(0, dtype=np.int64), []),
    ],
    ids=["list", "array", "mask-list", "mask", "empty-mask", "slice", "backwards", "empty-list", "empty-array"],
)
def test_rows_are_gathered(index, places: list[int]) -> None:
    full = drawn(start())
    got = full[index]
    assert len(got) == len(places)
    assert got.place.tolist() == [int(full.place[i]) for i in places]
    assert got.seeds.tolist() == [int(full.seeds[i]) for i in places]
    assert got.prompt == full.prompt
    assert got.row is full.row


def test_rows_are_joined_and_drawn_later() -> None:
    empty, full = start(), drawn(start())
    mixed = full[:2].concat(empty[2:4], full[4:])
    assert mixed.done.tolist() == [True, True, False, False, True, True]
    (grown,) = TableModel(LENGTHS).extend([Extend(mixed)])
    assert np.array_equal(grown.drafts.place, full.place), "what was drawn stays, the others get what they would have"
    assert grown.spent.tokens == int(full.steps[2:4].sum())
    (again,) = TableModel(LENGTHS).extend([Extend(full.reseed(Key(2).seeds(6)))])
    assert np.array_equal(again.drafts.place, full.place), "a draw is drawn once"
    assert again.spent.tokens == 0
    assert len(start(0).concat(full)) == 6
    with pytest.raises(ProgramError, match="different prompts"):
        full.concat(start(prompt="q"))


def test_new_seeds_give_new_draws_and_nothing_is_cut() -> None:
    many = start(40)
    other = many.reseed(Key(2).seeds(40))
    assert not np.array_equal(drawn(other).place, drawn(many).place)
    assert np.array_equal(drawn(many).place, drawn(many).place)
    with pytest.raises(ProgramError, match="3 seeds for 40"):
        many.reseed(Key(2).seeds(3))
    with pytest.raises(ProgramError, match="whole"):
        many.cut(0)


def test_every_draw_of_a_row_is_as_likely() -> None:
    from scipy.stats import chisquare

    places = drawn(start(30_000)).place
    assert chisquare(np.bincount(places, minlength=60)).pvalue > 0.001


def test_the_reward_looks_draws_up() -> None:
    table = Table.of({f"i{i}": RNG.choice([INF, -INF, 0.0, 1.0, NAN], size=40) for i in range(4)})
    model = TableModel(table)
    batches = [model.start(Prompt("p", "x", columns={"row": row}), Key(row).seeds(50), Sampling()) for row in (0, 3)]
    full = [grown.drafts for grown in model.extend([Extend(batch) for batch in batches])]
    for row, drafts, scored in zip((0, 3), full, TableReward().score(full), strict=True):
        rewards = table.rows[row].rewards[drafts.place]
        assert np.isnan(rewards).any()
        assert not scored.missing.any()
        assert np.array_equal(scored.rewards, np.where(np.isnan(rewards), -INF, rewards))


@dataclass(frozen=True, eq=False)
class Answering(TableModel):
    """A table that has a row for every prompt."""

    def start(self, prompt, seeds, sampling):
        asked = replace(prompt, columns={"row": len(prompt.id) % len(self.table.rows)})
        return replace(super().start(asked, seeds, sampling), prompt=prompt)


@pytest.mark.parametrize("check", applicable(model_checks, TableModel(LENGTHS)), ids=lambda check: check.__name__)
def test_a_table_is_a_model_of_whole_draws(check) -> None:
    if check is steps_are_kept:
        with pytest.raises(AssertionError, match="grew by"):
            check(Answering(LENGTHS))
        return
    check(Answering(LENGTHS))
