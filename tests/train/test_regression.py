"""Each loss against what it claims to find, on data whose answer is known."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
import pytest

from italic.core.errors import UsageError
from italic.train.regression import Recipe, fit, stack

RECIPE = Recipe(hidden=(32,), steps=300, rate=1e-2)
AT = np.array([[-0.8], [0.0], [0.8]])


def noisy(n=8000, seed=0):
    """y = x^2 + sd(x) z, with sd between 0.3 and 0.5: every quantile and log-mean-exp of y given x is known."""
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 1))
    return x, x[:, 0] ** 2 + spread(x) * rng.normal(size=n)


def spread(x):
    return 0.4 + 0.1 * x[:, 0]


@pytest.mark.parametrize("delta", [0.5, 0.1, 0.02])
def test_pinball_finds_the_quantile(delta):
    x, y = noisy()
    z = NormalDist().inv_cdf(1 - delta)
    found = fit(x, y, "pinball", RECIPE, delta=delta)(AT)
    assert np.abs(found - (AT[:, 0] ** 2 + z * spread(AT))).max() < 0.12
    assert np.abs(found - (AT[:, 0] ** 2 - z * spread(AT))).max() > 0.12 or delta == 0.5


@pytest.mark.parametrize("loss", ["itakura-saito", "mse"])
def test_the_losses_of_values_find_the_log_mean_exp(loss):
    x, y = noisy()
    found = fit(x, y, loss, RECIPE)(AT)
    assert np.abs(found - (AT[:, 0] ** 2 + spread(AT) ** 2 / 2)).max() < 0.06


def test_the_losses_of_values_take_rewards_of_minus_infinity():
    x, y = noisy()
    half = np.where(np.arange(len(y)) % 2, y, -np.inf)
    found = fit(x, half, "itakura-saito", RECIPE)(AT)
    assert np.abs(found - (AT[:, 0] ** 2 + spread(AT) ** 2 / 2 - np.log(2))).max() < 0.15


def test_the_papers_loss_bounds_the_draws():
    """exp(J) + 1 >= mean draws: here J is found low, and its baseline clips about delta."""
    x, y = noisy()
    delta = 0.01
    regressor = fit(x, y, "paper", RECIPE, delta=delta)
    s = y - regressor(x)
    sharpness = regressor.sharpness
    tau = (np.log(np.mean(np.exp(sharpness * s))) - np.log(delta)) / sharpness
    loss = tau + np.log(np.mean(np.exp(-s)))
    assert 1 < sharpness < 30
    assert np.mean(s > tau) <= delta
    assert np.mean(np.exp(regressor(x) + tau - y)) <= np.exp(loss) * 1.01
    assert loss < 2.2, "a constant baseline has 3"


def test_answers_stay_between_the_targets():
    x, y = noisy(500)
    far = np.array([[-50.0], [50.0]])
    found = fit(x, y, "pinball", RECIPE, delta=0.1)(far)
    assert np.all((found >= y.min()) & (found <= y.max()))


def test_the_same_seed_gives_the_same_network_and_others_another():
    x, y = noisy(500)
    one, again, other = (fit(x, y, "pinball", RECIPE, delta=0.1, seed=seed)(AT) for seed in (0, 0, 1))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_a_sharp_edge_of_one_feature_is_found():
    """What the first layer's start is for: a step a fifth as wide as the data's spread, where 5 % of the data are."""
    rng = np.random.default_rng(0)
    x = np.where(rng.random((8000, 1)) < 0.05, -5, 5) + rng.normal(size=(8000, 1))
    y = 3.0 * (x[:, 0] < -5)
    found = fit(x, y, "itakura-saito", Recipe(steps=600))(np.array([[-6.0], [-4.0], [5.0]]))
    assert np.abs(found - [3, 0, 0]).max() < 0.1


def test_a_stack_is_its_networks():
    x, y = noisy(500)
    regressors = [fit(x, y + shift, "pinball", RECIPE, delta=0.1) for shift in (0.0, 1.0)]
    networks = stack(regressors)
    for block, regressor in enumerate(regressors):
        assert np.array_equal(networks(AT, np.full(3, block)), regressor(AT))


@pytest.mark.parametrize("bad", [{"steps": 0}, {"hidden": (0,)}, {"rate": 0.0}, {"decay": -1.0}, {"batch": 0}])
def test_bad_recipes_are_refused(bad):
    with pytest.raises(UsageError, match="is no recipe"):
        Recipe(**bad)
