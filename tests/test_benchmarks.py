"""The benchmarks that need no minutes run, and what they print is what their texts say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KEYS = {"draws_per_step", "sum_tv", "tv_final", "training_proposals", "break_even_samples", "seconds"}


def mixture(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gaussian_mixture.py"), "--samples", "2000", "--json", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


def figures(*words: str) -> dict:
    done = mixture(*words)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert found.keys() >= KEYS
    return found


def test_the_constant_bound_is_exact_and_dear() -> None:
    found = figures("--B", "1", "--baseline", "constant")
    assert found["draws_per_step"] == pytest.approx(2.68, rel=0.03)
    assert found["tv_final"] < 1e-4
    assert found["training_proposals"] == 0


def test_a_fitted_number_saves() -> None:
    found = figures("--B", "3", "--baseline", "conformal", "--states", "2000", "--proposals", "4")
    assert found["draws_per_step"] < 3
    assert found["tv_final"] < 0.01
    assert found["break_even_samples"] < 2000


def test_svdd_and_smc_are_there_to_compare() -> None:
    few, particles = figures("--baseline", "svdd:4"), figures("--baseline", "smc:4")
    assert few["draws_per_step"] == particles["draws_per_step"] == 4
    assert few["tv_final"] > 0.03
    assert particles["sum_tv"] is None


@pytest.mark.parametrize("baseline", ["magic", "svdd", "svdd:0", "constant:3"])
def test_a_slip_is_told(baseline: str) -> None:
    done = mixture("--baseline", baseline)
    assert done.returncode == 2
    assert "--baseline is constant" in done.stderr


def test_what_a_policy_that_sees_all_can_gain_is_what_the_plan_says() -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / "limited_policy.py")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = {
        tuple(line.split()[:3]): [float(rate) for rate in line.split()[3:]] for line in done.stdout.splitlines()[1:]
    }
    assert rows["1.00", "1.00", "best-of-4"][1:] == pytest.approx([0.877, 0.941], abs=1.5e-3)
    assert all(raw < best and flat < best for raw, flat, best in rows.values())
