"""kill -9 at random moments of a `generate` of 200 prompts: nothing lost, nothing twice, the same bytes in the end."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from italic.cli.demo import bundled_prompts

PROMPTS, KILLS = 200, 20


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
    assert out.read_bytes() == whole.read_bytes()


def wait_for_growth(out: Path, start: int, process: subprocess.Popen[bytes], undisturbed: float) -> None:
    """Until the run has written something more, is over, or has had the time of a whole run."""
    end = time.monotonic() + undisturbed + 5
    while time.monotonic() < end and process.poll() is None:
        if out.exists() and out.stat().st_size > start:
            return
        time.sleep(0.01)
