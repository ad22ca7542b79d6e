"""`italic`: the commands, their options and what they say when something is wrong.

Exit code 2: you asked for something that cannot be. Exit code 1: the run failed, or you stopped it; what was done stays
done. Only the declarations are here, so that `italic --help` is quick.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from italic import __version__
from italic.cli.options import (
    Device,
    Dtype,
    MaxTokens,
    MethodOption,
    MinP,
    ModelOption,
    Quiet,
    RewardOption,
    Rows,
    Seed,
    SkipBad,
    Stop,
    Temperature,
    TopK,
    TopP,
)
from italic.cli.train_commands import train
from italic.core.errors import Interrupted, ItalicError, UsageError

app = typer.Typer(
    name="italic",
    help="Tilt a generative model towards a reward at inference time: a model, a reward, a budget.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(train)


def _version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"italic {__version__}\n")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    n: Annotated[int, typer.Option("--n", min=1, help="Draws a prompt for best-of-n.")] = 16,
    max_tokens: MaxTokens = 200,
    seed: Seed = 0,
) -> None:
    """Show the bundled pair at work: plain answers beside best-of-16, with rewards and cost. No download."""
    from italic.cli.demo import run_demo

    run_demo(n=n, max_tokens=max_tokens, seed=seed)


@app.command()
def generate(
    prompts: Annotated[
        str | None,
        typer.Argument(
            help="A .jsonl or .parquet file with `prompt` or `messages`, or a hub data set owner/name:split."
        ),
    ] = None,
    prompt: Annotated[list[str] | None, typer.Option("--prompt", "-p", help="A prompt in place of a file.")] = None,
    model: ModelOption = "demo",
    reward: RewardOption = "demo",
    method: MethodOption = "best-of-n:n=16",
    out: Annotated[str | None, typer.Option("--out", "-o", help="JSONL file; resumed if there.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew if --out exists.")] = False,
    candidates: Annotated[bool, typer.Option("--candidates", help="Write all drafts and their rewards too.")] = False,
    skip_bad: SkipBad = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue `prompt` texts as they are, without a chat template.")
    ] = False,
    seed: Seed = 0,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 1.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    stop: Stop = None,
    dtype: Dtype = None,
    device: Device = None,
    rows: Rows = None,
    budget_tokens: Annotated[int | None, typer.Option(help="At most so many generated tokens.")] = None,
    budget_scores: Annotated[int | None, typer.Option(help="At most so many scored drafts.")] = None,
    budget_seconds: Annotated[float | None, typer.Option(help="At most so much time.")] = None,
    budget_cost: Annotated[float | None, typer.Option(help="At most so much money; needs prices.")] = None,
    token_price: Annotated[float, typer.Option(help="Price of a million generated tokens.")] = 0.0,
    reward_price: Annotated[float, typer.Option(help="Price of a thousand scored drafts.")] = 0.0,
    driver: Annotated[str, typer.Option(help="event, or lockstep (slower, for checking).")] = "event",
    trace: Annotated[
        str | None, typer.Option(help="Directory: what the method says of itself, and pictures of cascades.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Answer prompts under a reward. The same command again goes on where it stopped."""
    from italic.cli.generate import Request, run_generate
    from italic.core.sampling import Sampling
    from italic.run.ledger import Budget

    run_generate(
        Request(
            source=prompts,
            texts=tuple(prompt or ()),
            model=model,
            reward=reward,
            method=method,
            sampling=Sampling(max_tokens, temperature, top_k, top_p, min_p, tuple(stop or ())),
            budget=Budget(budget_tokens, budget_scores, budget_seconds, budget_cost, token_price, reward_price),
            options={"dtype": dtype, "device": device, "rows": rows, "chat": "never" if raw else None},
            out=out,
            overwrite=overwrite,
            candidates=candidates,
            skip_bad=skip_bad,
            seed=seed,
            driver=driver,
            trace=trace,
            quiet=quiet,
        )
    )


