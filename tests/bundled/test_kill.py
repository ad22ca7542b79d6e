"""kill -9 at random moments of a `generate` of 200 prompts: nothing lost, nothing twice, the same bytes in the end.

The same bytes, but for the lines of prompts with a draw at the border between two tokens (see `borders`): one draft in
several hundred, on some processors.
"""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from borders import distances
from italic import Sampling, align
from italic.cli.demo import bundled_prompts
from italic.models.transformers.load import bundled

PROMPTS, KILLS = 200, 20
NEAREST = 1e-6
"""As near as that to a border is a draw of one prompt in ten or so."""


def command(prompts: Path, out: Path) -> list[str]:
    start = "from italic.cli.main import main; main()"
    words = ["generate", prompts, "--method", "best-of-n:n=4", "--max-tokens", "24", "--dtype", "float32", "--out", out]
    return [sys.executable, "-c", start, *map(str, words)]


@pytest.mark.slow
def test_kill_nine(tmp_path: Path) -> None:
    prompts, out, whole = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    rows = [{"id": p.id, "messages": p.messages} for p in bundled_prompts("heldout")[:PROMPTS]]
    assert len(rows) == PROMPTS
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    began = time.monotonic()
    subprocess.run(command(prompts, whole), check=True, capture_output=True)
    undisturbed = time.monotonic() - began

    luck = random.Random(0)
    saved = []
    for _ in range(KILLS):
        process = subprocess.Popen(command(prompts, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        start = out.stat().st_size if out.exists() else 0
        wait_for_growth(out, start, process, undisturbed)
        time.sleep(luck.uniform(0, undisturbed / KILLS))
        process.send_signal(signal.SIGKILL)
        process.wait()
        saved.append(out.read_bytes().count(b"\n") if out.exists() else 0)
    assert saved == sorted(saved), "a kill lost lines"
    assert 0 < saved[0] < PROMPTS, saved

    subprocess.run(command(prompts, out), check=True, capture_output=True)
    identities = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert identities == [row["id"] for row in rows]
    pairs = zip(out.read_text().splitlines(), whole.read_text().splitlines(), strict=True)
    parted = [json.loads(one)["id"] for one, other in pairs if one != other]
    assert len(parted) <= PROMPTS // 50
    assert all(at_a_border(name) for name in parted), parted


def at_a_border(name: str) -> bool:
    """Whether a draw of a prompt's drafts is within rounding of the border between two tokens."""
    (prompt,) = (p for p in bundled_prompts("heldout") if p.id == name)
    network = AutoModelForCausalLM.from_pretrained(bundled(), dtype="float64")
    answer = align([prompt], "demo", "demo", "best-of-n:n=4", sampling=Sampling(max_tokens=24))
    drafts: Any = answer.results[0].outcome.drafts
    return min(distances(network, drafts, row).min() for row in range(len(drafts))) < NEAREST


def wait_for_growth(out: Path, start: int, process: subprocess.Popen[bytes], undisturbed: float) -> None:
    """Until the run has written something more, is over, or has had the time of a whole run."""
    end = time.monotonic() + undisturbed + 5
    while time.monotonic() < end and process.poll() is None:
        if out.exists() and out.stat().st_size > start:
            return
        time.sleep(0.01)
