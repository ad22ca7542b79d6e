"""Options that several commands have, declared once."""

from __future__ import annotations

from typing import Annotated

import typer

ModelOption = Annotated[str, typer.Option("--model", "-m", help="demo, a directory or hub id, toy:letters=3.")]
RewardOption = Annotated[
    str,
    typer.Option("--reward", "-r", help="demo, demo:sentiment, a classifier, function:file.py:name, 0.7*A + 0.3*B."),
]
MethodOption = Annotated[str, typer.Option("--method", "-M", help="A method spec: name:key=value,key=value.")]
Dtype = Annotated[str | None, typer.Option(help="float32, bfloat16 or auto, for model and reward.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, ... for model and reward.")]
Rows = Annotated[int | None, typer.Option(min=1, help="Rows that the model works on at once.")]
MaxTokens = Annotated[int, typer.Option(help="Longest response, in tokens.")]
Temperature = Annotated[float, typer.Option(help="0 is greedy.")]
TopK = Annotated[int, typer.Option(help="0 is off.")]
TopP = Annotated[float, typer.Option(help="1 is off.")]
MinP = Annotated[float, typer.Option(help="0 is off.")]
Stop = Annotated[list[str] | None, typer.Option(help="Ends a response; may be given several times.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave out malformed lines and run the rest.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")]
Seed = Annotated[int, typer.Option(help="The same seed gives the same answers, whatever the batch sizes.")]
