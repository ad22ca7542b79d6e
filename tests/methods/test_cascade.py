"""What the cascade does beyond its law: thresholds, edges, missing and infinite scores, budgets, refusals, notes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from altered import Altered

from italic.core.errors import MismatchError, RewardError, UsageError
from italic.core.keys import Key
from italic.core.outcome import Outcome
from italic.core.prompt import Prompt
from italic.core.protocols import check
from italic.core.questions import Extend, Note
from italic.core.sampling import Sampling, Until
from italic.core.spec import build_method
from italic.methods.cascade import BETA, BETA_OF_SPREAD, Cascade
from italic.methods.sample import Sample
from italic.models.gaussian import load as gaussian
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward
from italic.run.align import align, make_tasks
from italic.run.ledger import Budget
from italic.testing import applicable, method_checks
from italic.values.calibration import Calibration
from italic.values.responses import Responses

MODEL, REWARD, LONG = ToyModel(letters=3, length=6, seed=1, spread=0.8), ToyReward(seed=1), Sampling(max_tokens=7)
PROMPTS = [Prompt(f"p{i}", text=f"prompt {i}") for i in range(6)]
EASY = Cascade(r_star=0.5, tau_u=1.0, beta=0.3, min_segment=1, max_segment=3)


def run(method, *, reward=REWARD, prompts=PROMPTS, sampling=LONG, model=MODEL, seed=0, **more) -> list[Outcome]:
    answers = align(prompts, model, reward, method, sampling=sampling, seed=seed, **more)
    return [r.outcome for r in answers.results]


def listened(method, **more) -> tuple[list[Outcome], list[Note]]:
    notes: list[Note] = []
    found = run(method, prompts=PROMPTS[:1], listen=lambda _, note: notes.append(note), **more)
    return found, notes


def test_the_notes_tell_the_whole_story() -> None:
    """Every try is tested against the line from near the prompt's reward to r_star; the text comes in pieces."""
    (outcome,), notes = listened(replace(EASY, r_star=1.5, tries=4))
    (aim,) = (n.values for n in notes if n.event == "aim")
    own = REWARD.of("prompt 0", "")
    assert (aim["own"], aim["r_star"], aim["steps"]) == (own, 1.5, 7)
    assert aim["start"] == pytest.approx((own + 1.5) / 2)
    tries = [n.values for n in notes if n.event == "try"]
    segments = [n.values for n in notes if n.event == "segment"]
    finished = outcome.drafts.steps[0]
    for one in tries:
        line = min(aim["start"] + one["end"] * (1.5 - aim["start"]) / 7, 1.5)
        assert one["threshold"] in (pytest.approx(line), 1.5)
    at = 0
    for number, segment in enumerate(segments):
        mine = [one for one in tries if one["segment"] == number]
        assert (segment["start"], segment["tries"]) == (at, len(mine))
        assert [one["number"] for one in mine] == list(range(len(mine)))
        assert [one["accepted"] for one in mine[:-1]] == [False] * (len(mine) - 1)
        if segment["exhausted"]:
            assert len(mine) == 5
            assert segment["reward"] == max(one["reward"] for one in mine)
        else:
            assert mine[-1]["accepted"]
            assert (mine[-1]["reward"], mine[-1]["end"]) == (segment["reward"], segment["end"])
        at = segment["end"]
    assert at == finished
    assert "".join(segment["text"] for segment in segments) == outcome.drafts.texts[0]
    assert outcome.reward == segments[-1]["reward"]
    certificate = outcome.certificate
    assert (certificate.proposals, certificate.mean_draws) == (len(tries), len(tries) / len(segments))
    assert certificate.exhaustion_rate == np.mean([segment["exhausted"] for segment in segments])
    assert certificate.acceptance == sum(not s["exhausted"] for s in segments) / len(tries)


def test_a_finished_response_is_tested_against_the_reward_aimed_at() -> None:
    _, notes = listened(replace(EASY, r_star=3.0, max_segment=7, tau_u=np.inf))
    assert {n.values["threshold"] for n in notes if n.event == "try"} == {3.0}


def test_without_a_way_to_go_the_prompt_is_not_scored() -> None:
    _, notes = listened(replace(EASY, alpha=1))
    aim = notes[0].values
    assert (aim["own"], aim["start"], aim["r_star"]) == (None, 0.5, 0.5)
    assert {n.values["threshold"] for n in notes if n.event == "try"} == {0.5}


