"""What Italic itself costs: the share of a run's time that is neither the model's nor the reward's.

    python benchmarks/driver.py                     bundled pair, best of 8 on 64 held-out prompts, both drivers
    python benchmarks/driver.py --json driver.json

own: everything but the calls of model and reward, that is methods, scheduling, rendering of prompts and accounting.
positions: token positions through the network over prompts once plus tokens generated.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from italic import Sampling, align, build_model, build_reward
from italic.cli.demo import bundled_prompts

PROMPTS, METHOD, TOKENS = 64, "best-of-n:n=8", 128


def measure(driver: str) -> dict[str, Any]:
    """One run after a short one to warm up."""
    model, reward = build_model("demo"), build_reward("demo")
    prompts = bundled_prompts("heldout")[:PROMPTS]
    align(prompts[:8], model, reward, METHOD, sampling=Sampling(max_tokens=8), driver=driver)  # type: ignore[arg-type]
    model = build_model("demo")
    answers = align(prompts, model, reward, METHOD, sampling=Sampling(max_tokens=TOKENS), driver=driver)  # type: ignore[arg-type]
    usage = answers.usage
    asked = sum(len(result.outcome.drafts.prompt_tokens) for result in answers.results)  # type: ignore[attr-defined]
    return {
        "driver": driver,
        "tokens": usage.tokens_generated,
        "seconds": usage.seconds,
        "model": usage.policy_seconds / usage.seconds,
        "reward": usage.reward_seconds / usage.seconds,
        "own": 1 - (usage.policy_seconds + usage.reward_seconds) / usage.seconds,
        "positions": usage.positions / (asked + usage.tokens_generated),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [measure(driver) for driver in ("event", "lockstep")]
    print("driver     tokens  seconds   model  reward     own  positions")
    for row in rows:
        shares = f"{row['model']:7.1%} {row['reward']:7.1%} {row['own']:7.1%}"
        print(f"{row['driver']:9} {row['tokens']:7,} {row['seconds']:8.1f} {shares} {row['positions']:10.4f}")
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
