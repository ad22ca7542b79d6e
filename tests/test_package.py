"""The package as a user meets it: what it exports, how fast it starts, what it drags in."""

from __future__ import annotations

import importlib.metadata
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import italic
from italic.core.registry import Kind, entries, method_class

HALF_A_SECOND = 0.5
SOURCE = Path(italic.__file__).parent


def processor_seconds(*arguments: str) -> float:
    """The processor time of the fastest of five runs of Python: what the wall clock says on an idle machine."""
    times = []
    for _ in range(5):
        before = os.times()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        after = os.times()
        spent = after.children_user + after.children_system - before.children_user - before.children_system
        times.append(spent)
    return min(times)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system does not tell a child's processor time")
@pytest.mark.parametrize("code", ["import italic", "from italic.cli.main import main; main()"])
def test_starts_in_half_a_second(code: str) -> None:
    assert processor_seconds("-c", code, "--help") <= HALF_A_SECOND


def test_import_loads_neither_numpy_nor_torch() -> None:
    code = "import sys, italic; print({'numpy', 'scipy', 'torch', 'transformers', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
    assert done.stderr == ""


def test_core_install_has_no_torch() -> None:
    wanted = importlib.metadata.requires("italic") or []
    core = {re.split(r"[^\w.-]", r)[0] for r in wanted if "extra ==" not in r}
    assert core == {"numpy", "scipy", "pydantic", "typer", "rich", "pyarrow"}
    assert set(importlib.metadata.metadata("italic").get_all("Provides-Extra") or []) >= {
        "hf",
        "train",
        "serve",
        "ray",
        "diffusion",
    }


def test_the_version_is_the_same_everywhere() -> None:
    assert importlib.metadata.version("italic") == italic.__version__
    assert f"[{italic.__version__}]" in (SOURCE.parents[1] / "CHANGELOG.md").read_text(encoding="utf-8")


def test_is_typed_and_licensed() -> None:
    assert (SOURCE / "py.typed").exists()
    assert "Apache License" in (SOURCE.parents[1] / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", italic.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    item = getattr(italic, name)
    assert inspect.getdoc(item), f"italic.{name} has a docstring"
    assert name in dir(italic)


def test_names_are_listed_in_order_and_others_refused() -> None:
    assert list(italic.__all__) == sorted(italic.__all__, key=lambda n: (not n[0].isupper(), n))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = italic.nothing


@pytest.mark.parametrize("kind", ["methods", "models", "rewards"])
def test_the_registry_finds_every_module(kind: Kind) -> None:
    there = {
        path.stem.replace("_", "-")
        for path in (SOURCE / kind).iterdir()
        if not path.name.startswith(("_", ".")) and (path.suffix == ".py" or (path / "__init__.py").exists())
    }
    ours = {name for name, entry in entries(kind).items() if entry.module.startswith("italic.")}
    assert there == ours != set()
    for name in ours:
        module = entries(kind)[name].load()
        assert inspect.getdoc(module), f"{module.__name__} has a docstring"
        if kind == "methods":
            cls = method_class(entries(kind)[name])
            assert inspect.getdoc(cls), f"{cls.__name__} has a docstring"
        else:
            assert inspect.getdoc(module.load), f"{module.__name__}.load has a docstring"
