"""Reading prompts: JSONL, Parquet or a data set of the Hugging Face hub, one prompt a row.

A row has `prompt` (text) or `messages` (as OpenAI writes them), an optional `id`, and any other columns, which rewards
may use. A row that is none of this is a problem with its line number; the reader collects all of them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from italic.core.errors import InputError
from italic.core.prompt import Prompt
from italic.core.registry import missing_library

EXAMPLE = '{"id": "1", "prompt": "..."} or {"id": "1", "messages": [{"role": "user", "content": "..."}]}'


@dataclass(frozen=True)
class Prompts:
    """What was read: the good prompts in order, and what is wrong with the other rows."""

    good: tuple[Prompt, ...]
    problems: tuple[str, ...]


def read_prompts(source: str) -> Prompts:
    """Read a .jsonl or .parquet file, or `owner/name[:split]` from the hub. Raises InputError if it cannot."""
    path = Path(source)
    try:
        there, directory = source != "" and path.exists(), path.is_dir()
    except OSError:
        there = directory = False
    if there and directory:
        raise InputError(f"{source} is a directory", hint="Give a .jsonl or .parquet file.")
    if there:
        rows = _parquet(path) if path.suffix == ".parquet" else _jsonl(path)
    elif re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.\[\]%:+-]+)?", source) and path.suffix not in (
        ".jsonl",
        ".json",
        ".parquet",
    ):
        rows = _hub(source)
    else:
        raise InputError(
            f"there is no file {source}",
            hint='Give a .jsonl or .parquet file, a data set of the hub as owner/name, or --prompt "...".',
        )
    return collect(rows)


def collect(rows: Iterable[tuple[int, Any]]) -> Prompts:
    """Check numbered rows and make prompts of them. A row without `id` gets its number as one."""
    good: list[Prompt] = []
    problems: list[str] = []
    lines: dict[str, int] = {}
    for number, row in rows:
        try:
            prompt = prompt_of(row, number)
        except InputError as problem:
            problems.append(f"line {number}: {problem.message}")
            continue
        if prompt.id in lines:
            problems.append(f"line {number}: the id {prompt.id!r} was used on line {lines[prompt.id]} already")
            continue
        lines[prompt.id] = number
        good.append(prompt)
    return Prompts(tuple(good), tuple(problems))


def prompt_of(row: Any, number: int = 1) -> Prompt:
    """One prompt from a mapping (or from a plain text). Raises InputError that says what is wrong."""
    if isinstance(row, Prompt):
        return row
    if isinstance(row, str):
        row = {"prompt": row}
    if isinstance(row, InputError):
        raise row
    if not isinstance(row, Mapping):
        raise InputError(f"not an object but {type(row).__name__}", hint=f"Write {EXAMPLE}.")
    from pydantic import ValidationError

    from italic.run.schema import Row

    try:
        checked = Row.model_validate(dict(row))
    except ValidationError as failure:
        first = failure.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(
            f"{where + ': ' if where else ''}{first['msg'].removeprefix('Value error, ')}", hint=f"Write {EXAMPLE}."
        ) from failure
    messages = None if checked.messages is None else tuple(m.model_dump() for m in checked.messages)
    identity = str(number) if checked.id is None else str(checked.id)
    return Prompt(identity, text=checked.prompt, messages=messages, columns=checked.model_extra or {})


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    try:
        with path.open(encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield number, json.loads(line)
                    except json.JSONDecodeError as failure:
                        yield number, InputError(f"not JSON: {failure.msg} at character {failure.pos + 1}")
                    except (ValueError, RecursionError) as failure:
                        yield number, InputError(f"not JSON: {failure}")
    except UnicodeDecodeError as failure:
        raise InputError(f"{path} is not UTF-8 text", hint="Give a .jsonl or .parquet file.") from failure
    except OSError as failure:
        raise _unreadable(path, failure) from failure


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, {key: value for key, value in row.items() if value is not None}
    except PermissionError as failure:
        raise _unreadable(path, failure) from failure
    except (arrow.ArrowException, OSError) as failure:
        raise InputError(
            f"{path} is not a Parquet file: {failure}", hint="Give a .jsonl or .parquet file."
        ) from failure


def _unreadable(path: Path, failure: OSError) -> InputError:
    return InputError(f"{path} cannot be read: {failure.strerror}", hint="Check the file and its permissions.")


def _hub(source: str) -> Iterator[tuple[int, Any]]:
    try:
        import datasets
    except ImportError as failure:
        raise missing_library(f"the data set {source}", failure) from failure
    name, _, split = source.partition(":")
    try:
        rows = datasets.load_dataset(name, split=split or "train")
    except Exception as failure:
        raise InputError(
            f"the data set {name} (split {split or 'train'}) cannot be loaded: {failure}",
            hint="Check the name and the split (owner/name:split), or give a file.",
        ) from failure
    yield from enumerate(rows, 1)
