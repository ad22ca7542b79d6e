"""`italic replay`: what is typed, what is printed, what is refused."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest

KEYS = {
    "method",
    "prompts",
    "budget",
    "batches",
    "seed",
    "bwr",
    "bwr_interval",
    "n_star",
    "n_star_interval",
    "n_star_most",
    "max_draws",
    "max_prompt_draws",
    "draws",
    "gain",
    "gain_interval",
    "survival_time",
    "tokens",
    "uniform_tokens",
}
FEW = ("--prompts", 3, "--batches", 12)


def write(path: Path, tokens: bool = False) -> Path:
    """A table of normal rewards, of other spreads for other prompts; one score is missing."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(5):
        rewards = [*rng.normal(0, 1 + i, size=20).round(3).tolist(), None]
        lines.append({"prompt": f"p{i}", "rewards": rewards} | ({"tokens": [4] * 21} if tokens else {}))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "table.jsonl")


def test_json_has_every_figure(italic, table: Path) -> None:
    said = italic("replay", table, *FEW, "--budget", 6, "--seed", 3, "--json")
    assert said.code == 0, said.err
    assert said.err == ""
    assert said.out.count("\n") == 1
    found = json.loads(said.out)
    assert found.keys() == KEYS
    assert found["method"].startswith("adaptive-best-of-n:n=6,")
    assert "batch=3" in found["method"]
    assert (found["prompts"], found["budget"], found["batches"], found["seed"]) == (3, 6, 12, 3)
    assert (found["max_draws"], found["draws"], found["n_star_most"]) == (18, 6, 48)
    assert 6 <= found["max_prompt_draws"] <= 18
    for name in ("bwr", "n_star", "gain"):
        low, high = found[f"{name}_interval"]
        assert all(math.isfinite(value) for value in (low, found[name], high))
        assert low <= found[name] <= high
    assert 0 < found["n_star"] <= 48
    assert 0 <= found["bwr"] <= 1
    assert 0 <= found["survival_time"] <= 12
    assert (found["tokens"], found["uniform_tokens"]) == (None, None)
    assert italic("replay", table, *FEW, "--budget", 6, "--seed", 3, "--json").out == said.out
    assert italic("replay", table, *FEW, "--budget", 6, "--seed", 4, "--json").out != said.out


def test_it_is_the_replay_of_the_library(italic, table: Path) -> None:
    from italic.evaluate.replay import Plan, replay, summaries
    from italic.evaluate.table import read_table
    from italic.methods.best_of_n import BestOfN

    found = json.loads(italic("replay", table, *FEW, "-M", "best-of-n:n=4", "--json").out)
    plan = Plan(prompts=3, budget=4, batches=12)
    (same,) = summaries([("best-of-n:n=4", replay(read_table(str(table)), BestOfN(), plan))], plan)
    assert found == same


def test_several_methods_are_a_list_and_meet_the_same_batches(italic, table: Path) -> None:
    words = ("-M", "best-of-n", "-M", "adaptive-best-of-n:rounds=1", "-M", "adaptive-best-of-n", "--oracle")
    said = italic("replay", table, *FEW, "--budget", 5, *words, "--json")
    assert said.code == 0
    rows = json.loads(said.out)
    assert [row["method"].partition(":")[0] for row in rows] == ["best-of-n", *["adaptive-best-of-n"] * 2, "oracle"]
    assert all(row.keys() == KEYS for row in rows)
    assert {(row["budget"], row["max_draws"], row["draws"]) for row in rows} == {(5, 15, 5)}
    uniform, one_round, adaptive, oracle = ({k: v for k, v in row.items() if k != "method"} for row in rows)
    assert one_round == uniform
    assert adaptive != uniform
    assert oracle["n_star"] > uniform["n_star"]


def test_one_method_with_the_oracle_is_a_list(italic, table: Path) -> None:
    rows = json.loads(italic("replay", table, *FEW, "--budget", 2, "--oracle", "--json").out)
    assert [row["method"] for row in rows][1:] == ["oracle"]


def test_lengths_are_counted_where_the_table_has_them(italic, tmp_path: Path) -> None:
    counted = write(tmp_path / "counted.jsonl", tokens=True)
    found = json.loads(italic("replay", counted, *FEW, "--budget", 5, "--json").out)
    assert found["tokens"] == 20
    assert found["uniform_tokens"] == pytest.approx(4 * found["n_star"])
    assert "tokens" in italic("replay", counted, *FEW, "--budget", 5).out


