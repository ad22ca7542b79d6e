"""Tuning a small random model from the command line: what comes of it, and that an interruption changes nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from italic.core.sampling import Sampling
from italic.core.spec import build_model, build_reward
from italic.evaluate.tuned import Use, judge, sample
from italic.run.inputs import read_prompts
from italic.train.tuning.folder import close_folder, open_folder
from tiny_decoders import decoder, letters

REWARD = """
def letters(prompts, completions, **_):
    return [sum({"a": 1.0, "b": 0.3, "c": -0.4, "d": -1.0}[c] for c in text) + 0.01 * len(text) for text in completions]
"""
FEW = (
    *("--steps", "6", "--prompts-per-step", "2", "--group", "4"),
    *("--rate", "0.01", "--warmup", "0", "--save-every", "2"),
)
ENOUGH = ("--steps", "60", "--prompts-per-step", "4", "--group", "8", "--rate", "0.004", "--warmup", "4")


def run(*words):
    """The command line in this process: its exit code. A pytest fixture of another folder does the same with output."""
    from italic.cli.main import main

    before, sys.argv = sys.argv, ["italic", *map(str, words)]
    try:
        main()
    except SystemExit as left:
        return int(left.code or 0)
    finally:
        sys.argv = before
    return 0


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a model, a reward, prompts and a calibration of them."""
    folder = tmp_path_factory.mktemp("tuning")
    decoder(size=5, scale=0.15).save_pretrained(folder / "model")
    letters("abcd").save_pretrained(folder / "model")
    (folder / "reward.py").write_text(REWARD)
    lines = [json.dumps({"id": name, "prompt": name}) for name in ("ab", "cd", "bda", "ccb", "d")]
    (folder / "prompts.jsonl").write_text("\n".join(lines) + "\n")
    words = ("--samples", "64", "--max-tokens", "6", "--lengths", "none", "--quiet", "--json")
    assert run("calibrate", folder / "prompts.jsonl", *pair(folder), *words, "--out", folder / "known.parquet") == 0
    return folder


def pair(folder):
    return "--model", folder / "model", "--reward", f"function:{folder / 'reward.py'}:letters"


def train(folder, out, *words, goal=("vbon", "--n", "4"), steps=FEW):
    """The exit code of `italic train`, and the report. Bonbon's n is its group."""
    if goal[0] == "bonbon":
        steps = [word for i, word in enumerate(steps) if "--group" not in steps[max(i - 1, 0) : i + 1]]
    done = run(
        "train", goal[0], folder / "prompts.jsonl", *goal[1:], *pair(folder),
        "--calibration", folder / "known.parquet", "--out", out, *steps, *words, "--quiet", "--json",
    )  # fmt: skip
    report = (
        json.loads((Path(out) / "tuning.json").read_text())["report"] if Path(out, "tuning.json").exists() else None
    )
    return done, report


def measured(folder, out):
    """The tuned model against the one that it came from, by best-of-4."""
    tuned, before = build_model(str(out)), build_model(str(folder / "model"))
    reward = build_reward(f"function:{folder / 'reward.py'}:letters")
    prompts = read_prompts(str(folder / "prompts.jsonl")).good
    law = Sampling(max_tokens=6)
    ours = sample(prompts, tuned, reward, 400, against=before, seed=1, sampling=law)
    return judge(ours, sample(prompts, before, reward, 400, seed=2, sampling=law), Use(4))


def weights(out):
    return Path(out, "model.safetensors").read_bytes()