def test_a_target_below_the_prompts_own_reward_is_the_threshold() -> None:
    _, notes = listened(replace(EASY, r_star=-5.0))
    assert notes[0].values["start"] > -5
    assert {n.values["threshold"] for n in notes if n.event == "try"} == {-5.0}


def test_an_easy_target_is_plain_sampling_in_one_try_a_segment() -> None:
    for outcome in run(replace(EASY, r_star=-50.0)):
        assert outcome.certificate.acceptance == outcome.certificate.mean_draws == 1
        assert outcome.certificate.kl == 0
        assert outcome.usage.tokens_generated == outcome.drafts.steps[0]


def test_an_unreachable_target_takes_the_best_of_all_tries() -> None:
    for outcome in run(replace(EASY, r_star=50.0, tries=6)):
        certificate = outcome.certificate
        assert (certificate.exhaustion_rate, certificate.acceptance, certificate.mean_draws) == (1, 0, 7)
        assert certificate.kl > 0
        assert outcome.complete
    hopeful = np.mean([o.reward for o in run(replace(EASY, r_star=50.0))])
    assert hopeful > np.mean([o.reward for o in run(Sample())])


@pytest.mark.parametrize(("tau_u", "length"), [(0.0, 2), (np.inf, 3)])
def test_entropy_thresholds_of_nothing_and_everything(tau_u: float, length: int) -> None:
    """At 0 every token is uncertain, so segments have the least length; at infinity none is: the most."""
    lengths: dict[str, list[int]] = {}

    def listen(prompt: Prompt, note: Note) -> None:
        if note.event == "segment":
            lengths.setdefault(prompt.id, []).append(note.values["end"] - note.values["start"])

    run(replace(EASY, tau_u=tau_u, min_segment=2, max_segment=3, r_star=-50.0), listen=listen)
    assert {inner for row in lengths.values() for inner in row[:-1]} == {length}
    assert all(row[-1] <= length for row in lengths.values())


def test_a_segment_ends_before_the_uncertain_token() -> None:
    method = replace(EASY, r_star=-50.0, tau_u=1.2, max_segment=7)
    outcomes, notes = listened(method, sampling=LONG)
    (task,) = make_tasks(PROMPTS[:1], MODEL, 0, LONG)
    drafts = task.start(1)
    for number, segment in enumerate(n.values for n in notes if n.event == "segment"):
        seeds = task.key.at("segment", number).at("try").seeds(1)
        drafts = MODEL.extend([Extend(drafts.reseed(seeds), Until(7, 1.2, 1))])[0].drafts
        assert drafts.steps[0] == segment["end"]
    assert drafts.texts == outcomes[0].drafts.texts


def test_responses_of_one_token_and_of_no_more_than_asked_for() -> None:
    for longest in (1, 2, 5):
        for outcome in run(EASY, sampling=Sampling(max_tokens=longest)):
            assert outcome.drafts.steps[0] <= longest
            assert outcome.drafts.done.all()


def test_stop_strings_end_a_response() -> None:
    for outcome in run(EASY, sampling=replace(LONG, stop=("b",))):
        assert "b" not in outcome.drafts.texts[0]


def test_an_empty_prompt() -> None:
    (outcome,) = run(EASY, prompts=[Prompt("empty", text="")])
    assert outcome.drafts.done.all()


def test_rewards_of_minus_infinity_and_missing_ones_are_never_accepted() -> None:
    for value in (np.nan, -np.inf):
        reward = Altered(lambda texts, r, done, value=value: np.where(np.char.find(texts, "a") >= 0, value, r))
        for outcome in run(replace(EASY, r_star=-50.0, tries=60), reward=reward):
            assert "a" not in outcome.drafts.texts[0]
            assert np.isfinite(outcome.reward)


def test_the_best_of_bad_ones() -> None:
    """If all is rejected, -inf is above a missing score; only missing ones end the run."""
    lowest = Altered(lambda texts, r, done: np.where((texts == "") & ~done, 0.0, -np.inf))
    assert {o.reward for o in run(EASY, reward=lowest)} == {-np.inf}
    mixed = Altered(
        lambda texts, r, done: np.where(
            (texts == "") & ~done, 0.0, np.where(np.char.find(texts, "a") >= 0, -np.inf, np.nan)
        )
    )
    assert {o.reward for o in run(replace(EASY, tries=60), reward=mixed)} == {-np.inf}
    missing = Altered(lambda texts, r, done: np.where((texts == "") & ~done, 0.0, np.nan))
    with pytest.raises(RewardError, match="every score that an answer to prompt 'p0' could be chosen by is missing"):
        run(EASY, reward=missing)


