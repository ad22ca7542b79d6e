"""Write the table of methods into the README: `python tools/docs_table.py`. A test checks that it is up to date."""

from __future__ import annotations

from pathlib import Path

from italic.cli.listing import first_sentence, parameters
from italic.core.protocols import Paper
from italic.core.registry import entries, method_class

README = Path(__file__).parents[1] / "README.md"
BEGIN, END = "<!-- methods: written by tools/docs_table.py -->\n", "<!-- end of methods -->\n"


def table() -> str:
    """The methods of the registry that are our own, as a Markdown table."""
    rows = ["| method | what it does | parameters | source |", "|---|---|---|---|"]
    for entry in entries("methods").values():
        if entry.module.startswith("italic."):
            cls = method_class(entry)
            values = ", ".join(f"`{parameter}`" for parameter in parameters(cls))
            papers = ", ".join(_link(paper) for paper in cls.papers)
            rows.append(f"| `{entry.name}` | {_plain(first_sentence(cls))} | {values or '-'} | {papers or '-'} |")
    return "\n".join(rows) + "\n"


def with_table(readme: str) -> str:
    """The README's text with a fresh table between the two marks. Raises ValueError if there are none."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the README lacks the marks {BEGIN.strip()} and {END.strip()}")
    return before + begin + table() + end + after


def _link(paper: Paper) -> str:
    home = "https://doi.org" if "/" in paper.id else "https://arxiv.org/abs"
    return f"[{paper.authors} {paper.year}]({home}/{paper.id})"


def _plain(sentence: str) -> str:
    """Without what Markdown would take for the end of a cell."""
    return sentence.replace("|", "\\|")


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
