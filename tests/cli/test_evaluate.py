from __future__ import annotations

import json

import pytest

from italic.cli.evaluate import read_use
from italic.evaluate.tuned import Use

ONE, OTHER = "toy:letters=2,length=3,seed=1", "toy:letters=2,length=3"
PAIR = ("--reference", OTHER, "--reward", "toy", "--max-tokens", "4", "--quiet")


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"prompt {i}"}) + "\n" for i in range(6)))
    return path


def test_figures_of_one_model(italic, prompts) -> None:
    said = italic("evaluate", prompts, "--model", ONE, *PAIR, "--procedure", "best-of-n:n=4", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    assert found["model"] == ONE
    assert found["procedure"] == "best of 4"
    assert (found["prompts"], found["samples"]) == (6, 16)
    assert found["kl"]["low"] < found["kl"]["mean"] < found["kl"]["high"]
    assert found["best"]["mean"] > found["reference"]["mean"]


def test_the_model_itself_is_even(italic, prompts) -> None:
    said = italic("evaluate", prompts, "--model", OTHER, *PAIR, "--samples", "64", "--json")
    found = json.loads(said.out)
    assert found["kl"]["mean"] == 0
    for name in ("win_rate", "used_win_rate"):
        assert found[name]["low"] < 0.5 < found[name]["high"]


def test_several_models_and_a_picture(italic, prompts, tmp_path) -> None:
    plot = tmp_path / "pareto.png"
    words = ("--model", ONE, "--model", OTHER, "--reference-samples", "32", "--plot", plot)
    said = italic("evaluate", prompts, *words, *PAIR)
    assert said.code == 0, said.err
    assert "share of the gain by best of 8" in said.out
    assert "6 prompts, 16 responses each" in said.err
    assert plot.read_bytes()[:4] == b"\x89PNG"
    many = json.loads(italic("evaluate", prompts, *words, *PAIR, "--json").out)
    assert [one["model"] for one in many] == [ONE, OTHER]
    assert "win rate ahead of the first" in said.out
    assert "lead" not in many[0]
    ahead = many[1]["used_win_rate"]["mean"] - many[0]["used_win_rate"]["mean"]
    assert many[1]["lead"]["mean"] == pytest.approx(ahead)
    assert many[1]["lead"]["low"] < ahead < many[1]["lead"]["high"]


def test_plain_sampling_has_no_share(italic, prompts) -> None:
    said = italic("evaluate", prompts, "--model", ONE, *PAIR, "--procedure", "sample")
    assert "win rate of one draw" in said.out
    assert "share" not in said.out
    assert "ahead" not in said.out


def test_another_use_of_the_reference_is_named(italic, prompts) -> None:
    words = ("--procedure", "sample", "--rival", "best-of-n:n=4")
    said = italic("evaluate", prompts, "--model", ONE, *PAIR, *words).out
    assert "by best of 4)" in said
    assert "one draw against best of 4" in " ".join(said.replace("│", " ").split())
    worst = italic("evaluate", prompts, "--model", ONE, *PAIR, "--procedure", "worst-of-n:n=4").out
    assert "win rate, worst of 4" in worst
    assert "share" not in worst


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        (("--procedure", "best-of-n:n=17"), 2, "16 scored responses to a prompt, and the best of 17 was asked for"),
        (("--rival", "worst-of-n:n=20"), 2, "the worst of 20"),
        (("--procedure", "median"), 2, "Write sample, best-of-n:n=4 or worst-of-n:n=4"),
        (("--procedure", "best-of-n:n=0"), 2, "the best or the worst of 0 draws"),
        (("--model", "toy:letters=3,length=3"), 2, "has another tokenizer or chat template"),
        (("--model", ONE), 2, f"--model {ONE} more than once"),
        (("--plot", "nowhere/pareto.png"), 1, "cannot write nowhere/pareto.png"),
    ],
)
def test_what_cannot_be(italic, prompts, monkeypatch, tmp_path, words, code, why) -> None:
    monkeypatch.chdir(tmp_path)
    said = italic("evaluate", prompts, "--model", ONE, *PAIR, *words)
    assert said.code == code
    assert why in said.err


def test_uses_as_they_are_typed() -> None:
    assert read_use("sample") == Use(1)
    assert read_use("best-of-n:n=3") == Use(3)
    assert read_use("worst-of-n:n=3") == Use(3, worst=True)
