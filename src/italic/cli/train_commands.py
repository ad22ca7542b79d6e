"""`italic train`: the declarations of its commands; `italic.cli.train` carries them out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from italic.cli.options import Device, Dtype, ModelOption, Quiet, RewardOption, Rows, Seed, SkipBad

train = typer.Typer(
    name="train",
    help="Tune a model so that one plain draw of it does what a method would do. Needs the extra `train`.",
    no_args_is_help=True,
)

Prompts = Annotated[str, typer.Argument(help="Prompts like those it will be used on: .jsonl, .parquet, hub.")]
Out = Annotated[
    str, typer.Option("--out", "-o", help="Directory to write, for --model DIRECTORY; gone on with if interrupted.")
]
CalibrationOption = Annotated[
    str | None,
    typer.Option("--calibration", "-c", help="A file of italic calibrate for these prompts; drawn first if not given."),
]
Samples = Annotated[int | None, typer.Option(min=2, help="Reference responses a prompt, if they are drawn first; 128.")]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, help="Longest response; that of the calibration, 128 if there is none.")
]
Temperature = Annotated[float | None, typer.Option(help="That of the calibration, 1 if there is none.")]
Steps = Annotated[int, typer.Option(help="Steps of the optimiser.")]
PerStep = Annotated[int, typer.Option(help="Prompts a step.")]
Group = Annotated[int, typer.Option(help="Responses a prompt in a step.")]
Rate = Annotated[float, typer.Option(help="Learning rate; it falls to 0 along a cosine.")]
Warmup = Annotated[int, typer.Option(help="Steps in which the learning rate rises from 0.")]
Lora = Annotated[int, typer.Option(help="Rank of LoRA adapters; 0 tunes all weights.")]
Gae = Annotated[
    float | None,
    typer.Option(
        "--gae-lambda",
        help="How far a part of a response has credit for what comes after it; 1: for all of it. By default chosen by "
        "how well the reward of beginnings foretells that of responses.",
    ),
]
Save = Annotated[int, typer.Option(help="Steps between checkpoints.")]
ReportTo = Annotated[list[str] | None, typer.Option(help="tensorboard, trackio, wandb; may be given several times.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="KEY=VALUE of the trainer's own configuration (trl.RLOOConfig); several times."),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Start anew if --out is a tuned model.")]
Raw = Annotated[bool, typer.Option("--raw", help="Continue `prompt` texts as they are.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")]
TrainerOption = Annotated[str, typer.Option(help="rloo (rollouts), or qrpo (on the reference responses alone).")]


@train.command()
def vbon(
    prompts: Prompts,
    out: Out,
    n: Annotated[int, typer.Option("--n", help="The best of how many draws to imitate.")] = 16,
    kl: Annotated[
        float | None, typer.Option(help="Divergence to lead beta to, nats; beta stays 1 / (n - 1) if not given.")
    ] = None,
    trainer: TrainerOption = "rloo",
    calibration: CalibrationOption = None,
    samples: Samples = None,
    model: ModelOption = "demo",
    reward: RewardOption = "demo",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    steps: Steps = 300,
    prompts_per_step: PerStep = 16,
    group: Group = 8,
    rate: Rate = 1.5e-4,
    warmup: Warmup = 10,
    lora: Lora = 0,
    gae_lambda: Gae = None,
    save_every: Save = 50,
    report_to: ReportTo = None,
    settings: Set = None,
    raw: Raw = False,
    overwrite: Overwrite = False,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    dtype: Dtype = None,
    device: Device = None,
    rows: Rows = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Variational best-of-n: one draw of the tuned model imitates the best of n draws (2407.06057)."""
    _run({"kind": "vbon", "n": n, "kl": kl}, locals())


@train.command()
def infalign(
    prompts: Prompts,
    out: Out,
    procedure: Annotated[
        str, typer.Option(help="How the model will be used: sample, best-of-n:n=4 or worst-of-n:n=4.")
    ] = "best-of-n:n=4",
    transform: Annotated[
        str, typer.Option(help="fixed-point, identity, log, exp:t=10, exp:t=-10, or raw: the reward, uncalibrated.")
    ] = "fixed-point",
    kl: Annotated[float, typer.Option(help="Divergence from the model to aim at, nats.")] = 1.0,
    trainer: TrainerOption = "rloo",
    calibration: CalibrationOption = None,
    samples: Samples = None,
    model: ModelOption = "demo",
    reward: RewardOption = "demo",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    steps: Steps = 300,
    prompts_per_step: PerStep = 16,
    group: Group = 8,
    rate: Rate = 1.5e-4,
    warmup: Warmup = 10,
    lora: Lora = 0,
    gae_lambda: Gae = None,
    save_every: Save = 50,
    report_to: ReportTo = None,
    settings: Set = None,
    raw: Raw = False,
    overwrite: Overwrite = False,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    dtype: Dtype = None,
    device: Device = None,
    rows: Rows = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """InfAlign: tune the model for the procedure that will be used on it, by the transform made for that (2412.19792).

    `italic plan` says beforehand what each transform gives. --transform raw is plain KL-regularised RL.
    """
    _run({"kind": "infalign", "procedure": procedure, "transform": transform, "kl": kl}, locals())


@train.command()
def bonbon(
    prompts: Prompts,
    out: Out,
    n: Annotated[int, typer.Option("--n", help="The best of how many draws to imitate.")] = 8,
    calibration: CalibrationOption = None,
    samples: Samples = None,
    model: ModelOption = "demo",
    reward: RewardOption = "demo",
    max_tokens: MaxTokens = None,
    temperature: Temperature = None,
    steps: Steps = 300,
    prompts_per_step: PerStep = 16,
    rate: Rate = 1.5e-4,
    warmup: Warmup = 10,
    lora: Lora = 0,
    save_every: Save = 50,
    report_to: ReportTo = None,
    settings: Set = None,
    raw: Raw = False,
    overwrite: Overwrite = False,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    dtype: Dtype = None,
    device: Device = None,
    rows: Rows = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """BoNBoN: imitate the best of n reference responses, and set it off against the worst of them (2406.00832)."""
    _run({"kind": "bonbon", "n": n}, {**locals(), "trainer": "bonbon", "group": n, "gae_lambda": None})


def _run(goal: Mapping[str, Any], typed: Mapping[str, Any]) -> None:
    """Carry out a command; typed: its arguments by name."""
    from italic.cli.train import Goal, TrainRequest, run_train
    from italic.train.tuning.settings import Tuning

    run_train(
        TrainRequest(
            source=typed["prompts"],
            goal=Goal(**goal),
            tuning=Tuning(
                trainer=typed["trainer"],
                steps=typed["steps"],
                prompts=typed["prompts_per_step"],
                group=typed["group"],
                rate=typed["rate"],
                warmup=typed["warmup"],
                lora=typed["lora"],
                gae_lambda=typed["gae_lambda"],
                save=typed["save_every"],
                seed=typed["seed"],
                report_to=tuple(typed["report_to"] or ()),
            ),
            settings=tuple(typed["settings"] or ()),
            calibration=typed["calibration"],
            samples=typed["samples"],
            model=typed["model"],
            reward=typed["reward"],
            max_tokens=typed["max_tokens"],
            temperature=typed["temperature"],
            options={
                **{key: typed[key] for key in ("dtype", "device", "rows")},
                "chat": "never" if typed["raw"] else None,
            },
            out=typed["out"],
            overwrite=typed["overwrite"],
            skip_bad=typed["skip_bad"],
            as_json=typed["as_json"],
            quiet=typed["quiet"],
        )
    )
