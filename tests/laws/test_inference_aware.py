"""Transforms, tilts and fixed points in quantile space: closed forms, the table of figures, nothing better nearby."""

from __future__ import annotations

import math

import numpy as np
import pytest

from italic.laws.finite_reference import loss_of_finite, plug_in
from italic.laws.inference_aware import (
    compare,
    exponential,
    fixed_point,
    identity,
    kl_of,
    log,
    posterior_means,
    tilt,
    tilt_at,
    win_rate,
)
from italic.laws.procedures import (
    WEIGHT,
    U,
    V,
    best_of_n,
    calibrated,
    integrate,
    integrate_back,
    interpolated,
    plain,
    worst_of_n,
)
from italic.laws.quantile import Counts, counts, exp_moment, log_quantile, mid_rank

OTHERS = (identity(), log(), *(exponential(t) for t in (-20, -10, -5, 5, 10, 20)))
SIZES = (2, 4, 8, 16, 32, 64)


@pytest.mark.parametrize("power", [0.3, 1, 7, 63, 127])
def test_quadrature_of_powers(power):
    assert integrate(power * U ** (power - 1)) == pytest.approx(U**power, rel=1e-4, abs=1e-7 + U[0] ** power)
    assert integrate_back(power * V ** (power - 1)) == pytest.approx(V**power, rel=2e-3, abs=1e-7 + U[0] ** power)
    curve, at = interpolated(U**power), np.linspace(0, 1, 999)
    assert curve(at) == pytest.approx(at**power, abs=1e-6 + U[0] ** power)


@pytest.mark.parametrize("beta", [0.01, 0.3, 1.0, 20.0])
def test_identity_in_closed_form(beta):
    policy, rate = tilt(identity(), beta), 1 / beta
    assert policy.density == pytest.approx(np.exp(-V / beta) * rate / -math.expm1(-rate), rel=1e-9)
    assert policy.cdf == pytest.approx(np.exp(-rate) * np.expm1(U / beta) / -math.expm1(-rate), abs=1e-7)
    log_z = rate + math.log(beta * -math.expm1(-rate))
    assert policy.log_z == pytest.approx(log_z, abs=1e-9)
    assert policy.kl == pytest.approx(rate / -math.expm1(-rate) - 1 - log_z, abs=1e-9)
    assert policy.draws_per_accept == pytest.approx(rate / -math.expm1(-rate), rel=1e-9)


@pytest.mark.parametrize("n", [1.2, 2, 4, 16, 64, 500])
def test_the_logarithm_imitates_best_of_n(n):
    policy = tilt(log(), 1 / (n - 1))
    assert policy.density == pytest.approx(n * U ** (n - 1), rel=1e-6, abs=1e-9)
    assert policy.cdf == pytest.approx(U**n, abs=1e-6)
    assert policy.kl == pytest.approx(math.log(n) - (n - 1) / n, abs=1e-8)
    assert policy.log_z == pytest.approx(-math.log(n), abs=1e-8)
    assert policy.draws_per_accept == pytest.approx(n, rel=1e-8)
    assert win_rate(policy, plain()) == pytest.approx(n / (n + 1), abs=1e-6)
    for m in (2, 8):
        assert win_rate(policy, best_of_n(m)) == pytest.approx(n / (n + 1), abs=1e-6)
        assert win_rate(policy, plain(), best_of_n(m)) == pytest.approx(n / (n + m), abs=1e-6)
        assert win_rate(policy, best_of_n(m), plain()) == pytest.approx(n * m / (n * m + 1), abs=1e-6)