@pytest.mark.parametrize(("value", "told"), [(np.nan, "missing"), (-np.inf, "-inf"), (np.inf, "inf")])
def test_a_prompt_without_a_finite_reward(value: float, told: str) -> None:
    reward = Altered(lambda texts, r, done: np.where(texts == "", value, 0.3))
    with pytest.raises(RewardError, match=f"prompt 'p0' without a response is {told}") as caught:
        run(replace(EASY, r_star=0.0), reward=reward)
    assert "alpha=1" in caught.value.hint
    ended = Altered(lambda texts, r, done: np.where((texts == "") & ~done, value, 0.3))
    assert all(o.complete for o in run(replace(EASY, r_star=0.0, alpha=1), reward=ended))


def test_infinite_rewards_are_accepted() -> None:
    reward = Altered(lambda texts, r, done: np.where(done, np.inf, r))
    assert all(o.reward == np.inf for o in run(EASY, reward=reward))


def test_a_budget_returns_what_there_is() -> None:
    hard, seen = replace(EASY, r_star=50.0, max_segment=2), set()
    for tokens in range(0, 120, 3):
        answer = align(PROMPTS[:1], MODEL, REWARD, hard, sampling=LONG, budget=Budget(tokens=tokens))
        assert answer.usage.tokens_generated <= tokens
        for result in answer.results:
            outcome = result.outcome
            if not outcome.complete and outcome.chosen is not None:
                done = bool(outcome.drafts.done[0])
                seen.add(done)
                assert done or outcome.drafts.steps[0] > 0
                assert outcome.reward == REWARD.of("prompt 0", outcome.drafts.texts[0])
    assert seen >= {True}
    (cut,) = run(replace(hard, tau_u=np.inf, max_segment=1), prompts=PROMPTS[1:2], budget=Budget(reward_calls=10))
    assert not cut.complete


def test_an_unfinished_beginning_is_better_than_nothing() -> None:
    """Where no try has finished, a budget leaves the accepted beginning."""
    found = []
    for seed in range(20):
        (outcome,) = run(
            replace(EASY, max_segment=1, r_star=-50.0), prompts=PROMPTS[:1], budget=Budget(tokens=3), seed=seed
        )
        if not outcome.complete and not outcome.drafts.done[0]:
            found.append((outcome.chosen, int(outcome.drafts.steps[0])))
            assert outcome.reward == REWARD.of("prompt 0", outcome.drafts.texts[0])
    assert set(found) == {(0, 3)}


def calibration(**changes: Any) -> Calibration:
    """Two prompts: p0 with rewards around 1, another with rewards around 3."""

    def of(prompt: Prompt, rewards: np.ndarray) -> Responses:
        n = len(rewards)
        return Responses(
            prompt=prompt,
            prompt_reward=0.0,
            rewards=rewards,
            steps=np.full(n, 5),
            finish=("end",) * n,
            completions=("abc",) * n,
            tokens=(np.arange(5, dtype=np.int32),) * n,
            logprobs=np.full(n, -5.0),
            entropies=(np.linspace(0.1, 1.5, 5, dtype=np.float32),) * n,
            partial=np.zeros((0, n)),
        )

    rows = of(PROMPTS[0], np.linspace(0, 1, 10)), of(Prompt("other", text="other"), np.linspace(2, 3, 10))
    return replace(Calibration(MODEL.name, REWARD.name, LONG, 0, 10, (), rows), **changes)


def test_a_calibration_gives_what_is_not_given(tmp_path: Path) -> None:
    known = calibration()
    known.save(tmp_path / "c.parquet")
    for given in (known, str(tmp_path / "c.parquet")):
        method = Cascade(calibration=given, min_segment=1)
        _, notes = listened(method)
        assert notes[0].values["r_star"] == pytest.approx(known.r_star(PROMPTS[0], 0.9))
        assert method.made_for == (MODEL.name, REWARD.name)
        assert method._beta == pytest.approx(BETA_OF_SPREAD * known.spread())
        assert method._tau_u == known.tau_u()
    _, notes = listened(Cascade(calibration=known, quantile=0.5, min_segment=1))
    assert notes[0].values["r_star"] == pytest.approx(known.r_star(PROMPTS[0], 0.5))
    given = Cascade(calibration=known, r_star=0.7, tau_u=0.4, beta=0.2)
    assert (given._beta, given._tau_u) == (0.2, 0.4)
    assert listened(given)[1][0].values["r_star"] == 0.7
    assert EASY.made_for is None
    assert Cascade(r_star=1, tau_u=1)._beta == BETA
    spec = f"cascade:calibration={tmp_path / 'c.parquet'},quantile=0.8"
    assert build_method(spec).calibrated.made_for == known.made_for  # type: ignore[attr-defined]


