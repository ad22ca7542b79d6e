"""`italic generate` where prompts share a budget: a batch is answered whole, or done again whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from italic.cli import generate
from italic.cli.generate import unfinished
from italic.core.prompt import Prompt
from italic.methods.adaptive_best_of_n import AdaptiveBestOfN
from italic.methods.best_of_n import BestOfN
from italic.run.record import Record

COUNT = 5
METHODS = {"two": "adaptive-best-of-n:n=6,batch=2", "all": "adaptive-best-of-n:n=6"}
PAIR = ("--model", "toy:letters=3,rows=16", "--reward", "toy:seed=1")


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"id": f"p{i}", "prompt": f"prompt {i}"}) + "\n" for i in range(COUNT)))
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out.jsonl"


def batches(name: str) -> Iterator[range]:
    """The places of the prompts of each batch."""
    size = 2 if name == "two" else COUNT
    return (range(start, min(start + size, COUNT)) for start in range(0, COUNT, size))


@pytest.mark.parametrize("name", METHODS)
def test_answers_tell_of_their_draws(italic, prompts: Path, out: Path, name: str) -> None:
    said = italic("generate", prompts, *PAIR, "-M", METHODS[name], "--out", out, "--candidates")
    assert said.code == 0, said.err
    rows = lines(out)
    assert [row["id"] for row in rows] == [f"p{i}" for i in range(COUNT)]
    for row in rows:
        draws, gains = row["notes"]["draws"], row["notes"]["expected_gain"]
        assert row["complete"]
        assert draws[0] == 4, "the exploration"
        assert len(gains) == len(draws) - 1 > 0
        assert all(gain >= 0 for gain in gains)
        assert sum(draws) == len(row["candidates"]) == row["usage"]["reward_calls"] + row["usage"]["reward_cached"]
        assert row["reward"] == max(candidate["reward"] for candidate in row["candidates"])
    totals = [sum(row["notes"]["draws"]) for row in rows]
    assert [sum(totals[i] for i in batch) for batch in batches(name)] == [6 * len(batch) for batch in batches(name)]
    assert len(set(totals)) > 1, "the prompts share"


@pytest.mark.parametrize("driver", ["event", "lockstep"])
@pytest.mark.parametrize("name", METHODS)
def test_cut_after_any_line_and_resumed_the_bytes_are_the_same(
    italic, prompts: Path, out: Path, name: str, driver: str
) -> None:
    command = ("generate", prompts, *PAIR, "-M", METHODS[name], "--out", out)
    said = italic(*command)
    assert said.code == 0
    assert "again" not in said.err
    whole = out.read_bytes()
    for places in ([0, 1, 2, 3, 4], [4, 1, 3, 0, 2]):
        written = [whole.splitlines(keepends=True)[i] for i in places]
        for cut in range(COUNT + 1):
            out.write_bytes(b"".join(written[:cut]) + (written[cut][:20] if cut < COUNT else b""))
            there = set(places[:cut])
            broken = [batch for batch in batches(name) if not there.issuperset(batch)]
            again = sum(i in there for batch in broken for i in batch)
            to_go = sum(map(len, broken))
            said = italic(*command, "--driver", driver)
            assert said.code == 0, said.err
            assert out.read_bytes() == whole
            assert (f"{again} of them again, as their batch is not whole" in said.err) == (again > 0)
            if cut:
                assert f"{cut - again} prompts are in {out} already, {to_go} to go" in said.err


@pytest.mark.parametrize("name", METHODS)
def test_prompts_of_a_broken_batch_alone_would_give_other_answers(
    italic, prompts: Path, out: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wrong neighbour: to do the missing prompts only."""
    command = ("generate", prompts, *PAIR, "-M", METHODS[name], "--out", out)
    assert italic(*command).code == 0
    whole = out.read_bytes()
    monkeypatch.setattr(generate, "unfinished", lambda prompts, there, _: [p for p in prompts if p.id not in there])
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[:1]))
    assert italic(*command).code == 0
    assert out.read_bytes() != whole
    assert [row["id"] for row in lines(out)] == [f"p{i}" for i in range(COUNT)]


