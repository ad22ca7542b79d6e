"""Where a tuned model goes.

    tuned/
        config.json, model.safetensors, tokenizer files     the model, for `--model tuned`
        tuning.json                                         what it was tuned to, and what came of it
        log.jsonl                                           the figures of every step
        checkpoints/                                        while it is under way
        runs/                                               what TensorBoard shows, if it was asked for

`tuning.json` is there from the start, without a report: that is how a run is known again and gone on with. A run that
was refused before its first checkpoint binds nobody.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from italic.core.errors import RecordError, UsageError
from italic.run.record import differences, plain, write_whole

TUNING, LOG, CHECKPOINTS = "tuning.json", "log.jsonl", "checkpoints"
RUNS = "runs"
"""Where the trainers write for TensorBoard, among their checkpoints."""
FORMAT = 1


class Found(NamedTuple):
    """What is in a folder. report: of a run that is through, None while it is not; begun: whether there is a run."""

    report: dict[str, Any] | None
    begun: bool


def open_folder(folder: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> Found:
    """Begin a run in a folder or find the one of these settings there.

    Raises UsageError if the folder has something else, RecordError if it cannot be written or read.
    """
    wanted = json.loads(json.dumps({"format": FORMAT, **settings}))
    file = folder / TUNING
    try:
        if overwrite and file.is_file():
            shutil.rmtree(folder)
        if not file.is_file():
            if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
                raise UsageError(f"{folder} exists and is no tuned model", hint="Give another --out.")
            folder.mkdir(parents=True, exist_ok=True)
            _write(file, {**wanted, "report": None})
            return Found(None, False)
        there = json.loads(file.read_text(encoding="utf-8"))
        report = there.pop("report")
    except OSError as failure:
        raise RecordError(f"cannot write {folder}: {failure.strerror}", hint="Choose another --out.") from failure
    except (ValueError, KeyError, AttributeError) as failure:
        raise RecordError(f"{file} cannot be read: {failure}", hint="Give another --out, or --overwrite.") from failure
    others = differences(there, wanted)
    if report is None and not (folder / CHECKPOINTS).is_dir():
        _write(file, {**wanted, "report": None})
        return Found(None, False)
    if others:
        raise UsageError(
            f"{folder} is another run ({'; '.join(others)})",
            hint="Use the same settings to go on, another --out, or --overwrite to start anew.",
        )
    return Found(report, True)


def close_folder(
    folder: Path, settings: Mapping[str, Any], report: Mapping[str, Any], log: Sequence[Mapping[str, float]]
) -> None:
    """Write what came of a run whose model is saved, and drop its checkpoints. Raises RecordError."""
    try:
        lines = "".join(json.dumps(plain(entry)) + "\n" for entry in log)
        (folder / LOG).write_text(lines, encoding="utf-8")
        _write(folder / TUNING, {"format": FORMAT, **settings, "report": plain(report)})
        if (folder / CHECKPOINTS / RUNS).is_dir():
            (folder / CHECKPOINTS / RUNS).rename(folder / RUNS)
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    except OSError as failure:
        raise RecordError(f"cannot write {folder}: {failure.strerror}", hint="Free some space.") from failure


def _write(file: Path, what: Mapping[str, Any]) -> None:
    write_whole(file, json.dumps(what, indent=2) + "\n")
