from __future__ import annotations

import numpy as np
import pytest
import torch

from italic.laws.inference_aware import exponential, identity, log
from italic.laws.procedures import plain
from italic.train.tuning.losses import SFT_WEIGHT, Batch, bonbon_loss, qrpo_loss, tilting_loss
from italic.train.tuning.objective import Objective
from two_tokens import LETTERS, NO_CONTROL, errors, exact, gradients, laws, table, whole, worth_of


def test_the_gradient_is_that_of_the_objective() -> None:
    logits, known, worth = table(1), table(2), worth_of(3)
    found = gradients(logits, known, worth, whole)
    assert errors(found, exact(logits, known, worth)).max() < 4
    assert errors(found, exact(logits, known, worth, prefix=False)).max() > 10


def test_the_divergence_is_exact() -> None:
    logits, known = table(1), table(2)
    first = torch.tensor([0, 1, 2])
    mask = torch.tensor([[1.0, 0.0], [1.0, 1.0], [1.0, 1.0]])
    drawn = torch.stack([first, torch.zeros(3, dtype=torch.long)], dim=1)
    batch = Batch(drawn, mask, torch.zeros(3, 1), *NO_CONTROL)
    there = mask.bool()
    divergence = tilting_loss(laws(logits, first)[there], laws(known, first)[there], batch, 1.0).divergence
    by_hand = []
    for row in range(3):
        steps = [(logits[0], known[0]), (logits[1][row], known[1][row])][: 1 + (row > 0)]
        by_hand.append(sum(float((a.softmax(0) * (a.log_softmax(0) - b.log_softmax(0))).sum()) for a, b in steps))
    assert divergence.tolist() == pytest.approx(by_hand, abs=1e-6)


def test_nothing_is_to_be_gained_at_the_reference_without_worth() -> None:
    found = gradients(table(1), table(1), torch.zeros(LETTERS, LETTERS), whole)
    assert np.abs(found).max() < 1e-6


@pytest.mark.parametrize("transform", [identity(), log(), exponential(5.0)], ids=lambda t: t.name)
def test_qrpo_is_at_rest_where_the_policy_is_the_tilt(transform) -> None:
    """Of references that stand evenly, each beside the others, the tilt's log-ratios are what the loss asks for."""
    aim = Objective("", transform, beta=0.3, start=0.3, ease=0.0, kl=1.0, lead=False, procedure=plain())
    rewards = np.random.default_rng(0).normal(size=12)
    worth = torch.from_numpy(aim.own(rewards))
    weights = torch.exp(worth / aim.beta)
    ratios = torch.log(weights / weights.mean())
    loss = qrpo_loss(aim.beta, aim.log_z(11))
    assert float(loss(ratios[None], ratios[None], worth[None])) == pytest.approx(0, abs=1e-12)
    assert float(loss(ratios[None] + 0.1, ratios[None], worth[None])) == pytest.approx(0.01, abs=1e-9)


@pytest.mark.parametrize("n", [2, 3, 8])
def test_bonbon_aims_at_what_best_of_n_makes_of_the_log_ratio(n) -> None:
    """log(BoN / p) at quantile u is log n + (n - 1) log u; the mean over the best less the mean over the worst."""
    u = (np.arange(2_000_000) + 0.5) / 2_000_000
    ratio = np.log(n) + (n - 1) * np.log(u)
    margin = float(np.mean(ratio * n * u ** (n - 1)) - np.mean(ratio * n * (1 - u) ** (n - 1)))
    worth = torch.arange(n, dtype=torch.float64)[None]
    ratios = torch.full((1, n), 7.0, dtype=torch.float64)  # those in the middle do not matter
    ratios[0, -1], ratios[0, 0] = margin, 0.0
    logps = torch.full((1, n), -3.0, dtype=torch.float64)
    assert float(bonbon_loss(n)(ratios, logps, worth)) == pytest.approx(3 * SFT_WEIGHT, abs=1e-4)
    ratios[0, 0] = -1.0
    assert float(bonbon_loss(n)(ratios, logps, worth)) == pytest.approx(3 * SFT_WEIGHT + 1 - SFT_WEIGHT, abs=1e-2)
