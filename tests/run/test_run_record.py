"""The record: whatever happens, nothing is lost, nothing is done twice, nothing is mixed up."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from italic.core.errors import RecordError, UsageError
from italic.run import record
from italic.run.record import Record, plain

SETTINGS = {"model": "toy", "method": "best-of-n:n=2", "seed": 0, "sampling": {"stop": ["\n"], "top_p": 1.0}}
LINES = [
    {"id": "b", "text": "zwei\n", "reward": 0.1, "complete": True},
    {"id": "a", "text": "ein\u2028s é 🙂", "reward": None, "complete": True},
    {"id": "c", "text": "", "reward": -1e-300, "complete": True},
    {"id": "10", "text": "x" * 50, "reward": "inf", "complete": True},
]
ORDER = ["10", "a", "b", "c"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out" / "answers.jsonl"


def write(path: Path, lines: list[dict[str, Any]] = LINES, arrange: bool = True, **options: Any) -> Record:
    """Do the run: whatever is not in the record yet is added."""
    with Record(path, SETTINGS, **options) as log:
        for line in lines:
            if line["id"] not in log.lines:
                log.append(line)
        if arrange:
            log.arrange(ORDER)
    return log


def test_lines_are_written_as_they_come_and_arranged_at_the_end(path: Path) -> None:
    with Record(path, SETTINGS) as log:
        for i, line in enumerate(LINES, 1):
            log.append(line)
            assert [json.loads(text) for text in path.read_bytes().splitlines()] == LINES[:i]
        log.arrange(ORDER)
    assert [json.loads(text)["id"] for text in path.read_bytes().splitlines()] == ORDER
    assert json.loads(log.sidecar.read_text()) == {"format": record.FORMAT, **SETTINGS}
    assert sorted(p.name for p in path.parent.iterdir()) == ["answers.jsonl", "answers.jsonl.run.json"]
    assert "🙂" in path.read_text(encoding="utf-8"), "readable without decoding escapes"


def test_killed_at_any_byte_and_resumed_the_bytes_are_the_same(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    write(path, arrange=False)
    unarranged = path.read_bytes()
    write(path)
    final = path.read_bytes()
    assert final != unarranged
    for cut in range(len(unarranged) + 1):
        path.write_bytes(unarranged[:cut])
        whole = unarranged[:cut].count(b"\n")
        with Record(path, SETTINGS) as log:
            assert list(log.lines) == [line["id"] for line in LINES[:whole]], "nothing is lost"
            assert log.dropped == 0
            assert path.read_bytes() == unarranged[: len(b"".join(unarranged.splitlines(True)[:whole]))]
        write(path)
        assert path.read_bytes() == final, "nothing twice"


def test_an_undisturbed_second_run_changes_nothing(path: Path) -> None:
    write(path)
    before = path.read_bytes(), path.stat().st_mtime_ns
    write(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before


def test_lines_that_a_budget_cut_short_are_done_again(path: Path) -> None:
    write(path, [LINES[0], {"id": "a", "complete": False}, LINES[2]], arrange=False)
    with Record(path, SETTINGS) as log:
        assert list(log.lines) == ["b", "c"]
        assert log.dropped == 1
    assert path.read_bytes().count(b"\n") == 2
    write(path)
    assert [json.loads(text)["id"] for text in path.read_bytes().splitlines()] == ORDER


def test_one_may_go_on_after_arranging(path: Path) -> None:
    with Record(path, SETTINGS) as log:
        log.append(LINES[0])
        log.append(LINES[1])
        log.arrange(ORDER)
        log.append(LINES[2])
        assert list(log.lines) == ["a", "b", "c"]
    assert [json.loads(text)["id"] for text in path.read_bytes().splitlines()] == ["a", "b", "c"]


def test_lines_out_of_the_order_are_kept_at_the_end(path: Path) -> None:
    with Record(path, SETTINGS) as log:
        for line in LINES:
            log.append(line)
        log.arrange(["c", "nobody"])
    assert [json.loads(text)["id"] for text in path.read_bytes().splitlines()] == ["c", "b", "a", "10"]


def test_arranging_many_lines_is_quick(path: Path) -> None:
    with Record(path, SETTINGS) as log:
        log.lines = {str(i): {"id": str(i), "complete": True} for i in range(20_000)}
        log.arrange([str(i) for i in reversed(range(20_000))])
    assert path.read_bytes().startswith(b'{"id": "19999"')


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, "seed: 0 there, 1 now"),
        ({"sampling": {}}, r"sampling: \{'stop'.* there, \{\} now"),
        ({"reward": "new"}, "reward: None there, 'new' now"),
        ({"format": 0}, "format: 1 there, 0 now"),
    ],
)
def test_other_settings_are_refused_and_nothing_is_touched(path: Path, changed: dict[str, Any], message: str) -> None:
    write(path)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=f"was begun with other settings .*{message}") as caught:
        Record(path, {**SETTINGS, **changed})
    assert "--overwrite" in caught.value.hint
    assert path.read_bytes() == before
    write(path)


def test_a_run_that_failed_before_its_first_line_binds_nobody(path: Path) -> None:
    Record(path, {**SETTINGS, "reward": "misspelt"}).close()
    write(path)
    assert json.loads(path.with_name(path.name + ".run.json").read_text())["seed"] == 0
    assert path.read_bytes().count(b"\n") == 4


def test_a_record_without_lines_that_another_process_holds_is_left_alone(path: Path) -> None:
    with Record(path, SETTINGS) as held:
        with pytest.raises(RecordError, match="another process is writing"):
            Record(path, {**SETTINGS, "seed": 5})
        assert json.loads(held.sidecar.read_text())["seed"] == 0


def test_settings_are_compared_as_json(path: Path) -> None:
    write(path)
    Record(path, {**SETTINGS, "sampling": {"top_p": 1.0, "stop": ("\n",)}}).close()


def test_a_file_that_is_no_record_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("my notes\n")
    with pytest.raises(UsageError, match="exists and is not the record of a run") as caught:
        Record(path, SETTINGS)
    assert "--overwrite" in caught.value.hint
    assert path.read_text() == "my notes\n"
    assert not path.with_name("answers.jsonl.run.json").exists()
    write(path, overwrite=True)
    assert path.read_bytes().count(b"\n") == 4


def test_an_empty_file_will_do(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    write(path)
    assert path.read_bytes().count(b"\n") == 4


def test_overwrite_starts_anew(path: Path) -> None:
    write(path)
    with Record(path, {**SETTINGS, "seed": 5}, overwrite=True) as log:
        assert log.lines == {}
    assert path.read_bytes() == b""
    write(path.with_name("never.jsonl"), overwrite=True)


@pytest.mark.parametrize(
    "line", [b"not json", b"[]", b'"text"', b"3", b'{"id": "x"}', b'{"complete": true}', b"\xff", b"", b"null"]
)
def test_a_line_of_something_else_is_an_error_that_names_it(path: Path, line: bytes) -> None:
    write(path)
    damaged = path.read_bytes() + line + b"\n"
    path.write_bytes(damaged)
    for _ in range(2):
        with pytest.raises(RecordError, match=r"line 5 of .*answers\.jsonl is not a line of this record"):
            Record(path, SETTINGS)
    assert path.read_bytes() == damaged, "nothing is thrown away"


@pytest.mark.parametrize("content", ["", "{", "[]", '"x"'])
def test_a_damaged_sidecar_is_an_error(path: Path, content: str) -> None:
    sidecar = write(path).sidecar
    sidecar.write_text(content)
    with pytest.raises(RecordError, match=r"answers.jsonl.run.json does not say which run .*answers.jsonl belongs to"):
        Record(path, SETTINGS)


def test_a_lost_sidecar_makes_the_file_foreign(path: Path) -> None:
    write(path).sidecar.unlink()
    with pytest.raises(UsageError, match="is not the record of a run"):
        Record(path, SETTINGS)


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_writers_are_one_too_many(path: Path, overwrite: bool) -> None:
    with Record(path, SETTINGS) as log:
        log.append(LINES[0])
        with pytest.raises(RecordError, match=r"another process is writing .*answers\.jsonl\n") as caught:
            Record(path, SETTINGS, overwrite=overwrite)
        assert "Wait for it to end" in caught.value.hint
        log.append(LINES[1])
    assert list(write(path).lines) == ORDER


def test_a_failed_opening_lets_go_of_the_lock(path: Path) -> None:
    write(path)
    good = path.read_bytes()
    path.write_bytes(b"rubbish\n")
    with pytest.raises(RecordError, match="line 1"):
        Record(path, SETTINGS)
    path.write_bytes(good)
    Record(path, SETTINGS).close()


def test_without_file_locks_there_is_still_a_record(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    write(path)
    assert path.read_bytes().count(b"\n") == 4


KILLED = """
import sys
from pathlib import Path
from italic.run.record import Record
log = Record(Path(sys.argv[1]), {"seed": 0})
for i in range(10**6):
    log.append({"id": str(i), "text": "x" * 97, "complete": True})
    if i == 200:
        print("go", flush=True)
