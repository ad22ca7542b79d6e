"""What a Chernoff baseline saves a language model: `python benchmarks/language_model.py`.

The bundled chat model and preference reward, beta = 1, responses of at most 24 tokens. A table holds the rewards and
lengths of 20,000 responses to each of ten prompts, so that draws and total variation follow exactly, on that law of
20,000 equally probable responses, for any baseline. The head is fitted to 210 other prompts and reads the ten prompts
alone: no pilot. Compared: the constant bound, which is the largest reward in the table, for all prompts or for each
prompt its own; the cheapest baseline for each prompt's total variation, which nobody knows beforehand; a pilot of 64
responses, whose cost is in its `tokens_of_100`, those of 100 answers to each prompt.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import italic
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.laws.chernoff import for_total_variation, sharp
from italic.laws.clipping import clipped_step
from italic.run.align import make_tasks
from italic.run.conclude import conclude
from italic.run.inputs import read_prompts
from italic.run.ledger import Ledger
from italic.train.baseline import FitBaseline, fit_baseline
from italic.values.fitted import Fitted

Array = NDArray[np.float64]

TABLE = Path(__file__).parent / "tables" / "demo_preference_24.npz"
SAMPLING = Sampling(max_tokens=24)
PROMPTS, DRAWS, UNSEEN, ANSWERS, PILOT = 10, 20_000, 70, 100, 64


def split() -> tuple[list[Prompt], list[Prompt]]:
    """The bundled held-out prompts: those to fit to, and those of the table, which are the first of the unseen."""
    with resources.as_file(resources.files("italic") / "bundled" / "prompts" / "heldout.jsonl") as path:
        prompts = list(read_prompts(str(path)).good)
    order = np.random.default_rng(0).permutation(len(prompts))
    return [prompts[i] for i in order[UNSEEN:]], [prompts[i] for i in order[:PROMPTS]]


@dataclass(frozen=True, eq=False)
class Table:
    """Responses to each prompt: ids [k]; rewards float64 [k, n]; steps, their lengths in tokens, float64 [k, n]."""

    ids: list[str]
    rewards: Array
    steps: Array

    @classmethod
    def read(cls, path: Path) -> Table:
        """The table in a file."""
        with np.load(path) as file:
            return cls(file["ids"].tolist(), file["rewards"].astype(float), file["steps"].astype(float))


def make_table(path: Path) -> None:
    """Draw the table anew: 3.6 million tokens, some twenty minutes on two cores."""
    model, reward = italic.build_model("demo"), italic.build_reward("demo")
    rewards, steps, prompts = [], [], split()[1]
    for prompt in prompts:
        answers = italic.align([prompt], model, reward, f"sample:n={DRAWS}", seed=2026, sampling=SAMPLING)
        outcome = answers.results[0].outcome
        rewards.append(outcome.rewards.astype(np.float32))
        steps.append(outcome.drafts.steps.astype(np.uint8))
        print(f"{prompt.id}: {answers.usage.seconds:.0f} s", flush=True)
    np.savez_compressed(path, ids=[p.id for p in prompts], rewards=rewards, steps=steps)


def fit(tv: float, beta: float, proposals: int, seed: int) -> tuple[Fitted, Array, float, int]:
    """A head fitted to the other prompts; its baselines for the prompts of the table; seconds and tokens of the fit."""
    model, reward = italic.build_model("demo"), italic.build_reward("demo")
    seen, unseen = split()
    settings, ledger = FitBaseline(beta=beta, tv=tv, proposals=proposals), Ledger()
    began = time.perf_counter()
    asking = fit_baseline(make_tasks(seen, model, seed, SAMPLING), settings, ("demo", "demo"))
    fitted = conclude(asking, model, reward, ledger)
    seconds = time.perf_counter() - began
    at = [
        conclude(fitted.at(t.start(1), np.zeros(1)), model, reward, Ledger())
        for t in make_tasks(unseen, model, 0, SAMPLING)
    ]
    return fitted, np.concatenate(at), seconds, ledger.usage.tokens_generated


def cost(table: Table, beta: float, b: Array, extra: float = 0.0) -> dict[str, Any]:
    """What baselines b, nats [k] or [k, r] for r tries, come to: draws and tokens an answer, and total variation."""
    law = np.full(table.rewards.shape[1], 1 / table.rewards.shape[1])
    draws, tokens, tv = [], [], []
    for rewards, steps, levels in zip(table.rewards, table.steps, b.reshape(len(b), -1), strict=True):
        steps_ = [clipped_step(law, rewards / beta, level) for level in levels]
        draws.append(float(np.mean([s.draws for s in steps_])))
        tv.append(float(np.mean([s.tv for s in steps_])))
        tokens.append(draws[-1] * float(steps.mean()))
    return {
        "draws": float(np.mean(draws)),
        "tokens": float(np.mean(tokens)),
        "tokens_of_100": ANSWERS * float(np.mean(tokens)) + extra * float(table.steps.mean()),
        "tv": float(np.mean(tv)),
        "tv_of_prompts": [round(x, 4) for x in tv],
        "draws_of_prompts": [round(x, 2) for x in draws],
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    table = Table.read(arguments.table)
    f = table.rewards / arguments.beta
    fitted, head, seconds, tokens = fit(arguments.tv, arguments.beta, arguments.proposals, arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    pilots = np.array([[sharp(rng.choice(row, PILOT), arguments.tv) for _ in range(50)] for row in f])
    found = {
        "constant": cost(table, arguments.beta, np.full(len(f), f.max())),
        "constant, each prompt's own": cost(table, arguments.beta, f.max(axis=1)),
        "head": cost(table, arguments.beta, head),
        "pilot": cost(table, arguments.beta, pilots, extra=PILOT),
        "oracle": cost(table, arguments.beta, np.array([for_total_variation(row, arguments.tv) for row in f])),
    }
    return {
        "tv_target": arguments.tv,
        "beta": arguments.beta,
        "prompts": table.ids,
        "methods": found,
        "times_fewer_tokens": found["constant"]["tokens"] / found["head"]["tokens"],
        "times_fewer_tokens_than_own": found["constant, each prompt's own"]["tokens"] / found["head"]["tokens"],
        "fit_seconds": seconds,
        "fit_tokens": tokens,
        "break_even_answers": tokens / (found["constant"]["tokens"] - found["head"]["tokens"]),
        "fit_draws": fitted.report["draws"],
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--tv", type=float, default=0.05, help="the total variation aimed at")
    parser.add_argument("--beta", type=float, default=1.0)
    parser.add_argument("--proposals", type=int, default=64, help="responses a prompt to fit to, twice")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("--make-table", action="store_true", help="draw the table anew first")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    if arguments.make_table:
        make_table(arguments.table)
    report = measure(arguments)
    if arguments.json:
        print(json.dumps(report))
        return
    for name, row in report.pop("methods").items():
        shown = f"{row['draws']:8.2f} draws {row['tokens']:9.1f} tokens  TV {row['tv']:.4f}"
        print(f"{name:28} {shown}  {row['tv_of_prompts']}")
    for key, value in report.items():
        print(f"{key:28} {value}")


if __name__ == "__main__":
    main()