@pytest.mark.parametrize(
    ("resource", "budget"),
    [*(("scores", n) for n in (5, 9, 14, 20)), *(("tokens", n) for n in (15, 60))],
)
@pytest.mark.parametrize("name", METHODS)
def test_a_budget_that_ends_the_run_and_a_run_without(
    italic, prompts: Path, out: Path, tmp_path: Path, name: str, resource: str, budget: int
) -> None:
    whole = tmp_path / "whole.jsonl"
    command = ("generate", prompts, *PAIR, "-M", METHODS[name], "--out")
    counted = {"scores": "reward_calls", "tokens": "tokens_generated"}[resource]
    assert italic(*command, whole).code == 0
    assert sum(row["usage"][counted] for row in lines(whole)) > budget
    said = italic(*command, out, f"--budget-{resource}", budget)
    assert said.code == 0
    assert "The budget ended the run" in said.err
    assert out.read_bytes() != whole.read_bytes()
    assert sum(row["usage"][counted] for row in lines(out)) <= budget
    assert italic(*command, out, f"--budget-{resource}", budget).code == 0
    said = italic(*command, out)
    assert said.code == 0
    assert "The budget ended" not in said.err
    assert out.read_bytes() == whole.read_bytes()


def test_a_budget_keeps_the_batches_that_are_whole(italic, prompts: Path, out: Path, tmp_path: Path) -> None:
    command = ("generate", prompts, "-m", "toy:rows=1", *PAIR[2:], "-M", METHODS["two"], "--out")
    assert italic(*command, tmp_path / "whole.jsonl").code == 0
    assert italic(*command, out, "--budget-scores", 23).code == 0
    before = {row["id"]: row for row in lines(out) if row["complete"]}
    kept = [f"p{i}" for batch in batches("two") for i in batch if before.keys() >= {f"p{j}" for j in batch}]
    assert 0 < len(kept) < COUNT
    said = italic(*command, out)
    assert f"{len(kept)} prompts are in {out} already, {COUNT - len(kept)} to go" in said.err
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert [row for row in lines(out) if row["id"] in kept] == [before[name] for name in kept]


REWARD = """
def length(prompts, completions, **columns):
    if {stops} and any("prompt 3" in prompt for prompt in prompts): raise KeyboardInterrupt
    return [len(c) + c.count("a") / 7 for c in completions]
"""


@pytest.mark.parametrize("name", METHODS)
def test_ctrl_c_and_again(italic, prompts: Path, out: Path, tmp_path: Path, name: str) -> None:
    script = tmp_path / "rewards.py"
    reward = ("-m", "toy:rows=1", "-r", f"function:{script}:length")
    command = ("generate", prompts, *reward, "-M", METHODS[name], "--out")
    script.write_text(REWARD.format(stops=False))
    assert italic(*command, tmp_path / "whole.jsonl").code == 0
    script.write_text(REWARD.format(stops=True))
    said = italic(*command, out)
    assert said.code == 1
    assert "Type the same command again" in said.err
    assert len(lines(out)) < COUNT
    script.write_text(REWARD.format(stops=False))
    assert italic(*command, out).code == 0
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


@pytest.mark.parametrize("name", METHODS)
def test_more_prompts_join_the_last_batch(italic, prompts: Path, out: Path, tmp_path: Path, name: str) -> None:
    command = ("generate", prompts, *PAIR, "-M", METHODS[name], "--out")
    assert italic(*command, out).code == 0
    with prompts.open("a") as file:
        file.write('{"id": "new", "prompt": "one more"}\n')
    assert italic(*command, tmp_path / "whole.jsonl").code == 0
    said = italic(*command, out)
    assert said.code == 0
    assert f"{1 if name == 'two' else COUNT} of them again" in said.err
    assert out.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_a_method_without_batches_does_nothing_again(italic, prompts: Path, out: Path) -> None:
    command = ("generate", prompts, *PAIR, "-M", "best-of-n:n=3", "--out", out)
    assert italic(*command).code == 0
    whole = out.read_bytes()
    out.write_bytes(b"".join(whole.splitlines(keepends=True)[1:4]))
    said = italic(*command)
    assert f"3 prompts are in {out} already, 2 to go" in said.err
    assert "again" not in said.err
    assert out.read_bytes() == whole


