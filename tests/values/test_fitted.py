"""The directory that `italic fit-baseline` writes, and what it refuses to be used for."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from italic.core.errors import ModelError, RecordError, SpecError, UsageError
from italic.core.keys import Key
from italic.core.latents import LatentDrafts
from italic.core.prompt import Prompt
from italic.core.questions import Embed, Extend
from italic.core.sampling import Sampling, Until
from italic.methods.chernoff import Chernoff
from italic.models.toy import ToyModel
from italic.values.fitted import NETWORKS, SETTINGS, Fitted, told
from italic.values.kinds import Completions, Learned, RewardSoFar
from italic.values.networks import Networks

MODEL, D, BLOCKS = ToyModel(letters=2, length=3, seed=2), 5, 2


def networks(seed, layout="C"):
    """Numbers that a float32 holds; layout F: as a transposed array of another library lies in memory."""
    rng = np.random.default_rng(seed)
    shapes = [(D, 3), (3, 1)]

    def draw(*shape):
        return np.array(np.round(rng.normal(size=shape), 2).astype(np.float32), dtype=np.float64, order=layout)

    return Networks(
        draw(BLOCKS, D),
        draw(BLOCKS, D),
        tuple(draw(BLOCKS, *shape) for shape in shapes),
        tuple(draw(BLOCKS, shape[1]) for shape in shapes),
        np.full(BLOCKS, -np.inf),
        np.full(BLOCKS, np.inf),
    )


def made(**changes):
    settings = {
        "kind": "pinball",
        "beta": 0.5,
        "block": 2,
        "horizon": 4,
        "tau": np.array([0.1, 0.2]),
        "ceiling": np.array([50.0, 60.0]),
        "value": "learned",
        "model": "toy",
        "reward": "toy:seed=1",
        "report": {"proposals": 4000, "losses": [1.5, 0.5]},
        "baseline": networks(1),
        "worth": networks(2),
    }
    return Fitted(**{**settings, **changes})


def drafts(steps, n=8, max_tokens=4):
    start = MODEL.start(Prompt("p", text="x"), Key(1).seeds(n), Sampling(max_tokens=max_tokens))
    grown = MODEL.extend([Extend(start, Until(steps=steps))])[0].drafts if steps else start
    return grown[np.flatnonzero(~grown.done)]


def at(fitted, rows, values):
    asking, answer = fitted.at(rows, values), None
    try:
        question = asking.send(None)
        assert isinstance(question, Embed)
        asking.send(MODEL.embed([question.drafts])[0].features)
    except StopIteration as end:
        return end.value
    raise AssertionError(answer)


def same(one, other):
    if one is None or other is None:
        return one is other
    mine, theirs = one.arrays("x"), other.arrays("x")
    bounds = np.array_equal(one.low, other.low) and np.array_equal(one.high, other.high)
    return bounds and mine.keys() == theirs.keys() and all(np.array_equal(mine[k], theirs[k]) for k in mine)


@pytest.mark.parametrize(
    "fitted",
    [
        made(),
        made(baseline=networks(1, "F"), worth=networks(2, "F")),
        made(baseline=None, kind="conformal"),
        made(baseline=None, worth=None, value="completions:3", report={}),
        made(
            baseline=None,
            worth=None,
            value="reward",
            block=None,
            tau=np.array([0.25]),
            ceiling=np.array([1.5]),
            kind="paper",
        ),
    ],
    ids=["full", "transposed", "conformal", "by completions", "whole"],
)
def test_a_round_trip(tmp_path, fitted):
    fitted.save(tmp_path / "new" / "fit")
    again = Fitted.load(tmp_path / "new" / "fit")
    for name in ("kind", "beta", "block", "horizon", "value", "model", "reward", "report"):
        assert getattr(again, name) == getattr(fitted, name)
    assert np.array_equal(again.tau, fitted.tau)
    assert np.array_equal(again.ceiling, fitted.ceiling)
    assert same(again.baseline, fitted.baseline)
    assert same(again.worth, fitted.worth)
    assert again.needs == fitted.needs
    if fitted.baseline is not None:
        rows = drafts(2)
        values = np.linspace(-1, 1, len(rows))
        assert np.array_equal(at(again, rows, values), at(fitted, rows, values))
        assert np.array_equal(again.baseline.weights[0], fitted.baseline.weights[0])


def test_the_bounds_of_the_answers_are_saved(tmp_path):
    features, block = np.random.default_rng(0).normal(size=(200, D)), np.repeat([0, 1], 100)
    middle = np.round(networks(1)(features, block).reshape(2, 100).mean(axis=1))
    net = replace(networks(1), low=np.array([middle[0] - 0.5, -np.inf]), high=middle + 0.25)
    made(baseline=net, worth=None, value="reward").save(tmp_path)
    again = Fitted.load(tmp_path).baseline
    assert np.array_equal(again.low, net.low)
    assert np.array_equal(again.high, net.high)
    answers = again(features, block).reshape(2, 100)
    assert np.array_equal(answers.ravel(), net(features, block))
    assert answers.max(axis=1).tolist() == (middle + 0.25).tolist()
    assert answers[0].min() == middle[0] - 0.5
    assert answers[1].min() < middle[1] - 0.5


def test_what_was_there_before_is_replaced(tmp_path):
    made().save(tmp_path)
    made(baseline=None, worth=None, value="reward").save(tmp_path)
    again = Fitted.load(tmp_path)
    assert again.baseline is None
    assert again.worth is None


@pytest.mark.parametrize("steps", [0, 2])
def test_the_baseline_of_each_state(steps):
    """tau of the block, the value over beta unless it is the paper's, and the network."""
    rows, fitted = drafts(steps), made()
    values = np.linspace(-1, 1, len(rows))
    net = fitted.baseline(MODEL.embed([rows])[0].features, np.full(len(rows), steps // 2))
    tau = [0.1, 0.2][steps // 2]
    assert at(fitted, rows, values) == pytest.approx(tau + values / 0.5 + net)
    assert at(replace(fitted, kind="paper"), rows, values) == pytest.approx(tau + net)
    assert at(replace(fitted, baseline=None), rows, values) == pytest.approx(tau + values / 0.5)
    low = replace(fitted, ceiling=np.array([-3.0, -1.0]))
    expected = np.minimum(tau + values / 0.5 + net, [-3.0, -1.0][steps // 2])
    assert at(low, rows, values) == pytest.approx(expected), "no baseline is above the ceiling of its block"
    assert 0 < np.sum(at(low, rows, values) == [-3.0, -1.0][steps // 2]) < len(rows)
    assert np.array_equal(fitted.tau, [0.1, 0.2]), "nothing is added in place"
    assert np.array_equal(values, np.linspace(-1, 1, len(rows)))


def test_its_value():
    assert made(block=None).valued is None
    learned = made().valued
    assert isinstance(learned, Learned)
    assert learned.block == 2
    assert made(worth=None, value="completions:3").valued == Completions(3)
    assert made(worth=None, value="reward").valued == RewardSoFar()
    assert made().needs == {"embed"}
    assert made(baseline=None).needs == frozenset()
    assert Chernoff(baseline=made(baseline=None)).needs == {"resume", "embed"}
    assert Chernoff(baseline=made(block=None, worth=None)).needs == {"embed"}


def test_a_response_too_long_is_refused():
    rows = drafts(2, max_tokens=5)
    with pytest.raises(UsageError, match="responses of up to 5 steps, and the baseline was fitted to 4") as refusal:
        at(made(), rows, np.zeros(len(rows)))
    assert "--max-tokens" in refusal.value.hint


def test_responses_sampled_otherwise_are_refused(tmp_path):
    rows = drafts(0)
    fit = made(baseline=None, sampling=told(rows))
    fit.save(tmp_path)
    for fitted in (fit, Fitted.load(tmp_path)):
        assert len(at(fitted, rows, np.zeros(8))) == 8
        warm = MODEL.start(rows.prompt, rows.seeds, Sampling(max_tokens=4, temperature=1.5))
        points = LatentDrafts.at(rows.prompt, np.zeros((8, 2)), np.zeros(8, dtype=np.int64), 4, rows.seeds)
        for others in (warm, points):
            with pytest.raises(UsageError, match="and the baseline was fitted with") as refusal:
                at(fitted, others, np.zeros(8))
            assert "temperature" in refusal.value.hint
    assert Chernoff(baseline=fit).made_for == ("toy", "toy:seed=1")
    assert Chernoff().made_for is None


def test_a_block_that_the_fit_has_not_seen_is_refused():
    """Short enough, but in the fit all responses had ended by then."""
    rows, short = drafts(2), made(tau=np.array([0.1]), ceiling=np.array([50.0]), baseline=None)
    with pytest.raises(UsageError, match="block 2 of a response, and those of the fit had ended after 1") as refusal:
        at(short, rows, np.zeros(len(rows)))
    assert "italic fit-baseline" in refusal.value.hint
    assert len(at(short, drafts(0), np.zeros(8))) == 8


def test_without_safetensors_there_are_no_fits(tmp_path, monkeypatch):
    made().save(tmp_path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    for use in (lambda: made().save(tmp_path), lambda: Fitted.load(tmp_path)):
        with pytest.raises(SpecError, match="a fitted baseline needs safetensors, which is not installed") as refusal:
            use()
        assert "italic[hf]" in refusal.value.hint


def test_wrong_features_are_refused():
    wide = ToyModel(letters=3, length=3)
    start = wide.start(Prompt("p", text="x"), Key(1).seeds(2), Sampling(max_tokens=4))
    asking = made().at(start, np.zeros(2))
    features = wide.embed([next(asking).drafts])[0].features
    with pytest.raises(UsageError, match="fitted to 5 features, and the model gives 6"):
        asking.send(features)


def test_a_directory_that_is_none(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UsageError, match="there is no fitted baseline") as refusal:
            Fitted.load(folder)
        assert "baseline=pilot" in refusal.value.hint
    with pytest.raises(UsageError, match="there is no fitted baseline in 'pilots'"):
        Chernoff(baseline="pilots")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "3", '"text"', "null", "{}", '{"format": 2}', '{"format": 1, "kind": "other"}', "\udcff"],
)
def test_broken_settings(tmp_path, text):
    made().save(tmp_path)
    (tmp_path / SETTINGS).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match="cannot be read") as failure:
        Fitted.load(tmp_path)
    assert failure.value.hint == "Fit it again."
    assert str(tmp_path) in failure.value.message


@pytest.mark.parametrize(
    "change",
    [
        lambda s: s.pop("horizon"),
        lambda s: s.update(more=1),
        lambda s: s.update(tau="high"),
        lambda s: s.pop("ceiling"),
        lambda s: s.update(format=0),
        lambda s: s.update(kind="median"),
    ],
)
def test_settings_of_another_kind(tmp_path, change):
    made().save(tmp_path)
    settings = json.loads((tmp_path / SETTINGS).read_text())
    change(settings)
    (tmp_path / SETTINGS).write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="cannot be read"):
        Fitted.load(tmp_path)


def test_broken_networks(tmp_path):
    made().save(tmp_path)
    (tmp_path / NETWORKS).write_bytes(b"not this")
    with pytest.raises(ModelError, match="cannot be read"):
        Fitted.load(tmp_path)
    (tmp_path / NETWORKS).unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        Fitted.load(tmp_path)


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecordError, match="cannot write"):
        made().save(tmp_path / "file")
    (tmp_path / "fit" / NETWORKS).mkdir(parents=True)
    with pytest.raises(RecordError, match="cannot write") as failure:
        made().save(tmp_path / "fit")
    assert "--out" in failure.value.hint


def test_a_path_is_loaded_when_the_method_is_made(tmp_path):
    made().save(tmp_path)
    method = Chernoff(baseline=str(tmp_path), n=3)
    assert method.plan.beta == 0.5
    assert method.plan.block == 2
    assert isinstance(method.plan.value, Learned)
    with pytest.raises(UsageError, match=r"beta=1\.0, and the baseline was fitted with beta=0\.5"):
        Chernoff(baseline=str(tmp_path), beta=1.0)