@pytest.mark.parametrize("transform", OTHERS, ids=lambda t: t.name)
def test_a_tilt(transform):
    """f is exp(Phi/beta)/Z, the KL is E_f[Phi]/beta - log Z, and tilt_at is the inverse of kl_of."""
    for kl in (0.01, 0.5, 1, 3, 6):
        policy = tilt_at(transform, kl)
        assert policy.kl == pytest.approx(kl, rel=1e-10)
        assert kl_of(transform, policy.beta) == pytest.approx(kl, rel=1e-9)
        slack = 1e-7 + 1e-15 / policy.beta  # Phi / beta is rounded
        density = np.exp(transform.values / policy.beta - policy.log_z)
        assert policy.density == pytest.approx(density, rel=slack, abs=1e-12)
        assert policy.density @ WEIGHT == pytest.approx(1, abs=1e-9)
        mean = float(policy.density @ (WEIGHT * transform.values))
        assert mean / policy.beta - policy.log_z == pytest.approx(kl, abs=slack)
        assert policy.cdf[-1] == pytest.approx(1, abs=1e-7)


def test_transforms_at_quantiles():
    at = np.array([0.0, 0.25, 1.0])
    assert identity()(at) == pytest.approx(at)
    assert log()(at[1:]) == pytest.approx(np.log(at[1:]))
    assert log()(at)[0] == -np.inf
    for t in (-700 / 2, -5, 0.1, 10, 600):
        assert exponential(t)(at[[0, 2]]) == pytest.approx([0, 1], abs=1e-15)
    up, down = exponential(10)(at)[1], exponential(-10)(at)[1]
    assert up == pytest.approx((math.exp(2.5) - 1) / (math.exp(10) - 1))
    assert down == pytest.approx((1 - math.exp(-2.5)) / (1 - math.exp(-10)))
    for transform in OTHERS:
        assert transform(U) == pytest.approx(transform.values, rel=1e-9, abs=1e-9)
    phi = fixed_point(best_of_n(4), 1.0)
    assert phi(np.array([0.0, 1.0])) == pytest.approx([0, 1], abs=1e-9)
    assert phi(U) == pytest.approx(phi.values, abs=1e-9)


@pytest.mark.parametrize(
    ("procedure", "kl", "expected"),
    [
        (plain(), 1.0, (0.8646, 0.8631, 0.8390, 0.8010, 0.8646)),
        (best_of_n(2), 0.5, (0.7917, 0.7682, 0.8154, 0.8031, 0.8156)),
        (best_of_n(4), 0.5, (0.7998, 0.7682, 0.8566, 0.8715, 0.8732)),
        (best_of_n(4), 1.0, (0.8770, 0.8631, 0.9192, 0.9351, 0.9411)),
        (worst_of_n(4), 0.5, (0.8860, 0.9270, 0.9439, 0.9476, 0.9479)),
    ],
    ids=lambda value: getattr(value, "name", None),
)
def test_the_table(procedure, kl, expected):
    sign = -1 if procedure.name.startswith("worst") else 1
    transforms = [identity(), log(), exponential(5 * sign), exponential(10 * sign), fixed_point(procedure, kl)]
    rows = compare(procedure, kl, transforms)
    assert [row.win_rate for row in rows] == pytest.approx(expected, abs=1.5e-4)
    assert [row.kl for row in rows] == pytest.approx([kl] * 5)
    assert [row.transform for row in rows] == [t.name for t in transforms]


def test_draws_per_accept():
    rows = compare(best_of_n(4), 1.0, [identity(), exponential(10), fixed_point(best_of_n(4), 1.0)])
    assert [row.draws_per_accept for row in rows] == pytest.approx([7.4, 21.2, 46.3], abs=0.1)


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("make", [best_of_n, worst_of_n], ids=["best", "worst"])
def test_fixed_points(make, n):
    """Phi' is g(v) g(F(v)), no other transform is better, and neither is a small perturbation at the same KL."""
    procedure = make(n)
    for kl in (0.05, 0.5, math.log(n) + 1):
        phi = fixed_point(procedure, kl)
        policy = tilt_at(phi, kl)
        right = integrate_back(procedure.density(U) * procedure.density(policy.cdf))
        assert phi.gap == pytest.approx(right / right[0], abs=1e-7)
        won = win_rate(policy, procedure)
        assert all(won >= row.win_rate - 1e-7 for row in compare(procedure, kl, OTHERS)), (n, kl)
        if won > 1 - 1e-9:
            continue
        for bump in (U, np.sin(3 * np.pi * U), np.sin(9 * policy.cdf), U**n, V**n):
            for size in (-0.01, 0.01):
                moved = phi.gap + size * (bump - bump[-1])
                other = tilt_at(type(phi)("moved", moved - moved.min(), 1.0, identity(), log().tables), kl)
                assert win_rate(other, procedure) <= won + 1e-7


