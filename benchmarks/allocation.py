"""What adaptive best-of-n is worth: break-even budgets on simulated laws and on tables of real rewards, and live.

`python benchmarks/allocation.py` prints the tables that were measured; `--simulate`, `--tables` and `--live` measure
one of them anew (a quarter of an hour each, on one core; --live alone on the machine). `--tables` wants the folder with
boinf_n80 and qwen_math_rm8 (`--data`); without it these rows are kept as they are.

N*: the uniform best-of-N, draws a prompt, that wins against the method as often as it loses, by the sum of a batch's
best rewards; N*/B is that over the budget. Every draw is one of the prompt's in the table, with replacement.

- simulated: location-scale families, locations N(0, 1), log-scales N(0, 0.5^2); B = 120. Of each prompt 2^18 draws.
- tables: `demo_preference_512` has 200 prompts x 512 draws of the bundled pair (at most 128 tokens), and
  `oasst_preference_128` 250 prompts x 128 responses of some 90 open models (Open-Assistant/oasst-model-eval,
  Apache-2.0) scored by the bundled reward. boinf_n80 (jkomiyama/BoInf-code-publish, MIT): is the answer right.
  qwen_math_rm8 (QwenLM/Qwen2.5-Math, MIT): 8 scores a prompt by a reward model.
- live: 200 held-out prompts, the bundled pair in float32. uniform: the tokens at which best-of-n has the same mean
  reward, by the expectation over the 512 draws of the table, on a line through (reward, log tokens).
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from italic.core.spec import build_method
from italic.evaluate.replay import Plan, replay, replay_oracle
from italic.evaluate.table import Table

Array = NDArray[np.float64]
TABLES = Path(__file__).parent / "tables"
RESULTS = TABLES / "allocation.json"
PAPER = "exploration=0.75,rounds=2,estimator=kde"
OURS = "adaptive-best-of-n"
LAWS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "left-skewed (-gamma(2))": lambda rng, n: -rng.gamma(2, size=n),
    "right-skewed (gamma(2))": lambda rng, n: rng.gamma(2, size=n),
}
PROMPTS, POOL, RUNS, BATCHES = 60, 2**18, 2400, 400
BUDGETS = {"qwen_math_rm8": (4, 8, 16)}
CORRECT = ("aime2024_Qwen3-4B", "aime2024_LIMO-v2", "math500_gpt-oss-20b", "math500_Qwen3-14B")


def judged(table: Table, spec: str, plan: Plan) -> dict[str, Any]:
    """One figure: a method on a table."""
    found = replay_oracle(table, plan) if spec == "oracle" else replay(table, build_method(spec), plan)
    return {
        "bwr": [found.bwr.mean, found.bwr.low, found.bwr.high],
        "ratio": [end / plan.budget for end in found.n_star],
        "survival": found.survival.mean,
        "max_draws": found.max_draws,
    }


def simulate(seed: int = 0) -> Iterator[dict[str, Any]]:
    """The paper's setting on three families of laws, for batches of 3 to 20 prompts."""
    for law, draw in LAWS.items():
        rng = np.random.default_rng(seed)
        scales = np.exp(0.5 * rng.normal(size=PROMPTS))
        rows = {str(i): rng.normal() + scale * draw(rng, POOL) for i, scale in enumerate(scales)}
        table = Table.of(rows)
        for k in (3, 5, 10, 20):
            plan = Plan(k, 120, RUNS // k, seed)
            methods = {"paper": f"{OURS}:{PAPER}", "ours": OURS}
            yield {"law": law, "prompts": k} | {name: judged(table, spec, plan) for name, spec in methods.items()}


def stored(name: str) -> Table:
    """A table that comes with the benchmarks."""
    with np.load(TABLES / f"{name}.npz") as file:
        return Table.of(dict(zip(file["ids"].tolist(), file["rewards"].astype(np.float64), strict=True)))


def sources(data: Path | None) -> Iterator[tuple[str, Table]]:
    """The tables of real rewards that are at hand."""
    yield "demo_preference_512", stored("demo_preference_512")
    yield "oasst_preference_128", stored("oasst_preference_128")
    if data is None:
        return
    with lzma.open(data / "qwen_math_rm8" / "math_cot_100.jsonl.xz", "rt") as lines:
        yield "qwen_math_rm8", Table.of({str(i): json.loads(line)["rm_score"] for i, line in enumerate(lines)})
    for name in CORRECT:
        with lzma.open(data / "boinf_n80" / f"{name}.jsonl.xz", "rt") as lines:
            rows = [json.loads(line) for line in lines]
        yield name, Table.of({str(r["problem"]): [float(a == r["gold_id"]) for a in r["ans"]] for r in rows})


def tables(data: Path | None, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Ours and the paper's on every table; the baselines and the oracle too for a budget of 16."""
    specs = {"ours": OURS, "paper": f"{OURS}:{PAPER}"}
    others = {"variance": f"{OURS}:rule=variance", "ucb": f"{OURS}:rule=ucb", "oracle": "oracle"}
    for name, table in sources(data):
        for budget in BUDGETS.get(name, (16, 64)):
            plan = Plan(5, budget, BATCHES, seed)
            wanted = specs | (others if budget == 16 else {})
            yield {"table": name, "budget": budget} | {who: judged(table, spec, plan) for who, spec in wanted.items()}


def live(seeds: tuple[int, ...] = (0, 1, 2)) -> Iterator[dict[str, Any]]:
    """Mean reward, tokens, seconds and rounds of methods on the engine."""
    import torch

    import italic
    from cascade_rewards import SAMPLING, split
    from italic.core.spec import build_model, build_reward

    model, reward = build_model("demo", dtype="float32"), build_reward("demo", dtype="float32")
    prompts, _ = split()
    with np.load(TABLES / "demo_preference_512.npz") as file:
        rewards, mean = np.sort(file["rewards"].astype(np.float64), axis=1), float(file["tokens"].mean())
    n = np.arange(1, 129)
    rank = np.arange(1, rewards.shape[1] + 1) / rewards.shape[1]
    heights = np.array([np.mean(np.sum(np.diff(rank**k, prepend=0.0) * rewards, axis=1)) for k in n])
    full = 16 * mean
    specs = [
        "best-of-n:n=16",
        f"{OURS}:n=16",
        f"{OURS}:n=16,{PAPER}",
        *(f"{OURS}:n=256,tokens={round(part * full)}" for part in (0.6, 0.8)),
        f"{OURS}:n=256,tokens={round(0.8 * full)},rounds=3",
    ]
    for spec in specs:
        runs = []
        for seed in seeds if spec != "best-of-n:n=16" else (0, *seeds):
            began = time.perf_counter()
            answers = italic.align(prompts, model, reward, spec, seed=seed, sampling=SAMPLING)
            seconds = time.perf_counter() - began
            rounds = [len(result.outcome.notes.get("draws", [0])) for result in answers.results]
            runs.append((np.mean(answers.rewards), answers.usage.tokens_generated / len(prompts), seconds, max(rounds)))
        mean_reward, tokens, seconds, rounds = np.mean(runs[-len(seeds) :], axis=0).tolist()
        uniform = float(np.exp(np.interp(mean_reward, heights, np.log(n * mean))))
        yield {
            "method": spec,
            "reward": mean_reward,
            "reward_seeds": [float(run[0]) for run in runs[-len(seeds) :]],
            "tokens": tokens,
            "uniform": uniform,
            "part": tokens / uniform,
            "seconds": seconds,
            "rounds": rounds,
            "threads": torch.get_num_threads(),
        }


def show(found: dict[str, Any]) -> str:
    """All tables, as Markdown."""

    def ratio(one: dict[str, Any]) -> str:
        low, high = (">8" if end >= 8 else f"{end:.2f}" for end in one["ratio"][1:])
        return f"{'>8' if one['ratio'][0] >= 8 else format(one['ratio'][0], '.2f')} ({low}-{high})"

    lines = ["| law | K | paper: win rate | N*/B | ours: win rate | N*/B |", "|---|---|---|---|---|---|"]
    for row in found.get("simulate", []):
        cells = [f"{row[who]['bwr'][0]:.3f} | {ratio(row[who])}" for who in ("paper", "ours")]
        lines.append(f"| {row['law']} | {row['prompts']} | {' | '.join(cells)} |")
    lines += ["", "| table | B | ours | paper | variance | ucb | oracle |", "|---|---|---|---|---|---|---|"]
    for row in found.get("tables", []):
        cells = [ratio(row[who]) if who in row else "" for who in ("ours", "paper", "variance", "ucb", "oracle")]
        lines.append(f"| {row['table']} | {row['budget']} | {' | '.join(cells)} |")
    lines += [
        "",
        "| method | mean reward | tokens | of uniform's for it | seconds | rounds |",
        "|---|---|---|---|---|---|",
    ]
    for row in found.get("live", []):
        lines.append(
            f"| `{row['method']}` | {row['reward']:.3f} | {row['tokens']:.0f} | {row['part']:.2f} | "
            f"{row['seconds']:.0f} | {row['rounds']:.0f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Parse, measure, write, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    for part in ("simulate", "tables", "live"):
        parser.add_argument(f"--{part}", action="store_true", help="measure anew")
    parser.add_argument("--data", type=Path, help="folder with boinf_n80 and qwen_math_rm8, for --tables")
    given = parser.parse_args()
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    parts = {"simulate": simulate, "tables": lambda: tables(given.data), "live": live}
    for part, measure in parts.items():
        if getattr(given, part):
            rows = []
            for row in measure():
                rows.append(row)
                print(json.dumps(row), file=sys.stderr, flush=True)
            if part == "tables":
                measured = {row["table"] for row in rows}
                rows += [row for row in found.get(part, []) if row["table"] not in measured]
            found[part] = rows
            RESULTS.write_text(json.dumps(found, indent=1) + "\n")
    print(show(found))


if __name__ == "__main__":
    main()
