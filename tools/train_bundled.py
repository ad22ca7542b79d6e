"""Train the bundled models: a chat language model, a preference model and a sentiment model.

    python tools/train_bundled.py all --data DIR --out src/italic/bundled

Every step can also be run alone, in the order prepare, lm, sharpen, sample, preference,
sentiment, prompts."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from bundled import steps

STEPS = tuple(steps.RUN)


def main() -> None:
    """Parse the command line and run one step or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=(*STEPS, "all"))
    parser.add_argument("--data", required=True, help='a folder with the collections, or "hub"')
    parser.add_argument("--out", type=Path, default=Path("src/italic/bundled"), help="where the models go")
    parser.add_argument("--work", type=Path, default=Path("build/bundled"), help="where prepared data goes")
    parser.add_argument("--minutes", type=float, help="training time of each model (default: 47, 8 and 5)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--temperature", type=float, default=0.75, help="the temperature baked in by sharpen")
    parser.add_argument("--half", action="store_true", help="train in bfloat16 autocast")
    arguments = parser.parse_args()
    settings = steps.Settings(**{key: value for key, value in vars(arguments).items() if key != "step"})
    torch.set_num_threads(settings.threads)
    for step in STEPS if arguments.step == "all" else (arguments.step,):
        steps.RUN[step](settings)


if __name__ == "__main__":
    main()
