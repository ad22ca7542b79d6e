"""Tables of rewards: many draws of each prompt, made once, so that a method can be judged without a model.

One line a prompt, as JSON: {"prompt": id, "rewards": [...], "tokens": [...]}; a reward that is null is a missing score,
`tokens`, the lengths of the responses, may be left out. The record of `italic generate --candidates` is such a table.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from italic.core.errors import InputError

EXAMPLE = '{"prompt": "7", "rewards": [0.3, 1.2, null]}'
SHOWN = 10
"""Bad lines that an error quotes."""
TOO_LONG = 2**31
"""Tokens that no response has."""


@dataclass(frozen=True, eq=False)
class Row:
    """One prompt's draws. rewards: float64 [m], NaN where the score is missing. tokens: int64 [m], 1 where unknown."""

    prompt: str
    rewards: NDArray[np.float64]
    tokens: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Table:
    """Draws of many prompts. counted: whether the table knows the lengths of the responses."""

    rows: tuple[Row, ...]
    counted: bool

    @classmethod
    def of(cls, rewards: Mapping[str, ArrayLike], tokens: Mapping[str, ArrayLike] | None = None) -> Table:
        """A table of rewards by prompt, NaN where a score is missing, and of the lengths of the responses.

        Raises InputError if there is none, or for a prompt without a score or with another number of lengths.
        """
        rows = []
        for name, values in rewards.items():
            hint = "Give every prompt a list of rewards, one of them no NaN, and as many lengths of 1 or more."
            try:
                found = np.asarray(values, dtype=np.float64)
                lengths = np.ones(found.shape) if tokens is None else np.asarray(tokens.get(name, ()), dtype=np.float64)
            except (TypeError, ValueError) as failure:
                raise InputError(f"what was given for prompt {name!r} is no list of numbers", hint=hint) from failure
            fits = found.ndim == 1 and lengths.shape == found.shape and np.all((lengths >= 1) & (lengths < TOO_LONG))
            if not fits or np.isnan(found).all():
                raise InputError(
                    f"rewards of shape {found.shape} and lengths of shape {lengths.shape} for prompt {name!r}",
                    hint=hint,
                )
            rows.append((Row(name, found, lengths.astype(np.int64)), tokens is not None))
        return _table(rows, "these")


def read_table(source: str) -> Table:
    """Read a table. Raises InputError that lists the lines that are none."""
    rows: list[tuple[Row, bool]] = []
    problems: list[str] = []
    seen: dict[str, int] = {}
    for number, line in _lines(Path(source)):
        try:
            row, counted = _row(json.loads(line))
        except json.JSONDecodeError as failure:
            problems.append(f"line {number}: not JSON: {failure.msg} at character {failure.pos + 1}")
            continue
        except (InputError, RecursionError, ValueError) as problem:
            problems.append(f"line {number}: {problem.message if isinstance(problem, InputError) else problem}")
            continue
        if row.prompt in seen:
            problems.append(f"line {number}: the prompt {row.prompt!r} was on line {seen[row.prompt]} already")
            continue
        seen[row.prompt] = number
        rows.append((row, counted))
    if problems:
        shown = "\n  ".join(problems[:SHOWN]) + ("\n  ..." if len(problems) > SHOWN else "")
        raise InputError(f"{len(problems)} bad lines in {source}:\n  {shown}", hint=f"Write {EXAMPLE}.")
    return _table(rows, source)


def _table(rows: Sequence[tuple[Row, bool]], source: str) -> Table:
    if not rows:
        raise InputError(f"no rewards in {source}", hint=f"Write one line a prompt: {EXAMPLE}.")
    return Table(tuple(row for row, _ in rows), all(counted for _, counted in rows))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    hint = f"Give a .jsonl file with lines such as {EXAMPLE}."
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as failure:
        raise InputError(f"{path} is not UTF-8 text", hint=hint) from failure
    except OSError as failure:
        raise InputError(f"{path} cannot be read: {failure.strerror}", hint=hint) from failure


def _row(given: Any) -> tuple[Row, bool]:
    """A row, and whether it has lengths. Raises InputError."""
    from pydantic import ValidationError

    from italic.evaluate.schema import TableRow

    if isinstance(given, Mapping) and "rewards" not in given and isinstance(given.get("candidates"), list):
        found = [one.get("reward") if isinstance(one, Mapping) else one for one in given["candidates"]]
        given = {"prompt": given.get("id"), "rewards": found}
    try:
        checked = TableRow.model_validate(given)
    except ValidationError as failure:
        first = failure.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        message = first["msg"].removeprefix("Value error, ")
        raise InputError(f"{where + ': ' if where else ''}{message}", hint=f"Write {EXAMPLE}.") from failure
    rewards = np.array([np.nan if reward is None else reward for reward in checked.rewards], dtype=np.float64)
    tokens = np.ones(len(rewards)) if checked.tokens is None else np.array(checked.tokens)
    return Row(str(checked.prompt), rewards, tokens.astype(np.int64)), checked.tokens is not None
