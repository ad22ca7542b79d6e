"""The record of a run: an append-only JSONL file that survives being killed at any moment.

    answers.jsonl             one line a prompt, in the order of completion while the run goes on
    answers.jsonl.run.json    what the run is: model, reward, method, seed, sampling

Each line is written by one call and ends with a newline, so a crash can tear the last line at most. Opening an existing
record drops a torn line and the lines of prompts that a budget cut short; what is left need not be done again. A run
goes on only with the settings it began with. When every prompt is through, the lines are put into the order of the
input, so an interrupted and an undisturbed run leave the same bytes.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from italic.core.errors import RecordError, UsageError

FORMAT = 1
SYNC_SECONDS = 1.0
"""How much work at most is lost if the whole machine goes down: a killed process loses nothing."""


class Record:
    """An open record. `lines` are the finished ones, by prompt id. Use it as a context manager."""

    def __init__(self, path: Path, settings: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Create the record or go on with it.

        Raises UsageError if the file belongs to another run or to nobody, RecordError if it cannot be written.
        """
        self.path = path
        self.sidecar = path.with_name(path.name + ".run.json")
        self.lines: dict[str, dict[str, Any]] = {}
        self.dropped = 0
        self._synced = time.monotonic()
        with self._translated():
            if overwrite:
                self._discard()
            path.parent.mkdir(parents=True, exist_ok=True)
            self._agree({"format": FORMAT, **settings})
            self._lock = _lock(self.sidecar)
            try:
                self._resume()
                self._file = self._open()
            except BaseException:
                os.close(self._lock)
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def append(self, line: Mapping[str, Any]) -> None:
        """Write one line. Raises RecordError, and then what was written before stays good."""
        row = plain(line)
        data = (json.dumps(row, ensure_ascii=False) + "\n").encode()
        with self._translated():
            size = os.fstat(self._file).st_size
            try:
                while data:
                    data = data[os.write(self._file, data) :]
            except OSError:
                os.ftruncate(self._file, size)
                raise
            if time.monotonic() - self._synced > SYNC_SECONDS:
                os.fsync(self._file)
                self._synced = time.monotonic()
        self.lines[row["id"]] = row

    def forget(self, names: Collection[str]) -> None:
        """Take the lines of these prompts out again: they will be done anew."""
        if names:
            self._replace({name: line for name, line in self.lines.items() if name not in names})

    def arrange(self, order: Sequence[str]) -> None:
        """Put the lines into the order of the input, at once or not at all."""
        place = {identity: i for i, identity in enumerate(order)}
        wanted = sorted(self.lines, key=lambda identity: place.get(identity, len(place)))
        if wanted != list(self.lines):
            self._replace({identity: self.lines[identity] for identity in wanted})

    def _replace(self, lines: dict[str, Any]) -> None:
        self._rewrite(list(lines.values()))
        self.lines = lines
        os.close(self._file)
        with self._translated():
            self._file = self._open()

    def close(self) -> None:
        """Flush to the disk and let go of the file."""
        try:
            with self._translated():
                os.fsync(self._file)
        finally:
            os.close(self._file)
            os.close(self._lock)

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    def _discard(self) -> None:
        """Remove the record that is there, unless another process is writing it."""
        if self.sidecar.exists():
            os.close(_lock(self.sidecar))
        self.path.unlink(missing_ok=True)
        self.sidecar.unlink(missing_ok=True)

    def _agree(self, settings: Mapping[str, Any]) -> None:
        """See that the record is this run's, or nobody's: one that failed before its first line binds nobody."""
        wanted = json.loads(json.dumps(settings))
        begun = self.path.exists() and self.path.stat().st_size > 0
        if self.sidecar.exists():
            there = self._settings()
            others = differences(there, wanted)
            if not others:
                return
            if begun:
                raise UsageError(
                    f"{self.path} was begun with other settings ({'; '.join(others)})",
                    hint="Use the same settings to go on, another --out, or --overwrite to start anew.",
                )
            self._discard()
        elif begun:
            raise UsageError(
                f"{self.path} exists and is not the record of a run",
                hint="Use another --out, or --overwrite to replace it.",
            )
        write_whole(self.sidecar, json.dumps(wanted, indent=2) + "\n")

    def _settings(self) -> dict[str, Any]:
        try:
            there = json.loads(self.sidecar.read_bytes())
        except ValueError:
            there = None
        if not isinstance(there, dict):
            raise RecordError(
                f"{self.sidecar} does not say which run {self.path} belongs to",
                hint="Use another --out, or --overwrite to start anew.",
            )
        return there

    def _resume(self) -> None:
        if not self.path.exists():
            return
        whole, torn = _split(self.path.read_bytes())
        for number, data in enumerate(whole, 1):
            try:
                line = json.loads(data)
                identity, complete = str(line["id"]), line["complete"]
            except (ValueError, TypeError, KeyError) as failure:
                raise RecordError(
                    f"line {number} of {self.path} is not a line of this record",
                    hint="Mend or move the file, use another --out, or --overwrite to start anew.",
                ) from failure
            if complete:
                self.lines[identity] = line
        self.dropped = len(whole) - len(self.lines)
        if torn or self.dropped:
            self._rewrite(list(self.lines.values()))

    def _rewrite(self, lines: Sequence[Mapping[str, Any]]) -> None:
        with self._translated():
            write_whole(self.path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as failure:
            raise RecordError(
                f"cannot write {failure.filename or self.path}: {failure.strerror} ({len(self.lines)} prompts saved)",
                hint="Free some space or choose another --out; the same command then goes on where it was.",
            ) from failure


def plain(value: Any) -> Any:
    """A value as JSON can hold it: NaN becomes null, infinities the texts "inf" and "-inf"."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What differs between two sets of settings, as JSON has them: one text a key."""
    keys = sorted(there.keys() | now.keys())
    return [f"{key}: {there.get(key)!r} there, {now.get(key)!r} now" for key in keys if there.get(key) != now.get(key)]


def _split(data: bytes) -> tuple[list[bytes], bytes]:
    """The whole lines, and what a crash left of the last one."""
    *whole, torn = data.split(b"\n")
    return whole, torn


def write_whole(path: Path, text: str) -> None:
    """Replace a file's contents at once: a reader, or a crash, sees the old or the new, never a part."""
    beside = path.with_name(path.name + ".tmp")
    try:
        with beside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def _lock(path: Path) -> int:
    """Hold the record against other processes, where the system can. Raises RecordError if one has it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        import fcntl
    except ImportError:
        return descriptor
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as failure:
        os.close(descriptor)
        raise RecordError(
            f"another process is writing {path.with_suffix('').with_suffix('')}",
            hint="Wait for it to end, or choose another --out.",
        ) from failure
    return descriptor
