from __future__ import annotations

from dataclasses import replace
from itertools import combinations, product

import numpy as np
import pytest

from italic.core.errors import MismatchError, UsageError
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.evaluate.tuned import Sampled, Use, judge, k3, lead, sample, used_reward, used_win_rate
from italic.models.gaussian import load as gaussian
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward

USES = [Use(1), Use(2), Use(3), Use(2, worst=True), Use(4, worst=True)]
PROMPTS = [Prompt("a", "a"), Prompt("b", "b")]


def came(rewards, use):
    return min(rewards) if use.worst else max(rewards)


def against(x, y):
    return 1.0 if x > y else 0.5 if x == y else 0.0


@pytest.mark.parametrize("use", USES, ids=lambda use: use.name)
@pytest.mark.parametrize("ties", [False, True], ids=["no ties", "ties"])
def test_the_statistics_are_means_over_all_subsets(use, ties) -> None:
    rng = np.random.default_rng(1)
    ours, theirs = (np.round(rng.normal(size=m), 0 if ties else 6) for m in (6, 5))
    mine = [came(some, use) for some in combinations(ours, use.n)]
    assert used_reward(ours, use) == pytest.approx(np.mean(mine))
    for rival in USES:
        other = [came(some, rival) for some in combinations(theirs, rival.n)]
        expected = np.mean([against(x, y) for x, y in product(mine, other)])
        assert used_win_rate(ours, theirs, use, rival) == pytest.approx(expected)
    assert used_win_rate(ours, theirs, use) == used_win_rate(ours, theirs, use, use)


def test_best_of_n_against_itself_is_even_and_beats_one_draw_as_it_should() -> None:
    rng = np.random.default_rng(2)
    tables = rng.normal(size=(4000, 2, 8))
    even = [used_win_rate(a, b, Use(4)) for a, b in tables]
    ahead = [used_win_rate(a, b, Use(4), Use()) for a, b in tables]
    for found, right in ((even, 0.5), (ahead, 4 / 5)):
        assert abs(np.mean(found) - right) < 3 * np.std(found) / np.sqrt(len(found))


@pytest.mark.parametrize("use", [Use(3), Use(3, worst=True)], ids=lambda use: use.name)
def test_fewer_draws_than_a_use_takes_are_refused(use) -> None:
    with pytest.raises(UsageError, match=r"2 scored responses to a prompt, and the (best|worst) of 3 was asked for"):
        use.weights(2)
    with pytest.raises(UsageError, match="of 0 draws"):
        replace(use, n=0)


def test_k3_is_the_divergence_in_the_mean_and_never_negative() -> None:
    rng = np.random.default_rng(3)
    p, q = rng.dirichlet(np.ones(5), size=2)
    drawn = rng.choice(5, p=p, size=(200_000, 2))
    ours, theirs = np.log(p)[drawn], np.log(q)[drawn]
    ours[::2, 1] = theirs[::2, 1] = np.nan  # every second row is one token long
    found = k3(ours, theirs)
    assert found.min() >= 0
    divergence = float(p @ np.log(p / q))
    for rows, length in ((found[::2], 1), (found[1::2], 2)):
        assert abs(rows.mean() - length * divergence) < 4 * rows.std() / np.sqrt(len(rows))
    assert np.all(k3(ours, ours) == 0)


def sampled(name, rewards, kl=()):
    return Sampled(Prompt(name, name), np.array(rewards, dtype=float), np.array(kl, dtype=float))


def test_a_judgement_by_hand() -> None:
    ours = [sampled("a", [1, 2], [0.5, 1.5]), sampled("b", [5, 5], [0.0, 0.0])]
    theirs = [sampled("a", [0, 2]), sampled("b", [3, 7])]
    found = judge(ours, theirs, Use(2))
    assert found.reward.mean == 3.25
    assert found.reference.mean == 3.0
    assert found.best.mean == 4.5
    assert found.gain.mean == 0.25
    assert found.share.mean == pytest.approx(0.25 / 1.5)
    assert found.win_rate.mean == pytest.approx((5 / 8 + 1 / 2) / 2)
    assert found.used_win_rate.mean == pytest.approx((1 / 2 + 0) / 2)
    assert found.kl.mean == 0.5
    assert (found.prompts, found.samples) == (2, 2)
    assert found.gain.low < 0.25 < found.gain.high
    for use, rival in ((Use(), None), (Use(2, worst=True), None), (Use(2), Use()), (Use(2), Use(2, worst=True))):
        assert np.isnan(judge(ours, theirs, use, rival).share.mean)
    assert judge(ours, theirs, Use(), Use(2)).share == found.share


