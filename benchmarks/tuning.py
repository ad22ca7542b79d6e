"""What tuning is worth: variational best-of-8 and InfAlign beside their rivals, on the bundled model and sentiment.

`python benchmarks/tuning.py` prints what was measured; `--run NAME ...` (or `--run all`) tunes and measures anew, a
configuration at a time, into build/tuning, and writes the table; `--plot pareto.png` draws it. Responses have at most
32 tokens. Training: 1,024 short requests (benchmarks/prompts), 16 reference responses each, and 64 for InfAlign's
transforms. Judged on the 173 bundled held-out prompts of at most 40 tokens, which are no training prompts: 32 responses
of each tuned model and 64 of the reference to every prompt. Intervals: 95 %, over prompts. Two cores; `minutes` are
those of `italic train`, in two processes of one thread where there are rollouts, the reference responses (drawn once,
`minutes` of "calibrate" for the 16) not counted. `bfloat16` says whether the CPU multiplies such matrices faster than
float32 ones, as AVX-512 BF16 lets it, and so was trained with them: without, the minutes are more than twice as many.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from italic.cli.pareto import draw_pareto
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.core.spec import build_model, build_reward
from italic.evaluate.tuned import Judgement, Sampled, Use, best_of_n_curve, judge, lead, sample
from italic.laws.statistics import Interval
from italic.models.transformers import load
from italic.models.transformers.cpu import multiplies_bfloat16
from italic.run.inputs import read_prompts
from italic.run.record import plain, write_whole

HERE = Path(__file__).parent
TABLE = HERE / "tables" / "tuning.json"
REWARDS = HERE / "tables" / "tuning_rewards.npz"
PROMPTS = HERE / "prompts" / "tuning.jsonl"
HELD_OUT = HERE.parent / "src" / "italic" / "bundled" / "prompts" / "heldout.jsonl"
WORK = Path("build/tuning")
REWARD = "demo:sentiment"
SAMPLING = Sampling(max_tokens=32)
LONGEST, POLICY, REFERENCE = 40, 32, 64
"""Tokens of a held-out prompt; responses a prompt to judge with."""
FEW, MANY = 16, 64
"""Reference responses a prompt to train with. With few, best-of-4's fixed point loses 0.04 of its win rate, and beta of
the raw reward is not known at so large a divergence."""

KL = 1.43
"""Of the rollouts, nats, to which it is led: held-out responses are to have at most log 8 - 7/8 + 0.2 = 1.404. Rollouts
end at what they are led to, and held-out responses had 0.96 of their divergence in two runs of other lengths."""
ONLINE = (
    *("--kl", f"{KL:g}", "--steps", "345", "--rows", "128"),
    *("--prompts-per-step", "16", "--group", "16", "--rate", "1.7e-4"),
)
OFFLINE = ("--steps", "128", "--prompts-per-step", "16", "--rate", "1.5e-4")
"""One pass over the reference responses."""


@dataclass(frozen=True)
class Configuration:
    """What is typed after `italic train`, the procedures that the model is judged by, how many reference responses to a
    prompt it learns from, and whether by rollouts, led to `KL` in two processes.
    """

    words: tuple[str, ...]
    uses: tuple[Use, ...] = (Use(8),)
    references: int = FEW
    online: bool = True


def vbon(seed: int) -> Configuration:
    """Variational best-of-8."""
    return Configuration(("vbon", "--n", "8", "--seed", str(seed), *ONLINE))


def infalign(procedure: str, transform: str, *uses: Use) -> Configuration:
    """Calibrate-and-transform, or the raw reward."""
    return Configuration(("infalign", "--procedure", procedure, "--transform", transform, *ONLINE), uses, MANY)


BEST, WORST = Use(4), Use(4, worst=True)
CONFIGURATIONS = {
    "vbon seed 0": vbon(0),
    "vbon seed 1": vbon(1),
    "vbon seed 2": vbon(2),
    "raw reward": infalign("sample", "raw", Use(8), BEST, WORST),
    "identity": infalign("sample", "identity", Use(8), BEST, WORST),
    "fixed point, best of 4": infalign("best-of-n:n=4", "fixed-point", BEST),
    "fixed point, worst of 4": infalign("worst-of-n:n=4", "fixed-point", WORST),
    "qrpo": Configuration(("vbon", "--n", "8", "--trainer", "qrpo", "--group", "8", *OFFLINE), online=False),
    "bonbon": Configuration(("bonbon", "--n", "8", *OFFLINE), online=False),
}


RIVALS = ("raw reward", "identity")
"""Which know nothing of the procedure that the model is used by."""


def known(count: int) -> Path:
    """Where the training prompts' reference responses are, `count` each."""
    return WORK / f"reference-{count}.parquet"


def calibrate(count: int) -> float | None:
    """Draw the reference responses, if they are not there: the minutes it took, None if they were."""
    if known(count).exists():
        return None
    began = time.monotonic()
    words = ("--samples", str(count), "--lengths", "none", "--no-entropies", "--max-tokens", str(SAMPLING.max_tokens))
    italic("calibrate", str(PROMPTS), *words, "--reward", REWARD, "--rows", "256", "--out", str(known(count)))
    return (time.monotonic() - began) / 60