"""


def test_a_killed_process_leaves_whole_lines_and_no_lock(path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stdout.readline() == b"go\n"
    writer.kill()
    writer.wait()
    writer.stdout.close()
    with Record(path, {"seed": 0}) as log:
        assert len(log.lines) > 200
        assert list(log.lines) == [str(i) for i in range(len(log.lines))]


FULL = """
import resource, signal, sys
from pathlib import Path
from italic.core.errors import RecordError
from italic.run.record import Record
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
with Record(Path(sys.argv[1]), {"seed": 0}) as log:
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
    try:
        for i in range(100):
            log.append({"id": str(i), "text": "x" * 80, "complete": True})
    except RecordError as failure:
        print(failure)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_a_full_disk_ends_the_run_and_keeps_what_there_is(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    message = done.stdout.splitlines()
    lines = path.read_bytes().split(b"\n")
    assert lines[-1] == b"", "half a line is taken back"
    assert message[0] == f"cannot write {path}: File too large ({len(lines) - 1} prompts saved)"
    assert "the same command then goes on where it was" in message[1]
    with Record(path, {"seed": 0}) as log:
        assert list(log.lines) == [str(i) for i in range(len(lines) - 1)]
        log.append({"id": "next", "complete": True})


def test_a_disk_that_has_room_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a line goes out, then the disk is full; the next line must not be glued to the half."""
    real, room = os.write, iter([5, 0])

    def full(descriptor: int, data: bytes) -> int:
        if next(room) == 0:
            raise OSError(28, "No space left on device")
        return real(descriptor, data[:5])

    with Record(path, SETTINGS) as log:
        log.append(LINES[0])
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", full)
            with pytest.raises(RecordError, match=r"No space left on device \(1 prompts saved\)"):
                log.append(LINES[1])
        assert list(log.lines) == ["b"]
        log.append(LINES[2])
    assert [json.loads(text)["id"] for text in path.read_bytes().splitlines()] == ["b", "c"]


def test_writing_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    write(path)
    assert [json.loads(text)["id"] for text in path.read_bytes().splitlines()] == ORDER


def test_a_failed_rewrite_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, arrange=False)
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    log = Record(path, SETTINGS)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(RecordError, match="No space left"):
            log.arrange(ORDER)
        with pytest.raises(RecordError, match="No space left"):
            log.close()
    assert path.read_bytes() == before
    assert sorted(p.name for p in path.parent.iterdir()) == ["answers.jsonl", "answers.jsonl.run.json"]
    write(path)


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecordError, match=r"cannot write .*file") as caught:
        Record(tmp_path / "file" / "answers.jsonl", SETTINGS)
    assert "choose another --out" in caught.value.hint


def test_long_runs_are_flushed_to_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    times: Iterator[float] = iter([0.0, 0.5, 1.5, 1.6, 9.0, 9.0])
    synced: list[int] = []
    monkeypatch.setattr(record.time, "monotonic", lambda: next(times))
    log = Record(path, SETTINGS)
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: (synced.append(descriptor), real(descriptor)))
    log.append(LINES[0])
    assert len(synced) == 0
    log.append(LINES[1])
    assert len(synced) == 1
    log.append(LINES[2])
    assert len(synced) == 2
    log.close()
    assert len(synced) == 3


def test_what_json_cannot_hold(path: Path) -> None:
    value = {
        "id": "x",
        "complete": np.bool_(True),
        1: math.nan,
        "inf": [math.inf, -math.inf, np.float32("nan"), np.float64(0.1), np.int64(3)],
        "array": np.array([[1.0, math.nan]]),
        "tuple": ({"k": (1, "text", None)},),
    }
    expected = {
        "id": "x",
        "complete": True,
        "1": None,
        "inf": ["inf", "-inf", None, 0.1, 3],
        "array": [[1.0, None]],
        "tuple": [{"k": [1, "text", None]}],
    }
    assert plain(value) == expected
    with Record(path, SETTINGS) as log:
        log.append(value)
        assert log.lines["x"] == expected
    with Record(path, SETTINGS) as log:
        assert log.lines["x"] == expected
