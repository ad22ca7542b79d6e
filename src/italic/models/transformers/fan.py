"""The likeliest next tokens of rows, and the rows that they make.

A row enters a lane, shows what follows its tokens, and leaves: one position through the network if its last token is
pending, none if what follows is known. All rows of all batches share a forward pass, as many as there are lanes. The
children of a row remember its keys and values, so that to look further costs one position each: the child's own token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from italic.core.drafts import TextDrafts
from italic.core.protocols import Fanned, Spent
from italic.models._lengthen import lengthen
from italic.models.transformers.lanes import Lanes, Row
from italic.models.transformers.network import no_numbers
from italic.models.transformers.sampling import likeliest
from italic.models.transformers.stopping import Stops
from italic.models.transformers.tickets import row_of


@dataclass(frozen=True, eq=False)
class Seen:
    """What follows a row: logits [V]; its memory from now on; and the positions that it cost to see."""

    logits: Tensor
    note: Any
    positions: int


def fan(lanes: Lanes, stops: Stops, batches: Sequence[tuple[TextDrafts, int]], most: int, name: str) -> list[Fanned]:
    """The children of each batch by its k likeliest tokens; the forward passes are booked on the first.

    lanes: at most `most`, none of them growing. name: the model's. Raises ModelError if the network fails or gives no
    numbers.
    """
    before = lanes.calls
    going = [np.flatnonzero(drafts.room > 0) for drafts, _ in batches]
    rows = [row_of(drafts, i) for (drafts, _), those in zip(batches, going, strict=True) for i in those.tolist()]
    if not rows:
        return [Fanned(drafts[[]], np.zeros(0, dtype=np.int64)) for drafts, _ in batches]
    counts = [len(those) for those in going]
    k = np.repeat([k for _, k in batches], counts)
    seen: list[Seen] = []
    tops = []
    for first in range(0, len(rows), most):
        seen += _look(lanes, rows[first : first + most])
        own, *top = likeliest(torch.stack([one.logits for one in seen[first:]]), k[first : first + most])
        tops.append((first + own, *top))
    row, token, logp = (np.concatenate(column) for column in zip(*tops, strict=True))
    ends, parents = np.cumsum(counts), np.concatenate(going)[row]
    if np.isnan(logp).any():
        bad = int(row[np.isnan(logp).argmax()])
        prompt = batches[int(np.searchsorted(ends, bad, side="right"))][0].prompt.id
        raise no_numbers(name, f"prompt {prompt!r}, response token {len(rows[bad].tokens) - rows[bad].start}")
    answers = []
    for (drafts, _), those, a, b in zip(batches, going, ends - counts, ends, strict=True):
        mine = slice(*np.searchsorted(row, (a, b)))
        longer = _grown(_noted(drafts, those, seen[a:b])[parents[mine]], token[mine], logp[mine], stops)
        cost = Spent(tokens=len(those), positions=sum(one.positions for one in seen[a:b]))
        answers.append(Fanned(longer, parents[mine], cost))
    answers[0] = replace(answers[0], spent=answers[0].spent + Spent(calls=lanes.calls - before))
    return answers


def _look(lanes: Lanes, rows: Sequence[Row]) -> list[Seen]:
    """What follows each of these rows, for all of which there are lanes."""
    places = lanes.enter(rows)
    seen: dict[int, Seen] = {}
    pending: dict[int, int] = {}
    for i, (row, place) in enumerate(zip(rows, places, strict=True)):
        if place.logits is None:
            pending[place.lane] = i
        else:
            seen[i] = Seen(place.logits, lanes.leave(place.lane, row.tokens, place.logits), place.positions)
    if pending:
        held = np.zeros(max(pending) + 1, dtype=np.int64)
        for lane, i in pending.items():
            held[lane] = len(rows[i].tokens)
        for source, target in lanes.pack(held):
            pending[target] = pending.pop(source)
        order = [pending[lane] for lane in range(len(pending))]
        sizes = np.array([len(rows[i].tokens) for i in order])
        tokens = np.zeros((len(order), int(sizes.max())), dtype=np.int32)
        for mine, i in zip(tokens, order, strict=True):
            mine[: len(rows[i].tokens)] = rows[i].tokens
        after, costs = lanes.forward(tokens, sizes), lanes.cost(sizes)
        for lane, i in enumerate(order):
            logits = after[lane].clone()
            note = lanes.leave(lane, rows[i].tokens, logits)
            seen[i] = Seen(logits, note, places[i].positions + int(costs[lane]))
    return [seen[i] for i in range(len(rows))]


def _noted(drafts: TextDrafts, rows: NDArray[np.int64], seen: Sequence[Seen]) -> TextDrafts:
    """The drafts with a new memory of these rows."""
    memory = list(drafts.memory)
    for i, one in zip(rows.tolist(), seen, strict=True):
        memory[i] = one.note
    return replace(drafts, memory=tuple(memory))


def _grown(drafts: TextDrafts, tokens: NDArray[np.int64], logps: NDArray[np.float64], stops: Stops) -> TextDrafts:
    """Every row with its token, ended if a drawn token would have ended it."""
    sampling = drafts.sampling
    ended = stops.ends[tokens] & (not sampling.ignore_eos)
    chars = np.full(len(drafts), -1, dtype=np.int64)
    if sampling.stop:
        for i in np.flatnonzero(stops.suspects(sampling.stop)[tokens] & ~ended).tolist():
            chars[i] = stops.find(drafts, np.append(drafts.tokens[i], tokens[i]).astype(np.int32))
    return lengthen(drafts, tokens, logps, ended, chars)