def test_the_fixed_point_of_one_draw_is_the_identity():
    for procedure in (plain(), best_of_n(1), worst_of_n(1)):
        phi = fixed_point(procedure, 0.7)
        assert phi.values == pytest.approx(U, abs=1e-7)


@pytest.mark.parametrize("n", [2, 4, 16])
def test_weak_alignment(n):
    assert fixed_point(best_of_n(n), 1e-7).values == pytest.approx(U ** (2 * n - 1), abs=2e-3)
    assert fixed_point(worst_of_n(n), 1e-7).values == pytest.approx(1 - V ** (2 * n - 1), abs=2e-3)


@pytest.mark.parametrize(("ours", "theirs"), [(4, 1), (1, 4), (16, 4), (4, 16)])
@pytest.mark.parametrize("make", [best_of_n, worst_of_n], ids=["best", "worst"])
def test_unequal_numbers(make, ours, theirs):
    procedure, rival = make(ours), make(theirs)
    for kl in (0.1, 1.0):
        phi = fixed_point(procedure, kl, rival)
        policy = tilt_at(phi, kl)
        won = win_rate(policy, procedure, rival)
        blind = fixed_point(procedure, kl)
        assert all(won >= row.win_rate - 1e-7 for row in compare(procedure, kl, [*OTHERS, blind], rival))
        right = integrate_back(rival.density(U) * procedure.density(policy.cdf))
        assert phi.gap == pytest.approx(right / right[0], abs=1e-7)


def test_any_calibrated_procedure():
    third = calibrated("third of 4", lambda u: 12 * u**2 * (1 - u))
    at = np.linspace(0, 1, 101)
    assert third.cdf(at) == pytest.approx(4 * at**3 - 3 * at**4, abs=1e-7)
    phi = fixed_point(third, 0.5)
    won = win_rate(tilt_at(phi, 0.5), third)
    assert all(won >= row.win_rate for row in compare(third, 0.5, OTHERS))
    same = calibrated("best", best_of_n(4).density)
    assert fixed_point(same, 1.0).values == pytest.approx(fixed_point(best_of_n(4), 1.0).values, abs=1e-6)


@pytest.mark.parametrize("t", [-5.0, 3.0, 10.0])
def test_estimates_of_exponentials(t):
    rng = np.random.default_rng(0)
    found = counts(rng.integers(9, size=60) / 9, rng.integers(9, size=40) / 9)
    expected = (exp_moment(found, t) - 1) / (math.exp(t) - 1)
    assert exponential(t).estimate(found) == pytest.approx(expected, abs=1e-12)
    assert identity().estimate(found) == pytest.approx(mid_rank(found), abs=1e-14)
    assert log().estimate(found) == pytest.approx(log_quantile(found), abs=1e-14)


def test_the_fixed_point_is_estimated_by_its_mean_given_the_wins():
    """The least squared error on reference draws: for u^m the mean is (s+1)...(s+m) / (k+2)...(k+m+1)."""
    for k in (1, 10, 600):
        s = np.arange(k + 1)
        assert posterior_means(U**2, k) == pytest.approx((s + 1) * (s + 2) / ((k + 2) * (k + 3)), rel=1e-7)
    phi, rng = fixed_point(best_of_n(4), 1.0), np.random.default_rng(0)
    u = rng.random(200_000)
    wins = rng.binomial(16, u)
    found = Counts(wins, np.zeros_like(wins), 16)
    error = np.mean((phi.estimate(found) - phi(u)) ** 2)
    assert error < 0.97 * np.mean((phi(mid_rank(found)) - phi(u)) ** 2)
    assert np.mean(phi.estimate(found) - phi(u)) == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize(("k", "expected"), [(8, 0.8696), (16, 0.8966), (32, 0.9143), (100, 0.9276), (400, 0.9333)])
