"""`italic methods`, `models`, `rewards` and `cite`: what the registry knows."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence
from dataclasses import MISSING, fields
from typing import Any, get_type_hints

from rich.table import Table

from italic.cli.show import screen
from italic.core.errors import UsageError
from italic.core.protocols import Paper
from italic.core.registry import Kind, entries, find, method_class
from italic.core.spec import parse

ITALIC = Paper("", "Italic developers", "Italic: inference-time reward-guided alignment of generative models", 2026)


def list_methods(name: str | None) -> None:
    """Print the table of methods, or all about one."""
    console = screen()
    if name is not None:
        cls = method_class(find("methods", name))
        console.print(f"[bold]{name}[/bold]\n")
        console.print(inspect.getdoc(cls) or "", markup=False)
        console.print(f"\nspec: {name}:{','.join(parameters(cls))}", markup=False)
        console.print(f"needs: {needs(cls) or 'nothing'}", markup=False)
        for paper in cls.papers:
            console.print(f"source: {_line(paper)}", markup=False)
        return
    table = Table("method", "what it does", "parameters", "needs", "source")
    for entry in entries("methods").values():
        cls = method_class(entry)
        papers = ", ".join(p.id for p in cls.papers) or "-"
        table.add_row(entry.name, first_sentence(cls), ", ".join(parameters(cls)) or "-", needs(cls) or "-", papers)
    console.print(table)
    console.print("Write one as name:key=value,key=value. `italic methods NAME` tells all.")


def list_loaders(kind: Kind, name: str | None) -> None:
    """Print the kinds of model or reward, or all about one."""
    console = screen()
    if name is not None:
        load = find(kind, name).load().load
        console.print(f"[bold]{name}[/bold]\n")
        console.print(inspect.getdoc(load) or "", markup=False)
        for option, text in options(load):
            console.print(f"  {option}: {text}", markup=False)
        return
    table = Table(kind[:-1], "what it is", "options")
    for entry in entries(kind).values():
        module = entry.load()
        shown = ", ".join(f"{option}={text}" for option, text in options(module.load)) or "-"
        table.add_row(entry.name, first_sentence(module), shown)
    console.print(table)
    console.print(
        "--model: demo, a directory, a hub id, or NAME:options."
        if kind == "models"
        else "--reward: demo, demo:sentiment, a directory, a hub id, NAME:options, or 0.7*A + 0.3*B."
    )


def print_references(specs: Sequence[str]) -> None:
    """Print BibTeX for the methods of the specs (all methods if there are none), and for Italic."""
    names = [parse(spec)[0] for spec in specs] or list(entries("methods"))
    papers = {paper.id: paper for name in names for paper in method_class(find("methods", name)).papers}
    for paper in [*papers.values(), ITALIC]:
        sys.stdout.write(bibtex(paper) + "\n")


def bibtex(paper: Paper) -> str:
    """One BibTeX entry."""
    first = paper.authors.split(",")[0].removesuffix(" et al.").split()[-1].lower()
    word = next(w for w in paper.title.split() if len(w) > 3).strip(":,").lower()
    rows = {
        "title": f"{{{paper.title}}}",
        "author": paper.authors.replace(" et al.", " and others"),
        "year": str(paper.year),
    }
    if paper.id:
        rows |= {"eprint": paper.id, "archivePrefix": "arXiv"}
    body = "".join(f"  {key} = {{{value}}},\n" for key, value in rows.items())
    return f"@misc{{{first}{paper.year}{word},\n{body}}}\n"


def first_sentence(item: Any) -> str:
    """The first sentence of a docstring."""
    text = " ".join((inspect.getdoc(item) or "").split("\n\n")[0].split())
    return text.partition(". ")[0].rstrip(".") + "."


def parameters(cls: type[Any]) -> list[str]:
    """A method's parameters as `name=default`, or `name=<type>` where there is no default."""
    hints = get_type_hints(cls)
    return [f"{f.name}={_type_name(hints[f.name]) if f.default is MISSING else f.default}" for f in fields(cls)]


def needs(cls: type[Any]) -> str:
    """What a method needs; where that depends on its parameters, what it needs with the default ones."""
    if isinstance(cls.needs, frozenset):
        return ", ".join(sorted(cls.needs))
    depends = "depends on the parameters"
    if any(f.default is MISSING and f.default_factory is MISSING for f in fields(cls)):
        return depends
    try:
        method = cls()
    except UsageError:  # one of several parameters must be given
        return depends
    return f"{', '.join(sorted(method.needs)) or 'nothing'} ({depends})"


def options(load: Any) -> list[tuple[str, str]]:
    """A loader's options and their defaults."""
    return [(p.name, str(p.default)) for p in inspect.signature(load).parameters.values() if p.kind is p.KEYWORD_ONLY]


def _type_name(kind: Any) -> str:
    return f"<{getattr(kind, '__name__', str(kind))}>"


def _line(paper: Paper) -> str:
    return f"{paper.authors} ({paper.year}). {paper.title}. arXiv:{paper.id}"
