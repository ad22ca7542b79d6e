from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from italic.train.tuning.controls import DOUBT, Controls
from italic.train.tuning.credit import MEMORY
from italic.train.tuning.losses import Batch, onwards, tilting_loss
from two_tokens import BETA, LETTERS, NO_CONTROL, errors, exact, gradients, laws, rollouts, table, whole, worth_of


@pytest.mark.parametrize(
    "control",
    [
        ([0.7, 0.7], [0.0, 0.0], [1.0, 1.0]),
        ([2.0, -1.0], [0.0, 0.0], [0.3, 1.0]),
        ([0.5, 1.5], [0.0, -3.0], [1.0, 1.0]),
    ],
    ids=["beta", "any kappa, fading", "any eta"],
)
def test_the_gradient_has_the_same_mean_whatever_is_taken_off(control) -> None:
    found = gradients(table(1), table(2), worth_of(3), whole, [torch.tensor(part) for part in control])
    assert errors(found, exact(table(1), table(2), worth_of(3))).max() < 4
    assert not np.allclose(found, gradients(table(1), table(2), worth_of(3), whole))


def optimum(known, worth):
    """The policy where KL-regularised RL ends, and the mean worth of its responses."""
    start, after = known[0].log_softmax(0), known[1].log_softmax(1)
    scores = after + worth / BETA
    reached = start + torch.where(torch.arange(LETTERS) > 0, scores.logsumexp(1), worth[0, 0] / BETA)
    policy = reached.log_softmax(0), scores.log_softmax(1)
    joint = policy[0].exp()[:, None] * policy[1].exp()
    return policy, float((joint * worth).sum())


def test_at_the_optimum_no_noise_is_left() -> None:
    """To the first token, whose mean credit is known; but for that of the others' later divergence."""
    known, worth = table(2), worth_of(3)
    policy, mean = optimum(known, worth)

    def credit(value, first):
        return (value - mean)[:, None]

    without = gradients(policy, known, worth, credit)[:, :LETTERS]
    taken = torch.full((2,), BETA), torch.zeros(2), torch.ones(2)
    with_ = gradients(policy, known, worth, credit, taken)[:, :LETTERS]
    assert with_.var(axis=0).sum() < 0.01 * without.var(axis=0).sum()


def test_what_was_seen_before_takes_noise_away() -> None:
    """Of a policy half way to the optimum, with the multiples that its own rollouts teach."""
    known, worth = table(2), 3 * worth_of(3)
    end, _ = optimum(known, worth)
    policy = tuple((a.log_softmax(-1) + b) / 2 for a, b in zip(known, end, strict=True))
    controls = Controls((1,), [1.0, 1.0])
    noise = torch.Generator().manual_seed(8)
    for _ in range(20):
        first, tokens, mask, value = rollouts(policy, worth, 256, noise)
        batch, there = Batch(tokens, mask, whole(value, first), *NO_CONTROL), mask.bool()
        seen = tilting_loss(laws(policy, first)[there], laws(known, first)[there], batch, BETA)
        controls.learn(controls.seen(*(part.double().numpy() for part in (seen.gains, seen.surprise, seen.before))))
    learned = [torch.from_numpy(part).float() for part in controls.control(2)]
    with_, without = (gradients(policy, known, worth, whole, control) for control in (learned, NO_CONTROL))
    assert with_.var(axis=0).sum() < 0.6 * without.var(axis=0).sum()
    eta_alone = [torch.zeros(2), learned[1], torch.ones(2)]
    assert gradients(policy, known, worth, whole, eta_alone).var(axis=0).sum() < 0.95 * without.var(axis=0).sum()


def test_multiples_are_regressions_on_the_steps_before() -> None:
    controls, rng = Controls((2, 3), np.ones(3)), np.random.default_rng(0)
    kappa, eta = np.array([1.0, 1.0, 2.0, 3.0, 3.0]), np.array([0.0, 0.0, 5.0, 6.0, 6.0])
    for _ in range(50):
        surprise = rng.normal(size=(200, 5))
        before = np.cumsum(surprise, axis=1) - surprise
        controls.learn(controls.seen(kappa * surprise + eta * before + rng.normal(size=(200, 5)), surprise, before))
    found = controls.control(5)
    assert found.kappa == pytest.approx(kappa, abs=0.1)
    assert found.eta == pytest.approx(eta, abs=0.1)


def test_older_steps_weigh_less_and_nothing_known_is_zero() -> None:
    controls = Controls()
    assert controls.control(2).kappa.tolist() == [0.0, 0.0]
    for gain in (1.0, 3.0):
        controls.learn(controls.seen(np.array([[gain, gain]]), np.array([[2.0, 0.0]]), np.array([[0.0, 2.0]])))
    wanted = 2 * (MEMORY + 3) / (4 * (MEMORY + 1) + DOUBT)
    assert controls.control(3).kappa == pytest.approx([wanted] * 3)
    assert controls.control(3).eta == pytest.approx([wanted] * 3)


def test_surprises_fade_from_part_to_part() -> None:
    assert Controls((1, 3), [0.5, 0.7, 0.9]).control(5).fades.tolist() == [0.5, 1.0, 0.7, 1.0, 1.0]
    found = onwards(torch.tensor([[1.0, 10.0, 100.0, 1000.0]]), torch.tensor([0.5, 1.0, 0.0, 1.0]))
    assert found.tolist() == [[56.0, 110.0, 100.0, 1000.0]]


def test_what_is_known_outlives_a_checkpoint() -> None:
    controls, other = Controls((1,), [0.9, 1.0]), Controls((1,), [0.9, 1.0])
    controls.learn(np.random.default_rng(0).normal(size=(4, 2)))
    other.restore(json.loads(json.dumps(controls.state())))
    assert np.array_equal(np.array(controls.control(2)), np.array(other.control(2)))
