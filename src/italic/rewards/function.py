"""A plain Python function as a reward, with the signature of TRL's reward functions.

    def length(completions: list[str], **_) -> list[float]:
        return [-abs(len(c) - 80) for c in completions]

    reward = FunctionReward(length)                    # or --reward function:my_rewards.py:length

The function is called with lists of equal length, one entry a draft: `prompts`, `completions`, `completion_ids` (token
ids) and every column of the prompts under its own name. It gets what its signature accepts, everything if it takes
`**kwargs`. A prompt given as text arrives as a string with its completion as a string; a conversation arrives as its
list of messages with the completion as `[{"role": "assistant", "content": ...}]`. It returns one number a draft; None
where it cannot score. It may be a coroutine function.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import inspect
import math
import numbers
import sys
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from italic.core.drafts import Drafts, TextDrafts
from italic.core.errors import RewardError, SpecError
from italic.core.protocols import Scored

Function = Callable[..., Sequence[float | None] | Awaitable[Sequence[float | None]]]


class FunctionReward:
    """A reward that calls `fn` once for all pending drafts.

    fn: see this module's docstring. A draft's score may depend on its own prompt and completion alone: a call holds the
    drafts of many prompts, in no particular order. Only the form of the prompts is never mixed: texts and conversations
    come in two calls. partial: whether scores of unfinished drafts mean something. deterministic: whether the same text
    always gets the same score; False for a function that draws random numbers.
    """

    needs = frozenset({"texts"})

    def __init__(
        self, fn: Function, name: str | None = None, *, partial: bool = False, deterministic: bool = True
    ) -> None:
        self.name = name or getattr(fn, "__name__", type(fn).__name__)
        self.partial = partial
        self.deterministic = deterministic
        self._fn = fn
        parameters = _parameters(fn)
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        self._accepts = None if takes_all else {p.name for p in named}
        self._requires = [p.name for p in named if p.default is p.empty]

    def __repr__(self) -> str:
        return f"FunctionReward({self.name!r})"

    def score(self, batches: Sequence[Drafts]) -> list[Scored]:
        """The function's scores, NaN where missing. Raises RewardError."""
        answers: dict[int, Scored] = {}
        for chats in (False, True):
            some = {i: b for i, b in enumerate(batches) if (b.prompt.messages is not None) == chats}
            rows = [(b, k) for b in some.values() for k in range(len(b))]
            values = self._call(rows) if rows else []
            at = 0
            for i, b in some.items():
                part = np.array(values[at : at + len(b)], dtype=np.float64)
                answers[i] = Scored(part, np.isnan(part))
                at += len(b)
        return [answers[i] for i in range(len(batches))]

    def _call(self, rows: Sequence[tuple[Any, int]]) -> list[float]:
        """One score a row, NaN for missing."""
        arguments = {k: v for k, v in self._arguments(rows).items() if self._accepts is None or k in self._accepts}
        absent = [name for name in self._requires if name not in arguments]
        if absent:
            raise RewardError(
                f"the reward function {self.name} needs {', '.join(absent)}: no prompt has such a column",
                hint="Add the column to the prompts, or give the parameter a default.",
            )
        try:
            values = self._fn(**arguments)
            if inspect.isawaitable(values):
                values = _wait(values)
        except Exception as error:
            raise RewardError(f"the reward function {self.name} failed: {type(error).__name__}: {error}") from error
        values = values.tolist() if hasattr(values, "tolist") else values
        if not isinstance(values, Sequence) or isinstance(values, str | bytes):
            raise RewardError(
                f"the reward function {self.name} returned {_name(values)}, not a list of numbers",
                hint="Return one number a completion, None where there is no score.",
            )
        if len(values) != len(rows):
            raise RewardError(
                f"the reward function {self.name} returned {len(values)} scores for {len(rows)} completions",
                hint="Return one number a completion, None where there is no score.",
            )
        return [self._number(v, b.prompt.id) for v, (b, _) in zip(values, rows, strict=True)]

    @staticmethod
    def _arguments(rows: Sequence[tuple[TextDrafts, int]]) -> dict[str, list[Any]]:
        """All that a function may ask for. Columns come first: one called `prompts` does not hide the prompts."""
        names = {name for b, _ in rows for name in b.prompt.columns}
        arguments: dict[str, list[Any]] = {n: [b.prompt.columns.get(n) for b, _ in rows] for n in sorted(names)}
        if rows[0][0].prompt.messages is not None:
            arguments["prompts"] = [[dict(m) for m in b.prompt.messages or ()] for b, _ in rows]
            arguments["completions"] = [[{"role": "assistant", "content": b.texts[k]}] for b, k in rows]
        else:
            arguments["prompts"] = [b.prompt.text for b, _ in rows]
            arguments["completions"] = [b.texts[k] for b, k in rows]
        arguments["completion_ids"] = [b.tokens[k].tolist() for b, k in rows]
        return arguments

    def _number(self, value: Any, prompt: str) -> float:
        """A score as a float, NaN for None."""
        if value is None:
            return math.nan
        value = value.item() if hasattr(value, "item") else value
        if not isinstance(value, numbers.Real):
            raise RewardError(
                f"the reward function {self.name} returned {_name(value)} for prompt {prompt!r}, not a number",
                hint="Return a number, or None where there is no score.",
            )
        if math.isnan(value):
            raise RewardError(
                f"the reward function {self.name} returned NaN for prompt {prompt!r}",
                hint="Return None where there is no score; NaN is taken for a mistake.",
            )
        return float(value)


