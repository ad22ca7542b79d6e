from __future__ import annotations

import json
from pathlib import Path

import pytest

PAIR = ("--model", "toy:letters=2,length=3", "--reward", "toy", "--max-tokens", "4")
QUICK = ("--proposals", "8")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"prompt {i}"}) + "\n" for i in range(12)))
    return path


def test_what_is_fitted_is_used(italic, prompts: Path, tmp_path: Path) -> None:
    head = tmp_path / "head"
    said = italic("fit-baseline", prompts, *PAIR, *QUICK, "--tv", "0.1", "--out", head)
    assert said.code == 0, said.err
    assert f"--method chernoff:baseline={head}" in said.err
    assert "draws a step expected" in said.err
    settings = json.loads((head / "baseline.json").read_text())
    assert settings["kind"] == "pinball"
    assert settings["report"]["tv"] == 0.1
    assert (settings["model"], settings["reward"]) == ("toy:letters=2,length=3,seed=0", "toy:seed=0,scale=1")
    said = italic("generate", "-p", "new", *PAIR, "--method", f"chernoff:baseline={head},n=50")
    certificate = json.loads(said.out)["certificate"]
    assert certificate["accepted"] == 50
    assert 0 <= certificate["tv"] <= 1


def test_segments(italic, prompts: Path, tmp_path: Path) -> None:
    words = (
        "--block",
        "2",
        "--value",
        "learned",
        "--delta",
        "0.2",
        "--beta",
        "0.5",
        "--kind",
        "paper",
        "--states",
        "4",
    )
    said = italic(
        "fit-baseline", prompts, *PAIR, *QUICK, *words, "--trajectories", "8", "--out", tmp_path / "steps", "--quiet"
    )
    assert said.code == 0, said.err
    said = italic("generate", "-p", "new", *PAIR, "--method", f"chernoff:baseline={tmp_path / 'steps'}", "--quiet")
    assert said.code == 0, said.err


def test_the_mixture(italic, prompts: Path, tmp_path: Path) -> None:
    pair = ("--model", "gaussian", "--reward", "region:scale=1,below=3")
    words = ("--kind", "conformal", "--block", "1", "--value", "preview", "--delta", "0.1", "--states", "20")
    said = italic("fit-baseline", prompts, *pair, *words, "--proposals", "1", "--out", tmp_path / "mixture")
    assert said.code == 0, said.err
    method = f"chernoff:baseline={tmp_path / 'mixture'},n=3"
    said = italic("generate", "-p", "x", *pair, "--method", method, "--candidates")
    line = json.loads(said.out)
    assert len(line["latent"]) == 2
    assert len(line["candidates"]) == 3


def test_a_directory_is_not_lost(italic, prompts: Path, tmp_path: Path) -> None:
    command = ("fit-baseline", prompts, *PAIR, *QUICK, "--tv", "0.1", "--out", tmp_path / "head")
    assert italic(*command).code == 0
    before = (tmp_path / "head" / "baseline.json").read_bytes()
    said = italic(*command)
    assert said.code == 2
    assert "exists" in said.err
    assert "--overwrite" in said.err
    assert (tmp_path / "head" / "baseline.json").read_bytes() == before
    assert italic(*command, "--overwrite", "--seed", "1").code == 0
    assert (tmp_path / "head" / "baseline.json").read_bytes() != before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("dear")
    said = italic(*command[:-1], tmp_path / "mine", "--overwrite")
    assert said.code == 2
    assert "is not a fitted baseline" in said.err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--kind", "magic"), "there is no baseline of kind 'magic'"),
        (("--loss", "magic", "--block", "2", "--value", "learned"), "there is no loss 'magic'"),
        (("--tv", "0.1", "--delta", "0.1"), "either delta or tv"),
        (("--kind", "conformal"), "--block 16"),
        (("--block", "2", "--value", "magic"), "there is no value 'magic'"),
        (("--block", "2", "--value", "preview"), "preview"),
        (("--beta", "-1"), "beta=-1"),
        (("--states", "4"), "--states without --block"),
        (("--loss", "mse"), "no value to learn"),
    ],
)
def test_slips_are_told_before_anything_is_spent(italic, prompts: Path, tmp_path: Path, words, why: str) -> None:
    said = italic("fit-baseline", prompts, *PAIR, *words, "--out", tmp_path / "head")
    assert said.code == 2
    assert why in said.err
    assert not (tmp_path / "head").exists()


def test_bad_prompts(italic, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text('{"prompt": "a"}\nnothing\n')
    said = italic("fit-baseline", tmp_path / "bad.jsonl", *PAIR, "--out", tmp_path / "head")
    assert said.code == 2
    assert "line 2" in said.err
    assert "--skip-bad to run the other 1 prompts" in said.err
    said = italic("fit-baseline", tmp_path / "bad.jsonl", *PAIR, *QUICK, "--out", tmp_path / "rest", "--skip-bad")
    assert said.code == 0
    assert "left out: line 2" in said.err
    (tmp_path / "empty.jsonl").write_text("")
    said = italic("fit-baseline", tmp_path / "empty.jsonl", *PAIR, "--out", tmp_path / "head")
    assert said.code == 2
    assert "no prompts" in said.err


def test_a_command_that_contradicts_the_fit(italic, prompts: Path, tmp_path: Path) -> None:
    head = tmp_path / "head"
    assert italic("fit-baseline", prompts, *PAIR, *QUICK, "--tv", "0.1", "--out", head).code == 0
    for spec, why in (
        ("beta=2", "fitted with beta=1.0"),
        ("tv=0.01", "has no use for"),
        ("block=2", "fitted with block=None"),
    ):
        said = italic("generate", "-p", "new", *PAIR, "--method", f"chernoff:baseline={head},{spec}")
        assert said.code == 2
        assert why in said.err
    said = italic("generate", "-p", "new", *PAIR[:-1], "9", "--method", f"chernoff:baseline={head}")
    assert said.code == 2
    assert "--max-tokens" in said.err
    said = italic("generate", "-p", "new", *PAIR, "--temperature", "0.5", "--method", f"chernoff:baseline={head}")
    assert said.code == 2
    assert "'temperature': 0.5" in said.err
    said = italic("generate", "-p", "new", *PAIR, "--reward", "toy:seed=1", "--method", f"chernoff:baseline={head}")
    assert said.code == 2
    assert "was fitted to" in said.err
    said = italic("generate", "-p", "new", *PAIR, "--method", "chernoff:baseline=nowhere")
    assert said.code == 2
    assert "there is no fitted baseline in 'nowhere'" in said.err
