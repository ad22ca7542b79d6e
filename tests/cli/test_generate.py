from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

TOY = ("--model", "toy", "--reward", "toy")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{i}", "prompt": f"prompt {i}"}) + "\n" for i in range(12)))
    return path


def test_prints_json_lines_without_out(italic) -> None:
    said = italic("generate", "-p", "hello", "-p", "bye", *TOY)
    rows = [json.loads(line) for line in said.out.splitlines()]
    assert said.code == 0
    assert [row["prompt"] for row in rows] == ["hello", "bye"]
    assert rows[0].keys() >= {"id", "completion", "reward", "method", "seed", "usage", "certificate", "complete"}
    assert "candidates" not in rows[0]


def test_writes_and_resumes(italic, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    command = ("generate", prompts, *TOY, "--out", out)
    assert italic(*command).code == 0
    whole = out.read_bytes()
    assert [row["id"] for row in lines(out)] == [f"p{i}" for i in range(12)]
    out.write_bytes(whole[: len(whole) // 2])
    said = italic(*command)
    assert said.code == 0
    assert "are in" in said.err
    assert out.read_bytes() == whole


def test_other_settings_are_refused_and_overwrite_starts_anew(italic, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    italic("generate", prompts, *TOY, "--out", out)
    whole = out.read_bytes()
    said = italic("generate", prompts, *TOY, "--out", out, "--seed", 1)
    assert said.code == 2
    assert "seed: 0 there, 1 now" in said.err
    assert "--overwrite" in said.err
    assert out.read_bytes() == whole
    assert italic("generate", prompts, *TOY, "--out", out, "--seed", 1, "--overwrite").code == 0
    assert {row["seed"] for row in lines(out)} == {1}


def test_a_slip_in_a_spec_does_not_bind_the_output(italic, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert italic("generate", prompts, "-m", "toy:letter=3", "-r", "toy", "--out", out).code == 2
    assert italic("generate", prompts, *TOY, "--out", out).code == 0


def test_a_slip_in_a_spec_costs_no_answers(italic, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert italic("generate", prompts, *TOY, "--out", out).code == 0
    before = out.read_bytes()
    assert italic("generate", prompts, "-m", "toy:letter=3", "-r", "toy", "--out", out, "--overwrite").code == 2
    assert out.read_bytes() == before


def test_a_changed_prompt_of_the_same_id_is_refused(italic, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    italic("generate", prompts, *TOY, "--out", out)
    prompts.write_text(prompts.read_text().replace("prompt 3", "another text"))
    said = italic("generate", prompts, *TOY, "--out", out)
    assert said.code == 2
    assert "'p3'" in said.err


def test_more_prompts_may_be_added(italic, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    italic("generate", prompts, *TOY, "--out", out)
    first = lines(out)
    with prompts.open("a") as file:
        file.write('{"id": "new", "prompt": "one more"}\n')
    assert italic("generate", prompts, *TOY, "--out", out).code == 0
    assert lines(out)[:-1] == first
    assert lines(out)[-1]["id"] == "new"


def test_candidates(italic, tmp_path: Path) -> None:
    said = italic("generate", "-p", "hello", *TOY, "--candidates", "-M", "best-of-n:n=5")
    row = json.loads(said.out)
    assert len(row["candidates"]) == 5
    assert row["reward"] == max(c["reward"] for c in row["candidates"])


def test_budget_keeps_what_is_complete_and_goes_on(italic, prompts: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    command = ("generate", prompts, "--model", "toy:rows=16", "--reward", "toy", "--out")
    assert italic(*command, whole).code == 0
    said = italic(*command, out, "--budget-tokens", 300)
    assert said.code == 0
    assert "The budget ended the run" in said.err
    complete = [row for row in lines(out) if row["complete"]]
    assert 0 < len(complete) < 12
    assert sum(row["usage"]["tokens_generated"] for row in lines(out)) <= 300
    assert italic(*command, out).code == 0
    assert out.read_bytes() == whole.read_bytes()


BAD_LINES = '{"prompt": "a"}\n{"promt": "b"}\nnot json\n{"prompt": 3}\n{"messages": []}\n{"messages": "hi"}\n[1]\n'


def test_bad_lines_are_named_by_number(italic, tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(BAD_LINES)
    said = italic("generate", path, *TOY)
    assert said.code == 2
    assert said.out == ""
    for number in range(2, 8):
        assert f"line {number}:" in said.err
    assert "promt" in said.err
    assert "--skip-bad to run the other 1 prompts" in said.err
    said = italic("generate", path, *TOY, "--skip-bad")
    assert said.code == 0
    assert len(said.out.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "tells"),
    [
        (("-M", "best-of-m"), "Did you mean best-of-n"),
        (("-M", "best-of-n:m=4"), "no parameter 'm'"),
        (("-M", "best-of-n:n=0"), "n=0"),
        (("-M", "best-of-n:n=four"), "not a whole number"),
        (("-M", "best-of-n:n"), "not key=value"),
        (("-M", "rejection"), "needs bound"),
        (("-M", "soft-best-of-n:beta=-1"), "beta"),
        (("--model", "toi"), "toi"),
        (("--model", "toy:letter=3"), "letters"),
        (("--reward", "function:nowhere.py:f"), "nowhere.py"),
        (("--reward", "no/such-reward-model"), "no/such-reward-model"),
        (("--dtype", "float32"), "no option 'dtype'"),
        (("--temperature", "-1"), "temperature"),
        (("--top-p", "0"), "top_p"),
        (("--max-tokens", "0"), "max_tokens"),
        (("--budget-cost", "1"), "needs prices"),
        (("--driver", "fast"), "driver"),
        (("--nonsense",), "No such option"),
        (("--rows", "0"), "rows"),
    ],
)
def test_misuse_gets_one_clear_message_and_exit_code_2(italic, words: tuple[str, ...], tells: str) -> None:
    said = italic("generate", "-p", "hello", *TOY, *words)
    assert said.code == 2
    assert tells in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("source", "tells"),
    [("nowhere.jsonl", "there is no file"), (".", "is a directory")],
)
def test_missing_input(italic, source: str, tells: str) -> None:
    said = italic("generate", source, *TOY)
    assert said.code == 2
    assert tells in said.err


def test_no_prompts_and_both_kinds(italic, prompts: Path) -> None:
    assert italic("generate", *TOY).code == 2
    assert italic("generate", prompts, "-p", "x", *TOY).code == 2
    prompts.write_text("\n")
    assert "no prompts in" in italic("generate", prompts, *TOY).err


REWARDS = """
def nan(prompts, completions, **columns): return [float("nan")] * len(prompts)
def short(prompts, completions, **columns): return [1.0]
def failing(prompts, completions, **columns): raise OSError("the judge is down")
def nothing(prompts, completions, **columns): return [None] * len(prompts)
def stops(prompts, completions, **columns):
    if any("prompt 47" in p for p in prompts): raise KeyboardInterrupt
    return [float(len(c)) for c in completions]
"""


@pytest.mark.parametrize(
    ("name", "tells"),
    [("nan", "NaN"), ("short", "1"), ("failing", "the judge is down"), ("nothing", "missing")],
)
def test_a_broken_reward_is_exit_code_1(italic, tmp_path: Path, name: str, tells: str) -> None:
    (tmp_path / "rewards.py").write_text(REWARDS)
    said = italic("generate", "-p", "hello", "-m", "toy", "-r", f"function:{tmp_path / 'rewards.py'}:{name}")
    assert said.code == 1
    assert tells in said.err
    assert "Traceback" not in said.err


def test_ctrl_c_keeps_what_is_done(italic, prompts: Path, tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(REWARDS)
    prompts.write_text("".join(json.dumps({"prompt": f"prompt {i}"}) + "\n" for i in range(60)))
    out = tmp_path / "out.jsonl"
    reward = f"function:{tmp_path / 'rewards.py'}:stops"
    command = ("generate", prompts, "-m", "toy:rows=4", "-r", reward, "-M", "best-of-n:n=4", "--out", out)
    said = italic(*command)
    assert said.code == 1
    assert "are saved in" in said.err
    assert "Traceback" not in said.err
    assert 0 < len(lines(out)) < 60


def test_a_full_disk_keeps_what_is_done(italic, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    command = ("generate", prompts, "-m", "toy:rows=16", "-r", "toy", "--out")
    italic(*command, whole)
    real, left = os.write, [2500]

    def write(descriptor: int, data: bytes) -> int:
        taken = min(left[0], len(data))
        if taken == 0:
            raise OSError(28, "No space left on device")
        left[0] -= taken
        return real(descriptor, data[:taken])

    with monkeypatch.context() as full:
        full.setattr(os, "write", write)
        said = italic(*command, out)
    assert said.code == 1
    assert "No space left on device" in said.err
    assert "prompts saved" in said.err
    assert italic(*command, out).code == 0
    assert out.read_bytes() == whole.read_bytes()


def test_out_in_a_place_that_cannot_be_written(italic, prompts: Path) -> None:
    said = italic("generate", prompts, *TOY, "--out", "/proc/nowhere/out.jsonl")
    assert said.code == 1
    assert "cannot write" in said.err


def test_a_target_out_of_reach_is_told(italic) -> None:
    words = ("generate", "-p", "one", "--model", "toy:letters=3", "--reward", "toy:seed=1", "--max-tokens", "6", "-M")
    far, near = (italic(*words, f"cascade:r_star={r},tau_u=1,min_segment=1,tries=3") for r in (50, -50))
    assert "In 100% of the steps every try was rejected" in far.err
    assert far.code == near.code == 0
    assert "rejected" not in near.err
