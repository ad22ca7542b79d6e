"""Tables of rewards: what is read is what was written, and every bad line is named."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from italic.cli.main import main
from italic.core.errors import InputError
from italic.evaluate.table import EXAMPLE, SHOWN, Table, read_table


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.jsonl"


def read(path: Path, *lines: str | dict) -> Table:
    """The table of these lines."""
    text = "".join((line if isinstance(line, str) else json.dumps(line, ensure_ascii=False)) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    return read_table(str(path))


def contents(table: Table) -> list[tuple[str, list[float], list[int]]]:
    """The rows of a table as lists, a missing score as None."""
    return [
        (row.prompt, [None if math.isnan(r) else r for r in row.rewards.tolist()], row.tokens.tolist())
        for row in table.rows
    ]


def test_lines_become_rows(path: Path) -> None:
    table = read(path, {"prompt": "a", "rewards": [0.5, -1e-300, 3]}, {"prompt": "b", "rewards": [2]})
    assert contents(table) == [("a", [0.5, -1e-300, 3.0], [1, 1, 1]), ("b", [2.0], [1])]
    assert not table.counted
    assert {row.rewards.dtype for row in table.rows} == {np.dtype(np.float64)}
    assert {row.tokens.dtype for row in table.rows} == {np.dtype(np.int64)}


def test_the_example_of_the_hints_is_a_line(path: Path) -> None:
    assert contents(read(path, EXAMPLE)) == [("7", [0.3, 1.2, None], [1, 1, 1])]


def test_an_id_may_be_a_number_and_other_fields_do_not_matter(path: Path) -> None:
    table = read(path, {"prompt": 7, "rewards": [1.0], "note": ["x"], "id": 3}, {"prompt": "é\u2028", "rewards": [2]})
    assert [row.prompt for row in table.rows] == ["7", "é\u2028"]


def test_missing_and_infinite_rewards(path: Path) -> None:
    table = read(path, {"prompt": "a", "rewards": [None, "inf", "-inf", 1]}, '{"prompt": "b", "rewards": [-Infinity]}')
    assert contents(table) == [("a", [None, math.inf, -math.inf, 1.0], [1] * 4), ("b", [-math.inf], [1])]


def test_lengths(path: Path) -> None:
    table = read(path, {"prompt": "a", "rewards": [1, None], "tokens": [3, 7]}, {"prompt": "b", "rewards": [1]})
    assert contents(table) == [("a", [1.0, None], [3, 7]), ("b", [1.0], [1])]
    assert not table.counted, "one row without lengths"
    assert read(path, {"prompt": "a", "rewards": [1, 2], "tokens": [3, 7]}).counted
    assert not read(path, {"prompt": "a", "rewards": [1, 2], "tokens": None}).counted


def test_a_byte_order_mark_and_blank_lines(path: Path) -> None:
    first, second = '{"prompt": "a", "rewards": [1]}', '{"prompt": "b", "rewards": [2]}'
    path.write_bytes(b"\xef\xbb\xbf" + f"{first}\r\n\r\n   \t\n\n{second}".encode())
    assert contents(read_table(str(path))) == [("a", [1.0], [1]), ("b", [2.0], [1])]


def test_bad_lines_are_numbered_as_an_editor_does(path: Path) -> None:
    path.write_bytes(b'\xef\xbb\xbf\n{"prompt": "a", "rewards": [1]}\r\n\n{"prompt": "a\xe2\x80\xa8"}\nnothing')
    with pytest.raises(InputError, match="2 bad lines in") as caught:
        read_table(str(path))
    assert re.findall(r"line (\d+):", caught.value.message) == ["4", "5"]


REWARD = """
def odd(prompts, completions, **columns):
    return [None if "a" in c else float("-inf") if "b" in c else float(len(c)) for c in completions]