def load(path: str, *, name: str | None = None, partial: bool = False, deterministic: bool = True) -> FunctionReward:
    """The function at `file.py:function` or `package.module:function`. Raises SpecError."""
    where, _, attribute = path.rpartition(":")
    if not where or not attribute.isidentifier():
        raise SpecError(
            f"{path!r} names no function", hint="Write function:my_rewards.py:length or function:package.module:length."
        )
    module = _import_file(Path(where)) if where.endswith(".py") else _import_module(where)
    fn = getattr(module, attribute, None)
    if not callable(fn):
        found = sorted(n for n, v in vars(module).items() if inspect.isroutine(v) and not n.startswith("_"))
        what = "nothing" if fn is None else f"{_name(fn)}, not a function,"
        raise SpecError(f"{where} has {what} under the name {attribute}", hint=f"It has {', '.join(found) or 'none'}.")
    return FunctionReward(fn, name or attribute, partial=partial, deterministic=deterministic)


def _import_file(path: Path) -> Any:
    if not path.is_file():
        raise SpecError(f"there is no file {path}", hint="Give the path of a Python file, seen from where you are.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SpecError(f"{path} cannot be imported", hint="Give the path of a Python file.")
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(path.stem)
    sys.modules.setdefault(path.stem, module)  # dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        if before is None:
            del sys.modules[path.stem]
        raise SpecError(f"importing {path} failed: {type(error).__name__}: {error}") from error
    return module


def _import_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise SpecError(
            f"importing {name} failed: {type(error).__name__}: {error}",
            hint=f"Install the package, or give the file: function:{name.replace('.', '/')}.py:...",
        ) from error


def _parameters(fn: Function) -> list[inspect.Parameter]:
    """The function's parameters; where they are hidden (some built-in callables), any keyword is taken to be one."""
    try:
        return list(inspect.signature(fn).parameters.values())
    except (TypeError, ValueError):
        return [inspect.Parameter("arguments", inspect.Parameter.VAR_KEYWORD)]


def _wait(values: Awaitable[Any]) -> Any:
    """The awaited result, in a thread of its own where this one runs an event loop already."""

    async def result() -> Any:
        return await values

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(result())
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, result()).result()


def _name(value: object) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
