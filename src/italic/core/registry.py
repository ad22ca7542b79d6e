"""Finding methods, models and rewards by name.

A method is a module of `italic.methods` with one dataclass that has `run`: `best_of_n.py` is `best-of-n`. A model or a
reward is a module of `italic.models` or `italic.rewards` with a function `load`. Other people's packages join through
entry points of the groups `italic.methods`, `italic.models` and `italic.rewards`, each naming such a module. Nothing is
imported before it is asked for.
"""

from __future__ import annotations

import difflib
import pkgutil
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import ModuleType
from typing import Any, Literal, TypeAlias

from italic.core.errors import ProgramError, SpecError

Kind: TypeAlias = Literal["methods", "models", "rewards"]


@dataclass(frozen=True)
class Entry:
    """One thing the registry knows: its name as typed in a spec, and where it is."""

    name: str
    module: str

    def load(self) -> ModuleType:
        """Import the module. Raises SpecError if it, or what it needs, is not installed."""
        try:
            return import_module(self.module)
        except ImportError as failure:
            raise missing_library(self.name, failure) from failure


@cache
def entries(kind: Kind) -> dict[str, Entry]:
    """All entries of a kind by name: ours, then those of other installed packages. A name can be taken only once."""
    package = import_module(f"italic.{kind}")
    found = {}
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            name = module.name.replace("_", "-")
            found[name] = Entry(name, f"italic.{kind}.{module.name}")
    foreign: tuple[EntryPoint, ...] = tuple(entry_points(group=f"italic.{kind}"))
    for point in foreign:
        if point.name in found:
            raise ProgramError(
                f"{point.value} registers the {kind[:-1]} {point.name!r}, which exists already",
                hint=f"Rename the entry point in the group italic.{kind}.",
            )
        found[point.name] = Entry(point.name, point.module)
    return dict(sorted(found.items()))


def find(kind: Kind, name: str) -> Entry:
    """The entry of that name. Raises SpecError with the nearest names."""
    known = entries(kind)
    if name not in known:
        raise SpecError(f"there is no {kind[:-1]} {name!r}", hint=suggest(name, list(known), f"italic {kind}"))
    return known[name]


def method_class(entry: Entry) -> type[Any]:
    """The method's dataclass in its module."""
    module = entry.load()
    classes = [
        item
        for item in vars(module).values()
        if isinstance(item, type) and item.__module__ == module.__name__ and is_dataclass(item) and hasattr(item, "run")
    ]
    if len(classes) != 1:
        raise ProgramError(
            f"{entry.module} has {len(classes)} method classes", hint="A method module has one dataclass with `run`."
        )
    return classes[0]


def suggest(typed: str, known: list[str], command: str) -> str:
    """A hint for a misspelt name."""
    near = difflib.get_close_matches(typed, known, n=2, cutoff=0.5)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{meant}Known: {', '.join(known)}. `{command}` tells about each."


EXTRAS = {
    "torch": "hf",
    "transformers": "hf",
    "safetensors": "hf",
    "jinja2": "hf",
    "datasets": "train",
    "trl": "train",
    "peft": "train",
    "accelerate": "train",
    "openai": "serve",
    "ray": "ray",
    "diffusers": "diffusion",
    "matplotlib": "plot",
}
"""Which extra of ours brings a library."""


def missing_library(what: str, failure: ImportError) -> SpecError:
    """The error for a library that is not installed, saying which extra brings it."""
    library = (failure.name or str(failure)).split(".")[0]
    extra = EXTRAS.get(library)
    install = f"pip install 'italic[{extra}]'" if extra else f"pip install {library}"
    return SpecError(f"{what} needs {library}, which is not installed", hint=f"Type: {install}")