def test_people_get_a_table_and_what_it_means(italic, table: Path) -> None:
    words = ("replay", table, *FEW, "--budget", 5, "-M", "best-of-n", "--oracle")
    said = italic(*words)
    assert said.code == 0
    uniform, oracle = json.loads(italic(*words, "--json").out)
    assert "a  best-of-n:n=5\n" in said.out
    assert "b  oracle\n" in said.out
    assert "tokens" not in said.out
    for heading in ("win rate", "N*", "gain", "draws"):
        assert heading in said.out
    for row, letter in ((uniform, "a"), (oracle, "b")):
        (line,) = (text for text in said.out.splitlines() if re.match(rf"\W+{letter} \W", text))
        low, high = row["bwr_interval"]
        assert f"{row['bwr']:.3f} ({low:.3f} to {high:.3f})" in line
        assert f"{row['n_star']:.3g} (" in line
        assert f"{row['gain']:+.3g} (" in line
        assert " 5 " in line
    assert "12 batches of 3 of 5 prompts" in said.err
    assert "against best-of-5 for every prompt" in said.err
    assert "N*: the n of best-of-n that does as well" in said.err


def test_a_break_even_that_is_not_reached_is_told_as_such(italic, tmp_path: Path) -> None:
    """Nineteen prompts have one answer, the last has many: the oracle gives it 101 draws, more than 8 times 6."""
    path = tmp_path / "lopsided.jsonl"
    rows = [{"prompt": f"k{i}", "rewards": [i]} for i in range(19)]
    rows.append({"prompt": "many", "rewards": np.random.default_rng(0).normal(size=500).tolist()})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("replay", path, "--prompts", 20, "--batches", 40, "--budget", 6, "-M", "best-of-n", "--oracle")
    uniform, oracle = json.loads(italic(*words, "--json").out)
    assert (uniform["max_prompt_draws"], oracle["max_prompt_draws"]) == (6, 101)
    assert oracle["n_star"] == oracle["n_star_most"] == oracle["n_star_interval"][1] == 48
    assert uniform["n_star_interval"][1] < 12
    told = italic(*words).out
    assert told.count(">=48 (") == 1
    assert told.count("to >=48)") == 1


@pytest.mark.parametrize("words", [(), ("--quiet",), ("-q", "--json")], ids=["plain", "quiet", "quiet-json"])
def test_nothing_but_remarks_goes_to_the_side(italic, table: Path, words: tuple[str, ...]) -> None:
    said = italic("replay", table, *FEW, "--budget", 2, "-M", "best-of-n", *words)
    assert said.code == 0
    if "--json" in words:
        assert json.loads(said.out)["budget"] == 2
        assert said.err == ""
    else:
        assert said.err.splitlines() == [said.err.rstrip("\n")]