def test_a_lead_is_of_the_same_prompts() -> None:
    """Two models whose win rates differ much between prompts and little between them."""
    known = [sampled(str(i), [0.0, 1.0]) for i in range(20)]
    over = [sampled(str(i), [i % 2, i % 2], [0, 0]) for i in range(20)]
    ours = [sampled(str(i), [i % 2, i % 2 + 0.5 * (i < 15)], [0, 0]) for i in range(20)]
    ahead = lead(ours, over, known, Use())
    rates = [judge(one, known, Use()).used_win_rate for one in (ours, over)]
    assert ahead.mean == pytest.approx(rates[0].mean - rates[1].mean)
    assert ahead.mean == pytest.approx(15 / 20 * 1 / 8)
    assert 0 < ahead.low < ahead.high < rates[0].high - rates[1].low
    assert lead(ours, ours, known, Use(2, worst=True)) == (0.0, 0.0, 0.0)
    beside = lead(ours, over, known, Use(2), Use(1))
    rates = [judge(one, known, Use(2), Use(1)).used_win_rate for one in (ours, over)]
    assert beside.mean == pytest.approx(rates[0].mean - rates[1].mean)


def test_responses_to_other_prompts_are_refused() -> None:
    one, other = [sampled("a", [1.0])], [sampled("b", [1.0])]
    for ours, theirs in ((one, other), ([], []), (one, one * 2)):
        with pytest.raises(UsageError, match="responses to other prompts, or to none"):
            judge(ours, theirs, Use())
    for ours, over in ((one, other), (other, one)):
        with pytest.raises(UsageError, match="responses to other prompts, or to none"):
            lead(ours, over, one, Use())


def test_missing_scores_are_left_out_of_rewards_alone() -> None:
    class Patchy(ToyReward):
        def score(self, batches):
            return [replace(s, missing=np.arange(len(s.rewards)) == 1) for s in super().score(batches)]

    model = ToyModel(letters=2, length=3)
    (found, _) = sample(PROMPTS, model, Patchy(), 6, against=model, sampling=Sampling(4))
    assert 0 < len(found.rewards) < 6
    assert len(found.kl) == 6
    assert np.all(found.kl == 0)


def test_the_divergence_between_two_toys() -> None:
    """Of models that differ in their seed alone: k3 against the sum over all texts."""
    one, other = ToyModel(letters=2, length=3, seed=0), ToyModel(letters=2, length=3, seed=1)
    found = sample(PROMPTS[:1], one, ToyReward(), 20_000, against=other, sampling=Sampling(4))[0]
    laws = [dict(zip(*toy.law(PROMPTS[0], Sampling(4)), strict=True)) for toy in (one, other)]
    exact = sum(p * np.log(p / laws[1][text]) for text, p in laws[0].items())
    assert abs(found.kl.mean() - exact) < 4 * found.kl.std() / np.sqrt(len(found.kl))


def test_divergences_that_are_not_known_are_refused() -> None:
    model = ToyModel(letters=2, length=3)
    for law in (Sampling(4, temperature=0.5), Sampling(4, top_k=1), Sampling(4, top_p=0.5)):
        with pytest.raises(UsageError, match="It is known at temperature 1"):
            sample(PROMPTS, model, ToyReward(), 2, against=model, sampling=law)
    with pytest.raises(MismatchError, match="does not tell how likely"):
        sample(PROMPTS, gaussian(), ToyReward(), 2, against=gaussian(), sampling=Sampling(4))
