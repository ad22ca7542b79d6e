"""`italic generate --trace DIR`: everything a method says of itself, a line a note; and a picture of each cascade."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from italic.core.errors import RecordError, UsageError
from italic.core.prompt import Prompt
from italic.core.questions import Note
from italic.run.record import plain

MOST_PICTURES = 20
WIDTH = 108
"""Characters of a line under a picture."""


class Trace:
    """The notes of a run, in `DIR/trace.jsonl`; and once a prompt is through, the picture of its cascade."""

    def __init__(self, folder: Path, *, resumed: bool) -> None:
        """Open the trace; resumed: go on in the file that is there. Raises UsageError or RecordError."""
        if folder.exists() and not folder.is_dir():
            raise UsageError(f"--trace {folder} is a file", hint="Name a directory: --trace trace.")
        self.folder = folder
        self.pictures: list[Path] = []
        self._notes: dict[str, list[Mapping[str, Any]]] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / "trace.jsonl").open("a" if resumed else "w", encoding="utf-8")
        except OSError as failure:
            raise RecordError(f"cannot write {folder}: {failure.strerror}", hint="Name another --trace.") from failure

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def listen(self, prompt: Prompt, note: Note) -> None:
        """Write a note down."""
        line = plain({"id": prompt.id, "event": note.event, **note.values})
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()
        if note.event in ("aim", "try", "segment") and len(self.pictures) < MOST_PICTURES:
            self._notes.setdefault(prompt.id, []).append({"event": note.event, **note.values})

    def through(self, prompt: Prompt) -> None:
        """Draw a prompt's picture, if there is anything to draw."""
        notes = self._notes.pop(prompt.id, [])
        if len(self.pictures) < MOST_PICTURES and any(note["event"] == "segment" for note in notes):
            path = self.folder / (re.sub(r"[^\w.-]+", "_", prompt.id) + ".png")
            draw_cascade(prompt, notes, path)
            self.pictures.append(path)


def draw_cascade(prompt: Prompt, notes: list[Mapping[str, Any]], path: Path) -> None:
    """A cascade over its tokens: every try's reward where it ended, the threshold, and the text below."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    (aim,) = (note for note in notes if note["event"] == "aim")
    tries = [note for note in notes if note["event"] == "try"]
    segments = [note for note in notes if note["event"] == "segment"]
    lines = _told(segments)
    below = 0.19 * len(lines) + 0.35
    figure = Figure(figsize=(9.2, 4.3 + below), layout="none")
    FigureCanvasAgg(figure)
    height = 4.3 + below
    axes = figure.add_axes((0.085, (below + 0.55) / height, 0.895, 3.25 / height))
    end = max(segment["end"] for segment in segments)
    longest = max(aim["steps"], end)
    axes.plot([0, aim["steps"]], [aim["start"], aim["r_star"]], "k--", lw=1, label="threshold")
    if longest > aim["steps"]:
        axes.plot([aim["steps"], longest], [aim["r_star"]] * 2, "k--", lw=1)
    before = {segment["segment"]: segment["start"] for segment in segments}
    kept = {segment["segment"]: segment for segment in segments}
    level = aim["start"] if aim["own"] is None else aim["own"]
    heights = {}
    for segment in segments:
        heights[segment["segment"]] = level
        level = segment["reward"]
    seen = set()
    for one in tries:
        number = one["segment"]
        if number not in kept:
            continue
        taken = one["end"] == kept[number]["end"] and one["reward"] == kept[number]["reward"]
        what = "rejected" if not taken else "best of all" if kept[number]["exhausted"] else "accepted"
        color = {"rejected": "#c9603f", "accepted": "#2166ac", "best of all": "#7a4fa3"}[what]
        style = {"lw": 1.8, "zorder": 3} if taken else {"lw": 0.5, "alpha": 0.55}
        axes.plot([before[number], one["end"]], [heights[number], one["reward"]], "-", color=color, **style)
        label = None if what in seen else what
        axes.plot(one["end"], one["reward"], "o" if taken else "x", ms=5 if taken else 4, color=color, label=label)
        seen.add(what)
    for segment in segments:
        axes.axvline(segment["end"], color="0.85", lw=0.7, zorder=0)
    last = segments[-1]
    axes.annotate(f"{last['reward']:.2f}", (last["end"], last["reward"]), xytext=(5, 4), textcoords="offset points")
    axes.set_xlim(0, longest * 1.04)
    axes.set_xlabel("response tokens")
    axes.set_ylabel("reward of what is written so far")
    drawn = sum(segment["tries"] for segment in segments)
    title = f"{prompt.id}: {len(segments)} segments in {drawn} tries, aiming at {aim['r_star']:.3g}"
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    axes.legend(fontsize=8, ncols=4, loc="upper right", bbox_to_anchor=(1, 1.1), frameon=False)
    for row, (text, color) in enumerate(lines):
        figure.text(
            0.03,
            (below - 0.19 * (row + 1)) / height,
            text,
            family="monospace",
            fontsize=7,
            color=color,
            parse_math=False,
        )
    figure.savefig(path, dpi=130)


def _told(segments: list[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The segments in words, a line or more each, with their color."""
    lines = []
    for segment in segments:
        color = "#7a4fa3" if segment["exhausted"] else "#2166ac"
        head = f"{segment['segment'] + 1:3}. tokens {segment['start'] + 1}-{segment['end']}, try {segment['tries']}: "
        text = head + json.dumps(segment["text"], ensure_ascii=False)
        rows = textwrap.wrap(text, WIDTH, subsequent_indent=" " * len(head), drop_whitespace=False) or [text]
        lines += [(row, color) for row in rows]
    return lines
