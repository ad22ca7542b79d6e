"""`italic plan`: what is typed, what is printed and drawn, what is refused."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

from italic.cli.plan import Use, best_exponent
from italic.laws.finite_reference import loss_of_finite
from italic.laws.inference_aware import compare, exponential, fixed_point, identity, log
from italic.laws.procedures import best_of_n, plain, worst_of_n

KEYS = ["transform", "win_rate", "kl", "beta", "draws_per_accept"]
MINE = {"identity": identity, "log": log, "exp:t=5": lambda: exponential(5), "exp:t=-10": lambda: exponential(-10)}


def rows(italic, *words):
    said = italic("plan", *words, "--json")
    assert said.code == 0, said.err
    assert said.err == ""
    assert said.out.count("\n") == 1
    return json.loads(said.out)


def test_json_has_every_figure(italic):
    found = rows(italic, "--procedure", "best-of-n:n=4", "--kl", 1)
    assert [list(row) for row in found] == [KEYS] * 5
    assert all(isinstance(row[key], float) for row in found for key in KEYS[1:])
    names = [row["transform"] for row in found]
    assert (names[:2], names[3:]) == (["identity", "log"], ["exp:t=10", "fixed-point"])
    rates = [row["win_rate"] for row in found]
    assert rates == pytest.approx([0.8770, 0.8631, 0.9399, 0.9351, 0.9411], abs=1e-4)
    assert [row["draws_per_accept"] for row in found] == pytest.approx([7.35, 6.31, 31.8, 21.2, 46.3], rel=0.01)
    assert all(row["kl"] == pytest.approx(1) for row in found)
    t = float(names[2].removeprefix("exp:t="))
    assert 10 < t < 25
    expected = compare(best_of_n(4), 1.0, [identity(), log(), exponential(t), exponential(10)])
    for row, other in zip(
        found, [*expected, *compare(best_of_n(4), 1.0, [fixed_point(best_of_n(4), 1.0)])], strict=True
    ):
        assert [row[key] for key in KEYS[1:]] == pytest.approx(list(other[1:]))


@pytest.mark.parametrize(("procedure", "spec"), [(best_of_n(2), "best-of-n:n=2"), (worst_of_n(4), "worst-of-n:n=4")])
def test_the_best_exponent_is_the_best(italic, procedure, spec):
    found = {row["transform"]: row["win_rate"] for row in rows(italic, "--procedure", spec, "--kl", 0.5)}
    sign = -1 if spec.startswith("worst") else 1
    best = next(name for name in found if name.startswith("exp"))
    t = float(best.removeprefix("exp:t="))
    assert f"exp:t={sign * 10}" in found
    assert t == best_exponent(Use(procedure, None), 0.5)
    for other in (*np.geomspace(0.1, 200, 60), abs(t) * 0.97, abs(t) * 1.03):
        (row,) = compare(procedure, 0.5, [exponential(sign * float(other))])
        assert row.win_rate <= found[best] + 1e-7
    assert found["fixed-point"] >= found[best] > max(found["identity"], found["log"])


def test_for_plain_sampling_the_identity_is_best(italic):
    found = rows(italic, "--procedure", "sample")
    assert [row["transform"] for row in found] == ["identity", "log", "exp:t=10", "fixed-point"]
    assert (
        found[0]["win_rate"] == pytest.approx(found[3]["win_rate"], abs=1e-8) == max(row["win_rate"] for row in found)
    )


def test_transforms_as_asked_for(italic):
    words = [word for name in MINE for word in ("--transform", name)]
    found = rows(italic, "--procedure", "worst-of-n:n=3", "--kl", 0.7, *words)
    assert [row["transform"] for row in found] == list(MINE)
    for row, other in zip(found, compare(worst_of_n(3), 0.7, [make() for make in MINE.values()]), strict=True):
        assert [row[key] for key in KEYS[1:]] == pytest.approx(list(other[1:]))


def test_a_rival(italic):
    found = rows(italic, "--procedure", "sample", "--rival", "best-of-n:n=4", "--kl", 0.5)
    (last,) = compare(plain(), 0.5, [fixed_point(plain(), 0.5, best_of_n(4))], best_of_n(4))
    assert found[-1]["win_rate"] == pytest.approx(last.win_rate)
    assert found[-1]["win_rate"] == max(row["win_rate"] for row in found)
    assert float(found[2]["transform"].removeprefix("exp:t=")) > 0


def test_what_few_references_leave(italic):
    words = ("--procedure", "best-of-n:n=4", "--transform", "exp:t=10", "--transform", "identity", "--samples", 16)
    found = rows(italic, *words)
    assert [list(row) for row in found] == [[*KEYS, "win_rate_finite"]] * 2
    for row, transform in zip(found, (exponential(10), identity()), strict=True):
        finite = loss_of_finite(transform, best_of_n(4), 1.0, 16, np.random.default_rng(1))
        assert row["win_rate_finite"] == pytest.approx(finite.win_rate, abs=5 * finite.error)
        assert row["win_rate_finite"] < row["win_rate"]
    assert rows(italic, *words) == found
    said = italic("plan", *words)
    assert "win rate with 16 references" in said.out
    assert f"{found[0]['win_rate_finite']:.4f} ± 0.0" in said.out


def test_references_that_are_too_few_for_one_transform(italic):
    """One so steep prefers the best piece to all others; to one so flat at the top they are nearly the same."""
    words = ("--procedure", "best-of-n:n=64", "--transform", "exp:t=600", "--transform", "exp:t=-100", "--samples", 64)
    steep, flat = rows(italic, *words)
    assert 0.9 < steep["win_rate_finite"] < steep["win_rate"]
    assert flat["win_rate_finite"] is None
    said = italic("plan", *words)
    assert re.search(r"│ exp:t=-100 .* - │", said.out)
    assert "64 references are too few" in said.err


def test_the_table(italic):
    said = italic("plan", "--procedure", "best-of-n:n=4", "--kl", 1)
    assert said.code == 0
    lines = [re.split(r"\s*│\s*", line)[1:-1] for line in said.out.splitlines() if line.startswith("│")]
    assert lines[0] == ["identity", "0.8770", "1", "0.1361", "7.35"]
    assert lines[-1] == ["fixed-point", "0.9411", "1", "0.2113", "46.3"]
    assert len(lines) == 5
    assert "under best-of-n:n=4 against the model under best-of-n:n=4" in said.err
    assert "best-of-n" not in said.out


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_picture(italic, tmp_path: Path, suffix):
    pytest.importorskip("matplotlib")
    path = tmp_path / f"plan.{suffix}"
    words = ("--transform", "identity", "--transform", "fixed-point", "--samples", 32, "--plot", path)
    assert italic("plan", "--procedure", "best-of-n:n=4", *words, "--json").code == 0
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    assert len(content) > 10_000


def test_the_curves_of_the_picture(italic, tmp_path: Path, monkeypatch):
    figures = pytest.importorskip("matplotlib.figure")
    kept = []
    monkeypatch.setattr(figures.Figure, "savefig", lambda self, *_, **__: kept.append(self))
    words = ("--transform", "identity", "--transform", "fixed-point", "--transform", "log", "--kl", 0.8)
    assert italic("plan", "--procedure", "sample", *words, "--samples", 64, "--plot", tmp_path / "x.png").code == 0
    (axes,) = kept[0].axes
    assert "sample" in axes.get_title(loc="left")
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("KL from the model, nats", "win rate")
    named = [text.get_text() for text in axes.get_legend().get_texts()]
    assert named == ["identity", "fixed-point", "log", "with 64 references"]
    curves = {line.get_label(): line.get_xydata() for line in axes.lines if line.get_label() in named[:3]}
    for curve in curves.values():
        assert (curve[0, 0], curve[-1, 0]) == (pytest.approx(0.05), pytest.approx(1.6))
        assert np.all(np.diff(curve[:, 1]) > 0), "farther away is better, up to here"
        assert 0.8 in curve[:, 0].round(9)
    assert curves["identity"] == pytest.approx(curves["fixed-point"], abs=1e-6)


def test_without_matplotlib_it_says_what_to_install(italic, tmp_path: Path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    said = italic("plan", "--procedure", "sample", "--plot", tmp_path / "plan.png")
    assert said.code == 2
    assert "--plot, which draws a picture, needs matplotlib" in said.err
    assert "italic[plot]" in said.err
    assert italic("plan", "--procedure", "sample", "--transform", "log").code == 0


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--procedure", "best-of-n:n=0"), "n is 0"),
        (("--procedure", "best-of-n:n=x"), "not a whole number"),
        (("--procedure", "best-of-n"), "there is no procedure 'best-of-n'"),
        (("--procedure", "sample", "--rival", "worst"), "there is no procedure 'worst'"),
        (("--procedure", "sample", "--kl", 0), "--kl 0: a KL of 0 nats"),
        (("--procedure", "sample", "--kl", -1), "--kl -1"),
        (("--procedure", "best-of-n:n=4", "--kl", 25), "--kl 25: a KL of 25 nats"),
        (("--procedure", "sample", "--kl", 25, "--transform", "fixed-point"), "a KL of 25 nats"),
        (("--procedure", "sample", "--kl", "nan"), "--kl nan"),
        (("--procedure", "sample", "--transform", "square"), "there is no transform 'square'"),
        (("--procedure", "sample", "--transform", "exp"), "there is no transform 'exp'"),
        (("--procedure", "sample", "--transform", "exp:t=x"), "not a number"),
        (("--procedure", "sample", "--transform", "exp:t=0"), "an exponent of 0"),
        (("--procedure", "sample", "--transform", "raw"), "there is no transform 'raw'"),
        (("--procedure", "sample", "--samples", 0), "--samples 0"),
        (("--procedure", "sample", "--samples", 2, "--kl", 1.9), "2 reference rewards reach at most"),
        (("--procedure", "sample", "--samples", 8, "--rival", "sample"), "--samples with --rival"),
        (("--procedure", "sample", "--plot", "plan.txt"), "--plot plan.txt"),
        ((), "Missing option"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_what_cannot_be_is_refused(italic, words, why):
    said = italic("plan", *words)
    assert said.code == 2
    assert why in said.err
    assert said.out == ""
    assert "Traceback" not in said.err


def test_a_picture_that_cannot_be_written(italic, tmp_path: Path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "none" / "plan.png"
    said = italic("plan", "--procedure", "sample", "--transform", "log", "--plot", path)
    assert said.code == 1
    assert f"cannot write {path}" in said.err
