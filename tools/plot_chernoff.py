"""Draw the figures of docs/guide/chernoff.md: `python tools/plot_chernoff.py`, some ten minutes on two cores."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
mpl.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402

import gaussian_mixture as mixture  # noqa: E402
import language_model as language  # noqa: E402
from italic.laws import finite, line_bounds  # noqa: E402
from italic.laws import line as lines  # noqa: E402
from italic.laws.chernoff import for_total_variation, sharp  # noqa: E402

FOLDER = ROOT / "docs" / "guide"
BOUND = 3.0
SUBSET = 1000
"""Responses a prompt for the law of soft-best-of-n, whose cost grows with their square."""


def plot_mixture(path: Path) -> None:
    """Draws a step against the total variation of the steps, on the mixture with a reward of 3."""
    problem = mixture.Problem.of(BOUND)
    figure, axes = plt.subplots(figsize=(7.2, 4.6))
    deltas = (0.1, 0.03, 0.01, 0.003, 0.001)
    for name, law in (
        ("quantile of each state (oracle)", line_bounds.quantiles),
        ("Chernoff bound (oracle)", line_bounds.chernoff),
    ):
        found = [lines.clipped(problem.line, problem.values, law(problem.line, problem.values, d)) for d in deltas]
        axes.plot([s.draws.mean() for s in found], [s.variation.sum() for s in found], "-", lw=1.2, label=name)
    for kind, mark in (("pinball", "o"), ("paper", "^"), ("conformal", "s")):
        reports = [mixture.measure(_arguments(kind, delta)) for delta in (0.1, 0.01, 0.001)]
        points = [(r["draws_per_step"], r["sum_tv"]) for r in reports]
        axes.plot(*zip(*points, strict=True), mark, ms=7, label=f"{kind}, fitted")
    children = (2, 4, 8, 16, 32)
    found = [lines.selected(problem.line, problem.values, m) for m in children]
    axes.plot(children, [s.variation.sum() for s in found], "x--", lw=1, label="SVDD, M children")
    constant = mixture.lines.clipped(
        problem.line, problem.values, np.full(problem.line.means.shape, BOUND)
    ).draws.mean()
    axes.axvline(constant, color="grey", ls=":", label="constant bound (exact)")
    axes.set(xscale="log", yscale="log", xlabel="draws a step", ylabel="total variation, sum over 19 steps")
    axes.set_xticks([1, 2, 5, 10, 20, 30], ["1", "2", "5", "10", "20", "30"])
    axes.set_title("Gaussian mixture, B = 3, exact values", loc="left", fontsize=11)
    _finish(figure, axes, path)


def _arguments(kind: str, delta: float) -> argparse.Namespace:
    sizes = {"samples": 5000, "states": None, "proposals": None, "trajectories": 5000, "seed": 0}
    return argparse.Namespace(B=BOUND, baseline=kind, value="exact", delta=delta, **sizes)


def plot_language(path: Path) -> None:
    """Draws an answer against total variation, means over the table's prompts."""
    table = language.Table.read(language.TABLE)
    figure, axes = plt.subplots(figsize=(7.2, 4.6))
    targets = (0.2, 0.1, 0.05, 0.02, 0.01)
    oracle = [_cost(table, [for_total_variation(row, tv) for row in table.rewards]) for tv in targets]
    axes.plot(*zip(*oracle, strict=True), "-", lw=1.2, label="each prompt's own best baseline (oracle)")
    rng = np.random.default_rng(0)
    pilots = [
        _cost(table, [[sharp(rng.choice(row, language.PILOT), tv) for _ in range(20)] for row in table.rewards])
        for tv in targets
    ]
    axes.plot(*zip(*pilots, strict=True), "s", ms=6, label="pilot of 64, its own cost left out")
    heads = [_cost(table, language.fit(tv, 1.0, 64, 0)[1]) for tv in (0.2, 0.05, 0.01)]
    axes.plot(*zip(*heads, strict=True), "o", ms=7, label="fitted head, unseen prompts, no pilot")
    soft = [_soft(table, n, rng) for n in (2, 4, 8, 16, 32, 64)]
    axes.plot(*zip(*soft, strict=True), "x--", lw=1, label="soft best-of-n")
    own = _cost(table, table.rewards.max(axis=1))[0]
    axes.axvline(own, color="grey", ls="--", label="each prompt's largest reward (exact)")
    axes.axvline(
        _cost(table, np.full(len(table.rewards), table.rewards.max()))[0],
        color="grey",
        ls=":",
        label="one bound for all (exact)",
    )
    axes.set(xscale="log", yscale="log", xlabel="draws an answer", ylabel="total variation to the tilted model")
    axes.set_title("Bundled chat model, preference reward, beta = 1", loc="left", fontsize=11)
    _finish(figure, axes, path)


def _cost(table: Any, b: Any) -> tuple[float, float]:
    found = language.cost(table, 1.0, np.asarray(b, dtype=float))
    return found["draws"], found["tv"]


def _soft(table: Any, n: int, rng: np.random.Generator) -> tuple[float, float]:
    """Soft best-of-n's draws and total variation, on a subset of each prompt's responses."""
    p = np.full(SUBSET, 1 / SUBSET)
    rows = [rng.choice(row, SUBSET, replace=False) for row in table.rewards]
    tv = [finite.total_variation(finite.soft_best_of_n(p, row, n, 1.0), finite.tilt(p, row, 1.0)) for row in rows]
    return float(n), float(np.mean(tv))


def _finish(figure: Any, axes: Any, path: Path) -> None:
    axes.grid(alpha=0.25, which="both", lw=0.5)
    axes.legend(fontsize=8.5, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    plot_mixture(FOLDER / "chernoff-mixture.png")
    plot_language(FOLDER / "chernoff-language.png")
