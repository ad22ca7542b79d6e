"""What the cascade is worth, reward against tokens and seconds, beside its rivals.

`python benchmarks/cascade_rewards.py` prints the table; with `--measure` it is measured anew. The bundled pair in
float32, responses of at most 128 tokens, 200 held-out prompts; `italic calibrate` is given the other 80, 8 responses
each. All methods run on the same engine and caches. Best-of-n is one run with n = 64, of which the first n draws are
best-of-n's; soft-best-of-n's reward is its expectation given those draws. The main lines (best-of-n, the cascade as
`italic calibrate` sets it) have three seeds, the others one. Intervals: 95 %, bootstrapped over prompts.

perplexity: of the answers under the model itself, exp of the mean negative log-probability of a token. kl: the mean of
the certificates' estimates for the cascade, the bound log n - (n-1)/n for choices among n, -log p for the greedy ARGS.
saved: tokens of the cached, batched best-of-n that reaches the same mean reward, over the method's own.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import italic
from italic.cli.demo import bundled_prompts
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.laws.best_of_n import kl_bound

Array = NDArray[np.float64]

TABLE = Path(__file__).parent / "tables" / "cascade_rewards.json"
SAMPLING = Sampling(max_tokens=128)
ASKED, MOST, SEEDS = 200, 64, (0, 1, 2)
DRAWS = (1, 2, 4, 8, 16, 32, 64)
SOFT = 0.3
OTHERS = (
    "cascade:calibration=FILE,quantile=0.5",
    "cascade:calibration=FILE,quantile=0.97",
    "blockwise:n=4",
    "blockwise:n=12",
    "speculative-rejection:n=16",
    "speculative-rejection:n=64",
    "args:weight=1",
    "chernoff:tv=0.05",
)
MAIN = "cascade:calibration=FILE"


def split() -> tuple[list[Prompt], list[Prompt]]:
    """The prompts to answer, and those to calibrate on."""
    prompts = bundled_prompts("heldout")
    order = np.random.default_rng(4).permutation(len(prompts))
    return [prompts[i] for i in order[:ASKED]], [prompts[i] for i in order[ASKED:]]


def calibrate(prompts: list[Prompt], folder: Path) -> tuple[Path, dict[str, Any]]:
    """What `italic calibrate` makes of prompts: its file, and its report with what it cost."""
    asked, out = folder / "prompts.jsonl", folder / "calibration.parquet"
    asked.write_text("".join(json.dumps({"id": p.id, "messages": p.messages}, default=dict) + "\n" for p in prompts))
    words = ["calibrate", str(asked), "--out", str(out), "--dtype", "float32", "--max-tokens", "128", "--json", "-q"]
    command = [sys.executable, "-c", "from italic.cli.main import main; main()", *words]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    return out, {k: report[k] for k in ("r_star", "spread", "tau_u", "segment_length", "halfway", "tokens")} | {
        "seconds": time.perf_counter() - began
    }


@dataclass(frozen=True, eq=False)
class Run:
    """A method on all prompts, one seed: arrays float64 [200]; tokens: generated; logp, length: of the answers."""

    rewards: Array
    tokens: Array
    kl: Array
    logp: Array
    length: Array
    seconds: float


def run(spec: str, prompts: list[Prompt], model: Any, reward: Any, seed: int) -> Run:
    """Run a method."""
    began = time.perf_counter()
    answers = italic.align(prompts, model, reward, spec, seed=seed, sampling=SAMPLING)
    seconds = time.perf_counter() - began
    outcomes = [result.outcome for result in answers.results]
    chosen = [outcome.drafts[[outcome.chosen]] for outcome in outcomes]
    logp = np.array([np.nansum(found.logprobs) for found in model.likelihood(chosen)])
    greedy = spec.startswith("args")
    certificates = [outcome.certificate for outcome in outcomes]
    kl = np.array([np.nan if c is None or c.kl is None else c.kl for c in certificates], dtype=float)
    bound = np.array([np.nan if c is None or c.kl_bound is None else c.kl_bound for c in certificates], dtype=float)
    return Run(
        np.array(answers.rewards),
        np.array([outcome.usage.tokens_generated for outcome in outcomes], dtype=float),
        -logp if greedy else np.where(np.isnan(kl), bound, kl),
        logp,
        np.array([draft.steps[0] for draft in chosen], dtype=float),
        seconds,
    )


def best_of(prompts: list[Prompt], model: Any, reward: Any, seed: int) -> dict[str, Run]:
    """Sample, best-of-n and soft-best-of-n for all n, from one run."""
    began = time.perf_counter()
    answers = italic.align(prompts, model, reward, f"best-of-n:n={MOST}", seed=seed, sampling=SAMPLING)
    seconds = time.perf_counter() - began
    outcomes = [result.outcome for result in answers.results]
    rewards = np.array([outcome.rewards for outcome in outcomes])
    steps = np.array([outcome.drafts.steps for outcome in outcomes], dtype=float)
    logps = np.array([[row.sum(dtype=float) for row in outcome.drafts.logprobs] for outcome in outcomes])
    found, each = {}, np.arange(len(prompts))
    for n in DRAWS:
        top = rewards[:, :n].argmax(axis=1)
        tokens, share = steps[:, :n].sum(axis=1), steps[:, :n].sum() / steps.sum()
        name = "sample" if n == 1 else f"best-of-n:n={n}"
        kl = np.full(len(prompts), kl_bound(n))
        found[name] = Run(rewards[each, top], tokens, kl, logps[each, top], steps[each, top], seconds * share)
        if n in (4, 16, 64):
            weights = np.exp((rewards[:, :n] - rewards[:, :n].max(axis=1, keepdims=True)) / SOFT)
            weights /= weights.sum(axis=1, keepdims=True)
            mean = [(weights * part[:, :n]).sum(axis=1) for part in (rewards, logps, steps)]
            found[f"soft-best-of-n:n={n},beta={SOFT}"] = Run(mean[0], tokens, kl, mean[1], mean[2], seconds * share)
    return found


def cost_of(reward: float, curve: list[tuple[float, float]]) -> float:
    """Tokens at which best-of-n reaches a mean reward, on a line through (reward, log tokens); NaN beyond its ends."""
    heights, logs = np.array([r for r, _ in curve]), np.log([t for _, t in curve])
    inside = heights[0] <= reward <= heights[-1]
    return float(np.exp(np.interp(reward, heights, logs))) if inside else float("nan")


def interval(values: list[float]) -> list[float]:
    """The middle 95 %."""
    return [float(x) for x in np.nanquantile(values, [0.025, 0.975])]


def summarise(name: str, runs: list[Run], curve: list[list[Run]], seed: int = 0) -> dict[str, Any]:
    """A line of the table. curve: the runs of best-of-n, for each n."""
    rewards = np.mean([r.rewards for r in runs], axis=0)
    tokens = np.mean([r.tokens for r in runs], axis=0)
    levels = [(np.mean([r.rewards for r in one], axis=0), np.mean([r.tokens for r in one], axis=0)) for one in curve]
    rng = np.random.default_rng(seed)
    means, saved = [], []
    for _ in range(1000):
        rows = rng.integers(0, len(rewards), len(rewards))
        means.append(float(rewards[rows].mean()))
        points = [(float(r[rows].mean()), float(t[rows].mean())) for r, t in levels]
        saved.append(cost_of(means[-1], points) / float(tokens[rows].mean()))
    points = [(float(r.mean()), float(t.mean())) for r, t in levels]
    at = cost_of(float(rewards.mean()), points) / float(tokens.mean())
    return {
        "method": name,
        "seeds": len(runs),
        "reward": float(rewards.mean()),
        "reward_interval": interval(means),
        "tokens": float(tokens.mean()),
        "seconds": float(np.mean([r.seconds for r in runs])),
        "perplexity": float(np.exp(-sum(r.logp.sum() for r in runs) / sum(r.length.sum() for r in runs))),
        "kl": float(np.nanmean([r.kl for r in runs])) if not all(np.isnan(r.kl).all() for r in runs) else None,
        "length": float(np.mean([r.length for r in runs])),
        "saved": None if np.isnan(at) else at,
        "saved_interval": None if np.isnan(at) else interval(saved),
    }


def kinds(runs: list[Run], prompts: list[Prompt]) -> dict[str, list[float]]:
    """Mean reward and tokens by the kind of prompt."""
    of = np.array([prompt.columns["kind"] for prompt in prompts])
    rewards, tokens = (np.mean([getattr(r, part) for r in runs], axis=0) for part in ("rewards", "tokens"))
    return {kind: [float(rewards[of == kind].mean()), float(tokens[of == kind].mean())] for kind in sorted(set(of))}


def measure(seeds: tuple[int, ...], others: tuple[str, ...]) -> dict[str, Any]:
    """The whole table."""
    model, reward = italic.build_model("demo", dtype="float32"), italic.build_reward("demo", dtype="float32")
    prompts, rest = split()
    found: dict[str, list[Run]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file, report = calibrate(rest, Path(folder))
        print(f"calibrated in {report['seconds']:.0f} s", file=sys.stderr, flush=True)
        for spec, mine in [(MAIN, seeds), *((spec, seeds[:1]) for spec in others)]:
            for seed in mine:
                done = run(spec.replace("FILE", str(file)), prompts, model, reward, seed)
                found.setdefault(spec, []).append(done)
                told = f"{done.rewards.mean():.3f} {done.tokens.mean():.0f} {done.seconds:.0f} s"
                print(f"{spec} {seed}: {told}", file=sys.stderr, flush=True)
    for seed in seeds:
        for name, done in best_of(prompts, model, reward, seed).items():
            found.setdefault(name, []).append(done)
        print(f"best-of-n {seed}: {found[f'best-of-n:n={MOST}'][-1].seconds:.0f} s", file=sys.stderr, flush=True)
    curve = [found["sample" if n == 1 else f"best-of-n:n={n}"] for n in DRAWS]
    return {
        "threads": torch.get_num_threads(),
        "calibration": report,
        "methods": [
            summarise(name, runs, curve) | {"kinds": kinds(runs, prompts)} for name, runs in sorted(found.items())
        ],
    }


def show(found: dict[str, Any]) -> str:
    """The table, as Markdown."""
    head = "| method | mean reward | tokens | seconds | perplexity | KL, nats | best-of-n's tokens for it |"
    lines = [head, "|---|---|---|---|---|---|---|"]
    for row in found["methods"]:
        low, high = row["reward_interval"]
        saved = "-" if row["saved"] is None else "{:.2f}x ({:.2f}-{:.2f})".format(row["saved"], *row["saved_interval"])
        kl = "-" if row["kl"] is None else f"{row['kl']:.1f}"
        lines.append(
            f"| `{row['method']}` | {row['reward']:.2f} ({low:.2f}-{high:.2f}) | {row['tokens']:.0f} | "
            f"{row['seconds']:.0f} | {row['perplexity']:.1f} | {kl} | {saved} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, write, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--table", type=Path, default=TABLE, help="where the figures are kept")
    parser.add_argument("--measure", action="store_true", help="measure anew: half an hour on two cores")
    parser.add_argument("--seeds", type=int, default=len(SEEDS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--method", action="append", help="these beside the main lines, not the usual ones")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.measure:
        others = OTHERS if arguments.method is None else tuple(arguments.method)
        found = measure(SEEDS[: arguments.seeds], others)
        arguments.table.write_text(json.dumps(found, indent=1) + "\n")
    print(show(json.loads(arguments.table.read_text())))


if __name__ == "__main__":
    main()
