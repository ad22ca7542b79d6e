"""Reading the prompts that a command names, and telling which of them a record has already."""

from __future__ import annotations

from collections.abc import Sequence

from italic.cli.show import remark
from italic.core.errors import InputError, UsageError
from italic.core.prompt import Prompt
from italic.run.inputs import collect, read_prompts
from italic.run.record import Record, plain

SHOWN = 10
"""Bad lines that an error quotes."""


def given_prompts(source: str | None, texts: Sequence[str] = (), *, skip_bad: bool = False) -> tuple[Prompt, ...]:
    """The prompts of a file or data set, or those that were typed: one of the two.

    Raises UsageError for neither or both, InputError for bad lines (unless `skip_bad`, which tells of them and leaves
    them out) and if no prompt is left.
    """
    if (source is None) == (not texts):
        raise UsageError("no prompts" if not texts else "both a file and --prompt", hint="Give PROMPTS or --prompt.")
    read = read_prompts(source) if source else collect(enumerate(texts, 1))
    if read.problems and not skip_bad:
        shown = "\n  ".join(read.problems[:SHOWN]) + ("\n  ..." if len(read.problems) > SHOWN else "")
        raise InputError(
            f"{len(read.problems)} bad lines in {source}:\n  {shown}",
            hint=f"Mend them, or add --skip-bad to run the other {len(read.good)} prompts.",
        )
    for problem in read.problems:
        remark(f"left out: {problem}")
    if not read.good:
        raise InputError(f"no prompts in {source}", hint="Give at least one line with `prompt` or `messages`.")
    return read.good


def recorded(record: Record, prompt: Prompt) -> bool:
    """Whether the record has this prompt. Raises UsageError if it has another one of the same id."""
    line = record.lines.get(prompt.id)
    if line is None:
        return False
    same = line.get("prompt") == prompt.text
    if prompt.messages is not None:
        same = line.get("messages") == plain(prompt.messages)
    if not same:
        raise UsageError(
            f"prompt {prompt.id!r} in {record.path} is another text than now",
            hint="Give the prompts ids of their own, use another --out, or --overwrite to start anew.",
        )
    return True
