"""The layers of the package: imports go down only, plug-ins do not know one another, heavy libraries load on use."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "italic"
PLUGINS = ("methods", "models", "rewards")
MOST_LINES = 500

BELOW = {
    "core": set(),
    "laws": set(),
    "values": {"core", "laws"},
    "methods": {"core", "laws", "values"},
    "models": {"core"},
    "rewards": {"core", "laws", "values"},
    "run": {"core"},
    "train": {"core", "laws", "values", "run", "methods._clipped", "methods._rows"},
    "evaluate": {"core", "laws", "run", "methods.sample"},
    "testing": {"core", "laws", "run", "methods", "models.toy", "rewards.toy"},
    "serve": {"*"},
    "cli": {"*"},
    "__main__": {"*"},
    "italic": {"*"},
}
"""What each package may import besides itself; `italic` is the package's own `__init__`."""

DATA = {"bundled"}
"""Directories that hold data and no modules."""

LIGHT = {"core": {"numpy"}, "laws": {"numpy", "scipy"}, "methods": {"numpy"}}
"""Layers that need nothing but these of other people's libraries, not even on use."""

HEAVY = {
    "torch": ("models.transformers.", "rewards.classifier.", "train.tuning."),
    "transformers": ("models.transformers.", "rewards.classifier.", "train.tuning."),
    "tokenizers": ("models.transformers.", "rewards.classifier."),
    "safetensors": ("models.transformers.", "rewards.classifier."),
    "diffusers": (),
    "openai": (),
    "ray": (),
    "datasets": ("train.tuning.",),
    "pyarrow": (),
    "trl": ("train.tuning.",),
    "peft": (),
    "accelerate": ("train.tuning.",),
    "scipy": (),
    "fastapi": (),
    "uvicorn": (),
    "pydantic": ("evaluate.schema", "run.schema"),
    "typer": ("cli.",),
    "rich": ("cli.",),
}
"""Libraries that are imported inside functions, but for these modules, which are themselves imported on use."""


class Import(NamedTuple):
    """One imported name. on_use: inside a function, or for the type checker alone."""

    name: str
    line: int
    on_use: bool