def test_one_draw_comes_to_be_as_good_as_the_best_of_four(place, tmp_path) -> None:
    done, report = train(place, tmp_path / "out", steps=ENOUGH)
    assert done == 0
    found = measured(place, tmp_path / "out")
    assert found.share.mean > 0.85
    assert found.kl.mean < report["kl_expected"] + 0.25
    assert report["kl"] == pytest.approx(found.kl.mean, rel=0.3)
    assert report["beta_expected"] == report["beta"] == pytest.approx(1 / 3)
    log = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in log] == list(range(1, 61))
    assert np.mean([entry["quantile"] for entry in log[-6:]]) > 0.7
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_parts_have_credit_where_the_reward_of_beginnings_foretells(place, tmp_path) -> None:
    """The letters' rewards add up, so that what a beginning is worth is known; but only a reward that says so is asked
    about beginnings unbidden.
    """
    foretells = ("--reward", f"function:{place / 'reward.py'}:letters,partial=true")
    calibrate = ("calibrate", place / "prompts.jsonl", *pair(place)[:2], *foretells, "--samples", "64", "--quiet")
    words = ("--max-tokens", "6", "--lengths", "none", "--json", "--out", tmp_path / "known.parquet")
    assert run(*calibrate, *words) == 0
    words = ("train", "vbon", place / "prompts.jsonl", *pair(place)[:2], *foretells, "--n", "4", *ENOUGH, "--quiet")
    assert run(*words, "--calibration", tmp_path / "known.parquet", "--out", tmp_path / "out") == 0
    report = json.loads((tmp_path / "out" / "tuning.json").read_text())["report"]
    assert report["gae_lambda"] == 0.9
    assert 0.3 < report["foretold"] < 1
    found = measured(place, tmp_path / "out")
    assert found.share.mean > 0.85
    assert found.kl.mean < report["kl_expected"] + 0.25
    _, silent = train(place, tmp_path / "silent")
    assert silent["gae_lambda"] == 1
    assert "foretold" not in silent


def test_what_is_foretold_is_not_told_by_the_ranks_of_the_others(place, monkeypatch) -> None:
    """Among all references of a prompt the worths of all but one would say what that one is worth: their sum would be
    that of the logarithms of the ranks.
    """
    from italic.train.tuning import tune
    from italic.train.tuning.objective import vbon
    from italic.values.calibration import Calibration

    known = Calibration.load(place / "known.parquet")
    few = tuple(replace(r, rewards=r.rewards[:12], tokens=r.tokens[:12]) for r in known.responses)
    seen = []
    monkeypatch.setattr(tune, "foretold", lambda cuts, rolled, others: seen.append((rolled.worth, others)))
    model, reward = build_model(str(place / "model")), build_reward(f"function:{place / 'reward.py'}:letters")
    tune._foretold(model, reward, replace(known, responses=few), vbon(4, 12), (3,))
    ((worth, others),) = seen
    worth, sums = worth.reshape(5, 6), worth.reshape(5, 6).sum(axis=1)
    assert others.reshape(5, 6) == pytest.approx((sums[:, None] - worth) / 5)
    assert np.std(sums) > 1


