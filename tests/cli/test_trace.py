"""`--trace`: every note in a file, a picture of each cascade, and what stands in the way."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from italic.cli import trace as tracing
from italic.core.prompt import Prompt
from italic.core.questions import Note

TOY = ("--model", "toy:letters=3", "--reward", "toy:seed=1", "--max-tokens", "6")
CASCADE = "cascade:r_star=1,tau_u=1,min_segment=1,tries=3"
PNG = b"\x89PNG\r\n"


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "trace.jsonl").read_text(encoding="utf-8").splitlines()]


def test_notes_and_pictures(italic, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "trace"
    said = italic("generate", "-p", "one", "-p", "two", *TOY, "--method", CASCADE, "--trace", folder)
    assert said.code == 0
    answers = {row["id"]: row for row in map(json.loads, said.out.splitlines())}
    notes = lines(folder)
    assert {note["event"] for note in notes} == {"aim", "try", "segment"}
    for name, answer in answers.items():
        mine = [note for note in notes if note["id"] == name]
        assert [note["event"] for note in mine][:2] == ["aim", "try"]
        assert "".join(note["text"] for note in mine if note["event"] == "segment") == answer["completion"]
        assert sum(note["event"] == "try" for note in mine) == answer["certificate"]["proposals"]
        assert (folder / f"{name}.png").read_bytes().startswith(PNG)
    assert "trace.jsonl, 2 pictures beside it" in said.err


def test_other_methods_have_notes_and_no_pictures(italic, tmp_path: Path) -> None:
    said = italic("generate", "-p", "one", *TOY, "--method", "smc:block=2", "--trace", tmp_path)
    assert {note["event"] for note in lines(tmp_path)} == {"step"}
    assert "pictures" not in said.err
    assert not list(tmp_path.glob("*.png"))


def test_a_resumed_run_goes_on_with_its_trace(italic, tmp_path: Path) -> None:
    prompts, words = (
        tmp_path / "p.jsonl",
        (*TOY, "--method", CASCADE, "--trace", tmp_path, "--out", tmp_path / "o.jsonl"),
    )
    prompts.write_text('{"id": "a", "prompt": "x"}\n')
    assert italic("generate", prompts, *words).code == 0
    prompts.write_text('{"id": "a", "prompt": "x"}\n{"id": "b", "prompt": "y"}\n')
    assert italic("generate", prompts, *words).code == 0
    assert [note["id"] for note in lines(tmp_path)] == sorted(note["id"] for note in lines(tmp_path))
    assert {note["id"] for note in lines(tmp_path)} == {"a", "b"}
    assert italic("generate", prompts, *words, "--overwrite").code == 0
    assert sum(note["event"] == "aim" for note in lines(tmp_path)) == 2


def test_a_trace_that_cannot_be(italic, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = italic("generate", "-p", "one", *TOY, "--method", CASCADE, "--trace", tmp_path / "file")
    assert said.code == 2
    assert "is a file" in said.err
    said = italic("generate", "-p", "one", *TOY, "--method", CASCADE, "--trace", tmp_path / "file" / "below")
    assert said.code == 1
    assert "cannot write" in said.err


def test_without_matplotlib(italic, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = italic("generate", "-p", "one", *TOY, "--method", CASCADE, "--trace", tmp_path / "t")
    assert said.code == 2
    assert "pip install 'italic[plot]'" in said.err
    assert not (tmp_path / "t").exists()


def test_odd_names_and_texts_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids that are no file names, texts with dollars and long words, a prompt that was not scored, a long response."""
    monkeypatch.setattr(tracing, "MOST_PICTURES", 1)
    prompt = Prompt("a/b $c^ é", text="x")
    segment: Mapping[str, Any] = {"segment": 0, "tries": 2, "start": 0, "end": 9, "reward": 1.0, "exhausted": True}
    with tracing.Trace(tmp_path, resumed=False) as trace:
        for event, values in (
            ("aim", {"start": 0.0, "r_star": 2.0, "steps": 5, "own": None}),
            (
                "try",
                {"segment": 0, "number": 0, "end": 7, "reward": -float("inf"), "threshold": 1.0, "accepted": False},
            ),
            ("try", {"segment": 0, "number": 1, "end": 9, "reward": 1.0, "threshold": 1.0, "accepted": False}),
            ("try", {"segment": 1, "number": 0, "end": 9, "reward": 1.0, "threshold": 1.0, "accepted": False}),
            ("segment", {**segment, "text": "$x^2_ " + "w" * 300}),
        ):
            trace.listen(prompt, Note(event, values))
        trace.through(prompt)
        trace.listen(prompt, Note("aim", {}))
        trace.through(prompt)
    assert [path.name for path in trace.pictures] == ["a_b_c_é.png"]
    assert lines(tmp_path)[1]["reward"] == "-inf"
