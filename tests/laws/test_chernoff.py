"""Clipped rejection's theory on random discrete problems, the baselines' guarantees, and the certificates' coverage."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.special import ndtr, ndtri

from italic.laws import chernoff, clipping, finite

INF = float("inf")
LOG_4 = np.log(4)


def problem(rng, least=2, most=30):
    """(p, f): outcomes of very different probabilities and spreads; now and then one that must never be returned."""
    m = int(rng.integers(least, most + 1))
    p = rng.dirichlet(np.full(m, rng.choice([0.3, 1.0, 10.0])))
    f = rng.normal(size=m) * rng.choice([0.1, 1.0, 3.0]) + 5 * rng.normal()
    if rng.random() < 0.2:
        f[rng.integers(m)] = -INF
    f[0] = max(f[0], -5.0)
    return p + 1e-9 / m - 1e-9 * p, f


def problems(count, seed=0, **sizes):
    rng = np.random.default_rng(seed)
    return [(*problem(rng, **sizes), rng) for _ in range(count)]


def hockey_stick(p, f, log_g):
    w = finite.tilt(p, f, 1.0) / p
    return float(np.sum(p * np.maximum(w - np.exp(log_g), 0)))


def log_z(p, f):
    return chernoff.log_moment(f, 1.0, p)


# -- one step


def test_one_step_theory():
    for p, f, rng in problems(1000):
        b = float(rng.uniform(*np.quantile(f[f > -INF], [0, 1]))) + rng.normal()
        step, tilted = clipping.clipped_step(p, f, b), finite.tilt(p, f, 1.0)
        accept = np.minimum(1, np.exp(f - b))
        log_m = b - log_z(p, f)
        hs = hockey_stick(p, f, log_m)
        assert np.allclose(step.law, p * accept / (p @ accept), rtol=0, atol=1e-10)
        assert step.acceptance == pytest.approx((1 - hs) / np.exp(log_m), rel=1e-10)
        assert step.acceptance == pytest.approx(p @ accept, rel=1e-10)
        assert step.draws == pytest.approx(np.exp(log_m) / (1 - hs), rel=1e-10)
        assert step.tv == pytest.approx(finite.total_variation(step.law, tilted), abs=1e-10)
        assert step.tv == pytest.approx(hockey_stick(p, f, np.log(step.draws)), abs=1e-10)
        assert step.hs == pytest.approx(hs, abs=1e-10)
        assert step.clip_rate == pytest.approx(p[f > b].sum())
        assert step.tv <= step.hs + 1e-12 <= tilted[f > b].sum() + 2e-12


def test_the_best_of_k_draws_is_no_nearer():
    """Nor is any other choice among k draws: TV >= HS_k; clipped rejection with k expected draws has just that."""
    beaten = 0
    for p, f, rng in problems(150, seed=1, most=12):
        f = np.where(f == -INF, -20.0, f)
        k, tilted = int(rng.integers(1, 9)), finite.tilt(p, f, 1.0)
        least = hockey_stick(p, f, np.log(k))
        for law in (finite.best_of_n(p, f, k), finite.soft_best_of_n(p, f, k, 1.0)):
            assert finite.total_variation(law, tilted) >= least - 1e-9
            beaten += finite.total_variation(law, tilted) > least + 1e-3
        step = clipping.clipped_step(p, f, chernoff.for_draws(f, k, p))
        assert step.draws == pytest.approx(k, rel=1e-9)
        assert step.tv == pytest.approx(least, abs=1e-9)
    assert beaten > 100


def test_states_share_draws_best_at_the_same_tail():
    """Two states, 400 outcomes each: gammas with equal P(w > gamma) cost less than any other pair of as small a TV."""
    rng = np.random.default_rng(2)
    spreads, share = [0.5, 1.5], np.array([0.3, 0.7])
    p = np.full(400, 1 / 400)
    states = [spread * ndtri((np.arange(400) + 0.5) / 400) for spread in spreads]
    logs = [f - log_z(p, f) for f in states]
    best = np.exp([chernoff.quantile(log_w, 0.02, p) for log_w in logs])
    lost = [np.maximum(np.exp(log_w) - g, 0).mean() for log_w, g in zip(logs, best, strict=True)]
    for change in rng.uniform(-0.5, 0.5, 200):
        first = max(best[0] * np.exp(change), 1.0)
        rest = (share @ lost - share[0] * np.maximum(np.exp(logs[0]) - first, 0).mean()) / share[1]
        if not 0 <= rest < 1:
            continue
        step = clipping.clipped_step(p, states[1], chernoff.for_total_variation(states[1], rest, p))
        assert share @ [first, step.draws] >= share @ best - 1e-9
    uneven = [float(np.exp(chernoff.quantile(logs[0], 0.2, p))), 0.0]
    rest = (share @ lost - share[0] * np.maximum(np.exp(logs[0]) - uneven[0], 0).mean()) / share[1]
    uneven[1] = float(clipping.clipped_step(p, states[1], chernoff.for_total_variation(states[1], rest, p)).draws)
    assert share @ uneven > 1.01 * (share @ best)


def test_a_cap_adds_no_more_than_its_exhaustion():
    for p, f, rng in problems(100, seed=3, least=3, most=8):
        f = np.maximum(f, -8.0)
        cap, b = int(rng.integers(1, 7)), float(np.max(f) + rng.uniform(0, 2))
        step = clipping.clipped_step(p, f, b)
        refused = p * -np.expm1(np.minimum(f - b, 0))
        fallback = finite.soft_best_of_n(refused / refused.sum(), f, cap, 1.0)
        out = clipping.exhaustion(step.acceptance, cap)
        law = (1 - out) * step.law + out * fallback
        assert finite.total_variation(law, finite.tilt(p, f, 1.0)) <= step.tv + out + 1e-12
        assert out == pytest.approx((1 - step.acceptance) ** cap)


def test_many_states_at_once_and_no_overflow():
    rng = np.random.default_rng(4)
    p, f, b = rng.dirichlet(np.ones(5), size=(2, 3)), rng.normal(size=(2, 3, 5)), rng.normal(size=(2, 3))
    many = clipping.clipped_step(p, f, b)
    for i, j in product(range(2), range(3)):
        one = clipping.clipped_step(p[i, j], f[i, j], b[i, j])
        assert all(np.allclose(x[i, j], y) for x, y in zip(many, one, strict=True))
    near = clipping.clipped_step(p, f, b[:, :1])
    for shift in (-1000.0, 1000.0):
        far = clipping.clipped_step(p, f + shift, b[:, :1] + shift)
        assert all(np.allclose(x, y) for x, y in zip(near, far, strict=True))
    never = clipping.clipped_step(p, f, 2000.0)
    assert np.all(never.acceptance == 0)
    assert np.all(never.draws == INF)
    assert np.allclose(never.law[1, 2], finite.tilt(p[1, 2], f[1, 2], 1.0))
    assert np.allclose(clipping.clipped_step(p, f, -2000.0).law, p)


def test_proper_weights_are_unbiased():
    """Every first draw and every second acceptance there may be, by its probability; 1 / second would be biased."""
    for p, f, rng in problems(20, seed=5, most=6):
        b = float(np.max(f) - abs(rng.normal()))
        step, second = clipping.clipped_step(p, f, b), np.arange(2, 20_000)
        a = float(step.acceptance)
        if not 3e-3 < a < 0.99:
            continue
        chance = (second - 1) * a**2 * np.exp((second - 2) * np.log1p(-a))
        weights = [chance @ np.exp(clipping.log_proper_weight(np.full(len(second), b), second, np.full(len(second), y)))
                   for y in f]  # fmt: skip
        assert np.allclose(step.law * weights, p * np.exp(f), rtol=1e-9)
        assert (chance / second).sum() < 0.999 * a


# -- baselines


def test_chernoff_guarantees():
    spared = []
    for p, f, rng in problems(400, seed=6):
        eps = float(rng.choice([0.3, 0.1, 0.01, 0.001]))
        base, tail = chernoff.base_tail(f, eps, p), chernoff.tilted_tail(f, eps, p)
        tight, lowest = chernoff.sharp(f, eps, p), chernoff.for_total_variation(f, eps, p)
        assert p[f > base + 1e-9].sum() <= eps * (1 + 1e-9)
        assert finite.tilt(p, f, 1.0)[f > tail + 1e-9].sum() <= eps * (1 + 1e-9)
        step = clipping.clipped_step(p, f, tight)
        assert step.tv <= step.hs <= eps * (1 + 1e-7)
        assert lowest <= max(tight, f[f > -INF].min()) + 1e-6
        assert tight <= tail + 1e-9
        assert tail <= np.max(f) + 1e-12
        spared.append(clipping.clipped_step(p, f, tight - 0.3).hs > eps)
    assert np.mean(spared) > 0.2, "a bound that may as well be 0.3 lower is not sharp"


@pytest.mark.parametrize("shift", [0.0, 1000.0, -1000.0])
def test_chernoff_bounds_are_the_least_over_l(shift):
    """Against a dense grid of l: no l gives less, and a wrong constant would."""
    rng = np.random.default_rng(7)
    l, eps = np.geomspace(1e-2, 1e3, 1001), 0.02  # noqa: E741
    for _ in range(5):
        p, f = rng.dirichlet(np.ones(300)), rng.normal(size=300) * rng.uniform(0.3, 3)
        base, tail = (np.array([chernoff.log_moment(f, x + t, p) for x in l]) for t in (0, 1))
        rise, log_c = tail - log_z(p, f), l * np.log(l) - (1 + l) * np.log1p(l)
        wanted = np.array([min(np.min((k - np.log(eps)) / l), f.max()) for k in (base, rise, rise + log_c)])
        bounds = chernoff.base_tail, chernoff.tilted_tail, chernoff.sharp
        found = np.array([bound(f + shift, eps, p) - shift for bound in bounds])
        assert np.all(found <= wanted + 1e-9)
        assert np.all(found >= wanted - 1e-3)
        assert found[2] < found[1] - 0.05
        assert found[2] <= chernoff.log_moment(f, 2.0, p) - log_z(p, f) - np.log(eps) - LOG_4 + 1e-9


def test_sharp_has_the_least_constant():
    """Two outcomes that attain (w - M)_+ = c_l w^(1+l) / M^l at l = 1: at log 4 HS_M = eps, at log 5 it is more."""
    eps = 0.1
    for log_w in np.linspace(1.0, 2.0, 5):
        w = np.exp(log_w)
        q = 2 * eps / w  # w = 2 M has HS_M = q M
        p, f = np.array([q, 1 - q]), np.array([log_w, np.log((1 - q * w) / (1 - q))])
        at_one = np.log(q * w**2) - np.log(eps)  # the term of the heavy outcome alone
        assert clipping.clipped_step(p, f, at_one - LOG_4).hs == pytest.approx(eps)
        assert clipping.clipped_step(p, f, at_one - np.log(5)).hs > 1.1 * eps
        assert clipping.clipped_step(p, f, chernoff.sharp(f, eps, p)).hs <= eps * (1 + 1e-9)


def test_sub_gaussian():
    """For Gaussian f it is tilted_tail at mean v; bounded f (Hoeffding) keeps the promise."""
    assert chernoff.sub_gaussian(2.0, 0.0, 0.1) == 2.0
    for s, eps in product((0.1, 1.0, 3.0), (0.2, 1e-3)):
        l = np.geomspace(1e-4, 1e4, 200_001)  # noqa: E741
        assert chernoff.sub_gaussian(0.0, s, eps) == pytest.approx(
            np.min(((1 + l) ** 2 * s**2 / 2 + np.log(1 / eps)) / l), rel=1e-6
        )
        b = chernoff.sub_gaussian(s * s / 2, s, eps)
        assert true_tv(s, b)[1] <= eps
    assert true_tv(3.0, 4.5 + 3 * np.sqrt(2 * np.log(1000)))[1] > 1e-3, "without s^2 it bounds p, not the tilted law"
    for p, f, rng in problems(200, seed=8):
        f = np.clip(f, -3, 3)
        eps = float(rng.choice([0.3, 0.1, 0.01]))
        b = chernoff.sub_gaussian(log_z(p, f), float(np.ptp(f)) / 2, eps)
        assert clipping.clipped_step(p, f, b).hs <= eps


def test_quantile():
    assert chernoff.quantile(np.arange(10.0), 0.3) == 6
    assert chernoff.quantile(np.arange(10.0), 0.29) == 7
    assert chernoff.quantile(np.array([3.0, -INF]), 0.7) == 3.0
    for p, f, rng in problems(200, seed=9):
        delta = float(rng.uniform(0.01, 0.9))
        b = chernoff.quantile(f, delta, p)
        assert p[f > b].sum() <= delta + 1e-12
        assert b == f[f > -INF].min() or p[f >= b].sum() > delta


def test_for_draws_and_for_total_variation_are_exact():
    for p, f, rng in problems(500, seed=10):
        tv = float(rng.choice([0.0, 0.001, 0.1, 0.5]))
        b, floor = chernoff.for_total_variation(f, tv, p), f[f > -INF].min()
        assert clipping.clipped_step(p, f, b).tv <= tv + 1e-9
        if b > floor + 1e-6:
            assert clipping.clipped_step(p, f, b).tv == pytest.approx(tv, abs=1e-9)
        draws = float(np.exp(rng.uniform(0, 6)))
        b = chernoff.for_draws(f, draws, p)
        found = clipping.clipped_step(p, f, b).draws
        assert found == pytest.approx(draws, rel=1e-9) or (b == floor and found > draws)
    f = np.random.default_rng(0).normal(size=1000)
    assert chernoff.for_total_variation(f + 1000, 0.05) - 1000 == pytest.approx(chernoff.for_total_variation(f, 0.05))
    assert chernoff.for_total_variation(f, 0.0) == pytest.approx(f.max())


def test_conformal():
    rng = np.random.default_rng(11)
    scores, news = rng.normal(size=(4000, 39)), rng.normal(size=4000)
    exceeded = np.mean([new > chernoff.conformal(row, 0.1) for row, new in zip(scores, news, strict=True)])
    assert exceeded == pytest.approx(0.1, abs=0.015)
    assert chernoff.conformal(np.arange(9.0), 0.1) == 8
    assert chernoff.conformal(np.arange(18.0), 0.1) == 17
    assert chernoff.conformal(np.arange(99.0), 0.1) == 89
    with pytest.raises(ValueError, match="9 are needed"):
        chernoff.conformal(np.arange(8.0), 0.1)
    with pytest.raises(ValueError, match="NaN"):
        chernoff.conformal(np.full(20, np.nan), 0.1)


def test_moments_and_constants():
    p, f = np.array([0.25, 0.75]), np.array([0.0, -INF])
    assert chernoff.log_moment(f, 0.0, p) == 0
    assert chernoff.log_moment(f, 2.0, p) == pytest.approx(np.log(0.25))
    assert chernoff.log_moment(f, -1.0, p) == INF
    assert chernoff.base_tail(f, 0.3, p) == 0
    for bound in (chernoff.base_tail, chernoff.tilted_tail, chernoff.sharp):
        assert bound(np.full(5, 7.0), 0.1) == 7
    huge = np.array([-1e4, 0.0, 900.0])
    assert np.isfinite([bound(huge, 0.1) for bound in (chernoff.base_tail, chernoff.tilted_tail, chernoff.sharp)]).all()


# -- certificates


def tail_mass(s, log_g):
    """E (w - g)_+ for log w ~ Normal(-s^2/2, s)."""
    return float(ndtr(s / 2 - log_g / s) - np.exp(log_g) * ndtr(-s / 2 - log_g / s))


def true_tv(s, b):
    """(HS_gamma, HS_M) for f ~ Normal(0, s)."""
    log_m = b - s * s / 2
    hs = tail_mass(s, log_m)
    return tail_mass(s, log_m - np.log1p(-hs)), hs


def baseline_of(s, tv):
    """b at which f ~ Normal(0, s) has that total variation, by bisection."""
    low, high = -10.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if true_tv(s, middle)[0] > tv else (low, middle)
    return high


def test_the_closed_form_of_the_coverage_tests():
    f = ndtri((np.arange(200_000) + 0.5) / 200_000)
    step = clipping.clipped_step(np.full(len(f), 1 / len(f)), f, 1.5)
    assert true_tv(1.0, 1.5) == pytest.approx((step.tv, step.hs), abs=5e-5)
    assert true_tv(1.0, baseline_of(1.0, 0.05))[0] == pytest.approx(0.05)


def normal_interval(lost):
    return lost.mean() + 1.96 * lost.std() / np.sqrt(len(lost))


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
@pytest.mark.parametrize(("tv", "n"), [(0.01, 1000), (0.05, 50), (0.05, 200), (0.05, 1000), (0.2, 200)])
def test_one_state_is_covered(spread, tv, n):
    if spread == 0.5 and tv == 0.2:
        pytest.skip("the model itself is nearer")
    rng, b = np.random.default_rng(12), baseline_of(spread, tv)
    found = [clipping.certify(rng.normal(0, spread, n), b) for _ in range(400)]
    assert all(c.low <= c.tv <= c.high <= 1 for c in found)
    assert np.mean([c.low <= tv <= c.high for c in found]) >= 0.95
    if n == 1000 and spread < 2:
        assert np.median([c.high for c in found]) < 8 * tv
        assert np.mean([c.tv for c in found]) == pytest.approx(tv, rel=0.15)


def test_one_discrete_state_is_covered():
    """20 problems of 20 outcomes each, equally probable ones and others, n = 200."""
    rng, covered = np.random.default_rng(13), []
    for i in range(20):
        m = int(rng.integers(20, 61))
        p = np.full(m, 1 / m) if i % 2 else rng.dirichlet(np.ones(m))
        f = rng.normal(size=m) * rng.uniform(0.5, 2)
        b = chernoff.for_total_variation(f, float(rng.choice([0.01, 0.05])), p)
        tv = clipping.clipped_step(p, f, b).tv
        for _ in range(20):
            c = clipping.certify(f[rng.choice(m, 200, p=p)], b)
            covered.append(c.low <= tv <= c.high)
    assert np.mean(covered) >= 0.95


@pytest.mark.parametrize(("spread", "rows"), [(0.5, 200), (1.0, 200), (1.0, 1000), (1.5, 200)])
def test_steps_are_covered(spread, rows):
    """19 steps with values wrong by 0.2, clip rate 1e-3. The sum is above the total variation."""
    rng, steps = np.random.default_rng(14), 19
    b, shift = -spread * float(ndtri(1e-3)), rng.normal(0, 0.2, steps)
    tv, hs = true_tv(spread, b)
    gap, covered, naive, means = np.full((rows, steps), b) + shift, [], [], []
    for _ in range(400):
        log_w = rng.normal(0, spread, (rows, steps)) + shift
        c = clipping.certify_steps(log_w, gap)
        covered.append(steps * hs <= c.high)
        means.append(c.tv)
        w = np.exp(log_w)
        naive.append(steps * hs <= normal_interval(np.sum(np.maximum(w - np.exp(gap), 0) / w.mean(axis=0), axis=1)))
    assert np.mean(covered) >= 0.95
    assert np.mean(naive) < 0.95, "a normal interval would have done"
    assert 1 - (1 - tv) ** steps <= steps * hs
    if spread <= 1:
        assert np.mean(means) == pytest.approx(steps * hs, rel=0.15)


def test_steps_of_a_chain_may_depend():
    """The worst case: every step of a chain is the same draw, so that it is clipped 19 times or never."""
    rng, b, covered = np.random.default_rng(15), -float(ndtri(1e-2)), []
    for _ in range(400):
        log_w = np.repeat(rng.normal(size=(200, 1)), 19, axis=1)
        covered.append(min(1, 19 * true_tv(1.0, b)[1]) <= clipping.certify_steps(log_w, np.full((200, 19), b)).high)
    assert np.mean(covered) >= 0.95


def test_a_certificate_of_steps_by_hand():
    w = np.array([[1.0, 4.0], [3.0, np.nan], [2.0, np.nan]])
    c = clipping.certify_steps(np.log(w), np.where(np.isnan(w), np.nan, np.log(2.5)))
    assert c.tv == pytest.approx(0.5 / 6 + 1.5 / 4 / 3)
    assert c.clip_rate == pytest.approx(2 / 4)
    assert c.residual == pytest.approx(np.log([2, 4]))
    unborn = np.array([[1.0, np.nan]])
    assert np.isnan(clipping.certify_steps(unborn, unborn).residual[1])


def test_a_certificate_of_a_state_is_the_law_of_the_sample():
    rng = np.random.default_rng(16)
    f = np.append(rng.normal(size=100), [-INF, -INF])
    step = clipping.clipped_step(np.full(102, 1 / 102), f, 0.7)
    for shift in (0.0, 1000.0, -1000.0):
        c = clipping.certify(f + shift, 0.7 + shift, value=0.2 + shift)
        assert c[:4] == pytest.approx(clipping.certify(f, 0.7)[:4])
        assert c.tv == pytest.approx(step.tv)
        assert c.clip_rate == pytest.approx(step.clip_rate)
        assert c.residual == pytest.approx([chernoff.log_moment(f, 1.0) - 0.2])


def test_an_unseen_event_has_a_poisson_limit():
    """Without a clipped draw the upper odds are those of no event: proportional to -log((1 - level) / 2)."""
    f = np.linspace(-3, 3, 100)
    wide, narrow = (clipping.certify(f, 3.02, level=level).high for level in (0.95, 0.5))
    assert wide / (1 - wide) / (narrow / (1 - narrow)) == pytest.approx(np.log(0.025) / np.log(0.25))


def test_the_mean_weight_is_uncertain_too():
    """Half of the rows are clipped alike; the weights of the others, never clipped, matter through the mean alone."""
    gap = np.repeat([np.log(0.5), 9.0], 100)[:, None]
    even, uneven = np.ones((200, 1)), np.r_[np.ones(100), np.tile([0.01, 1.99], 50)][:, None]
    limits = [clipping.certify_steps(np.log(w), gap) for w in (even, uneven)]
    assert limits[0].tv == pytest.approx(limits[1].tv)
    wild = np.r_[np.ones(100), np.tile([0.01] * 9 + [9.91], 10)][:, None]
    assert clipping.certify_steps(np.log(wild), gap).high > limits[0].high + 0.01


def test_few_draws_certify_little():
    assert clipping.certify(np.zeros(1), 0.0).high == 1
    assert clipping.certify_steps(np.zeros((1, 3)), np.ones((1, 3))).high == 1
    assert clipping.certify(np.array([0.0, -INF]), 3.0).high == 1
    for n in (2, 5, 10, 20, 100):
        hidden = 1 - 0.025 ** (1 / n)
        for c in (clipping.certify(np.zeros(n), 9.0), clipping.certify_steps(np.zeros((n, 2)), np.full((n, 2), 9.0))):
            assert (c.tv, c.low, c.high) == pytest.approx((0, 0, hidden))
        rng = np.random.default_rng(17)
        assert np.mean([clipping.certify(rng.normal(size=n), 3.0).high for _ in range(50)]) > 2 * hidden or n < 10
    wide, narrow = (clipping.certify(np.linspace(-1, 1, 50), 0.5, level=level) for level in (0.99, 0.5))
    assert wide.low < narrow.low < narrow.high < wide.high


F, P = np.zeros(3), np.full(3, 1 / 3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: chernoff.log_moment(np.zeros((2, 2)), 1.0),
        lambda: chernoff.log_moment(np.array([]), 1.0),
        lambda: chernoff.log_moment(np.array([np.nan]), 1.0),
        lambda: chernoff.base_tail(np.array([INF]), 0.1),
        lambda: chernoff.sharp(np.array([-INF]), 0.1),
        lambda: chernoff.sharp(F, 0.1, 2 * P),
        lambda: chernoff.sharp(F, 0.1, np.array([1.0])),
        lambda: chernoff.sharp(F, 0.1, np.array([2.0, -1.0, 0.0])),
        lambda: chernoff.base_tail(F, 0.0),
        lambda: chernoff.tilted_tail(F, 1.0),
        lambda: chernoff.quantile(F, 1.5),
        lambda: chernoff.conformal(F, 0.0),
        lambda: chernoff.sub_gaussian(0.0, -1.0, 0.1),
        lambda: chernoff.sub_gaussian(0.0, 1.0, 0.0),
        lambda: chernoff.for_draws(F, 0.5),
        lambda: chernoff.for_total_variation(F, 1.0),
        lambda: clipping.clipped_step(2 * P, F, 0.0),
        lambda: clipping.clipped_step(P, F + np.nan, 0.0),
        lambda: clipping.clipped_step(P, F, INF),
        lambda: clipping.clipped_step(P, F - INF, 0.0),
        lambda: clipping.exhaustion(P, 0),
        lambda: clipping.exhaustion(2 + P, 3),
        lambda: clipping.log_proper_weight(F, np.ones(3, np.int64), F),
        lambda: clipping.certify(F, INF),
        lambda: clipping.certify(F[:0], 0.0),
        lambda: clipping.certify(F - INF, 0.0),
        lambda: clipping.certify(F, 0.0, level=1.0),
        lambda: clipping.certify_steps(F, F),
        lambda: clipping.certify_steps(F[:, None], F[:, None] + np.nan),
        lambda: clipping.certify_steps(F[:, None] + np.nan, F[:, None] + np.nan),
    ],
)
def test_bad_arguments(call):
    with pytest.raises(ValueError):  # noqa: PT011
        call()