@pytest.mark.parametrize(
    ("method", "there", "rest"),
    [
        (BestOfN(), "ac", "bde"),
        (AdaptiveBestOfN(batch=2), "ac", "abcde"),
        (AdaptiveBestOfN(batch=2), "ab", "cde"),
        (AdaptiveBestOfN(batch=2), "abe", "cd"),
        (AdaptiveBestOfN(batch=2), "abcd", "e"),
        (AdaptiveBestOfN(batch=1), "ac", "bde"),
        (AdaptiveBestOfN(batch=9), "abcd", "abcde"),
        (AdaptiveBestOfN(batch=9), "abcde", ""),
        (AdaptiveBestOfN(), "abcd", "abcde"),
        (AdaptiveBestOfN(), "abcde", ""),
        (AdaptiveBestOfN(), "", "abcde"),
    ],
    ids=[f"{i:02}" for i in range(11)],
)
def test_what_is_to_do(method: BestOfN | AdaptiveBestOfN, there: str, rest: str) -> None:
    assert "".join(p.id for p in unfinished([Prompt(name, name) for name in "abcde"], set(there), method)) == rest
    assert unfinished([], set(), method) == []


SETTINGS = {"seed": 0}
ROWS = [{"id": name, "text": f"é{name}\n", "complete": True} for name in "dacb"]


def fill(path: Path) -> Record:
    record = Record(path, SETTINGS)
    for row in ROWS:
        record.append(row)
    return record


def test_what_is_forgotten_is_gone_and_the_rest_stays(out: Path) -> None:
    with fill(out) as record:
        record.forget({"a", "b", "nobody"})
        assert list(record.lines) == ["d", "c"]
        assert lines(out) == [ROWS[0], ROWS[2]]
        record.append({"id": "a", "text": "anew", "complete": True})
        assert [row["id"] for row in lines(out)] == ["d", "c", "a"]
    for _ in range(2):
        with Record(out, SETTINGS) as record:
            assert list(record.lines.values()) == [ROWS[0], ROWS[2], {"id": "a", "text": "anew", "complete": True}]
            assert record.dropped == 0
    with Record(out, SETTINGS) as record:
        record.append(ROWS[3])
        record.arrange("abcd")
    assert [row["id"] for row in lines(out)] == ["a", "b", "c", "d"]


def test_all_or_nothing_can_be_forgotten(out: Path) -> None:
    with fill(out) as record:
        before = out.read_bytes(), out.stat().st_ino
        record.forget(set())
        assert (out.read_bytes(), out.stat().st_ino) == before, "the file is not even touched"
        record.forget([row["id"] for row in ROWS])
        assert record.lines == {}
        assert out.read_bytes() == b""
    with Record(out, SETTINGS) as record:
        assert record.lines == {}
        record.append(ROWS[0])
    assert lines(out) == [ROWS[0]]


def test_a_full_disk_forgets_nothing(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from italic.core.errors import RecordError
    from italic.run import record as module

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with fill(out) as record:
        before = out.read_bytes()
        with monkeypatch.context() as full:
            full.setattr(module.os, "fsync", fail)
            with pytest.raises(RecordError, match="No space left on device"):
                record.forget({"a"})
        assert out.read_bytes() == before
        assert list(record.lines) == ["d", "a", "c", "b"]
        record.append({"id": "e", "complete": True})
    assert len(lines(out)) == 5
