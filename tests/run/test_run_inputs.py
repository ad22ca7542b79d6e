"""Reading prompts: what is right is kept in order, what is wrong is named by line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from italic.core.errors import InputError, SpecError
from italic.core.prompt import Prompt
from italic.run.inputs import collect, prompt_of, read_prompts


def read(folder: Path, *lines: str | bytes) -> Any:
    """What is read from a file of these lines."""
    path = folder / "prompts.jsonl"
    path.write_bytes(b"".join((x if isinstance(x, bytes) else x.encode()) + b"\n" for x in lines))
    return read_prompts(str(path))


def test_good_lines(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        '{"prompt": "one"}',
        "",
        "   ",
        '{"id": "b", "messages": [{"role": "system", "content": "s"}, {"role": "user", "content": "two\\u00e9"}]}',
        '{"id": 7, "prompt": "", "gold": 4, "tags": ["x"], "prompt_id": null}',
        '"a bare text"',
    )
    assert found.problems == ()
    assert [p.id for p in found.good] == ["1", "b", "7", "6"]
    assert found.good[0] == Prompt("1", text="one")
    assert found.good[1].last == "twoé"
    assert found.good[1].messages[0] == {"role": "system", "content": "s"}
    assert found.good[2].columns == {"gold": 4, "tags": ["x"], "prompt_id": None}
    assert found.good[2].text == ""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON: Expecting property name enclosed in double quotes at character"),
        ("nothing", "not JSON: Expecting value at character 1"),
        ('{"prompt": "x"} {"prompt": "y"}', "not JSON: Extra data at character 17"),
        ("[1, 2]", "not an object but list"),
        ("17", "not an object but int"),
        ("null", "not an object but NoneType"),
        ("{}", "neither `prompt` nor `messages` (columns here: none)"),
        ('{"promt": "x", "id": 1}', "neither `prompt` nor `messages` (columns here: promt)"),
        ('{"prompt": "x", "messages": [{"role": "user", "content": "x"}]}', "both `prompt` and `messages`"),
        ('{"prompt": 3}', "prompt: Input should be a valid string"),
        ('{"prompt": NaN}', "prompt: Input should be a valid string"),
        ('{"prompt": "x", "id": 1.5}', "id."),
        ('{"prompt": "x", "id": true}', "id."),
        ('{"messages": []}', "messages: List should have at least 1 item after validation, not 0"),
        ('{"messages": "hello"}', "messages: Input should be a valid list"),
        ('{"messages": [{"role": "user"}]}', "messages.0.content: Field required"),
        ('{"messages": [{"role": "", "content": "x"}]}', "messages.0.role: String should have at least 1 character"),
        ('{"messages": [{"role": "user", "content": null}]}', "messages.0.content: Input should be a valid string"),
        ('{"messages": [{"role": "user", "content": "x", "name": "n"}]}', "messages.0.name: Extra inputs are not"),
        ('{"prompt": "x\\ud800"}', "prompt: half a surrogate pair at character 2"),
        ('{"prompt": "x", "id": "\\udfff"}', "id."),
        ('{"prompt": "x", "n": ' + "9" * 5000 + "}", "not JSON: "),
        ("[" * 100_000, "not JSON: "),
    ],
)
def test_a_bad_line_is_named_and_the_rest_is_read(tmp_path: Path, line: str, message: str) -> None:
    found = read(tmp_path, '{"prompt": "before"}', line, '{"prompt": "after"}')
    assert [p.text for p in found.good] == ["before", "after"]
    (problem,) = found.problems
    assert problem.startswith(f"line 2: {message}"), problem
    assert "\n" not in problem


def test_an_id_is_used_once(tmp_path: Path) -> None:
    found = read(tmp_path, '{"id": "3", "prompt": "a"}', '{"id": "3", "prompt": "b"}', '{"prompt": "c"}')
    assert [p.text for p in found.good] == ["a"]
    assert found.problems == (
        "line 2: the id '3' was used on line 1 already",
        "line 3: the id '3' was used on line 1 already",
    )


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    found = read(tmp_path, b'\xef\xbb\xbf{"prompt": "x"}')
    assert found.problems == ()
    assert found.good[0].text == "x"


def test_windows_line_ends_and_no_last_newline(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(b'{"prompt": "x"}\r\n{"prompt": "y"}')
    assert [p.text for p in read_prompts(str(path)).good] == ["x", "y"]


def test_an_empty_file_has_no_prompts(tmp_path: Path) -> None:
    assert read(tmp_path) == read_prompts(str(tmp_path / "prompts.jsonl"))
    assert read(tmp_path).good == read(tmp_path).problems == ()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("latin.jsonl", '{"prompt": "é"}'.encode("latin-1"), "is not UTF-8 text"),
        ("noise.jsonl", b"\x00\xff\xfe", "is not UTF-8 text"),
        ("noise.parquet", b"PAR1 not really", "is not a Parquet file"),
        ("empty.parquet", b"", "is not a Parquet file"),
    ],
)
def test_a_file_of_another_kind_is_refused(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_prompts(str(path))
    assert str(path) in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (".", "is a directory"),
        ("nowhere.jsonl", "there is no file nowhere.jsonl"),
        ("no/where.jsonl", "there is no file no/where.jsonl"),
        ("What is the capital of France?", "there is no file What"),
        ("long " * 2000, "there is no file long"),
        ("", "there is no file"),
        ("nul\0", "there is no file"),
    ],
)
def test_what_is_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message.replace("?", r"\?")) as caught:
        read_prompts(source)
    assert caught.value.hint


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_a_file_that_fails_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str) -> None:
    path = tmp_path / f"broken.{suffix}"
    parquet.write_table(arrow.table({"prompt": ["x"]}), path)

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", fail)
    monkeypatch.setattr(parquet, "ParquetFile", fail)
    with pytest.raises(InputError, match=r"broken\..* cannot be read: Permission denied"):
        read_prompts(str(path))


def test_parquet_rows_are_rows(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    table = arrow.table(
        {
            "id": ["a", None, "a"],
            "prompt": ["one", None, "three"],
            "messages": [None, [{"role": "user", "content": "two"}], None],
            "gold": [1.5, None, 2.5],
        }
    )
    parquet.write_table(table, path)
    found = read_prompts(str(path))
    assert [(p.id, p.last, dict(p.columns)) for p in found.good] == [("a", "one", {"gold": 1.5}), ("2", "two", {})]
    assert found.problems == ("line 3: the id 'a' was used on line 1 already",)


def test_a_parquet_file_with_a_damaged_page_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.parquet"
    parquet.write_table(arrow.table({"prompt": [f"prompt {i}" for i in range(1000)]}), path, compression="zstd")
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)
    path.write_bytes(data)
    with pytest.raises(InputError, match="is not a Parquet file"):
        read_prompts(str(path))


def test_the_hub_is_asked_for_what_looks_like_one_of_its_names(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def load_dataset(name: str, split: str) -> Any:
        asked.append((name, split))
        if name == "no/such":
            raise RuntimeError("offline")
        return [{"prompt": "x"}, {"prompt": "y", "id": "z"}]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset))
    assert [p.id for p in read_prompts("owner/name").good] == ["1", "z"]
    assert len(read_prompts("owner/name.v2:test[:10%]").good) == 2
    assert asked == [("owner/name", "train"), ("owner/name.v2", "test[:10%]")]
    with pytest.raises(InputError, match=r"the data set no/such \(split train\) cannot be loaded: offline"):
        read_prompts("no/such")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(SpecError, match=r"pip install 'italic\[train\]'"):
        read_prompts("owner/name")


def test_prompts_from_python() -> None:
    prompt = Prompt("mine", text="x")
    found = collect(enumerate(["text", prompt, {"prompt": "p", "level": 2}, 3, {1: 2}, "\udc00"], 1))
    assert found.good == (Prompt("1", text="text"), prompt, Prompt("3", text="p", columns={"level": 2}))
    assert [p.split(":")[0] for p in found.problems] == ["line 4", "line 5", "line 6"]
    with pytest.raises(InputError, match="not an object but float") as caught:
        prompt_of(1.5)
    assert '{"id": "1", "prompt": "..."}' in caught.value.hint
    with pytest.raises(InputError, match="as it came"):
        prompt_of(InputError("as it came"))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "prompt", "role"]), inner),
    max_leaves=5,
)


@given(st.lists(st.dictionaries(st.sampled_from(["id", "prompt", "messages", "x"]), values) | values, max_size=4))
def test_any_row_is_a_prompt_or_a_problem(rows: list[Any]) -> None:
    found = collect(enumerate(rows, 1))
    assert len(found.good) + len(found.problems) == len(rows)
    assert len({p.id for p in found.good}) == len(found.good)
    for prompt in found.good:
        json.dumps([prompt.id, prompt.last])