@app.command()
def calibrate(
    prompts: Annotated[str, typer.Argument(help="Prompts like those to be answered: .jsonl, .parquet, hub.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Parquet file to write; gone on with if interrupted.")],
    model: ModelOption = "demo",
    reward: RewardOption = "demo",
    samples: Annotated[int, typer.Option(help="Responses a prompt.")] = 8,
    lengths: Annotated[
        str | None,
        typer.Option(help="Tokens after which responses are scored too, or none; 8,16,32,64,96 for up to 128 tokens."),
    ] = None,
    entropies: Annotated[
        bool, typer.Option("--entropies/--no-entropies", help="A second pass, for what only the cascade needs.")
    ] = True,
    raw: Annotated[bool, typer.Option("--raw", help="Continue `prompt` texts as they are.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the calibration in --out.")] = False,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 1.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    stop: Stop = None,
    dtype: Dtype = None,
    device: Device = None,
    rows: Rows = None,
    budget_tokens: Annotated[int | None, typer.Option(help="At most so many generated tokens.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as one JSON object.")] = False,
    quiet: Quiet = False,
) -> None:
    """Draw reference responses and tell which reward to aim at, where segments end, and whether they can be judged."""
    from italic.cli.calibrate import CalibrateRequest, run_calibrate
    from italic.core.sampling import Sampling
    from italic.run.ledger import Budget

    run_calibrate(
        CalibrateRequest(
            source=prompts,
            model=model,
            reward=reward,
            samples=samples,
            lengths=lengths,
            entropies=entropies,
            sampling=Sampling(max_tokens, temperature, top_k, top_p, min_p, tuple(stop or ())),
            budget=Budget(tokens=budget_tokens),
            options={"dtype": dtype, "device": device, "rows": rows, "chat": "never" if raw else None},
            out=out,
            overwrite=overwrite,
            skip_bad=skip_bad,
            seed=seed,
            json=as_json,
            quiet=quiet,
        )
    )


@app.command("fit-baseline")
def fit_baseline(
    prompts: Annotated[str, typer.Argument(help="Prompts like those it will be used on: .jsonl, .parquet, hub.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Directory to write.")],
    model: ModelOption = "demo",
    reward: RewardOption = "demo",
    beta: Annotated[float, typer.Option(help="The tilt is exp(reward / beta).")] = 1.0,
    tv: Annotated[float | None, typer.Option(help="Total variation to aim at; 0.05 if no delta.")] = None,
    delta: Annotated[float | None, typer.Option(help="Or: the share of proposals above the baseline.")] = None,
    kind: Annotated[str, typer.Option(help="pinball, paper or conformal (no network; needs --block).")] = "pinball",
    block: Annotated[int | None, typer.Option(help="Steps between decisions; whole responses if not given.")] = None,
    value: Annotated[
        str | None, typer.Option(help="What unfinished drafts are worth: reward, preview, completions:k or learned.")
    ] = None,
    states: Annotated[int | None, typer.Option(help="Chains a prompt, with --block; 16.")] = None,
    proposals: Annotated[int, typer.Option(help="Proposals a state to fit on, and as many to set the threshold.")] = 64,
    trajectories: Annotated[int | None, typer.Option(help="Responses a prompt to learn a value from; 64.")] = None,
    loss: Annotated[str | None, typer.Option(help="Of a learned value: itakura-saito (the default) or mse.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue `prompt` texts as they are.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the baseline in --out.")] = False,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 1.0,
    top_k: TopK = 0,
    top_p: TopP = 1.0,
    min_p: MinP = 0.0,
    stop: Stop = None,
    dtype: Dtype = None,
    device: Device = None,
    rows: Rows = None,
    quiet: Quiet = False,
) -> None:
    """Learn a value and a Chernoff baseline, to be used with --method chernoff:baseline=DIRECTORY."""
    from italic.cli.fit import FitRequest, build_fit, run_fit
    from italic.core.sampling import Sampling

    run_fit(
        FitRequest(
            source=prompts,
            model=model,
            reward=reward,
            settings=build_fit(beta, tv, delta, kind, block, value, states, proposals, trajectories, loss),
            sampling=Sampling(max_tokens, temperature, top_k, top_p, min_p, tuple(stop or ())),
            options={"dtype": dtype, "device": device, "rows": rows, "chat": "never" if raw else None},
            out=out,
            overwrite=overwrite,
            skip_bad=skip_bad,
            seed=seed,
            quiet=quiet,
        )
    )


