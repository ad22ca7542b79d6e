"""`italic export`: answers as AlpacaEval outputs, or as training data in TRL's formats."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from italic.cli.show import remark
from italic.core.errors import InputError, RecordError, UsageError

Line = Mapping[str, Any]


def run_export(record: str, out: str, style: str) -> None:
    """Carry out `italic export`. Raises InputError for a file that is no record, UsageError for an unknown format."""
    if style not in STYLES:
        raise UsageError(f"there is no format {style!r}", hint=f"Choose one of {', '.join(STYLES)}.")
    lines = _read(Path(record))
    rows = [row for line in lines if line["completion"] is not None for row in STYLES[style](line)]
    if style == "alpaca-eval":
        text = json.dumps(rows, ensure_ascii=False, indent=2) + "\n"
    else:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    try:
        Path(out).write_text(text, encoding="utf-8")
    except OSError as failure:
        raise RecordError(f"cannot write {out}: {failure.strerror}", hint="Choose another --out.") from failure
    remark(f"{len(rows)} rows from {len(lines)} prompts in {out}")


def _read(path: Path) -> list[Line]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
        if all(isinstance(line, dict) and {"id", "completion", "method"} <= line.keys() for line in lines):
            return lines
    except OSError as failure:
        raise InputError(f"cannot read {path}: {failure.strerror}", hint="Give what generate --out wrote.") from failure
    except ValueError:
        pass
    raise InputError(f"{path} is not the output of `italic generate`", hint="Give what generate --out wrote.")


def _alpaca_eval(line: Line) -> Sequence[Line]:
    return [
        {
            "instruction": line["messages"][-1]["content"] if "messages" in line else line["prompt"],
            "output": line["completion"],
            "generator": line["method"],
        }
    ]


def _sft(line: Line) -> Sequence[Line]:
    return [_prompt(line) | {"completion": _reply(line, line["completion"])}]


def _dpo(line: Line) -> Sequence[Line]:
    if "candidates" not in line:
        raise UsageError("a line has no candidates, so there are no pairs", hint="Run generate with --candidates.")
    scored = [c for c in line["candidates"] if isinstance(c["reward"], int | float)]
    if not scored:
        return []
    high, low = max(scored, key=lambda c: c["reward"]), min(scored, key=lambda c: c["reward"])
    if high["completion"] == low["completion"] or high["reward"] == low["reward"]:
        return []
    pair = {"chosen": _reply(line, high["completion"]), "rejected": _reply(line, low["completion"])}
    return [_prompt(line) | pair | {"chosen_reward": high["reward"], "rejected_reward": low["reward"]}]


def _prompt(line: Line) -> dict[str, Any]:
    return {"prompt": line["messages"] if "messages" in line else line["prompt"]}


def _reply(line: Line, text: str) -> Any:
    return [{"role": "assistant", "content": text}] if "messages" in line else text


STYLES: dict[str, Callable[[Line], Sequence[Line]]] = {"alpaca-eval": _alpaca_eval, "sft": _sft, "dpo": _dpo}
