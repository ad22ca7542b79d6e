from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from italic import Prompt, Sampling
from italic.cli.doctor import examine
from italic.cli.listing import needs
from italic.core.protocols import Grown
from italic.core.questions import Extend
from italic.core.registry import entries
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward


def test_help_names_every_command(italic) -> None:
    said = italic("--help")
    assert said.code == 0
    for command in ("demo", "generate", "calibrate", "methods", "models", "rewards", "doctor", "cite", "export"):
        assert command in said.out


def test_version(italic) -> None:
    assert italic("--version").out.startswith("italic ")


@pytest.mark.parametrize("kind", ["methods", "models", "rewards"])
def test_listings_show_everything_registered(italic, kind: str) -> None:
    said = italic(kind)
    assert said.code == 0
    for name in entries(kind):
        assert name in said.out
        assert italic(kind, name).code == 0
    assert "Did you mean" in italic(kind, next(iter(entries(kind)))[:-1] + "x").err


@dataclass(frozen=True)
class Choosy:
    """Needs what its one parameter says, which has no default."""

    ability: str

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({self.ability})


def test_needs_that_depend_on_the_parameters_are_those_of_the_default(italic) -> None:
    assert "needs: nothing (depends on the parameters)\n" in italic("methods", "chernoff").out
    for name in ("svdd", "smc"):
        assert "needs: partial, resume (depends on the parameters)\n" in italic("methods", name).out
    assert "needs: nothing\n" in italic("methods", "best-of-n").out
    assert needs(Choosy) == "depends on the parameters"


def test_cite(italic) -> None:
    said = italic("cite", "best-of-n:n=4", "soft-best-of-n")
    assert "2401.01879" in said.out
    assert "2505.03156" in said.out
    assert said.out.count("@misc{") == said.out.count("\n}\n")
    assert italic("cite", "nonsense").code == 2


def test_doctor_passes_the_toy_pair(italic, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    said = italic("doctor", prompts, "-m", "toy", "-r", "toy", "--count", "500", "--token-price", "1")
    assert said.code == 0
    assert "FAILS" not in said.out
    assert "500 prompts" in said.out


BROKEN = """
import random
def moody(prompts, completions, **columns): return [random.random() for _ in prompts]
def crowded(prompts, completions, **columns): return [float(len(c) + max(map(len, completions))) for c in completions]
"""


@pytest.mark.parametrize(("name", "check"), [("moody", "the same text again"), ("crowded", "batch of 1 = batch of k")])
def test_doctor_finds_a_broken_reward(italic, tmp_path: Path, name: str, check: str) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a"}\n{"prompt": "b"}\n')
    said = italic("doctor", prompts, "-m", "toy", "-r", f"function:{tmp_path / 'broken.py'}:{name}")
    assert said.code == 1
    assert check in said.err
    assert "FAILS" in said.out


class Moody(ToyModel):
    """Ignores its rows' seeds: other noise in every call."""

    def extend(self, jobs: Sequence[Extend]) -> list[Grown]:
        luck = np.random.default_rng()
        again = [job.drafts.reseed(luck.integers(2**63, size=len(job.drafts), dtype=np.uint64)) for job in jobs]
        return super().extend([Extend(drafts, job.until) for drafts, job in zip(again, jobs, strict=True)])


class Crowded(ToyModel):
    """Draws other noise for a row alone than for many."""

    def extend(self, jobs: Sequence[Extend]) -> list[Grown]:
        again = [job.drafts.reseed(job.drafts.seeds + np.uint64(len(job.drafts) == 1)) for job in jobs]
        return super().extend([Extend(drafts, job.until) for drafts, job in zip(again, jobs, strict=True)])


@pytest.mark.parametrize(
    ("broken", "check"), [(Moody, "model: the same seed again"), (Crowded, "model: one row = many rows")]
)
def test_doctor_finds_a_broken_model(broken: type[ToyModel], check: str) -> None:
    prompts = [Prompt("a", text="a"), Prompt("b", text="b")]
    for model, good in ((ToyModel(), True), (broken(), False)):
        findings = {finding.check: finding.good for finding in examine(model, ToyReward(), prompts, Sampling())}
        assert findings[check] is good


def test_export(italic, tmp_path: Path) -> None:
    record, out = tmp_path / "out.jsonl", tmp_path / "export.json"
    messages = [{"role": "user", "content": "hi"}]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": "a"}) + "\n" + json.dumps({"messages": messages}) + "\n")
    italic("generate", prompts, "-m", "toy", "-r", "toy", "--candidates", "--out", record)
    answers = [json.loads(line) for line in record.read_text().splitlines()]

    assert italic("export", record, "--format", "alpaca-eval", "--out", out).code == 0
    rows = json.loads(out.read_text())
    assert [row["instruction"] for row in rows] == ["a", "hi"]
    assert [row["output"] for row in rows] == [a["completion"] for a in answers]

    assert italic("export", record, "--format", "sft", "--out", out).code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert rows[0] == {"prompt": "a", "completion": answers[0]["completion"]}
    assert rows[1]["prompt"] == messages
    assert rows[1]["completion"] == [{"role": "assistant", "content": answers[1]["completion"]}]

    assert italic("export", record, "--format", "dpo", "--out", out).code == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert all(row["chosen_reward"] > row["rejected_reward"] for row in rows)
    assert rows[0]["chosen"] == answers[0]["completion"]


def test_export_refuses_what_it_cannot_use(italic, tmp_path: Path) -> None:
    record, out = tmp_path / "out.jsonl", tmp_path / "export.json"
    italic("generate", "-p", "a", "-m", "toy", "-r", "toy", "--out", record)
    assert "--candidates" in italic("export", record, "--format", "dpo", "--out", out).err
    assert "Choose one of" in italic("export", record, "--format", "csv", "--out", out).err
    assert italic("export", tmp_path / "nothing", "--out", out).code == 2
    out.write_text("{}")
    assert italic("export", out, "--out", record).code == 2
    assert italic("export", record, "--out", tmp_path / "no" / "folder").code == 1