@pytest.mark.parametrize(
    ("words", "budget"),
    [
        (("-M", "best-of-n:n=7"), 7),
        (("-M", "best-of-n:n=7", "--budget", 7), 7),
        (("-M", "best-of-n:n=7", "-M", "adaptive-best-of-n:n=7,exploration=7"), 7),
        (("-M", "best-of-n", "--budget", 3), 3),
        (("-M", "best-of-n"), 16),
        (("-M", "best-of-n", "-M", "pessimistic"), 16),
        (("-M", "optimal-stopping:cost=9", "--budget", 5), 5),
        (("-M", "adaptive-best-of-n:exploration=20", "--budget", 24), 24),
    ],
    ids=["n", "both", "two", "budget", "default", "two-defaults", "stopping", "above-the-default"],
)
def test_the_budget_is_typed_or_the_methods_own(italic, table: Path, words: tuple[object, ...], budget: int) -> None:
    said = italic("replay", table, "--prompts", 2, "--batches", 2, *words, "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    for row in found if isinstance(found, list) else [found]:
        assert row["budget"] == budget
        assert f"n={budget}" in re.split("[:,]", row["method"])
        assert row["n_star_most"] == 8 * budget


@pytest.mark.parametrize(
    ("words", "tells"),
    [
        (("-M", "best-of-n:n=7", "--budget", 8), ["8 (--budget)", "7 (best-of-n:n=7)"]),
        (("-M", "best-of-n:n=7", "-M", "best-of-n:n=8"), ["7 (best-of-n:n=7)", "8 (best-of-n:n=8)"]),
        (("-M", "best-of-n:n=7", "-M", "adaptive-best-of-n"), ["7 (best-of-n:n=7)", "16 (adaptive-best-of-n)"]),
    ],
    ids=["budget", "two", "default"],
)
def test_budgets_that_differ_are_refused(italic, table: Path, words: tuple[object, ...], tells: list[str]) -> None:
    said = italic("replay", table, *words)
    assert said.code == 2
    assert "budgets that differ" in said.err
    for text in tells:
        assert text in said.err
    assert "give --budget, or the same n to every method" in said.err
    assert said.out == ""


def test_bad_lines_are_named_by_number(italic, table: Path) -> None:
    lines = table.read_text().splitlines()
    lines[1:1] = ["nothing", '{"prompt": "x", "rewards": []}', "", '{"prompt": "p0", "rewards": [1]}']
    table.write_text("\n".join(lines))
    said = italic("replay", table, "--json")
    assert said.code == 2
    assert said.out == ""
    assert "3 bad lines in" in said.err
    for number, tells in ((2, "not JSON"), (3, "rewards"), (5, "'p0' was on line 1 already")):
        assert re.search(rf"line {number}: .*{tells}", said.err)
    assert '"rewards": [0.3, 1.2, null]' in said.err


@pytest.mark.parametrize(
    ("words", "tells"),
    [
        (("--prompts", 6), "--prompts 5"),
        (("--prompts", 0), "a replay with prompts=0"),
        (("--batches", 1), "--batches 1000"),
        (("--batches", 0), "batches=0"),
        (("--budget", 0), "budget=0"),
        (("--budget", "many"), "Invalid value for '--budget'"),
        (("-M", "best-of-m"), "Did you mean best-of-n"),
        (("-M", "best-of-n:m=4"), "no parameter 'm'"),
        (("-M", "cascade:r_star=1,tau_u=1"), "no number of draws"),
        (("-M", "rejection:bound=1"), "no number of draws"),
        (("-M", "blockwise", "--budget", 4), "resume"),
        (("-M", "smc", "--budget", 4), "not offered by the model table"),
        (("-M", "adaptive-best-of-n:exploration=9", "--budget", 4), "exploration=9 and n=4"),
        (("-M", "best-of-n") * 26, "at most 25"),
        (("--nonsense",), "No such option"),
    ],
    ids=[f"{i:02}" for i in range(15)],
)
def test_misuse_gets_one_clear_message(italic, table: Path, words: tuple[object, ...], tells: str) -> None:
    said = italic("replay", table, "--prompts", 3, "--batches", 2, *words)
    assert said.code == 2
    assert tells in said.err
    assert "Traceback" not in said.err
    assert said.out == ""


@pytest.mark.parametrize(
    ("name", "tells"), [("nowhere.jsonl", "cannot be read"), (".", "cannot be read")], ids=["none", "dir"]
)
def test_files_that_cannot_be_read(italic, tmp_path: Path, name: str, tells: str) -> None:
    said = italic("replay", tmp_path / name)
    assert said.code == 2
    assert tells in said.err
    assert '{"prompt": "7"' in said.err


def test_a_table_of_useless_draws_is_json_all_the_same(italic, tmp_path: Path) -> None:
    path = tmp_path / "useless.jsonl"
    path.write_text('{"prompt": "a", "rewards": ["-inf", null]}\n{"prompt": "b", "rewards": [1, "inf"]}\n')
    words = ("replay", path, "--prompts", 2, "--batches", 3, "--budget", 2, "--oracle")
    for row in json.loads(italic(*words, "--json").out, parse_constant=lambda name: pytest.fail(name)):
        assert (row["bwr"], row["n_star"], row["gain"]) == (0.5, 2, None)
    said = italic(*words)
    assert said.code == 0
    assert "nan" in said.out


def test_a_record_with_candidates_is_replayed(italic, tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    words = [word for i in range(4) for word in ("-p", f"prompt {i}")]
    pair = ("-m", "toy", "-r", "toy", "-M", "best-of-n:n=30", "--candidates", "--out", record)
    assert italic("generate", *words, *pair).code == 0
    said = italic("replay", record, "--prompts", 4, "--batches", 4, "--budget", 3, "-M", "best-of-n", "--json")
    assert said.code == 0
    assert json.loads(said.out)["max_draws"] == 12
    assert italic("generate", *words, *pair[:-3], "--out", tmp_path / "short.jsonl").code == 0
    said = italic("replay", tmp_path / "short.jsonl")
    assert said.code == 2
    assert "4 bad lines" in said.err
