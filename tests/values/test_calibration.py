"""What a calibration says of reference responses, the file it is in, and what it refuses."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet
import pytest
from scipy import stats

from italic.core.errors import RecordError, UsageError
from italic.core.keys import Key
from italic.core.latents import LatentDrafts
from italic.core.prompt import Prompt
from italic.core.questions import Extend
from italic.core.sampling import Sampling, Until
from italic.models.toy import ToyModel
from italic.run.record import plain
from italic.values.calibration import Calibration
from italic.values.responses import Responses
from italic.values.table import KEY

LENGTHS, LONGEST, NAN = (4, 8, 16, 24), 32, float("nan")
CHAT = Prompt("chat", messages=({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}))


def made(prompts=6, n=8, seed=0, told=1.0, levels=None, lengths=LENGTHS, steps=None, **changes):
    """A calibration of drawn numbers: partial scores are `told` times the final ones and noise, with offsets."""
    rng = np.random.default_rng(seed)

    def one(prompt):
        size = rng.integers(1, LONGEST + 1, size=n) if steps is None else np.full(n, steps)
        final = rng.normal(size=n)
        if levels is not None:
            final = np.round(final * levels) / levels
        partial = 100 * rng.normal() + told * final + rng.normal(size=(len(lengths), n))
        return Responses(
            prompt=prompt,
            prompt_reward=float(rng.normal()),
            rewards=final + 10 * rng.normal(),
            steps=size,
            finish=tuple(rng.choice(["end", "stop", "length"], size=n).tolist()),
            completions=tuple("é" * k for k in size),
            tokens=tuple(rng.integers(0, 100, size=k).astype(np.int32) for k in size),
            logprobs=-rng.exponential(size=n),
            entropies=tuple(rng.exponential(size=k).astype(np.float32) for k in size),
            partial=np.where(size > np.array(lengths).reshape(-1, 1), partial, np.nan),
        )

    responses = tuple(one(CHAT if i == 1 else Prompt(f"p{i}", text=f"prompt {i}")) for i in range(prompts))
    return Calibration("toy", "toy:seed=1", Sampling(LONGEST, stop=("\n",)), 3, n, lengths, responses, **changes)


def swapped(calibration, **columns):
    """The calibration with columns of all its prompts replaced."""
    return replace(calibration, responses=tuple(replace(r, **columns) for r in calibration.responses))


def with_rewards(*rewards, n=4):
    """A calibration of prompts with these rewards."""
    found = made(len(rewards), n)
    rows = [replace(r, rewards=np.array(own)) for r, own in zip(found.responses, rewards, strict=True)]
    return replace(found, responses=tuple(rows))


def same(one, other):
    names = ("model", "reward", "sampling", "seed", "samples", "lengths", "settings")
    heads = [[getattr(c, name) for name in names] for c in (one, other)]
    return heads[0] == heads[1] and [r.row() for r in one.responses] == [r.row() for r in other.responses]


def test_a_round_trip(tmp_path):
    missing = replace(made(), settings={"italic": "0.1.0", "options": {"dtype": "float32"}})
    rows = list(missing.responses)
    rows[0] = replace(rows[0], rewards=np.array([NAN, np.inf, -np.inf, 0, 1, 2, 3, 4]), prompt_reward=NAN)
    missing = replace(missing, responses=tuple(rows))
    for calibration in (missing, made(0), made(lengths=())):
        calibration.save(tmp_path / "new" / "c.parquet")
        again = Calibration.load(tmp_path / "new" / "c.parquet")
        assert same(again, calibration)
        assert [p.name for p in (tmp_path / "new").iterdir()] == ["c.parquet"]
        assert again.made_for == ("toy", "toy:seed=1")
        for mine, theirs in zip(again.responses, calibration.responses, strict=True):
            assert mine.prompt == theirs.prompt
            for name in ("rewards", "steps", "logprobs", "partial"):
                assert np.array_equal(getattr(mine, name), getattr(theirs, name), equal_nan=True), name
                assert getattr(mine, name).dtype == getattr(theirs, name).dtype
            assert all(map(np.array_equal, mine.entropies, theirs.entropies))


def test_what_is_missing_is_null_in_the_file(tmp_path):
    found = with_rewards([NAN, 1.0, 2.0, -np.inf])
    swapped(found, prompt_reward=NAN).save(tmp_path / "c.parquet")
    table = parquet.read_table(tmp_path / "c.parquet")
    row = table.to_pylist()[0]
    assert row["rewards"] == [None, 1.0, 2.0, -np.inf]
    assert row["prompt_reward"] is None
    about = json.loads(table.schema.metadata[KEY])
    assert about["format"] == 2
    assert about["sampling"] == asdict(found.sampling) | {"stop": ["\n"]}
    assert (about["model"], about["reward"], about["seed"], about["samples"]) == ("toy", "toy:seed=1", 3, 4)
    assert about["lengths"] == list(LENGTHS)


def test_a_row_survives_json():
    row = replace(made().responses[1], rewards=np.array([NAN, np.inf, -np.inf, 0, 1, 2, 3, 4]))
    again = Responses.of(json.loads(json.dumps(plain(row.row()))))
    assert again.row() == row.row()
    assert again.prompt == row.prompt == CHAT


def test_drafts_that_are_sampled_otherwise_are_refused():
    model, calibration = ToyModel(), made()

    def start(**changes):
        return model.start(Prompt("p", text="x"), Key(1).seeds(2), replace(calibration.sampling, **changes))

    calibration.agree(start())
    for changes, why in (
        ({"temperature": 0.7}, "temperature 0.7, there 1.0$"),
        ({"max_tokens": 8}, "max_tokens 8, there 32$"),
        ({"stop": (), "top_k": 3}, r"top_k 3, there 0; stop \(\), there \('\\n',\)$"),
    ):
        with pytest.raises(UsageError) as refusal:
            calibration.agree(start(**changes))
        assert refusal.match(why.rstrip("$"))
        assert "italic calibrate" in refusal.value.hint
    points = LatentDrafts.at(Prompt("p", text="x"), np.zeros((2, 2)), np.zeros(2, dtype=np.int64), 4, Key(1).seeds(2))
    with pytest.raises(UsageError, match="of texts"):
        calibration.agree(points)


def test_the_reward_to_aim_at():
    calibration = made(prompts=4, n=10)
    own = calibration.responses[2].rewards
    stranger = Prompt("p2", text="another text")
    for prompt in (Prompt("new", text="prompt 2"), replace(calibration.responses[2].prompt, columns={"gold": 1})):
        assert calibration.r_star(prompt, 0.9, "prompt") == np.sort(own)[8]
        assert calibration.r_star(prompt, 0.9) == np.sort(own)[8]
        assert calibration.r_star(prompt, 0.9, "set") == np.sort(calibration.rewards)[35]
    assert calibration.r_star(replace(CHAT, id="x"), 1.0) == calibration.responses[1].rewards.max()
    assert calibration.r_star(stranger, 0.9) == np.sort(calibration.rewards)[35]
    assert calibration.rewards_of(stranger) is None
    assert np.array_equal(calibration.rewards_of(CHAT), calibration.responses[1].rewards)
    with pytest.raises(UsageError, match="'p2' is not in the calibration") as refusal:
        calibration.r_star(stranger, 0.9, "prompt")
    assert "auto" in refusal.value.hint
    with pytest.raises(UsageError, match="no scope 'all'"):
        calibration.r_star(stranger, 0.9, "all")
    with pytest.raises(UsageError, match=r"a quantile at 1\.5"):
        calibration.r_star(stranger, 1.5)


def test_a_prompt_with_few_rewards_borrows_the_sets():
    calibration = with_rewards([NAN, 1.0, 2.0, -np.inf, *range(3, 8), np.inf], range(20, 30), [NAN] * 10, n=10)
    few, _, none = (r.prompt for r in calibration.responses)
    assert calibration.r_star(few, 0.5) == 21, "seven finite ones are too few"
    assert calibration.r_star(few, 0.5, "prompt") == 4
    assert calibration.r_star(few, 0.0, "prompt") == -np.inf
    assert calibration.r_star(few, 1.0, "set") == np.inf
    assert calibration.r_star(none, 0.0) == -np.inf
    for nothing in (lambda: calibration.r_star(none, 0.5, "prompt"), lambda: made(0).r_star(none)):
        with pytest.raises(UsageError, match="no reward to aim at"):
            nothing()


def test_the_same_prompt_under_two_ids():
    calibration = with_rewards([1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0])
    one, other = calibration.responses
    twice = replace(calibration, responses=(one, replace(other, prompt=Prompt("again", text="prompt 0"))))
    assert list(twice.rewards_of(one.prompt)) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert twice.r_star(one.prompt, 0.75) == 6


def test_the_spread_is_that_within_prompts():
    assert with_rewards([0.0, 2.0, 0.0, 2.0], [100.0, 104.0, 100.0, 104.0]).spread() == pytest.approx(
        np.sqrt((4 / 3 + 16 / 3) / 2)
    )
    some = with_rewards([NAN, 1.0, np.inf, 2.0], [NAN, NAN, NAN, 5.0], [-np.inf, 3.0, NAN, NAN])
    assert some.spread() == pytest.approx(np.sqrt(0.5)), "one prompt has two finite rewards"
    assert np.isnan(made(0).spread())


def test_the_uncertainty_that_ends_a_segment():
    calibration = made()
    every = np.sort(np.concatenate([row for r in calibration.responses for row in r.entropies]))
    tau = calibration.tau_u(0.8)
    assert tau in every
    assert np.mean(every <= tau) >= 0.8 > np.mean(every < tau)
    assert calibration.tau_u() == calibration.tau_u(0.8)
    assert np.isnan(made(0).tau_u())


@pytest.mark.parametrize(("share", "least", "most"), [(0.5, 1, 3), (0.7, 2, 64), (0.3, 4, 4), (0.9, 1, 1)])
def test_segments_are_those_that_the_model_would_have_made(share, least, most):
    """A toy model extends drafts segment by segment; the calibration counts the same segments in their entropies."""
    model, sampling = ToyModel(letters=3, length=7, seed=4), Sampling(max_tokens=8)
    drafts = model.start(Prompt("p", text="x"), Key(1).seeds(40), sampling)
    whole = model.extend([Extend(drafts)])[0].drafts
    entropies = model.likelihood([whole])[0].entropies
    rows = tuple(row[:k].astype(np.float32) for row, k in zip(entropies, whole.steps, strict=True))
    (one,) = made(1, n=40).responses
    calibration = replace(made(0), responses=(replace(one, steps=whole.steps, entropies=rows),))
    tau = calibration.tau_u(share) - 1e-6
    segments = 0
    while not drafts.done.all():
        segments += int(np.sum(~drafts.done))
        drafts = model.extend([Extend(drafts, Until(most, tau, least))])[0].drafts
    assert calibration.segment_length(tau, least, most) == pytest.approx(whole.steps.sum() / segments)
    assert calibration.mean_length == whole.steps.mean()


def test_segments_of_nothing():
    assert made(0).segment_length(1.0) == 0
    assert made(0).mean_length == 0


def test_rank_correlations_are_those_within_prompts():
    calibration = made(prompts=40, levels=2)
    for at, found in enumerate(calibration.rank_correlation()):
        rho, weight = [], []
        for r in calibration.responses:
            longer = r.steps > LENGTHS[at]
            if longer.sum() >= 4:
                rho.append(stats.spearmanr(r.partial[at, longer], r.rewards[longer]).statistic)
                weight.append(longer.sum())
        assert found.length == LENGTHS[at]
        assert found.mean == pytest.approx(np.average(rho, weights=weight))
        assert (found.prompts, found.responses) == (len(rho), sum(weight))
        assert 0 < found.error < 0.3


def test_offsets_between_prompts_do_not_count():
    """Over all responses together the scores rank well, for they know the prompt; within a prompt they are noise."""
    calibration = made(prompts=300, told=0.0, steps=LONGEST)
    for found in (*calibration.rank_correlation(), calibration.halfway()):
        assert abs(found.mean) < 4 * found.error < 0.15
    assert calibration.predicts() is False
    told = made(prompts=60, told=2.0, steps=LONGEST)
    assert told.halfway().mean > 0.7
    assert told.predicts() is True


def test_the_error_is_that_of_the_mean_over_prompts():
    found = [made(prompts=20, told=0.5, seed=seed).halfway() for seed in range(200)]
    means, errors = np.array([f.mean for f in found]), np.array([f.error for f in found])
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(means.std(), rel=0.15)


def test_halfway_is_each_prompts_own():
    calibration = made(prompts=2, steps=LONGEST)
    short, long = made(prompts=2, steps=6).responses[0], calibration.responses[1]
    assert short.middle(LENGTHS) == [0]
    assert long.middle(LENGTHS) == [1, 2, 3]
    both = replace(calibration, responses=(short, long))
    rho = short.correlation(0)[0], np.mean([long.correlation(i)[0] for i in (1, 2, 3)])
    assert both.halfway().mean == pytest.approx(np.mean(rho))
    assert both.halfway()[3:] == (2, 16)
    assert both.halfway().length == pytest.approx((4 + 16) / 2)


def test_what_has_no_correlation():
    """Less than 4 responses, or rewards that are all the same, are left out; scores all the same count as 0."""
    calibration = made(prompts=2, n=6, steps=LONGEST)
    one, other = calibration.responses
    flat = replace(one, rewards=np.full(6, 2.0))
    few = replace(one, rewards=np.array([1.0, 2.0, 3.0, NAN, NAN, NAN]))
    silent = replace(one, partial=np.zeros((4, 6)))
    assert np.isnan(flat.correlation(0)[0])
    assert np.isnan(few.correlation(0)[0])
    assert silent.correlation(0) == (0, 6)
    for left_out in (flat, few):
        found = replace(calibration, responses=(left_out, other))
        assert found.halfway().prompts == 1
        assert np.isnan(found.halfway().error)
        assert found.predicts() is None
        nothing = replace(calibration, responses=(left_out,) * 2)
        assert np.isnan(nothing.halfway().mean)
        assert nothing.rank_correlation()[0][3:] == (0, 0)
        assert "no prompt has 4 responses" in nothing.advice()
    mixed = replace(calibration, responses=(silent, other))
    assert mixed.halfway().mean == pytest.approx(replace(calibration, responses=(other,)).halfway().mean / 2)
    infinite = replace(
        one, rewards=np.array([-np.inf, 1.0, 2.0, 3.0, 4.0, np.inf]), partial=np.arange(24.0).reshape(4, 6)
    )
    assert infinite.correlation(2) == (1, 6)


def test_reports():
    good = made(prompts=40, told=2.0, steps=LONGEST)
    report = good.report("out/cal.parquet")
    json.dumps(plain(report))
    assert report["predicts"] is True
    assert report["advice"].startswith(
        f"Partial scores predict final ones (rank correlation {good.halfway().mean:.2f} ±"
    )
    assert report["advice"].endswith("use --method cascade:calibration=out/cal.parquet")
    assert (report["prompts"], report["samples"], report["missing"]) == (40, 8, 0)
    assert report["tokens"] == 40 * 8 * LONGEST
    assert report["r_star"] == {"quantile": 0.9, "value": good.r_star(Prompt("x", text="x"), scope="set")}
    assert report["rewards"]["0.9"] == report["r_star"]["value"]
    assert report["rewards"]["1"] == good.rewards.max()
    assert report["tau_u"] == {"quantile": 0.8, "value": good.tau_u()}
    assert report["segment_length"] == good.segment_length(good.tau_u(), 4, 64)
    assert [row["length"] for row in report["rank_correlation"]] == list(LENGTHS)
    bad = made(prompts=60, told=0.0, steps=LONGEST).report()
    assert bad["predicts"] is False
    assert bad["advice"].startswith("Partial scores do not predict final ones (rank correlation")
    assert "chernoff:tv=0.05" in bad["advice"]
    few = made(prompts=7, told=2.0, steps=LONGEST)
    rough = made(prompts=9, n=4, told=0.0, lengths=(16,), steps=LONGEST)
    for unsure in (few, rough):
        assert unsure.report()["predicts"] is None
        assert "cannot be told (rank correlation" in unsure.advice()
        assert f"from {len(unsure.responses)} prompts): calibrate on more prompts" in unsure.advice()
    assert rough.halfway().error > 0.15
    assert "nan" not in made(prompts=1, steps=LONGEST).advice()
    long = swapped(made(steps=LONGEST), steps=np.full(8, 1000)).advice()
    assert "no length is halfway through a response, which has 1000 tokens in the mean" in long
    assert "--lengths 250,500,750" in long
    whole = made(lengths=()).report()
    assert whole["predicts"] is None
    assert whole["rank_correlation"] == []
    assert whole["advice"].startswith("The reward has no scores of unfinished responses")
    assert "best-of-n:n=16" in whole["advice"]
    assert with_rewards([NAN, 1.0, 2.0, 3.0]).report()["missing"] == 1
    json.dumps(plain(made(0).report()))


def test_files_that_are_none(tmp_path):
    other, text, path = tmp_path / "other.parquet", tmp_path / "text.parquet", tmp_path / "nowhere.parquet"
    parquet.write_table(arrow.table({"prompt": ["a"]}), other)
    text.write_text("id,prompt\n")
    for file, why in ((path, "there is no calibration"), (other, r"is no calibration\n"), (text, "is no calibration:")):
        with pytest.raises(UsageError, match=why) as refusal:
            Calibration.load(file)
        assert "italic calibrate PROMPTS" in refusal.value.hint
    with pytest.raises(UsageError, match="there is no calibration"):
        Calibration.load(tmp_path)


def about(path, change):
    """Change the metadata of a file."""
    table = parquet.read_table(path)
    settings = json.loads(table.schema.metadata[KEY])
    change(settings)
    parquet.write_table(table.replace_schema_metadata({KEY: json.dumps(settings)}), path)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda s: s.update(format=3), "another format"),
        (lambda s: s.pop("format"), "format"),
        (lambda s: s.pop("seed"), "seed"),
        (lambda s: s.update(more=1), "more"),
        (lambda s: s["sampling"].update(temperature=-1.0), "temperature"),
        (lambda s: s["sampling"].update(heat=1.0), "heat"),
        (lambda s: s.update(sampling=None), "None"),
    ],
)
def test_settings_of_another_kind(tmp_path, change, why):
    path = tmp_path / "c.parquet"
    made().save(path)
    about(path, change)
    with pytest.raises(RecordError, match=f"cannot be read: .*{why}") as failure:
        Calibration.load(path)
    assert "Write it again" in failure.value.hint


def test_broken_metadata(tmp_path):
    path = tmp_path / "c.parquet"
    made().save(path)
    for text in ("", "{", "[1]", "3"):
        parquet.write_table(parquet.read_table(path).replace_schema_metadata({KEY: text}), path)
        with pytest.raises(RecordError, match="cannot be read"):
            Calibration.load(path)


@pytest.mark.parametrize(
    "column", ["id", "messages", "rewards", "steps", "finish", "entropies", "partial", "prompt_reward"]
)
def test_a_column_that_lacks(tmp_path, column):
    path = tmp_path / "c.parquet"
    made().save(path)
    parquet.write_table(parquet.read_table(path).drop_columns([column]), path)
    with pytest.raises(RecordError, match=f"cannot be read: .*{column}"):
        Calibration.load(path)


def test_columns_that_do_not_belong_together():
    row = made().responses[0].row()
    for change in ({"steps": row["steps"][1:]}, {"entropies": row["entropies"][::-1]}, {"finish": ["end"]}):
        with pytest.raises(ValueError, match="do not belong together"):
            Responses.of(row | change)
    for change in ({"partial": [[1.0]]}, {"rewards": ["high"] * 8}):
        with pytest.raises(ValueError, match=r"reshape|convert"):
            Responses.of(row | change)


def test_places_that_cannot_be_written_or_read(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecordError, match="cannot write"):
        made().save(tmp_path / "file" / "c.parquet")
    path = tmp_path / "c.parquet"
    made().save(path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(parquet, "write_table", full)
        with pytest.raises(RecordError, match="No space left on device") as failure:
            made(seed=1).save(path)
    assert "--out" in failure.value.hint
    assert path.read_bytes() == before, "what was there stays whole"
    assert not path.with_name("c.parquet.tmp").exists()
    with monkeypatch.context() as disk:
        disk.setattr(parquet, "ParquetFile", full)
        with pytest.raises(RecordError, match="cannot be read: No space"):
            Calibration.load(path)
