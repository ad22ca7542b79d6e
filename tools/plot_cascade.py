"""Draw the figures of docs/guide/cascade.md: `python tools/plot_cascade.py`, from the table of the benchmark.

`python benchmarks/cascade_rewards.py --measure` makes that table. The picture of one answer is what `--trace` draws.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "docs" / "guide"
TABLE = ROOT / "benchmarks" / "tables" / "cascade_rewards.json"
STYLES = {
    "best-of-n": ("best-of-n", "#444444", "o"),
    "soft-best-of-n": ("soft-best-of-n", "#999999", "s"),
    "cascade": ("cascade", "#2166ac", "D"),
    "blockwise": ("blockwise", "#1b7837", "^"),
    "speculative-rejection": ("speculative-rejection", "#b2182b", "v"),
    "args": ("ARGS", "#e08214", "*"),
    "chernoff": ("chernoff, beta=1", "#7a4fa3", "P"),
}
PROMPT = "Tell me a story about a fox."
METHOD = "cascade:r_star=1.5,tau_u=2.3,beta=0.1"


def family(row: dict[str, Any]) -> str:
    """Which line a method is on; plain sampling is best of one."""
    name = row["method"].split(":")[0]
    return "best-of-n" if name == "sample" else name


def label(row: dict[str, Any]) -> str:
    """What sets a point apart from the others of its line."""
    values = dict(part.split("=") for part in row["method"].partition(":")[2].split(",") if part)
    if family(row) == "cascade":
        return f"q={values.get('quantile', '0.9')}"
    return values.get("n", "1" if row["method"] == "sample" else "")


def plot_rewards(path: Path) -> None:
    """Mean reward against tokens a prompt, and against seconds for all prompts."""
    rows = json.loads(TABLE.read_text())["methods"]
    figure, both = plt.subplots(1, 2, figsize=(10.4, 4.6), sharey=True)
    for axes, key, name in zip(both, ("tokens", "seconds"), ("tokens generated a prompt", "seconds"), strict=True):
        for kind, (title, color, mark) in STYLES.items():
            mine = sorted((row for row in rows if family(row) == kind), key=lambda row: row[key])
            if not mine:
                continue
            x, y = [row[key] for row in mine], [row["reward"] for row in mine]
            low = [row["reward"] - row["reward_interval"][0] for row in mine]
            high = [row["reward_interval"][1] - row["reward"] for row in mine]
            axes.errorbar(x, y, [low, high], fmt=f"{mark}-", color=color, ms=6, lw=1.1, elinewidth=0.6, label=title)
            for row in mine:
                axes.annotate(
                    label(row),
                    (row[key], row["reward"]),
                    xytext=(5, -9),
                    textcoords="offset points",
                    fontsize=7,
                    color=color,
                )
        axes.set_xscale("log")
        axes.set_xlabel(name)
        axes.grid(alpha=0.25)
    both[0].set_ylabel("mean reward of the answer")
    both[0].legend(fontsize=8, loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=130)


def plot_answer(path: Path) -> None:
    """One answer's cascade, as the command line draws it."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["generate", "-p", PROMPT, "--method", METHOD, "--max-tokens", "96", "--trace", folder, "-q"]
        command = [sys.executable, "-c", "from italic.cli.main import main; main()", *words]
        subprocess.run(command, check=True, capture_output=True)
        shutil.copy(Path(folder) / "1.png", path)


if __name__ == "__main__":
    plot_rewards(FOLDER / "cascade-rewards.png")
    plot_answer(FOLDER / "cascade-answer.png")
