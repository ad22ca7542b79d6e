from __future__ import annotations

import numpy as np
import pytest

from italic.core.errors import UsageError
from italic.laws.finite_tilt import mean_tilt
from italic.laws.inference_aware import exponential, fixed_point, identity, log
from italic.laws.procedures import best_of_n, plain, worst_of_n
from italic.train.tuning.lead import ABOVE, EARLY
from italic.train.tuning.objective import infalign, raw, vbon, want_of_references


def references(k, prompts=3000, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.normal(rng.normal(), 2.0, size=k) for _ in range(prompts)]


def divergence(scores):
    weights = np.exp(scores - scores.max())
    weights /= weights.sum()
    return float(weights @ np.log(weights * len(weights) + 1e-300))


def test_vbon_is_the_logarithm_at_one_over_n_minus_one() -> None:
    aim = vbon(8, 64)
    assert aim.beta == pytest.approx(1 / 7)
    assert aim.kl == pytest.approx(np.log(8) - 7 / 8)
    assert not aim.lead
    reference = np.arange(1.0, 5.0)
    harmonic = np.cumsum([0, 1, 1 / 2, 1 / 3, 1 / 4])
    assert aim.worth(np.array([0.5, 2.5, 9.0]), reference) == pytest.approx(harmonic[[0, 2, 4]] - harmonic[4])
    assert aim.own(reference) == pytest.approx(harmonic[:4] - harmonic[3])


@pytest.mark.parametrize(
    "transform", [identity(), exponential(10.0), fixed_point(best_of_n(4), 1.0)], ids=lambda t: t.name
)
def test_beta_gives_the_divergence_with_the_references_there_are(transform) -> None:
    """A fresh reward's law given a prompt's table, in the mean over prompts: pieces between references, Dirichlet."""
    aim = infalign(transform, best_of_n(4), 64, 1.0)
    pieces = np.random.default_rng(1).dirichlet(np.ones(65), size=20_000)
    scores = transform.tables(64) / aim.beta
    weights = np.exp(scores - scores.max())
    law = pieces * weights / (pieces @ weights)[:, None]
    found = np.sum(law * np.log(np.maximum(law, 1e-300) / pieces), axis=1).mean()
    assert found == pytest.approx(1.0, abs=0.02)
    assert aim.lead


@pytest.mark.parametrize("use", [best_of_n(4), worst_of_n(4)], ids=lambda use: use.name)
def test_training_begins_where_the_divergence_is_small(use) -> None:
    """Worst-of-4's fixed point at 1.43 nats has a beta of 0.002; eight times that is still 0.9 nats."""
    transform = fixed_point(use, 1.43)
    aim = infalign(transform, use, 64, 1.43)
    assert mean_tilt(transform.tables(64), aim.start).kl == pytest.approx(EARLY * 1.43)


def test_a_steep_transform_is_begun_with_the_quantile() -> None:
    """At the beta that training begins with, C in its units has the divergence that Phi(C) has."""
    aim = infalign(fixed_point(best_of_n(4), 1.43), best_of_n(4), 64, 1.43)
    reference = np.arange(64.0)
    rewards = np.arange(65) - 0.5
    begun, half, whole = (aim.worth(rewards, reference, stage) for stage in (0.0, 0.5, 1.0))
    assert begun == pytest.approx(aim.ease * np.arange(65) / 64)
    assert whole == pytest.approx(aim.worth(rewards, reference))
    assert whole == pytest.approx(aim.transform.tables(64))
    assert half == pytest.approx((begun + whole) / 2)
    assert mean_tilt(begun, aim.start).kl == pytest.approx(mean_tilt(whole, aim.start).kl, rel=0.02)
    assert vbon(8, 64, 1.43).worth(rewards, reference, 0.0) == pytest.approx(log().tables(64))
    assert raw([reference, reference], plain(), 0.5).worth(rewards, reference, 0.0) is rewards


def test_a_divergence_to_lead_to() -> None:
    aim = vbon(8, 32, 1.5)
    assert (aim.kl, aim.lead) == (1.5, True)
    assert aim.beta != pytest.approx(1 / 7, rel=0.01)
    assert vbon(8, 32).start == pytest.approx(ABOVE / 7)


def test_the_raw_reward_has_the_divergence_that_is_asked_for_on_the_references() -> None:
    known = references(64, prompts=200)
    aim = raw(known, plain(), 1.0)
    assert np.mean([divergence(r / aim.beta) for r in known]) == pytest.approx(1.0, abs=1e-6)
    assert np.mean([divergence(r / aim.start) for r in known]) == pytest.approx(EARLY, abs=1e-6)
    assert np.array_equal(aim.worth(np.array([3.0]), known[0]), [3.0])
    assert np.array_equal(aim.own(known[0]), known[0])


def test_the_normaliser_is_the_mean_over_reference_draws() -> None:
    aim = vbon(4, 16)
    found = [np.mean(np.exp(aim.own(r) / aim.beta)) for r in references(17, prompts=4)]
    assert found == pytest.approx([np.exp(aim.log_z(16))] * 4)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: vbon(1, 64), "variational best-of-1"),
        (lambda: vbon(8, 4, 3.0), "--kl 3 with 4 reference rewards a prompt"),
        (lambda: infalign(log(), plain(), 8, 2.8), "less than 2.718"),
        (lambda: raw(references(16, 5), plain(), 1.5), "Give --kl below 1.4"),
        (lambda: raw([np.array([0.0, np.inf])], plain(), 0.1), "a reference reward is infinite"),
        (lambda: raw(references(16, 5), plain(), 1.0).log_z(16), "no known normaliser"),
    ],
)
def test_what_cannot_be(make, why) -> None:
    with pytest.raises(UsageError, match=why):
        make()


def test_few_references_are_told_with_numbers() -> None:
    use = best_of_n(4)
    aim = infalign(fixed_point(use, 1.0), use, 32, 1.0)
    said = want_of_references(aim, 32)
    assert said is not None
    assert "the win rate would be 0.914 instead of 0.941" in said
    assert "64 lose little" in said
    assert want_of_references(aim, 128) is None
    assert want_of_references(raw(references(16, 5), plain(), 1.0), 4) is None
    with pytest.raises(UsageError, match="4 reference rewards a prompt are too few"):
        want_of_references(infalign(fixed_point(use, 1.0), use, 4, 1.0), 4)