"""


def test_a_record_with_candidates_is_a_table(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.py").write_text(REWARD)
    command = ["italic", "generate", "-p", "one", "-p", "two", "-m", "toy", "-r", f"function:{tmp_path / 'odd.py'}:odd"]
    monkeypatch.setattr(sys, "argv", [*command, "-M", "best-of-n:n=20", "--candidates", "--out", str(path)])
    with pytest.raises(SystemExit) as left:
        main()
    assert not left.value.code
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    wanted = [[c["reward"] for c in line["candidates"]] for line in lines]
    assert {None, "-inf", 1.0} <= {reward for row in wanted for reward in row}
    table = read_table(str(path))
    assert [row.prompt for row in table.rows] == [line["id"] for line in lines]
    assert [row for _, row, _ in contents(table)] == [[-math.inf if r == "-inf" else r for r in row] for row in wanted]
    assert not table.counted


def test_a_record_whose_candidates_have_no_score_is_refused(path: Path) -> None:
    some = {"id": "a", "candidates": [{"reward": 1.0}]}
    none = {"id": "b", "candidates": [{"reward": None}, {}]}
    with pytest.raises(InputError, match=r"1 bad lines.*\n  line 2: rewards: every score is missing\n"):
        read(path, some, none, {"id": "c", "candidates": [1.0, "inf"]})


BAD = {
    "no-json": ("a: 1", "not JSON: Expecting value at character 1"),
    "torn": ('{"prompt": "b", "rewards": [1', "not JSON: Expecting ',' delimiter"),
    "nan": ('{"prompt": "b", "rewards": [NaN, 1]}', "a reward is NaN; a missing score is null"),
    "nan-text": ('{"prompt": "b", "rewards": ["nan", 1]}', "a reward is NaN"),
    "text": ('{"prompt": "b", "rewards": [1, "good"]}', "rewards.1: "),
    "one-number": ('{"prompt": "b", "rewards": 1}', "rewards: "),
    "no-rewards": ('{"prompt": "b"}', "rewards: Field required"),
    "empty": ('{"prompt": "b", "rewards": []}', "rewards: List should have at least 1 item"),
    "all-null": ('{"prompt": "b", "rewards": [null, null]}', "rewards: every score is missing"),
    "no-prompt": ('{"rewards": [1]}', "prompt: Field required"),
    "id-alone": ('{"id": "b", "rewards": [1]}', "prompt: Field required"),
    "no-id": ('{"candidates": [{"reward": 1}]}', "prompt"),
    "odd-prompt": ('{"prompt": ["b"], "rewards": [1]}', "prompt"),
    "true-prompt": ('{"prompt": true, "rewards": [1]}', "prompt"),
    "twice": ('{"prompt": "7", "rewards": [1]}', "the prompt '7' was on line 1 already"),
    "twice-as-number": ('{"prompt": 7, "rewards": [1]}', "the prompt '7' was on line 1 already"),
    "fewer-lengths": ('{"prompt": "b", "rewards": [1, 2], "tokens": [5]}', "2 rewards and 1 lengths"),
    "no-lengths": ('{"prompt": "b", "rewards": [1], "tokens": []}', "1 rewards and 0 lengths"),
    "length-0": ('{"prompt": "b", "rewards": [1, 2], "tokens": [5, 0]}', "tokens.1: "),
    "half-a-token": ('{"prompt": "b", "rewards": [1], "tokens": [1.5]}', "tokens.0: "),
    "endless": (f'{{"prompt": "b", "rewards": [1], "tokens": [{2**63}]}}', "tokens.0: "),
    "long-length": (f'{{"prompt": "b", "rewards": [1], "tokens": [{10**40}]}}', "tokens.0: "),
    "list": ('["b", [1]]', "dictionary"),
    "null": ("null", "dictionary"),
    "deep": ('{"prompt": "b", "rewards": [1], "x": ' + "[" * 100_000 + "]" * 100_000 + "}", "recursion"),
    "deep-prompt": ('{"rewards": [1], "prompt": ' + "[" * 200 + "]" * 200 + "}", "prompt"),
    "many-digits": ('{"prompt": "b", "rewards": [' + "1" * 5000 + "]}", "digits"),
    "too-large": ('{"prompt": "b", "rewards": [' + "1" * 400 + "]}", "rewards.0: "),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_line_is_named_by_its_number(path: Path, name: str) -> None:
    line, tells = BAD[name]
    with pytest.raises(InputError, match="1 bad lines in ") as caught:
        read(path, EXAMPLE, "", line, '{"prompt": "c", "rewards": [1]}')
    assert str(path) in caught.value.message
    (told,) = caught.value.message.splitlines()[1:]
    assert told.startswith("  line 3: ")
    assert tells in told
    assert len(told) < 200
    assert EXAMPLE in caught.value.hint


def test_all_bad_lines_are_in_one_error(path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read(path, EXAMPLE, *(line for line, _ in BAD.values()))
    shown = caught.value.message.splitlines()
    assert shown[0] == f"{len(BAD)} bad lines in {path}:"
    assert [text.split(":")[0] for text in shown[1 : SHOWN + 1]] == [f"  line {i}" for i in range(2, SHOWN + 2)]
    assert shown[SHOWN + 1 :] == ["  ..."]
    with pytest.raises(InputError) as caught:
        read(path, *(["nothing"] * SHOWN))
    assert len(caught.value.message.splitlines()) == SHOWN + 1


@pytest.mark.parametrize(
    ("content", "tells"),
    [
        (None, "cannot be read: No such file"),
        ("directory", "cannot be read: Is a directory"),
        (b"", "no rewards in"),
        (b"\n \n", "no rewards in"),
        (b'{"prompt": "a", "rewards": [1]}\n{"prompt": "\xff", "rewards": [1]}\n', "is not UTF-8 text"),
        ('{"prompt": "a", "rewards": [1]}'.encode("utf-16"), "is not UTF-8 text"),
    ],
    ids=["missing", "directory", "empty", "blank", "latin", "utf-16"],
)
def test_files_that_are_no_table(path: Path, content: bytes | str | None, tells: str) -> None:
    if content == "directory":
        path.mkdir()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    with pytest.raises(InputError, match=tells) as caught:
        read_table(str(path))
    assert str(path) in caught.value.message
    assert EXAMPLE in caught.value.hint


def test_a_table_of_arrays() -> None:
    rewards = {"a": np.array([1, 2]), "b": [0.5, math.nan, None, -math.inf]}
    table = Table.of(rewards)
    assert contents(table) == [("a", [1.0, 2.0], [1, 1]), ("b", [0.5, None, None, -math.inf], [1] * 4)]
    assert not table.counted
    counted = Table.of(rewards, {"b": [4, 3, 2, 1], "a": np.array([8, 9]), "c": [1]})
    assert [tokens for _, _, tokens in contents(counted)] == [[8, 9], [4, 3, 2, 1]]
    assert counted.counted


@pytest.mark.parametrize(
    ("rewards", "tokens", "tells"),
    [
        ({}, None, "no rewards in these"),
        ({"b": []}, None, r"shape \(0,\)"),
        ({"b": [math.nan]}, None, r"shape \(1,\)"),
        ({"b": [[1.0]]}, None, r"shape \(1, 1\)"),
        ({"b": 1.0}, None, r"shape \(\)"),
        ({"b": ["good"]}, None, "no list of numbers"),
        ({"b": [1, [2]]}, None, "no list of numbers"),
        ({"b": [1]}, {}, r"shape \(1,\) and lengths of shape \(0,\)"),
        ({"b": [1]}, {"b": [1, 2]}, r"shape \(1,\) and lengths of shape \(2,\)"),
        ({"b": [1]}, {"b": 1}, r"lengths of shape \(\)"),
        ({"b": [1, 2]}, {"b": [1, 0]}, "lengths of 1 or more"),
        ({"b": [1]}, {"b": [math.nan]}, "lengths of 1 or more"),
        ({"b": [1]}, {"b": [math.inf]}, "lengths of 1 or more"),
        ({"b": [1]}, {"b": ["x"]}, "no list of numbers"),
    ],
    ids=[f"{i:02}" for i in range(14)],
)
def test_what_is_no_table_of_arrays(rewards, tokens, tells: str) -> None:
    with pytest.raises(InputError, match=tells) as caught:
        Table.of({"a": [1.0], **rewards} if rewards else {}, None if tokens is None else {"a": [1], **tokens})
    assert not rewards or "'b'" in caught.value.message
