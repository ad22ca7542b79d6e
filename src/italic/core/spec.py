"""Specs: `name:key=value,key=value`, the one way to name a method, a model or a reward in text."""

from __future__ import annotations

import difflib
import inspect
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from italic.core.errors import SpecError
from italic.core.protocols import Method, Model, Reward
from italic.core.registry import Kind, entries, find, method_class, suggest

EXAMPLE = "best-of-n:n=16"
DEFAULT_LOADER = {"models": "transformers", "rewards": "classifier"}
"""Who loads a spec that is a path, a hub id or `demo`."""


def parse(text: str) -> tuple[str, dict[str, str]]:
    """Split `name:key=value,key=value` into the name and its values. Raises SpecError."""
    name, _, rest = text.strip().partition(":")
    values: dict[str, str] = {}
    for part in filter(None, (p.strip() for p in rest.split(","))):
        key, equals, value = (p.strip() for p in part.partition("="))
        if not equals or not key:
            raise SpecError(f"{part!r} in {text!r} is not key=value", hint=f"Write for instance {EXAMPLE}.")
        key = key.replace("-", "_")
        if key in values:
            raise SpecError(f"{key!r} is given twice in {text!r}", hint="Give each key once.")
        values[key] = value
    return name, values


def convert(value: str, kind: Any, where: str) -> Any:
    """Read a value as its type says: int, float, bool, str, Literal, or one of these or None. Raises SpecError."""
    if get_origin(kind) in (Union, types.UnionType):
        if value.lower() == "none" and type(None) in get_args(kind):
            return None
        kind = next(k for k in get_args(kind) if k is not type(None))
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise SpecError(f"{where} cannot be {value!r}", hint=f"Choose one of {', '.join(get_args(kind))}.")
        return value
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise SpecError(f"{where} is {value!r}", hint="Write true or false.")
        return value.lower() == "true"
    if kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            name = "a whole number" if kind is int else "a number"
            raise SpecError(
                f"{where} is {value!r}, not {name}", hint=f"Write {where}={'16' if kind is int else '0.5'}."
            ) from None
    return value


def build_method(spec: str | Method, **defaults: Any) -> Method:
    """The method that a spec names, `best-of-n:n=16` for instance. Raises SpecError, or UsageError for a bad value.

    defaults: values of parameters that the spec leaves out, where the method has them.
    """
    if not isinstance(spec, str):
        return spec
    name, values = parse(spec)
    cls = method_class(find("methods", name))
    hints = get_type_hints(cls)
    known = [f.name for f in fields(cls)]
    values = {key: str(value) for key, value in defaults.items() if key in known} | values
    for key in values:
        if key not in known:
            raise SpecError(f"the method {name} has no parameter {key!r}", hint=suggest(key, known, "italic methods"))
    missing = [f.name for f in fields(cls) if f.default is MISSING and f.default_factory is MISSING]
    for key in missing:
        if key not in values:
            raise SpecError(f"the method {name} needs {key}", hint=f"Write for instance {name}:{key}=1.")
    method: Method = cls(**{key: convert(value, hints[key], key) for key, value in values.items()})
    return method


def method_spec(method: Method, name: str) -> str:
    """The full spec of a method, every parameter written out: what a record keeps."""
    values = ",".join(f"{f.name}={getattr(method, f.name)}" for f in fields(method))  # type: ignore[arg-type]
    return f"{name}:{values}" if values else name


def method_name(method: Method) -> str:
    """The registered name of a method's class: from its module's name."""
    return type(method).__module__.rpartition(".")[2].replace("_", "-")


def build_model(spec: str | Model, **options: Any) -> Model:
    """The model that a spec names: `demo`, a directory or hub id, `demo:rows=8`, `toy:letters=3`. Raises SpecError.

    options: loader options such as dtype, device, rows; refused if that loader has no such option.
    """
    model: Model = _build("models", spec, options) if isinstance(spec, str) else spec
    return model


