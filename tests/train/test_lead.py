from __future__ import annotations

import math

import pytest

from italic.train.tuning.lead import ABOVE, DESCENT, Lead

STEPS = 300


def test_beta_that_is_not_led_falls_evenly_and_stays() -> None:
    lead = Lead(0.1, None, STEPS)
    seen = []
    for done in range(STEPS):
        seen.append(lead.at(done))
        lead.learn(done + 1, 50.0)
    half = round(DESCENT * STEPS)
    assert seen[0] == pytest.approx(ABOVE * 0.1)
    assert seen[half // 2] == pytest.approx(math.sqrt(ABOVE) * 0.1)
    assert seen[half:] == pytest.approx([0.1] * (STEPS - half))


@pytest.mark.parametrize("share", [0.8, 1.0])
def test_beta_is_not_touched_while_it_falls_if_the_divergence_rises_about_as_it_should(share) -> None:
    lead = Lead(0.1, 2.0, STEPS)
    for done in range(100):
        assert lead.at(done) == pytest.approx(0.1 * ABOVE ** (1 - done / (DESCENT * STEPS)))
        lead.learn(done + 1, share * 2.0 * (done + 1) / (DESCENT * STEPS))


@pytest.mark.parametrize(("kl", "way"), [(1.9, 1), (0.1, -1)], ids=["too far", "not far enough"])
@pytest.mark.parametrize("done", [100, 200], ids=["while it falls", "then"])
def test_a_divergence_that_is_off_moves_beta_against_it(kl, way, done) -> None:
    lead, other = Lead(0.1, 1.0, STEPS), Lead(0.1, None, STEPS)
    lead.learn(done, kl)
    assert way * math.log(lead.beta / 0.1) > 0.02
    assert way * math.log(lead.at(done) / other.at(done)) > 0.5


@pytest.mark.parametrize("lag", [10, 20])
@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("off", [0.1, 0.4, 1.0, 4.0, 13.0])
def test_policies_come_to_the_divergence_whatever_beta_they_need(slope, off, lag) -> None:
    """Policies whose divergence follows (beta / needed)^-slope with a delay, and need a 13th to 10 times the beta."""
    passed = led(slope, off, lag)
    assert passed[-1] == pytest.approx(1.5, rel=0.08)
    assert max(passed) < 1.4 * 1.5


@pytest.mark.parametrize("slope", [0.5, 1.0, 2.0])
def test_policies_come_near_the_divergence_though_they_need_less_beta_all_the_time(slope) -> None:
    """A quarter in the end of what they needed first."""
    assert led(slope, 1.0, 10, drift=math.log(4) / STEPS)[-1] == pytest.approx(1.5, rel=0.11)


def led(slope: float, off: float, lag: int, drift: float = 0.0) -> list[float]:
    """The divergence after each step, led to 1.5 nats: `lag` steps behind at the full rate, which falls along a cosine.

    off: what beta falls to unled, by what is needed first. drift: by how much the log of that falls in a step.
    """
    lead, kl, passed = Lead(off, 1.5, STEPS), 0.0, []
    for done in range(STEPS):
        optimum = 1.5 * (lead.at(done) * math.exp(drift * done)) ** -slope
        kl += (min(optimum, 8.0) - kl) / lag * (1 + math.cos(math.pi * done / STEPS)) / 2
        lead.learn(done + 1, kl)
        passed.append(kl)
    return passed
