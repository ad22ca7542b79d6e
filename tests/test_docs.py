"""The documents say what is: their code runs, their tables and trees are up to date."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
GUIDES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs" / "guide").glob("*.md"))}
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
DECISIONS = sorted((ROOT / "docs" / "decisions").glob("*.md"))


def blocks(text: str, language: str) -> list[str]:
    """The fenced code blocks of a language."""
    return [code for kind, code in BLOCK.findall(text) if kind == language]


def tool(name: str) -> ModuleType:
    """A module of tools/, which is no package."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_example_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = blocks(README, "python")
    assert len(code.splitlines()) <= 12
    found: dict[str, object] = {}
    exec(compile(code, "README.md", "exec"), found)
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) >= 2
    assert all(printed)


@pytest.mark.parametrize("name", GUIDES)
def test_the_code_of_the_guides_runs(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Block after block, as a reader would; the figures that the text names are those that it prints."""
    found: dict[str, object] = {}
    for code in blocks(GUIDES[name], "python"):
        exec(compile(code, name, "exec"), found)
        printed = capsys.readouterr().out
        figure = re.search(r"0\.\d+", printed)
        assert figure, "each block prints a figure"
        assert f"This prints {figure[0]}" in GUIDES[name], printed


def test_the_readme_names_the_two_commands() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test", "check", "bench"):
        assert f"make {target}" in README
        assert re.search(rf"^{target}: \$\(READY\)$", makefile, re.MULTILINE)


def test_the_command_lines_of_the_documents_are_understood() -> None:
    """Every `italic ...` line of README and guides names a command, and options that the command has."""
    import typer.main

    from italic.cli.main import app

    group = typer.main.get_command(app)
    commands = group.commands  # type: ignore[attr-defined]
    lines = [
        line.removeprefix("$ ")
        for text in (README, *GUIDES.values())
        for code in blocks(text, "console")
        for line in code.splitlines()
    ]
    ours = [line.split("#")[0] for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()]
    typed = [line.split() for line in ours if line.startswith("italic ")]
    assert {words[1] for words in typed} >= {"demo", "generate", "methods", "doctor", "cite"}
    for words in typed:
        assert words[1] in commands, words
        command = commands[words[1]]
        if hasattr(command, "commands"):
            assert words[2] in command.commands, words
            command = command.commands[words[2]]
        options = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
        unknown = {w for w in words[2:] if re.match(r"--?[a-zA-Z]", w)} - options
        assert not unknown, f"italic {words[1]} has no {unknown}"


def test_the_table_of_methods_is_up_to_date() -> None:
    assert tool("docs_table").with_table(README) == README, "run: python tools/docs_table.py"


def test_the_generator_wants_its_marks() -> None:
    with pytest.raises(ValueError, match="lacks the marks"):
        tool("docs_table").with_table("# A README\n")


def test_the_tree_of_the_readme_is_the_tree() -> None:
    """Every package of src/italic is in it, and nothing that is not there."""
    (tree,) = (code for code in blocks(README, "text") if "src/italic/" in code)
    shown: set[str] = set()
    stack: list[str] = []
    for line in tree.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 4
        stack[depth:] = [name.rstrip("/")]
        path = "/".join(stack)
        shown.add(path)
        assert (ROOT / path).exists(), f"{path} is in the README's tree and not on disk"
        assert (ROOT / path).is_dir() == name.endswith("/"), f"{path} is a directory or is not"
    packages = {p.name for p in (ROOT / "src" / "italic").iterdir() if p.is_dir() and not p.name.startswith((".", "_"))}
    missing = {f"src/italic/{name}" for name in packages} - shown
    assert not missing, f"not in the README's tree: {missing}"


def test_links_lead_somewhere() -> None:
    guides = [ROOT / "docs" / "guide" / name for name in GUIDES]
    for document in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *DECISIONS, *guides):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_decisions_are_numbered_and_dated() -> None:
    assert [path.name[:4] for path in DECISIONS] == [f"{i:04d}" for i in range(1, len(DECISIONS) + 1)]
    for path in DECISIONS:
        title, date, *_ = path.read_text(encoding="utf-8").split("\n\n")
        assert title.startswith(f"# {int(path.name[:4])}. "), path.name
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", date.strip()), path.name


def walk_through(folder: Path) -> list[str]:
    """Write the code of CONTRIBUTING as somebody's package, registered by entry points; the names of its tests."""
    groups: dict[str, list[str]] = {}
    tests = []
    package = folder / "somebody"
    package.mkdir()
    (package / "__init__.py").touch()
    for code in blocks(CONTRIBUTING, "python"):
        place = Path(code.splitlines()[0].removeprefix("# "))
        if place.parts[0] == "src":
            (package / place.name).write_text(code, encoding="utf-8")
            name = place.stem.replace("_", "-")
            groups.setdefault(place.parts[2], []).append(f"{name} = somebody.{place.stem}")
        else:
            assert place.parts[0] == "tests"
            (folder / place.name).write_text(code, encoding="utf-8")
            tests.append(place.name)
    info = folder / "somebody-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebody\nVersion: 1\n")
    lines = [line for kind, points in groups.items() for line in (f"[italic.{kind}]", *points)]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    assert groups.keys() == {"methods", "models", "rewards"}
    return tests


def test_the_walk_throughs_of_contributing_work(tmp_path: Path) -> None:
    """The files that they tell to write pass the tests that they tell to write, and the command line knows them."""
    tests = walk_through(tmp_path)
    assert len(tests) == 3
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[2-9]\d passed", done.stdout), done.stdout

    listed = [sys.executable, "-c", "from italic.cli.main import main; main()", "methods", "first-good"]
    done = subprocess.run(listed, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "first-good:threshold=1.0,n=16" in done.stdout


def test_the_walk_throughs_are_formatted_and_linted() -> None:
    ruff = Path(sys.executable).with_name("ruff")
    if not ruff.exists():
        pytest.skip("ruff is not installed")
    guides = ["\n".join(blocks(text, "python")) for text in GUIDES.values()]
    for code in blocks(CONTRIBUTING, "python") + blocks(README, "python") + guides:
        first = code.splitlines()[0]
        name = first.removeprefix("# ") if first.startswith("# ") else "src/example.py"
        for what in (["check", "--ignore", "D1,T20,E501,E402,RUF100"], ["format", "--check", "--diff"]):
            arguments = [str(ruff), *what, "--config", str(ROOT / "pyproject.toml"), "--stdin-filename", name, "-"]
            done = subprocess.run(arguments, input=code, capture_output=True, text=True, cwd=ROOT)
            assert done.returncode == 0, done.stdout + done.stderr