def build_reward(spec: str | Reward, **options: Any) -> Reward:
    """The reward that a spec names: `demo:sentiment`, a directory or hub id, `function:rewards.py:shortness`,
    or a weighted sum such as `0.7*demo + 0.3*demo:sentiment`. Raises SpecError.
    """
    if not isinstance(spec, str):
        return spec
    terms = [t.strip() for t in re.split(r"\s\+\s|\+(?=-?[\d.]+(?:e-?\d+)?\s*\*)", spec)]
    weighted = [re.fullmatch(r"(?:([-+]?[\d.]+(?:e-?\d+)?)\s*\*\s*)?(\S.*)", term) for term in terms]
    if len(terms) == 1 and weighted[0] is not None and weighted[0][1] is None:
        reward: Reward = _build("rewards", spec, options)
        return reward
    parts = []
    for term, match in zip(terms, weighted, strict=True):
        if match is None:
            raise SpecError(f"{term!r} is no term of a sum of rewards", hint="Write 0.7*demo + 0.3*demo:sentiment.")
        weight = convert(match[1] or "1", float, "a weight")
        parts.append((weight, build_reward(match[2], **options)))
    total: Reward = find("rewards", "combine").load().load(parts)
    return total


def _build(kind: Kind, spec: str, options: Mapping[str, Any]) -> Any:
    name, _, rest = spec.partition(":")
    if name in entries(kind) and not Path(spec).exists():
        load = find(kind, name).load().load
        argument, values = _argument(rest)
    else:
        _refuse_slip(kind, spec, name)
        name = DEFAULT_LOADER[kind]
        load = find(kind, name).load().load
        argument, values = _settings(spec)
    signature = inspect.signature(load)
    hints = _option_types(load)
    known = [p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY]
    chosen: dict[str, Any] = {}
    for key, value in values.items():
        _known(key, known, spec, kind)
        chosen[key] = convert(value, hints[key], key)
    for key, value in options.items():
        if value is not None:
            _known(key, known, spec, kind)
            chosen[key] = value
    return _call(load, argument, chosen, spec, kind)


def _refuse_slip(kind: Kind, spec: str, name: str) -> None:
    """A name that is no path or hub id of an owner, but nearly one of ours, is a slip of the pen."""
    known = ["demo", *entries(kind)]
    foreign = name not in known and "/" not in spec and not Path(spec).exists()
    if foreign and difflib.get_close_matches(name, known, n=1, cutoff=0.6):
        raise SpecError(f"there is no {kind[:-1]} {spec!r}", hint=suggest(name, known, f"italic {kind}"))


def _option_types(load: Callable[..., Any]) -> dict[str, Any]:
    """The types of a loader's options; its return type may name what is not imported yet."""
    annotations = {name: kind for name, kind in load.__annotations__.items() if name != "return"}
    return get_type_hints(types.SimpleNamespace(__annotations__=annotations), load.__globals__)


def _known(key: str, known: list[str], spec: str, kind: str) -> None:
    if key not in known:
        raise SpecError(f"the {kind[:-1]} {spec!r} has no option {key!r}", hint=suggest(key, known, f"italic {kind}"))


def _argument(rest: str) -> tuple[str | None, dict[str, str]]:
    """What follows `name:`: a plain argument (path, URL, function), then key=value pairs."""
    first, _, others = rest.partition(",")
    if rest and ("=" not in first or "://" in first):
        return first, parse(f"x:{others}")[1]
    return None, parse(f"x:{rest}")[1]


def _settings(spec: str) -> tuple[str, dict[str, str]]:
    """What to load and the key=value pairs behind it: `demo:rows=8`, `./my-model:rows=8,path=plain`."""
    found = None if Path(spec).exists() else re.fullmatch(r"(.+?):(\w+=.*)", spec)
    return (spec, {}) if found is None else (found[1], parse(f"x:{found[2]}")[1])


def _call(load: Callable[..., Any], argument: str | None, chosen: dict[str, Any], spec: str, kind: str) -> Any:
    takes = any(p.kind is p.POSITIONAL_OR_KEYWORD for p in inspect.signature(load).parameters.values())
    if argument is not None and not takes:
        raise SpecError(f"{argument!r} in {spec!r} is not key=value", hint=f"`italic {kind}` shows what can be set.")
    needed = any(
        p.kind is p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in inspect.signature(load).parameters.values()
    )
    if argument is None and needed:
        raise SpecError(f"{spec!r} lacks what to load", hint=f"`italic {kind}` shows an example.")
    return load(**chosen) if argument is None else load(argument, **chosen)