def test_a_calibration_of_something_else_is_refused() -> None:
    with pytest.raises(MismatchError, match="was fitted to the model") as caught:
        run(Cascade(calibration=calibration(model="another")))
    assert "italic calibrate" in caught.value.hint
    with pytest.raises(UsageError, match="sampled otherwise"):
        run(Cascade(calibration=calibration()), sampling=replace(LONG, temperature=0.5))
    alike = [replace(r, rewards=np.zeros(10)) for r in calibration().responses]
    with pytest.raises(UsageError, match="spread of the calibration's rewards of 0"):
        run(Cascade(calibration=calibration(responses=tuple(alike))))
    with pytest.raises(UsageError, match="there is no calibration"):
        check(Cascade(calibration="nowhere.parquet"), MODEL, REWARD)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "does not know the reward to aim at"),
        ({"r_star": 1.0}, "does not know the reward to aim at"),
        ({"r_star": np.nan, "tau_u": 1}, "r_star=nan"),
        ({"r_star": 1, "tau_u": -1}, "tau_u=-1"),
        ({"r_star": 1, "tau_u": np.nan}, "tau_u=nan"),
        ({"r_star": 1, "tau_u": 1, "quantile": 0.9}, "nothing to take the quantile of"),
        ({"calibration": "x", "r_star": 1, "quantile": 0.9}, "nothing to take the quantile of"),
        ({"calibration": "x", "quantile": 2}, "quantile=2"),
        ({"r_star": 1, "tau_u": 1, "alpha": 1.5}, "alpha=1.5"),
        ({"r_star": 1, "tau_u": 1, "beta": 0}, "beta=0"),
        ({"r_star": 1, "tau_u": 1, "tries": -1}, "tries=-1"),
        ({"r_star": 1, "tau_u": 1, "min_segment": 0}, "min_segment=0"),
        ({"r_star": 1, "tau_u": 1, "max_segment": 3}, "max_segment=3"),
        ({"r_star": 1, "tau_u": 1, "parallel": 0}, "parallel=0"),
        ({"r_star": 1, "tau_u": 1, "eager": -1}, "eager=-1"),
        ({"r_star": 1, "tau_u": 1, "exact": True, "tries": 5}, "exact=true with other"),
        ({"calibration": "x", "exact": True}, "exact=true with a calibration"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_bad_parameters_are_told(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UsageError, match=told) as caught:
        Cascade(**given)
    assert caught.value.hint


def test_it_says_what_it_needs() -> None:
    deaf = Altered(lambda texts, r, done: r, partial=False)
    with pytest.raises(MismatchError, match="partial"):
        check(EASY, MODEL, deaf)
    with pytest.raises(MismatchError, match="entropy"):
        check(EASY, gaussian(), REWARD)
    assert "entropy" not in replace(EASY, tau_u=np.inf).needs
    assert "texts" in Cascade(r_star=1, tau_u=1, exact=True).needs


def test_the_exact_form_wants_a_model_that_can_go_on() -> None:
    with pytest.raises(UsageError, match="nothing to say after its end symbol"):
        run(Cascade(r_star=1, tau_u=1, exact=True))


@pytest.mark.parametrize(
    "given", [{"temperature": 0.9}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {"stop": ("x",)}]
)
def test_the_exact_form_refuses_other_sampling(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=f"another {next(iter(given))} than the reference"):
        run(Cascade(r_star=1, tau_u=1, exact=True), sampling=replace(LONG, **given))


@pytest.mark.parametrize("check_", applicable(method_checks, EASY), ids=lambda c: c.__name__)
def test_conformance(check_: Callable[[Any], None]) -> None:
    check_(replace(EASY, r_star=1.0))


def test_notes_are_json() -> None:
    _, notes = listened(EASY)
    assert all(json.dumps(dict(n.values)) for n in notes)


def test_tries_have_noise_of_their_own() -> None:
    """Another seed gives other answers; the same one the same."""
    texts = [[o.drafts.texts[0] for o in run(EASY, seed=seed)] for seed in (0, 0, 1)]
    assert texts[0] == texts[1] != texts[2]
    assert len(np.unique(Key(0).at("segment", 0).at("try").seeds(21))) == 21