@app.command()
def replay(
    table: Annotated[
        str,
        typer.Argument(help='JSONL, a prompt a line: {"prompt": id, "rewards": [...]}, or a record with candidates.'),
    ],
    method: Annotated[
        list[str] | None, typer.Option("--method", "-M", help="A method spec with n; may be given several times.")
    ] = None,
    prompts: Annotated[int, typer.Option(help="Prompts a batch, drawn at random from the table.")] = 5,
    budget: Annotated[int | None, typer.Option(help="Draws a prompt, on average; the method's n if not given.")] = None,
    batches: Annotated[int, typer.Option(help="How many batches.")] = 1000,
    oracle: Annotated[bool, typer.Option("--oracle", help="Also the greedy allocation that knows the laws.")] = False,
    seed: Seed = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object (a list for several methods).")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Judge a method on a table of rewards, without a model: win rate and break-even budget against best-of-N."""
    from italic.cli.replay import ReplayRequest, run_replay

    specs = tuple(method or ("adaptive-best-of-n",))
    run_replay(ReplayRequest(table, specs, prompts, budget, batches, oracle, seed, as_json, quiet))


@app.command()
def evaluate(
    prompts: Annotated[str, typer.Argument(help="Prompts that were not trained on: .jsonl, .parquet, hub.")],
    model: Annotated[list[str], typer.Option("--model", "-m", help="A tuned model; or several, one each time.")],
    reference: Annotated[str, typer.Option("--reference", help="The model that it was tuned from.")] = "demo",
    reward: RewardOption = "demo",
    procedure: Annotated[
        str, typer.Option("--procedure", "-P", help="How the models are used: sample, best-of-n:n=4, worst-of-n:n=4.")
    ] = "best-of-n:n=8",
    rival: Annotated[
        str | None, typer.Option(help="How the reference is used, if otherwise: sample, best-of-n:n=8, ...")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Responses a prompt of each model.")] = 16,
    reference_samples: Annotated[int | None, typer.Option(min=1, help="And of the reference; as many.")] = None,
    plot: Annotated[str | None, typer.Option(help="Picture to write: reward and win rate over divergence.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue `prompt` texts as they are.")] = False,
    skip_bad: SkipBad = False,
    seed: Seed = 0,
    max_tokens: MaxTokens = 128,
    dtype: Dtype = None,
    device: Device = None,
    rows: Rows = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object (a list for several models).")] = False,
    quiet: Quiet = False,
) -> None:
    """What tuned models give, against the one they came from: reward, win rates and divergence, with intervals."""
    from italic.cli.evaluate import EvaluateRequest, run_evaluate
    from italic.core.sampling import Sampling

    run_evaluate(
        EvaluateRequest(
            source=prompts,
            models=tuple(model),
            reference=reference,
            reward=reward,
            procedure=procedure,
            rival=rival,
            samples=samples,
            reference_samples=reference_samples,
            sampling=Sampling(max_tokens),
            options={"dtype": dtype, "device": device, "rows": rows, "chat": "never" if raw else None},
            plot=plot,
            skip_bad=skip_bad,
            seed=seed,
            as_json=as_json,
            quiet=quiet,
        )
    )


@app.command()
def plan(
    procedure: Annotated[
        str,
        typer.Option("--procedure", "-P", help="How the model will be used: sample, best-of-n:n=4, worst-of-n:n=4."),
    ],
    kl: Annotated[float, typer.Option("--kl", help="How far from the model the policy may go, nats.")] = 1.0,
    transform: Annotated[
        list[str] | None,
        typer.Option("--transform", "-T", help="identity, log, exp:t=10 or fixed-point; may be given several times."),
    ] = None,
    rival: Annotated[
        str | None, typer.Option(help="How the model that it is to beat is used; as well if none.")
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Also what is left with so many reference rewards.")] = None,
    plot: Annotated[str | None, typer.Option(help="Picture to write, win rate over KL: plan.png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON list.")] = False,
) -> None:
    """What transforms of the reward give for the way a model is used, and cost, before training: no model is needed."""
    from italic.cli.plan import PlanRequest, run_plan

    run_plan(PlanRequest(procedure, kl, tuple(transform or ()), rival, samples, plot, as_json))


@app.command()
def methods(name: Annotated[str | None, typer.Argument(help="Tell all about one.")] = None) -> None:
    """List the methods: parameters, needs, sources."""
    from italic.cli.listing import list_methods

    list_methods(name)


@app.command()
def models(name: Annotated[str | None, typer.Argument(help="Tell all about one.")] = None) -> None:
    """List the kinds of model and their options."""
    from italic.cli.listing import list_loaders

    list_loaders("models", name)


@app.command()
def rewards(name: Annotated[str | None, typer.Argument(help="Tell all about one.")] = None) -> None:
    """List the kinds of reward and their options."""
    from italic.cli.listing import list_loaders

    list_loaders("rewards", name)


@app.command()
def cite(
    methods: Annotated[list[str] | None, typer.Argument(help="Method specs; all methods if none.")] = None,
) -> None:
    """Print the references of methods, as BibTeX."""
    from italic.cli.listing import print_references

    print_references(methods or [])


@app.command()
def doctor(
    prompts: Annotated[str | None, typer.Argument(help="A few prompts to try; the bundled ones if none.")] = None,
    model: ModelOption = "demo",
    reward: RewardOption = "demo",
    method: MethodOption = "best-of-n:n=16",
    count: Annotated[int, typer.Option("--count", min=1, help="How many prompts the real run will have.")] = 1000,
    max_tokens: MaxTokens = 128,
    dtype: Dtype = None,
    device: Device = None,
    rows: Rows = None,
    token_price: Annotated[float, typer.Option(help="Price of a million generated tokens.")] = 0.0,
    reward_price: Annotated[float, typer.Option(help="Price of a thousand scored drafts.")] = 0.0,
) -> None:
    """Prove a model and a reward before money is spent: batching, padding, determinism, speed, cost of a run."""
    from italic.cli.doctor import Visit, run_doctor

    run_doctor(
        Visit(
            source=prompts,
            model=model,
            reward=reward,
            method=method,
            count=count,
            max_tokens=max_tokens,
            options={"dtype": dtype, "device": device, "rows": rows},
            token_price=token_price,
            reward_price=reward_price,
        )
    )


@app.command()
def export(
    record: Annotated[str, typer.Argument(help="What `italic generate --out` wrote.")],
    out: Annotated[str, typer.Option("--out", "-o", help="Where to write.")],
    style: Annotated[str, typer.Option("--format", "-f", help="alpaca-eval, sft or dpo (needs --candidates).")] = "sft",
) -> None:
    """Turn answers into AlpacaEval outputs or into SFT or DPO training data."""
    from italic.cli.export import run_export

    run_export(record, out, style)


def main() -> None:
    """Run the command line and leave with its exit code."""
    try:
        app(standalone_mode=True)
    except KeyboardInterrupt:
        _leave(Interrupted("stopped"))
    except ItalicError as error:
        _leave(error)


def _leave(error: ItalicError) -> None:
    sys.stderr.write(f"italic: {error.message}\n")
    if error.hint:
        sys.stderr.write(f"  {error.hint}\n")
    raise SystemExit(2 if isinstance(error, UsageError) else 1)
