from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from italic.core.drafts import END, LENGTH
from italic.core.errors import RewardError
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.protocols import Scored
from italic.core.questions import Extend
from italic.core.sampling import Sampling
from italic.laws.inference_aware import fixed_point
from italic.laws.procedures import best_of_n
from italic.train.tuning.lead import Lead
from italic.train.tuning.objective import infalign, raw, vbon
from italic.train.tuning.online import Leader
from italic.train.tuning.rollouts import Rollouts
from italic.train.tuning.signal import Signal, finished
from tiny_decoders import model

LAW = Sampling(max_tokens=7, temperature=0.8)
TEXTS = ("the thing", "an", "the thing")
"""Rows of a step: two groups, and the first prompt once more."""


@pytest.fixture(scope="module")
def tiny():
    return model("llama")


def padded(tiny):
    rows = [tiny.codec.encode(Prompt(text, text)).tolist() for text in TEXTS for _ in range(2)]
    width = max(map(len, rows))
    ids = torch.tensor([[9] * (width - len(row)) + row for row in rows])
    return ids, torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])


def test_rollouts_are_the_models_own_extensions(tiny) -> None:
    """Row i has the i-th seed of its step: the same as asking the model for that row alone."""
    rollouts, (ids, mask) = Rollouts(tiny, LAW, Key(3), pad=0), padded(tiny)
    rollouts.step = 5
    found = rollouts(input_ids=ids, attention_mask=mask, generation_config=None)
    assert torch.equal(found[:, : ids.shape[1]], ids)
    seeds = Key(3).at("rollouts", 0).at(5).seeds(6)
    for row in range(6):
        start = tiny.start(Prompt("p", TEXTS[row // 2]), seeds[[row]], LAW)
        alone = tiny.extend([Extend(start)])[0].drafts.tokens[0].tolist()
        assert found[row, ids.shape[1] :].tolist() == alone + [0] * (found.shape[1] - ids.shape[1] - len(alone))
    rollouts.step = 6
    assert not torch.equal(found, rollouts(input_ids=ids, attention_mask=mask))
    other = Rollouts(tiny, LAW, Key(3), pad=0, process=1)
    other.step = 5
    assert not torch.equal(found, other(input_ids=ids, attention_mask=mask))


def test_rollouts_follow_the_weights_and_leave_the_network_as_it_was(tiny) -> None:
    rollouts, (ids, mask) = Rollouts(tiny, LAW, Key(0), pad=0), padded(tiny)
    decoder = tiny.network.decoder
    decoder.train()
    before = rollouts(input_ids=ids, attention_mask=mask)
    assert decoder.training
    assert all(p.is_contiguous() for p in decoder.parameters())
    weight = decoder.get_output_embeddings().weight
    kept = weight.detach().clone()
    with torch.no_grad():
        weight.copy_(kept.roll(1, dims=0))
    assert not torch.equal(before, rollouts(input_ids=ids, attention_mask=mask))
    with torch.no_grad():
        weight.copy_(kept)
    assert torch.equal(before, rollouts(input_ids=ids, attention_mask=mask))
    decoder.eval()


def test_rollouts_in_bfloat16_are_nearly_the_same_law_and_leave_no_trace(tiny) -> None:
    """A first token changes only where its draw is near the border between two, and the network is what it was."""
    (ids, mask), count = padded(tiny), 200
    many = ids[:1].expand(count, -1), mask[:1].expand(count, -1)
    exact, half = (Rollouts(tiny, LAW, Key(1), pad=0, half=half) for half in (False, True))
    before, rounded = exact(*many), half(*many)
    start = ids.shape[1]
    assert float((before[:, start] == rounded[:, start]).float().mean()) > 0.75
    assert not torch.equal(before, rounded)
    assert torch.equal(exact(*many), before)
    assert not any("forward" in vars(module) for module in tiny.network.decoder.modules())


class Lengths:
    """Rewards a text by its length; some are missing, or infinite. It is asked about finished texts alone."""

    name, needs, partial, deterministic = "lengths", frozenset({"texts"}), False, True

    def __init__(self, missing=(), infinite=()):
        self.missing, self.infinite = missing, infinite

    def score(self, batches):
        assert all(batch.done.all() for batch in batches)
        return [
            Scored(
                np.array([-np.inf if len(t) in self.infinite else float(len(t)) for t in b.texts]),
                np.array([len(t) in self.missing for t in b.texts]),
            )
            for b in batches
        ]


def signal(tiny, reward, aim, cuts=()):
    prompts = [Prompt("a", "the thing"), Prompt("b", "an")]
    references = [np.array([0.0, 2.0, 4.0, 6.0]), np.array([0.0, 1.0, 1.0, 9.0])]
    return Signal(tiny, reward, LAW, prompts, references, aim.worth, cuts)


def completions(tiny, *lengths):
    letter = tiny.tokenizer.convert_tokens_to_ids("x")
    return [[letter] * n for n in lengths]


def test_a_rollout_is_worth_what_its_own_prompts_references_say(tiny) -> None:
    aim, told = vbon(3, 4), {}
    found = signal(tiny, Lengths(), aim)(
        completion_ids=completions(tiny, 3, 1, 5, 3), row=[0, 1, 0, 1], log_metric=told.__setitem__, trainer_state=None
    )
    a = aim.worth(np.array([3.0, 5.0]), np.array([0.0, 2.0, 4.0, 6.0]))
    b = aim.worth(np.array([1.0, 3.0]), np.array([0.0, 1.0, 1.0, 9.0]))
    assert found == pytest.approx([a[0], b[0], a[1], b[1]])
    assert told["true_reward"] == 3.0
    assert told["quantile"] == pytest.approx((0.5 + 0.75 + 0.5 + 0.75) / 4)


def test_a_rollout_is_worth_what_it_is_at_the_stage_of_training(tiny) -> None:
    aim = infalign(fixed_point(best_of_n(4), 0.3), best_of_n(4), 4, 0.3)
    ours, rollouts, trainer = signal(tiny, Lengths(), aim), Rollouts(tiny, LAW, Key(0), pad=0), SimpleNamespace()
    leader, asked = Leader(trainer, rollouts, ours, {}, Lead(0.5, None, 8)), completions(tiny, 3, 5)
    for step, stage in ((0, 0.0), (1, 0.25), (4, 1.0), (7, 1.0)):
        leader.on_step_begin(None, SimpleNamespace(global_step=step), None)
        found = ours(completion_ids=asked, row=[0, 0], log_metric=lambda *_: None)
        assert found == pytest.approx(aim.worth(np.array([3.0, 5.0]), np.array([0.0, 2.0, 4.0, 6.0]), stage))
        assert (rollouts.step, trainer.strength) == (step, pytest.approx(0.5 * 8 ** (1 - stage)))


def test_beginnings_are_judged_as_if_they_were_responses(tiny) -> None:
    """Only of responses that go on behind them; a missing score of a beginning is not known."""
    aim = vbon(3, 4)
    asked = signal(tiny, Lengths(missing=(4,)), aim, cuts=(2, 4))
    asked(completion_ids=completions(tiny, 3, 1, 5, 2), row=[0, 1, 0, 1], log_metric=lambda *_: None)
    found = asked.last
    reference = np.array([0.0, 2.0, 4.0, 6.0])
    two = [aim.worth(np.array([2.0]), reference)[0], 0.375]
    nothing = [np.nan, np.nan]
    wanted = [[two, nothing], [nothing, nothing], [two, nothing], [nothing, nothing]]
    assert np.array_equal(found.begun, wanted, equal_nan=True)
    assert found.rewards.tolist() == [3.0, 1.0, 5.0, 2.0]
    assert found.steps.tolist() == [3, 1, 5, 2]
    assert found.quantiles.tolist() == [0.5, 0.5, 0.75, 0.75]


def test_a_missing_score_keeps_a_rollout_out(tiny) -> None:
    told: dict = {}
    ask = {"row": [0, 0], "log_metric": told.__setitem__}
    found = signal(tiny, Lengths(missing=(3,)), vbon(3, 4))(completion_ids=completions(tiny, 3, 5), **ask)
    assert found[0] is None
    assert found[1] is not None
    assert told["true_reward"] == 5.0
    assert signal(tiny, Lengths(missing=(3,)), vbon(3, 4))(completion_ids=completions(tiny, 3, 3), **ask) == [
        None,
        None,
    ]


def test_an_infinite_reward_has_a_quantile_and_no_raw_worth(tiny) -> None:
    ask = {"completion_ids": completions(tiny, 3, 5), "row": [0, 0], "log_metric": lambda *_: None}
    assert np.isfinite(signal(tiny, Lengths(infinite=(3,)), vbon(3, 4))(**ask)).all()
    aim = raw([np.arange(64.0)], vbon(3, 4).procedure, 0.5)
    with pytest.raises(RewardError, match=r"prompt 'a' is worth no finite number, its reward being -inf"):
        signal(tiny, Lengths(infinite=(3,)), aim)(**ask)


def test_finished_drafts_are_as_the_engine_leaves_them(tiny) -> None:
    end = int(np.flatnonzero(tiny.stops.ends)[0])
    (letter,) = completions(tiny, 1)[0]
    drafts = finished(tiny, Prompt("a", "an"), LAW, [[letter, end], [letter] * 7])
    assert drafts.reason.tolist() == [END, LENGTH]
    assert drafts.steps.tolist() == [2, 7]
    assert drafts.texts == ("x", "x" * 7)
    assert np.array_equal(drafts.prompt_tokens, tiny.codec.encode(Prompt("a", "an")))
