from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import italic as library
from italic.cli.calibrate import read_lengths
from italic.cli.demo import bundled_prompts
from italic.values.calibration import Calibration

TOY = ("--model", "toy:letters=3,rows=16", "--reward", "toy:seed=1", "--max-tokens", 6, "--lengths", "1,2,3")


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{i}", "prompt": f"prompt {i}"}) + "\n" for i in range(12)))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "cal.parquet"


def rows(path: Path) -> list[dict]:
    return [responses.row() for responses in Calibration.load(path).responses]


def records(out: Path) -> list[str]:
    """What is left of the record of a run."""
    return sorted(path.name for path in out.parent.glob("cal.parquet.*"))


def test_what_it_draws_is_what_the_pair_gives(italic, prompts: Path, out: Path) -> None:
    said = italic("calibrate", prompts, *TOY, "--samples", 5, "--seed", 7, "--out", out)
    assert said.code == 0, said.err
    assert records(out) == []
    found = Calibration.load(out)
    texts = [f"prompt {i}" for i in range(12)]
    numbered = [{"id": f"p{i}", "prompt": text} for i, text in enumerate(texts)]
    sampling = library.Sampling(max_tokens=6)
    answers = library.align(numbered, "toy", "toy:seed=1", "sample:n=5", seed=7, sampling=sampling)
    assert found.made_for == ("toy:letters=3,length=5,seed=0", "toy:seed=1,scale=1")
    assert (found.sampling, found.seed, found.samples, found.lengths) == (sampling, 7, 5, (1, 2, 3))
    for mine, theirs in zip(found.responses, answers.results, strict=True):
        assert mine.prompt == theirs.prompt
        assert mine.completions == theirs.outcome.drafts.texts
        assert np.array_equal(mine.rewards, theirs.outcome.rewards)
        assert np.array_equal(mine.steps, theirs.outcome.drafts.steps)
        assert list(mine.finish) == list(theirs.outcome.drafts.reason)


def test_the_report(italic, prompts: Path, out: Path) -> None:
    said = italic("calibrate", prompts, *TOY, "--out", out)
    report = Calibration.load(out).report(str(out))
    assert f"12 prompts, 96 responses, {report['tokens']} tokens" in said.out
    assert f"quantile 0.9: {report['r_star']['value']:.2f}" in said.out
    assert f"quantile 0.8: {report['tau_u']['value']:.2f} nats" in said.out
    assert f"within a prompt: {report['spread']:.2f}" in said.out
    assert report["advice"] in said.out
    for row in report["rank_correlation"]:
        assert f" {row['mean']:.2f} " in said.out
    said = italic("calibrate", prompts, *TOY, "--out", out, "--json")
    assert "is this calibration already" in said.err
    assert json.loads(said.out)["r_star"] == report["r_star"]
    assert json.loads(said.out)["advice"] == report["advice"]


