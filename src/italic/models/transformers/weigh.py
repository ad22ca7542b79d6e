"""How likely a decoder finds what was written, and how uncertain it was: whole rows, every token given.

Rows of one batch and of like length go through the network together, padded behind, where none of them looks; rows of
different batches do not, because the last digits depend on the shape of a pass. Equal rows go once. Only the logits of
the responses are asked for, and only so many at a time as fit into a bound, unless one row has more. On a CPU that is
what a cache can hold, as a pass of 32 rows takes almost twice the time of four of 8 (measured).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from italic.core.drafts import TextDrafts
from italic.core.errors import ProgramError
from italic.core.protocols import Spent, Weighed
from italic.models.transformers.network import Network, no_numbers
from italic.models.transformers.sampling import weights
from italic.models.transformers.strands import Tokens

LOGITS = {"cpu": 2**25, "other": 2**28}
"""Bytes of float32 logits in one pass, by the kind of device."""


@dataclass(eq=False)
class Line:
    """One row to be weighed. tokens: int32 [n], prompt and response, n > start >= 1, the prompt's length.

    told: float64 [2, n - start], log-probabilities and entropies, once they are known.
    """

    tokens: Tokens
    start: int
    told: NDArray[np.float64] | None = None


def weigh(network: Network, drafts: TextDrafts, most: int, name: str) -> Weighed:
    """The answer for one batch, at most `most` rows a pass. name: the model's.

    Raises ModelError if the network fails or gives no numbers, ProgramError for a prompt of no tokens.
    """
    rows, spent = _lines(drafts), Spent()
    different = list({id(line): line for line in rows if line is not None}.values())
    fit = LOGITS.get(network.device.type, LOGITS["other"]) // (4 * network.vocabulary)
    for chunk in _chunks(different, most, fit):
        _tell(network, chunk)
        for line in chunk:
            assert line.told is not None
            if np.isnan(line.told).any():
                at = int(np.isnan(line.told).any(0).argmax())
                raise no_numbers(name, f"prompt {drafts.prompt.id!r}, response token {at}")
        spent += Spent(positions=sum(len(line.tokens) - 1 for line in chunk), calls=1)
    return _padded(drafts, rows, spent)


def _lines(drafts: TextDrafts) -> list[Line | None]:
    """A line for each row, None for a row of no response; equal rows have the same one."""
    start = len(drafts.prompt_tokens)
    if not start:
        raise ProgramError(
            f"the drafts of prompt {drafts.prompt.id!r} begin with no token, so there is no law of the first",
            hint="Make drafts with the model's `start`: it begins an empty prompt with a token, or refuses it.",
        )
    known: dict[bytes, Line] = {}
    found: list[Line | None] = []
    for response in drafts.tokens:
        line = Line(np.concatenate((drafts.prompt_tokens, response)), start)
        found.append(known.setdefault(line.tokens.tobytes(), line) if len(response) else None)
    return found


def _chunks(lines: list[Line], most: int, fit: int) -> Iterator[list[Line]]:
    """Lines that go through the network together, at most `most` and with at most `fit` laws to look at: the longest
    first, none less than half as long as another.
    """
    chunk: list[Line] = []
    for line in sorted(lines, key=lambda one: -len(one.tokens)):
        longer = [*chunk, line]
        longest = len(longer[0].tokens)
        laws = len(longer) * (longest - min(one.start for one in longer))
        if chunk and (len(longer) > most or laws > fit or 2 * len(line.tokens) < longest):
            yield chunk
            longer = [line]
        chunk = longer
    if chunk:
        yield chunk


def _tell(network: Network, chunk: list[Line]) -> None:
    """One pass, without the last token of each line, after which nothing is asked."""
    sizes = np.array([len(line.tokens) - 1 for line in chunk])
    given = np.zeros((len(chunk), int(sizes.max())), dtype=np.int32)
    for row, line in zip(given, chunk, strict=True):
        row[: len(line.tokens) - 1] = line.tokens[:-1]
    first = min(line.start for line in chunk) - 1
    logits = network.along(given, sizes, first)
    told = []
    for of, line, size in zip(logits, chunk, sizes, strict=True):
        ids = torch.from_numpy(line.tokens[line.start :].astype(np.int64)).to(of.device)
        told.append(weights(of[line.start - 1 - first : size - first], ids))
    numbers = torch.cat(told, dim=1).cpu().numpy()
    ends = np.cumsum([len(line.tokens) - line.start for line in chunk])
    for line, mine in zip(chunk, np.split(numbers, ends[:-1], axis=1), strict=True):
        line.told = mine


def _padded(drafts: TextDrafts, lines: Sequence[Line | None], spent: Spent) -> Weighed:
    """The answer for the rows of one batch."""
    numbers = np.full((2, len(drafts), int(drafts.steps.max(initial=0))), np.nan)
    for i, line in enumerate(lines):
        if line is not None and line.told is not None:
            numbers[:, i, : line.told.shape[1]] = line.told
    return Weighed(numbers[0], numbers[1], spent)