def italic(*words: str, processes: int = 1) -> None:
    """Run the command line. Raises CalledProcessError."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m", "--"]
    subprocess.run([sys.executable, *(launcher if processes > 1 else ["-m"]), "italic", *words], check=True)


def place(name: str) -> Path:
    """Where the model of a configuration is."""
    return WORK / name.replace(" ", "-").replace(",", "")


def tune(name: str) -> float:
    """Tune one model, or find it; the minutes it took."""
    out = place(name)
    chosen = CONFIGURATIONS[name]
    took = calibrate(chosen.references)
    if took is not None and chosen.references == FEW:
        note("calibrate", {"minutes": took, "bfloat16": multiplies_bfloat16()})
    words = ("--calibration", str(known(chosen.references)), "--reward", REWARD, "--out", str(out))
    kind, *rest = chosen.words
    italic("train", kind, str(PROMPTS), *rest, *words, processes=2 if chosen.online else 1)
    return float(json.loads((out / "tuning.json").read_text())["report"]["seconds"]) / 60


def measure(names: list[str]) -> None:
    """Tune and judge, and write each result as soon as it is there."""
    WORK.mkdir(parents=True, exist_ok=True)
    reference, reward = load(rows=128), build_reward(REWARD)
    held = [p for p in read_prompts(str(HELD_OUT)).good if len(reference.codec.encode(p)) <= LONGEST]
    before = sample(held, reference, reward, REFERENCE, seed=1, sampling=SAMPLING)
    keep("reference", before)
    note("curve", best_of_n_curve(before, REFERENCE // 2))
    for name in names:
        minutes = tune(name)
        model: Any = build_model(str(place(name)), rows=128)
        drawn = sample(held, model, reward, POLICY, against=reference, seed=2, sampling=SAMPLING)
        keep(name, drawn)
        found = {use.name: line(judge(drawn, before, use), minutes) for use in CONFIGURATIONS[name].uses}
        note(name, found)
        show(name, found)


def keep(name: str, drawn: list[Sampled]) -> None:
    """Add the rewards that a configuration was judged by, a row a prompt, so that win rates can be told apart."""
    with FileLock(WORK / "table.lock"):
        np.savez_compressed(REWARDS, **{**rewards(), name: np.array([s.rewards for s in drawn], dtype=np.float32)})


def rewards() -> dict[str, Any]:
    """What `keep` wrote."""
    if not REWARDS.exists():
        return {}
    with np.load(REWARDS) as there:
        return dict(there)


def leads() -> list[tuple[str, str, str, Interval]]:
    """By how much the win rate of each one led to the divergence exceeds its rivals', however it was to be used: name,
    use, rival, difference.
    """
    there = {
        name: [Sampled(Prompt(str(row), ""), np.array(drawn, dtype=float), np.zeros(0)) for row, drawn in enumerate(of)]
        for name, of in rewards().items()
    }
    found = []
    for name in (name for name, one in CONFIGURATIONS.items() if one.online and name in there):
        for over in (over for over in RIVALS if over in there and over != name):
            for use in CONFIGURATIONS[over].uses:
                ahead = lead(there[name], there[over], there["reference"], use)
                found.append((name, use.name, over, ahead))
    return found


def note(name: str, found: Any) -> None:
    """Write one entry of the table, as it is now: another run may be under way."""
    with FileLock(WORK / "table.lock"):
        write_whole(TABLE, json.dumps({**read(), name: found}, indent=1) + "\n")


def line(found: Judgement, minutes: float) -> dict[str, Any]:
    """A line of the table."""
    return {**plain(vars(found)), "minutes": minutes, "bfloat16": multiplies_bfloat16()}


def read() -> dict[str, Any]:
    """The table as it was measured."""
    return dict(json.loads(TABLE.read_text())) if TABLE.exists() else {}


def show(name: str, found: dict[str, Any]) -> None:
    """Print the lines of a configuration."""
    for use, figures in found.items():
        told = [
            f"{key} {figures[key][0]:.3f} ({figures[key][1]:.3f} to {figures[key][2]:.3f})"
            for key in ("reward", "share", "win_rate", "used_win_rate", "kl")
            if figures[key][0] is not None
        ]
        kind = "bfloat16" if figures["bfloat16"] else "float32"
        print(f"{name:24s} {use:11s} {'  '.join(told)}  {figures['minutes']:.1f} min in {kind}", flush=True)


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", nargs="+", metavar="NAME", help=f"all, or of {', '.join(CONFIGURATIONS)}")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    names = list(CONFIGURATIONS) if arguments.run == ["all"] else arguments.run or []
    unknown = set(names) - CONFIGURATIONS.keys()
    if unknown:
        parser.error(f"no configuration {', '.join(sorted(unknown))}; there are {', '.join(CONFIGURATIONS)}")
    if names:
        measure(names)
    measured = read()
    table = {name: measured[name] for name in CONFIGURATIONS if name in measured}
    for name, found in table.items():
        show(name, found)
    for name, use, over, (mean, low, high) in leads():
        print(f"{name:24s} {use:11s} ahead of {over} by {mean:.3f} ({low:.3f} to {high:.3f})")
    if arguments.plot:
        models = {name: judgement(next(iter(found.values()))) for name, found in table.items()}
        draw_pareto(models, [tuple(point) for point in measured["curve"]], arguments.plot)


def judgement(found: dict[str, Any]) -> Judgement:
    """A line of the table as it was before it was written."""
    known = {field.name: found[field.name] for field in fields(Judgement)}
    return Judgement(**{key: Interval(*v) if isinstance(v, list) else v for key, v in known.items()})


if __name__ == "__main__":
    main()