def test_the_loss_from_a_finite_reference(k, expected):
    rng = np.random.default_rng(1)
    found = loss_of_finite(exponential(10), best_of_n(4), 1.0, k, rng, plug_in(exponential(10), k))
    assert found.error < 5e-4
    assert found.win_rate == pytest.approx(expected, abs=1.5e-3)
    assert found.exact == pytest.approx(0.9351, abs=1e-4)
    assert found.loss == found.exact - found.win_rate
    series = loss_of_finite(exponential(10), best_of_n(4), 1.0, k, rng)
    assert series.win_rate == pytest.approx(expected, abs=7e-3)


def test_the_estimate_of_the_fixed_point_is_better_than_the_plug_in():
    procedure = best_of_n(4)
    phi = fixed_point(procedure, 1.0)
    for k, gain in ((8, 0.003), (32, 0.004), (100, 0.002)):
        ours = loss_of_finite(phi, procedure, 1.0, k, np.random.default_rng(2))
        theirs = loss_of_finite(phi, procedure, 1.0, k, np.random.default_rng(2), plug_in(phi, k))
        assert ours.win_rate > theirs.win_rate + gain


def test_a_finite_reference_by_hand():
    """k = 1: a prompt's cut c has density f = a below and b above it; the win rate of one draw, averaged over c."""
    found = loss_of_finite(identity(), plain(), 0.1, 1, np.random.default_rng(3))
    cut = np.random.default_rng(4).random(400_000)

    def policy(ratio):
        low = 1 / (cut + (1 - cut) * ratio)
        return low, ratio * low

    def divergence(ratio):
        low, high = policy(ratio)
        return float(np.mean(cut * low * np.log(low) + (1 - cut) * high * np.log(high)))

    below, above = 1.0, 100.0
    for _ in range(60):
        middle = (below + above) / 2
        below, above = (middle, above) if divergence(middle) < 0.1 else (below, middle)
    low, _ = policy(below)
    area = cut**2 * low / 2 + (1 - cut) * (1 + cut * low) / 2
    assert found.win_rate == pytest.approx(1 - area.mean(), abs=2e-3)
    assert np.isfinite(plug_in(log(), 5)).all()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: best_of_n(0), "0 draws"),
        (lambda: worst_of_n(-1), "draws"),
        (lambda: calibrated("half", lambda u: 0.5 + 0 * u), "integrates to 0.5"),
        (lambda: calibrated("odd", lambda u: 4 * u - 1), "not negative"),
        (lambda: calibrated("short", lambda u: np.ones(3)), "no density"),
        (lambda: exponential(0.0), "exponent"),
        (lambda: exponential(601.0), "exponent"),
        (lambda: tilt(identity(), 0.0), "beta"),
        (lambda: tilt(identity(), 1e-12), "above 20"),
        (lambda: tilt_at(identity(), 25.0), "less than 20"),
        (lambda: tilt_at(identity(), 0.0), "more than 0"),
        (lambda: fixed_point(best_of_n(2), 30.0), "less than 20"),
        (lambda: posterior_means(U, 0), "reference"),
        (lambda: plug_in(log(), 0), "reference"),
        (lambda: loss_of_finite(log(), plain(), 1.0, 0, np.random.default_rng(0)), "reference"),
        (lambda: loss_of_finite(log(), plain(), 3.0, 4, np.random.default_rng(0)), "at most"),
        (lambda: loss_of_finite(log(), plain(), 1.0, 4, np.random.default_rng(0), np.zeros(4)), "table"),
    ],
)
def test_refusals(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_a_plateau_limits_the_kl():
    flat = calibrated("lower half", lambda u: 2 / (1 + np.exp(np.clip((u - 0.5) * 400, -700, 700))))
    phi = fixed_point(flat, 0.3)
    step = type(phi)("step", np.where(U < 0.5, 1.0, 0.0), 1.0, phi.function, phi.tables)
    assert tilt_at(step, 0.6).kl == pytest.approx(0.6)
    with pytest.raises(ValueError, match=r"less than 0\.6[89]"):
        tilt_at(step, 0.7)
