"""The file of a calibration: Parquet, one row a prompt; what they all have in common is in the schema's metadata."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from italic.core.errors import RecordError, UsageError

KEY = b"italic"
"""The metadata's key under which there is a JSON object."""
HINT = "Name a file that `italic calibrate PROMPTS --out calibration.parquet` wrote."
AGAIN = "Write it again: italic calibrate --overwrite."


def write(path: Path, rows: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> None:
    """Write the rows and what they have in common, whole or not at all. Raises RecordError if it cannot be done."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    schema = _schema().with_metadata({KEY: json.dumps(about)})
    columns = [{**row, "messages": _text(row.get("messages"))} for row in rows]
    beside = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as file:
            parquet.write_table(arrow.Table.from_pylist(columns, schema=schema), file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as failure:
        if path.parent.is_dir():
            beside.unlink(missing_ok=True)
        raise RecordError(f"cannot write {path}: {failure.strerror}", hint="Choose another --out.") from failure


def read(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The rows, and what they have in common. Raises UsageError if it is none of ours, RecordError if it is broken."""
    import pyarrow as arrow
    import pyarrow.parquet as parquet

    if not path.is_file():
        raise UsageError(f"there is no calibration {str(path)!r}", hint=HINT)
    try:
        with path.open("rb") as file:
            table = parquet.ParquetFile(file).read()
    except arrow.ArrowException as failure:
        raise UsageError(f"{path} is no calibration: {failure}", hint=HINT) from failure
    except OSError as failure:
        raise RecordError(f"{path} cannot be read: {failure.strerror or failure}", hint="Check the file.") from failure
    about = (table.schema.metadata or {}).get(KEY)
    if about is None:
        raise UsageError(f"{path} is no calibration", hint=HINT)
    try:
        rows = [{**row, "messages": row["messages"] and json.loads(row["messages"])} for row in table.to_pylist()]
        return rows, dict(json.loads(about))
    except (ValueError, KeyError, TypeError) as failure:
        raise RecordError(f"the calibration {path} cannot be read: {failure}", hint=AGAIN) from failure


def _schema() -> Any:
    import pyarrow as arrow

    many = arrow.list_
    columns = {
        "id": arrow.string(),
        "prompt": arrow.string(),
        "messages": arrow.string(),
        "prompt_reward": arrow.float64(),
        "rewards": many(arrow.float64()),
        "steps": many(arrow.int32()),
        "finish": many(arrow.string()),
        "completions": many(arrow.string()),
        "tokens": many(many(arrow.int32())),
        "logprobs": many(arrow.float64()),
        "entropies": many(many(arrow.float32())),
        "partial": many(many(arrow.float64())),
    }
    return arrow.schema(list(columns.items()))


def _text(messages: Sequence[Mapping[str, str]] | None) -> str | None:
    return None if messages is None else json.dumps(messages, ensure_ascii=False, default=dict)