def test_an_interrupted_run_goes_on(italic, prompts: Path, out: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole.parquet"
    assert italic("calibrate", prompts, *TOY, "--out", whole).code == 0
    command = ("calibrate", prompts, *TOY, "--out", out)
    through = []
    for _ in range(3):
        said = italic(*command, "--budget-tokens", 70)
        assert said.code == 0
        assert not out.exists()
        assert said.out == ""
        lines = out.with_name("cal.parquet.jsonl").read_text().splitlines()
        through.append(len(lines))
        assert f"{len(lines)} of 12 prompts are through" in said.err
        assert "same command again with a larger budget" in said.err
    assert 0 < through[0] < through[1] < through[2] < 12
    said = italic(*command)
    assert said.code == 0
    assert f"{through[2]} prompts are in" in said.err
    assert rows(out) == rows(whole)
    assert [row["id"] for row in rows(out)] == [f"p{i}" for i in range(12)]
    assert records(out) == []


REWARDS = """
def length(prompts, completions, **columns): return [float(len(c)) for c in completions]
def stops(prompts, completions, **columns):
    if any("prompt 47" in p for p in prompts): raise KeyboardInterrupt
    return length(prompts, completions)
"""


def test_ctrl_c_keeps_what_is_done(italic, prompts: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(REWARDS)
    prompts.write_text("".join(json.dumps({"prompt": f"prompt {i}"}) + "\n" for i in range(60)))
    reward = ("--reward", f"function:{tmp_path / 'rewards.py'}:stops")
    command = ("calibrate", prompts, *TOY[:2], *reward, "--max-tokens", 6, "--out", out)
    said = italic(*command)
    assert said.code == 1
    assert "of 60 prompts are kept in" in said.err
    assert "Type the same command again to go on" in said.err
    assert 0 < len(out.with_name("cal.parquet.jsonl").read_text().splitlines()) < 60
    said = italic(*command, "--overwrite")
    assert "again, without --overwrite, to go on" in said.err


def test_a_reward_of_whole_responses(italic, prompts: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "rewards.py").write_text(REWARDS)
    reward = f"function:{tmp_path / 'rewards.py'}:length"
    said = italic("calibrate", prompts, "-m", "toy", "-r", reward, "--max-tokens", 6, "--lengths", "1,2", "--out", out)
    assert said.code == 0, said.err
    assert "The reward has no scores of unfinished responses" in said.out
    assert "best-of-n:n=16" in said.out
    assert "standard error" not in said.out
    found = Calibration.load(out)
    assert found.lengths == ()
    assert np.isnan(found.responses[0].prompt_reward)
    assert len(found.entropies) > 0
    assert found.r_star(found.responses[0].prompt) >= 0


def test_without_entropies(italic, prompts: Path, out: Path, tmp_path: Path) -> None:
    """All else is as with them, but for what is said of segments; the cascade refuses the file before it draws."""
    command, whole = ("calibrate", prompts, *TOY, "--no-entropies", "--out", out), tmp_path / "whole.parquet"
    said = italic(*command)
    assert said.code == 0, said.err
    assert "tau_u" not in said.out
    assert "There are no entropies, to end segments by: use --method best-of-n:n=16" in said.out
    assert "this calibration already" in italic(*command).err
    assert "entropies" in italic(*(word for word in command if word != "--no-entropies")).err
    assert italic("calibrate", prompts, *TOY, "--out", whole).code == 0
    found, other = Calibration.load(out), Calibration.load(whole)
    assert not found.has_entropies
    assert other.has_entropies
    for mine, theirs in zip(found.responses, other.responses, strict=True):
        assert mine.entropies is None
        assert np.allclose(mine.logprobs, theirs.logprobs, atol=1e-5)
        assert mine.completions == theirs.completions
        assert np.array_equal(mine.rewards, theirs.rewards)
        assert np.array_equal(mine.partial, theirs.partial, equal_nan=True)
    assert found.mean_length == other.mean_length == len(other.entropies) / (len(other.responses) * other.samples)
    report = json.loads(italic(*command, "--json").out)
    assert report["tau_u"]["value"] is report["segment_length"] is None
    generate = ("generate", prompts, *TOY[:4], "--max-tokens", 6, "--out", tmp_path / "out.jsonl")
    said = italic(*generate, "--method", f"cascade:calibration={out}")
    assert said.code == 2
    assert "made with --no-entropies" in said.err
    assert "tau_u=3" in said.err
    assert not (tmp_path / "out.jsonl").read_text()
    assert italic(*generate, "--method", f"cascade:calibration={out},tau_u=1").code == 0


def test_another_calibration_is_not_lost(italic, prompts: Path, out: Path) -> None:
    command = ("calibrate", prompts, *TOY, "--out", out)
    assert italic(*command).code == 0
    before = out.read_bytes()
    said = italic(*command, "--seed", 1)
    assert said.code == 2
    assert "seed: 0 there, 1 now" in said.err
    assert "--overwrite" in said.err
    prompts.write_text(prompts.read_text().replace("prompt 3", "another text"))
    said = italic(*command)
    assert said.code == 2
    assert "prompts: 12 there, 12 now, not the same" in said.err
    assert out.read_bytes() == before
    assert italic(*command, "--seed", 1, "--overwrite").code == 0
    assert Calibration.load(out).seed == 1
    assert Calibration.load(out).responses[3].prompt.text == "another text"


def test_an_overwriting_run_goes_on_without_the_word(italic, prompts: Path, out: Path) -> None:
    command = ("calibrate", prompts, *TOY, "--out", out)
    assert italic(*command, "--seed", 1).code == 0
    said = italic(*command, "--overwrite", "--budget-tokens", 120)
    assert "again, without --overwrite, with a larger budget" in said.err
    assert not out.exists()
    assert "prompts are in" in italic(*command).err
    assert Calibration.load(out).seed == 0


def test_a_changed_prompt_is_refused_on_the_way(italic, prompts: Path, out: Path) -> None:
    command = ("calibrate", prompts, *TOY, "--out", out)
    italic(*command, "--budget-tokens", 120)
    prompts.write_text(prompts.read_text().replace("prompt 0", "another text"))
    said = italic(*command)
    assert said.code == 2
    assert "'p0'" in said.err


def test_a_file_of_others_is_never_replaced(italic, prompts: Path, out: Path) -> None:
    out.write_text("dear diary")
    for words in ((), ("--overwrite",)):
        said = italic("calibrate", prompts, *TOY, "--out", out, *words)
        assert said.code == 2
        assert "is no calibration" in said.err
        assert out.read_text() == "dear diary"


def test_a_broken_calibration_may_be_replaced(italic, prompts: Path, out: Path) -> None:
    import pyarrow.parquet as parquet

    command = ("calibrate", prompts, *TOY, "--out", out)
    assert italic(*command).code == 0
    parquet.write_table(parquet.read_table(out).drop_columns(["steps"]), out)
    said = italic(*command)
    assert said.code == 1
    assert "Write it again: italic calibrate --overwrite" in said.err
    assert italic(*command, "--overwrite").code == 0
    assert len(rows(out)) == 12


@pytest.mark.parametrize(
    ("words", "tells"),
    [
        (("--samples", 0), "--samples 8"),
        (("--lengths", "2,2"), "in ascending order"),
        (("--lengths", "0,2"), "in ascending order"),
        (("--lengths", "2,x"), "8,16,32"),
        (("--lengths", "2,6"), "below 6"),
        (("--max-tokens", 3), "below 3"),
        (("--out", "cal.jsonl"), "--out calibration.parquet"),
        (("--temperature", -1), "temperature"),
        (("--model", "gaussian", "--reward", "region"), "writes no texts"),
        (("--no-entropies", "--temperature", 0.7), "Leave --no-entropies out, or draw at temperature 1"),
        (("--model", "toy:letter=3"), "letters"),
    ],
)
def test_misuse_gets_one_clear_message(italic, prompts: Path, out: Path, words: tuple[object, ...], tells: str) -> None:
    said = italic("calibrate", prompts, *TOY, "--out", out, *words)
    assert said.code == 2
    assert tells in said.err
    assert "Traceback" not in said.err
    assert not list(out.parent.glob("cal*"))


def test_bad_prompts_and_places(italic, prompts: Path, out: Path, tmp_path: Path) -> None:
    (tmp_path / "there.parquet").mkdir()
    assert "is not a .parquet file" in italic("calibrate", prompts, *TOY, "--out", tmp_path / "there.parquet").err
    with prompts.open("a") as file:
        file.write("nothing\n")
    said = italic("calibrate", prompts, *TOY, "--out", out)
    assert said.code == 2
    assert "line 13" in said.err
    assert "--skip-bad to run the other 12" in said.err
    said = italic("calibrate", prompts, *TOY, "--out", out, "--skip-bad")
    assert said.code == 0
    assert len(rows(out)) == 12
    prompts.write_text("\n")
    assert "no prompts in" in italic("calibrate", prompts, *TOY, "--out", out).err
    assert italic("calibrate", *TOY, "--out", out).code == 2


@pytest.mark.parametrize(
    ("max_tokens", "lengths"),
    [
        (128, (8, 16, 32, 64, 96)),
        (512, (8, 16, 32, 64, 128, 256, 384)),
        (100, (8, 16, 32, 64, 75)),
        (12, (8, 9)),
        (9, (8,)),
        (8, ()),
        (1, ()),
    ],
)
def test_lengths_that_are_not_given(max_tokens: int, lengths: tuple[int, ...]) -> None:
    assert read_lengths(None, max_tokens) == lengths


def test_the_bundled_pair(italic, out: Path, tmp_path: Path) -> None:
    prompts, few = tmp_path / "prompts.jsonl", bundled_prompts("heldout")[:4]
    prompts.write_text("".join(json.dumps({"id": p.id, "messages": p.messages}) + "\n" for p in few))
    words = ("--samples", 4, "--max-tokens", 16, "--dtype", "float32", "--lengths", "4,8", "--out")
    said = italic("calibrate", prompts, *words, out)
    assert said.code == 0, said.err
    assert "4 prompts, 16 responses" in said.out
    found = Calibration.load(out)
    for responses, prompt in zip(found.responses, few, strict=True):
        assert responses.prompt.id == prompt.id
        assert found.rewards_of(prompt) is not None
        assert np.isfinite(responses.prompt_reward)
        assert np.all(responses.logprobs < 0)
        assert all(np.all(row >= 0) for row in responses.entropies)
        assert np.array_equal(~np.isnan(responses.partial), responses.steps > np.array([[4], [8]]))