def imports(source: str, module: str, is_package: bool = False) -> Iterator[Import]:
    """Everything that a module imports, at its top, in its functions and under TYPE_CHECKING."""

    def walk(node: ast.AST, on_use: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                yield from (Import(alias.name, child.lineno, on_use) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parts = module.split(".") if is_package else module.split(".")[:-1]
                    base = ".".join([*parts[: len(parts) - child.level + 1], *filter(None, [base])])
                yield from (Import(f"{base}.{alias.name}", child.lineno, on_use) for alias in child.names)
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                typing = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
                yield from walk(child, on_use or inside or typing)

    return walk(ast.parse(source), False)


def broken(module: str, source: str, is_package: bool = False) -> list[str]:
    """How a module breaks the rules; module: its dotted name below `italic`, "" for the package itself."""
    layer = module.split(".")[0] or "italic"
    if layer not in BELOW:
        return [f"{module}: the layer {layer} is not in the table"]
    found = []
    for item in imports(source, f"italic.{module}".rstrip("."), is_package):
        where = f"{module or 'italic'}:{item.line}"
        library, _, inner = item.name.partition(".")
        if library == "italic":
            found += [f"{where}: {why}" for why in _inner(layer, module, inner)]
        elif library not in sys.stdlib_module_names:
            if layer in LIGHT and library not in LIGHT[layer]:
                found.append(f"{where}: {layer} does without {library}")
            allowed = any(f"{module}.".startswith(start) or module == start for start in HEAVY.get(library, ()))
            if library in HEAVY and not item.on_use and not allowed:
                found.append(f"{where}: {library} is imported at the top")
    return found


def _inner(layer: str, module: str, inner: str) -> Iterator[str]:
    target = inner.split(".")[0]
    if layer in PLUGINS and target == layer:
        mine, other = module.split(".")[1:2], inner.split(".")[1:2]
        if mine and other and mine != other and not other[0].startswith("_"):
            yield f"the plug-in {module} imports the plug-in {inner}"
    elif target != layer and "*" not in BELOW[layer] and not any(f"{inner}.".startswith(f"{b}.") for b in BELOW[layer]):
        yield f"{layer} imports {inner}, which is not below it"


def dotted(path: Path) -> str:
    """The module's name below `italic`."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = sorted(SOURCE.rglob("*.py"))


def test_imports_go_down_only() -> None:
    seen, problems = 0, []
    for path in FILES:
        problems += broken(dotted(path), path.read_text(encoding="utf-8"), path.name == "__init__.py")
        seen += 1
    on_disk = sum(name.endswith(".py") for _, _, names in os.walk(SOURCE) for name in names)
    assert problems == []
    assert seen == on_disk > 25


def test_every_directory_is_a_layer_or_data() -> None:
    directories = {p.name for p in SOURCE.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))}
    assert directories <= BELOW.keys() | DATA
    for name in directories - DATA:
        assert (SOURCE / name / "__init__.py").exists(), f"{name} is a package"
    for name in DATA:
        assert not list((SOURCE / name).rglob("*.py")), f"{name} holds data only"


@pytest.mark.parametrize(
    ("module", "source", "why"),
    [
        ("core.keys", "from italic.run import ledger", "core imports run.ledger, which is not below it"),
        ("core.keys", "def f():\n    import italic.methods.sample", "core imports methods.sample"),
        ("core.keys", "if TYPE_CHECKING:\n    from italic.laws.finite import tilt", "core imports laws.finite.tilt"),
        ("core.keys", "def f():\n    import scipy", "core does without scipy"),
        ("laws.finite", "from italic.core.keys import Key", "laws imports core.keys.Key"),
        ("laws.finite", "import scipy.special", "scipy is imported at the top"),
        ("methods.sample", "from italic.models.toy import ToyModel", "methods imports models.toy.ToyModel"),
        ("methods.sample", "from italic.methods.best_of_n import BestOfN", "imports the plug-in"),
        ("methods.sample", "from . import best_of_n", "imports the plug-in"),
        ("methods.sample", "from ..rewards import toy", "methods imports rewards.toy"),
        ("models.toy", "from italic.rewards import toy", "models imports rewards.toy"),
        ("models.transformers.session", "from italic.models.toy import softmax", "imports the plug-in"),
        ("rewards.combine", "import torch", "torch is imported at the top"),
        ("train.baseline", "from italic.methods.chernoff import Chernoff", "train imports methods.chernoff.Chernoff"),
        ("train.baseline", "from italic.methods import _evidence", "train imports methods._evidence"),
        ("train.regression", "import torch", "torch is imported at the top"),
        ("values.kinds", "from italic.methods._rows import children", "values imports methods._rows"),
        ("run.desk", "from italic.models.toy import ToyModel", "run imports models.toy"),
        ("run.inputs", "import pyarrow.parquet", "pyarrow is imported at the top"),
        ("testing.methods", "from italic.models.transformers import load", "testing imports models.transformers"),
        ("", "import torch", "torch is imported at the top"),
        ("novelty.thing", "", "the layer novelty is not in the table"),
    ],
)
def test_a_violation_is_caught(module: str, source: str, why: str) -> None:
    assert any(why in problem for problem in broken(module, source)), broken(module, source)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("core.keys", "import hashlib\nimport numpy as np\nfrom italic.core.errors import ItalicError"),
        ("methods.sample", "from italic.core.questions import extend\nfrom italic.laws.weights import gumbel"),
        ("methods.sample", "from italic.methods._shared import helper"),
        ("models.transformers.session", "import torch\nfrom .board import Board"),
        ("run.inputs", "def f():\n    import pyarrow.parquet"),
        ("laws.finite", "def f():\n    from scipy.special import ndtri"),
        ("rewards.combine", "if TYPE_CHECKING:\n    import torch"),
        ("train.baseline", "from italic.methods._clipped import clipped_step\nfrom italic.methods import _rows"),
        ("train.regression", "def f():\n    import torch"),
        ("testing.methods", "from italic.models.toy import ToyModel"),
        ("cli.main", "import typer\nfrom italic.run.align import align"),
    ],
)
def test_what_is_allowed_passes(module: str, source: str) -> None:
    assert broken(module, source) == []


def test_listing_plug_ins_loads_no_heavy_library() -> None:
    heavy = {"torch", "transformers", "diffusers", "openai", "ray", "datasets", "pyarrow", "scipy"}
    code = (
        "import sys\n"
        "from italic.core.registry import entries\n"
        "for kind in ('methods', 'models', 'rewards'):\n"
        "    for entry in entries(kind).values():\n"
        "        if entry.module.startswith('italic.'):\n"
        "            entry.load()\n"
        f"print(*sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_no_module_is_too_long() -> None:
    folders = ("src", "tools", "tests", "benchmarks")
    long = {
        str(path.relative_to(ROOT)): lines
        for folder in folders
        for path in (ROOT / folder).rglob("*.py")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    }
    assert long == {}