@pytest.mark.slow
def test_two_processes_train_one_model(place, tmp_path) -> None:
    words = (
        *("train", "vbon", place / "prompts.jsonl", "--n", "4", *pair(place), *ENOUGH, "--quiet", "--json"),
        *("--gae-lambda", "0.9", "--calibration", place / "known.parquet", "--out", tmp_path / "out"),
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        crew = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    first, second = (
        subprocess.Popen(
            [sys.executable, "-m", "italic", *map(str, words)],
            env={**os.environ, **crew, "RANK": rank, "LOCAL_RANK": rank, "ACCELERATE_USE_CPU": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    )
    told, quiet = first.communicate(timeout=300), second.communicate(timeout=300)
    assert (first.returncode, second.returncode) == (0, 0), (told, quiet)
    assert quiet[0] == ""
    report = json.loads(told[0])
    found = measured(place, tmp_path / "out")
    assert found.share.mean > 0.85
    assert report["kl"] == pytest.approx(found.kl.mean, rel=0.3)


def test_several_processes_want_a_calibration(place, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    words = ("train", "vbon", place / "prompts.jsonl", *pair(place), "--out", tmp_path / "out", *FEW, "--quiet")
    assert run(*words) == 2
    assert "several processes, and no calibration" in capsys.readouterr().err


def test_beta_is_led_to_the_divergence_that_is_asked_for(place, tmp_path) -> None:
    goal = ("infalign", "--procedure", "best-of-n:n=2", "--kl", "0.4")
    steps = ("--steps", "320", "--prompts-per-step", "4", "--group", "16", "--rate", "0.01", "--warmup", "4")
    done, report = train(place, tmp_path / "out", goal=goal, steps=steps)
    assert done == 0
    assert report["kl"] == pytest.approx(0.4, rel=0.2)
    assert report["kl_expected"] == 0.4


@pytest.mark.parametrize("goal", [("vbon", "--n", "4", "--trainer", "qrpo"), ("bonbon", "--n", "4")])
def test_the_offline_trainers_learn_without_rollouts(place, tmp_path, goal) -> None:
    done, report = train(place, tmp_path / "out", goal=goal, steps=ENOUGH)
    assert done == 0
    assert measured(place, tmp_path / "out").gain.low > 0.5
    assert "loss" in report


@pytest.mark.parametrize(
    "goal",
    [
        ("vbon", "--n", "4", "--lora", "2"),
        ("infalign", "--procedure", "worst-of-n:n=2", "--kl", "0.2"),
        ("infalign", "--transform", "raw", "--kl", "0.2"),
        ("vbon", "--n", "4", "--trainer", "qrpo"),
        ("bonbon", "--n", "4", "--lora", "2"),
        ("vbon", "--n", "4", "--gae-lambda", "0.5"),
        ("vbon", "--n", "4", "--set", "bf16=true"),
    ],
    ids=["lora", "infalign", "raw", "qrpo", "bonbon", "credit", "bf16"],
)
def test_an_interrupted_run_ends_as_an_undisturbed_one(place, tmp_path, monkeypatch, goal) -> None:
    from italic.train.tuning.common import Told

    assert train(place, tmp_path / "whole", goal=goal)[0] == 0
    told = Told.on_log

    def stop(self, args, state, control, **rest):
        told(self, args, state, control, **rest)
        if state.global_step == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Told, "on_log", stop)
    assert train(place, tmp_path / "cut", goal=goal) == (1, None)
    monkeypatch.setattr(Told, "on_log", told)
    assert train(place, tmp_path / "cut", goal=goal)[0] == 0
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    logs = [Path(tmp_path, name, "log.jsonl").read_text().splitlines() for name in ("cut", "whole")]
    timed = {"step_time", "seconds"}
    one, other = ([{k: v for k, v in json.loads(line).items() if k not in timed} for line in log] for log in logs)
    assert one == other


def test_a_run_that_is_through_is_not_done_again(place, tmp_path, capsys) -> None:
    assert train(place, tmp_path / "out")[0] == 0
    before = weights(tmp_path / "out")
    assert train(place, tmp_path / "out")[0] == 0
    assert "through already" in capsys.readouterr().err
    assert weights(tmp_path / "out") == before
    assert train(place, tmp_path / "out", "--seed", "1")[0] == 2
    assert "another run (tuning: " in capsys.readouterr().err
    assert train(place, tmp_path / "out", "--seed", "1", "--overwrite")[0] == 0
    assert weights(tmp_path / "out") != before


def test_what_tensorboard_shows_is_kept(tmp_path) -> None:
    """Trainers write it among the checkpoints, which go."""
    settings = {"seed": 0}
    open_folder(tmp_path / "out", settings)
    events = tmp_path / "out" / "checkpoints" / "runs" / "now" / "events"
    events.parent.mkdir(parents=True)
    events.write_text("seen")
    close_folder(tmp_path / "out", settings, {"kl": 1.0}, [])
    assert (tmp_path / "out" / "runs" / "now" / "events").read_text() == "seen"
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_without_a_calibration_one_is_drawn_first(place, tmp_path, capsys) -> None:
    words = ("--samples", "8", "--max-tokens", "4", *FEW, "--quiet", "--json", "--out", tmp_path / "out")
    goal = ("--n", "2")
    assert run("train", "vbon", place / "prompts.jsonl", *goal, *pair(place), *words) == 0
    assert json.loads(capsys.readouterr().out)["objective"] == "vbon:n=2"
    assert (tmp_path / "out" / "calibration.parquet").exists()


REFUSED = {
    "temperature": (("--temperature", "0.7"), "--temperature 0.7, and the calibration's responses were drawn with 1"),
    "max-tokens": (("--max-tokens", "9"), "--max-tokens 9, and the calibration's responses were drawn with 6"),
    "samples": (("--samples", "9"), "--samples 9 with a calibration"),
    "set unknown": (("--set", "nonsense=1"), "RLOOConfig has no option 'nonsense'"),
    "set given": (("--set", "top_k=5"), "--set top_k, which follows from the calibration"),
    "set typed": (("--set", "learning_rate=1"), "Give --rate instead"),
    "set torn": (("--set", "5"), "--set max_grad_norm=0.5"),
    "set value": (("--set", "optim=adamm"), "--set optim=adamm: adamm is not a valid"),
    "set passes": (("--set", "gradient_accumulation_steps=some"), "--set gradient_accumulation_steps=some"),
    "trainer": (("--trainer", "ppo"), "Give one of rloo, qrpo, bonbon"),
    "group": (("--group", "1"), "--group 1"),
    "parts": (("--set", "gradient_accumulation_steps=3"), "8 rollouts a step in 3 parts"),
    "report": (("--report-to", "paper"), "Give one of tensorboard, trackio, wandb"),
    "n": (("--n", "1"), "variational best-of-1"),
    "lambda": (("--gae-lambda", "2"), "Give a number from 0 to 1"),
    "lambda offline": (("--gae-lambda", "0.5", "--trainer", "qrpo"), "--gae-lambda with qrpo, which has no rollouts"),
    "half": (("--set", "bf16=some"), "Give bf16=true or bf16=false"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused(place, tmp_path, capsys, name) -> None:
    words, why = REFUSED[name]
    assert train(place, tmp_path / "out", *words)[0] == 2
    assert why in capsys.readouterr().err


GOALS = {
    "kl": (("infalign", "--kl", "9"), "--kl 9 with 64 reference rewards a prompt"),
    "kl sign": (("infalign", "--kl", "-1"), "--kl -1"),
    "procedure": (("infalign", "--procedure", "median"), "there is no procedure 'median'"),
    "transform": (("infalign", "--transform", "cube"), "there is no transform 'cube'"),
    "raw offline": (("infalign", "--transform", "raw", "--trainer", "qrpo"), "no known normaliser"),
    "raw kl": (("infalign", "--transform", "raw", "--kl", "4"), "--kl 4 on the raw reward"),
}


@pytest.mark.parametrize("name", GOALS)
def test_a_goal_out_of_reach_is_refused(place, tmp_path, capsys, name) -> None:
    goal, why = GOALS[name]
    assert train(place, tmp_path / "out", goal=goal)[0] == 2
    assert why in capsys.readouterr().err


def test_a_group_larger_than_what_there_is_to_learn_from_is_refused(place, tmp_path, capsys) -> None:
    assert train(place, tmp_path / "out", "--trainer", "qrpo", "--group", "65")[0] == 2
    assert "64 scored responses to a prompt" in capsys.readouterr().err


def test_too_few_references_are_refused(place, tmp_path, capsys) -> None:
    words = ("--samples", "4", "--max-tokens", "6", "--lengths", "none", "--quiet")
    assert run("calibrate", place / "prompts.jsonl", *pair(place), *words, "--out", tmp_path / "few.parquet") == 0
    words = ("infalign", place / "prompts.jsonl", *pair(place), "--calibration", tmp_path / "few.parquet", *FEW)
    assert run("train", *words, "--kl", "1", "--out", tmp_path / "out") == 2
    said = capsys.readouterr().err
    assert "4 reference rewards a prompt are too few for fixed point for best-of-4" in said
    assert "the win rate would be 0.833 instead of 0.941" in said
    assert "--samples 64 loses less than 0.02" in said
    assert run("train", *words, "--kl", "2.5", "--out", tmp_path / "out") == 2
    assert "4 reference rewards reach more than 1e-08, less than 2.083" in capsys.readouterr().err


def test_few_references_are_warned_about(place, tmp_path, capsys) -> None:
    goal = ("infalign", "--procedure", "best-of-n:n=8", "--kl", "1")
    assert train(place, tmp_path / "out", goal=goal)[0] == 0
    assert "64 reference rewards a prompt are few for" in capsys.readouterr().err


def test_a_stale_calibration_is_refused(place, tmp_path, capsys) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("reward.py", "prompts.jsonl", "known.parquet"):
        (other / name).write_bytes((place / name).read_bytes())
    decoder(size=5, scale=0.15, seed=1).save_pretrained(place / "model" / "later")
    letters("abcd").save_pretrained(place / "model" / "later")
    words = ("train", "vbon", place / "prompts.jsonl", "--calibration", place / "known.parquet", *FEW, "--quiet")
    reward = ("--reward", f"function:{place / 'reward.py'}:letters")
    assert run(*words, *reward, "--model", place / "model" / "later", "--out", tmp_path / "a") == 2
    assert "the calibration is of the model" in capsys.readouterr().err
    lines = [json.dumps({"prompt": name}) for name in ("ab", "dd")]
    (tmp_path / "new.jsonl").write_text("\n".join(lines) + "\n")
    again = [tmp_path / "new.jsonl" if word == place / "prompts.jsonl" else word for word in words]
    assert run(*again, *pair(place), "--out", tmp_path / "b") == 2
    assert "1 of 2 prompts are not in the calibration" in capsys.readouterr().err
    before = (place / "model" / "model.safetensors").read_bytes()
    try:
        later = (place / "model" / "later" / "model.safetensors").read_bytes()
        (place / "model" / "model.safetensors").write_bytes(later)
        assert run(*words, *pair(place), "--out", tmp_path / "c") == 2
        said = capsys.readouterr().err
        assert "the calibration is stale: response" in said
        assert "log-probability" in said
    finally:
        (place / "model" / "model.safetensors").write_bytes(before)
    source = (place / "reward.py").read_text()
    try:
        (place / "reward.py").write_text(source.replace("0.3", "0.9"))
        assert run(*words, *pair(place), "--out", tmp_path / "d") == 2
        assert "had the reward" in capsys.readouterr().err
    finally:
        (place / "reward.py").write_text(source)


def test_responses_cut_by_a_law_of_their_own_are_refused(place, tmp_path, capsys) -> None:
    words = ("--samples", "8", "--max-tokens", "6", "--lengths", "none", "--quiet", "--top-k", "3")
    assert run("calibrate", place / "prompts.jsonl", *pair(place), *words, "--out", tmp_path / "k.parquet") == 0
    capsys.readouterr()
    words = ("train", "vbon", place / "prompts.jsonl", "--calibration", tmp_path / "k.parquet", *FEW, "--quiet")
    assert run(*words, *pair(place), "--out", tmp_path / "out") == 2
    assert "Calibrate without top-k" in capsys.readouterr().err


def test_a_folder_of_another_kind_is_left_alone(place, tmp_path, capsys) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert train(place, tmp_path)[0] == 2
    assert "is no tuned model" in capsys.readouterr().err
    assert train(place, tmp_path, "--overwrite")[0] == 2
    assert (tmp_path / "notes.txt").read_text() == "mine"
