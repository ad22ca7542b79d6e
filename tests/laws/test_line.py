"""The laws on a line, against finite sums, closed forms, and the published numbers of the benchmark (chernoff.md)."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from italic.laws import finite
from italic.laws import line as on_line
from italic.laws.finite import total_variation
from italic.laws.line import Line
from italic.laws.line_bounds import chernoff, highest, quantiles
from italic.models.gaussian import load

M = 450
INF = float("inf")


def small(m=40, steps=3, seed=0):
    """A chain with bent means and little room, so that edges and curvature matter."""
    grid = on_line.midpoints(-4, 4, m)
    rng = np.random.default_rng(seed)
    means = np.array([0.6 * grid + np.sin((k + 1) * grid) for k in range(steps)])
    start = rng.dirichlet(np.ones(m))
    return Line(grid, start, means, np.linspace(0.4, 0.9, steps))


def one_step_value(line, t, after):
    return np.log(line.kernel(t) @ np.exp(after))


def paths(line):
    """Every path of two steps: probabilities [m, m, m]."""
    return line.start[:, None, None] * line.kernel(0)[:, :, None] * line.kernel(1)[None]


def test_rows_of_a_kernel_are_laws_with_the_right_moments():
    grid = on_line.midpoints(-10, 10, 400)
    line = Line(grid, on_line.normal(grid), np.array([0.3 * grid + 1, 0.5 * grid]), np.array([0.2, 1.0]))
    for t in range(2):
        kernel = line.kernel(t)
        assert np.allclose(kernel.sum(axis=1), 1, atol=1e-14)
        assert np.allclose(kernel @ grid, line.means[t], atol=1e-9)
        variances = (kernel * (grid - line.means[t][:, None]) ** 2).sum(axis=1)
        assert np.allclose(variances[100:300], line.stds[t] ** 2, atol=1e-8)
        assert np.allclose(np.exp(line.log_kernel(t)), kernel, atol=1e-15)
    # A start of N(0, 1): the next state is N(1, .09 + .04), the one after N(.5, .13 / 4 + 1).
    last = on_line.marginals(line)[-1]
    assert last @ grid == pytest.approx(0.5, abs=1e-9)
    assert last @ (grid - 0.5) ** 2 == pytest.approx(0.13 / 4 + 1, abs=1e-8)


def test_a_mean_far_outside_ends_in_the_last_cell():
    grid = on_line.midpoints(0, 1, 10)
    line = Line(grid, np.full(10, 0.1), np.full((1, 10), 1e6), np.array([0.1]))
    assert np.allclose(line.kernel(0)[:, -1], 1)


def test_a_step_without_noise_keeps_the_mean():
    grid = on_line.midpoints(-2, 2, 20)
    line = Line(grid, np.full(20, 0.05), 0.37 * grid[None], np.array([0.0]))
    assert np.allclose(line.kernel(0).sum(axis=1), 1)
    assert np.allclose(line.kernel(0) @ grid, 0.37 * grid)
    assert np.all((line.kernel(0) > 0).sum(axis=1) <= 2)
    assert np.allclose(np.exp(line.log_kernel(0)), line.kernel(0))


def test_values_and_the_tilted_law_by_summing_over_paths():
    line = small(m=25, steps=2)
    f = 2 * np.sin(line.grid) - line.grid**2 / 4
    joint = paths(line)
    value = on_line.values(line, f)
    assert np.array_equal(value[-1], f)
    expected = np.log(np.einsum("xyz,z->x", joint / line.start[:, None, None], np.exp(f)))
    assert np.allclose(value[0], expected, atol=1e-12)
    tilt = joint * np.exp(f)
    tilt /= tilt.sum()
    laws = on_line.tilted(line, f)
    for k, axes in enumerate([(1, 2), (0, 2), (0, 1)]):
        assert np.allclose(laws[k], tilt.sum(axis=axes), atol=1e-13)


@pytest.mark.parametrize("scale", [1.0, 5000.0])
def test_values_do_not_overflow_or_underflow(scale):
    line = small()
    f = scale * line.grid
    direct = on_line.values(line, f)
    shifted = on_line.values(line, f + 1e5)
    assert np.isfinite(direct).all()
    assert np.allclose(shifted - 1e5, direct, atol=1e-8 * scale)
    heights = line.log_kernel(2) + f
    top = heights.max(axis=1)
    assert np.allclose(direct[2], top + np.log(np.exp(heights - top[:, None]).sum(axis=1)), rtol=1e-12)


def test_values_where_the_likely_is_worth_nothing_beside_the_unlikely():
    """E[exp(g y)] of a Gaussian step is exp(g mean + g^2 std^2 / 2), here 1,600 nats below the largest exp(g y)."""
    grid = on_line.midpoints(-4, 4, 80)
    line = Line(grid, on_line.normal(grid), 0.5 * grid[None] - 1, np.array([0.1]))
    found = on_line.values(line, 300 * grid)[0]
    inside = slice(0, 60)  # where the tilted step ends far from the edge of the grid
    assert np.allclose(found[inside], 300 * line.means[0, inside] + 450, rtol=1e-9, atol=1e-5)
    assert np.isfinite(on_line.clipped(line, np.array([found, 300 * grid]), found[None]).variation).all()


def test_what_must_not_happen_does_not():
    line = small()
    f = np.where(line.grid < 0, -INF, 1.0)
    laws = on_line.tilted(line, f)
    assert laws[-1][line.grid < 0].sum() == 0
    assert np.allclose(laws.sum(axis=1), 1)
    base = on_line.marginals(line)[-1]
    assert np.allclose(laws[-1], np.where(line.grid < 0, 0, base) / base[line.grid > 0].sum())
    value = on_line.values(line, f)
    assert np.all(on_line.clipped(line, value, np.full((3, 40), 1.0)).last[line.grid < 0] == 0)
    for children in (1, 3):  # the forbidden side is taken only if all children are there
        steered = on_line.selected(line, value, children)
        assert np.allclose(steered.laws.sum(axis=1), 1)
        all_there = line.kernel(2)[:, line.grid < 0].sum(axis=1) ** children
        assert steered.last[line.grid < 0].sum() == pytest.approx(steered.laws[2] @ all_there, rel=1e-9)
    with pytest.raises(ValueError, match="nothing to tilt"):
        on_line.tilted(line, np.full(40, -INF))


def test_where_nothing_is_worth_anything_the_chain_is_as_it_was():
    line = small()
    value = np.full((4, 40), -INF)
    plain = on_line.marginals(line)
    steered = on_line.selected(line, value, 3)
    assert np.allclose(steered.laws, plain)
    assert np.allclose(steered.variation, 0)


def test_clipped_steps_are_rejection_steps():
    line = small(steps=1)
    f = np.cos(3 * line.grid)
    value = on_line.values(line, f)
    baselines = np.quantile(f, 0.7) + 0.1 * line.grid[None]
    steered = on_line.clipped(line, value, baselines)
    law, draws, apart = np.zeros(40), 0.0, 0.0
    for x, p in enumerate(line.start):
        accept = np.minimum(1, np.exp(f - baselines[0, x]))
        row = line.kernel(0)[x]
        target = finite.tilt(row, f, 1.0)
        gamma = 1 / (row @ accept)
        # HS_gamma, the theory's total variation: E_p (w - gamma)_+ with w = exp(f) / Z.
        apart += p * (row @ np.maximum(np.exp(f - value[0, x]) - gamma, 0))
        assert total_variation(row * accept * gamma, target) <= 1
        law += p * row * accept * gamma
        draws += p * gamma
    assert np.allclose(steered.last, law, atol=1e-14)
    assert steered.draws == pytest.approx([draws], rel=1e-12)
    assert steered.variation == pytest.approx([apart], rel=1e-9)
    assert apart > 1e-3


def test_a_baseline_above_all_values_is_exact_rejection():
    line = small()
    f = np.cos(3 * line.grid)
    value, laws = on_line.values(line, f), on_line.tilted(line, f)
    steered = on_line.clipped(line, value, np.full((3, 40), 1.0), start=laws[0])
    assert np.allclose(steered.laws, laws, atol=1e-13)
    assert np.allclose(steered.variation, 0, atol=1e-13)
    for t in range(3):
        assert steered.draws[t] == pytest.approx(laws[t] @ np.exp(1 - value[t]), rel=1e-10)
    own = on_line.clipped(line, value, np.full((3, 40), 1.0))
    assert np.array_equal(own.laws[0], line.start)
    assert total_variation(own.laws[0], laws[0]) > total_variation(own.last, laws[-1]) > 1e-6


@pytest.mark.parametrize("children", [1, 2, 7, 100])
@pytest.mark.parametrize("alpha", [1.0, 0.2])
def test_selection_is_soft_best_of_n_in_every_row(children, alpha):
    line = small(steps=1)
    f = 3 * np.cos(3 * line.grid) + line.grid
    steered = on_line.selected(line, on_line.values(line, f), children, alpha)
    kernel = line.kernel(0)
    rows = np.array([finite.soft_best_of_n(row, f, children, alpha) for row in kernel])
    assert np.allclose(steered.last, line.start @ rows, atol=1e-10, rtol=0)
    one_by_one = [Line(line.grid, np.eye(40)[x], line.means, line.stds) for x in (0, 13, 39)]
    for x, start in zip((0, 13, 39), one_by_one, strict=True):
        found = on_line.selected(start, on_line.values(start, f), children, alpha)
        assert np.allclose(found.last, rows[x], atol=1e-10, rtol=0)
        assert found.variation[0] == pytest.approx(total_variation(rows[x], finite.tilt(kernel[x], f, 1.0)), abs=1e-10)
    assert np.array_equal(steered.draws, [children])


def test_bounds_keep_their_promise():
    line = small()
    value = on_line.values(line, 4 * np.cos(3 * line.grid))
    for delta in (0.3, 0.01):
        quantile, bound = quantiles(line, value, delta), chernoff(line, value, delta)
        for t in range(3):
            above = value[t + 1] > quantile[t][:, None] + 1e-12
            assert np.all((line.kernel(t) * above).sum(axis=1) <= delta + 1e-12)
            reached = value[t + 1] >= quantile[t][:, None]
            assert np.all((line.kernel(t) * reached).sum(axis=1) > delta - 1e-12), "a lower b would do"
        assert np.all(bound >= quantile - 1e-9)
        assert np.all(bound <= value[1:].max(axis=1)[:, None])
    assert np.array_equal(highest(line, value, INF), np.repeat(value[1:].max(axis=1)[:, None], 40, axis=1))
    near = highest(line, value, 0.0)
    assert np.all(near < value[1:].max(axis=1)[:, None] + 1e-12)
    assert near[0, 20] == value[1, np.abs(line.grid - line.means[0, 20]).argmin()]


@cache
def benchmark(height):
    """The benchmark's line, where the reward is, its values and its tilted laws; computed once for all tests."""
    grid = on_line.midpoints(-15, 15, M)  # -7 is an edge of cells
    means, stds = load().line_means(grid)
    line = Line(grid, on_line.normal(grid), means, stds)
    f = np.where(grid < -7, float(height), 0.0)
    return line, grid < -7, on_line.values(line, f), on_line.tilted(line, f)


def test_the_base_chain_of_the_benchmark():
    line, rare, _, _ = benchmark(3)
    assert len(line.stds) == 19
    assert on_line.marginals(line)[-1][rare].sum() == pytest.approx(0.00753, abs=2e-5)


@pytest.mark.parametrize(
    ("height", "probability", "constant", "near", "start"),
    [(1, 0.0202, 2.683, 1.107, 1.03e-4), (3, 0.1323, 17.56, 2.05, 1.01e-3), (5, 0.530, 70.3, 5.4, 4.23e-3)],
)
def test_tilting_the_benchmark(height, probability, constant, near, start):
    line, rare, value, laws = benchmark(height)
    assert laws[-1][rare].sum() == pytest.approx(probability, rel=3e-3)
    assert total_variation(laws[0], line.start) == pytest.approx(start, rel=0.02)
    ideal = on_line.clipped(line, value, np.full(line.means.shape, float(height)), laws[0])
    assert ideal.draws.mean() == pytest.approx(constant, rel=3e-3)
    assert total_variation(ideal.last, laws[-1]) < 1e-12
    # The table's "exact bound per state": the largest value within 5 standard deviations of the step.
    nearby = on_line.clipped(line, value, highest(line, value), laws[0])
    assert nearby.draws.mean() == pytest.approx(near, rel=0.02)
    assert total_variation(nearby.last, laws[-1]) < 1e-5


@pytest.mark.parametrize(
    ("bound", "delta", "draws", "steps", "end"),
    [
        (quantiles, 1e-1, 1.09, 0.115, 0.045),
        (quantiles, 1e-2, 1.26, 0.015, 0.007),
        (quantiles, 1e-3, 1.45, 0.0015, 0.0008),
        (chernoff, 1e-1, 1.27, 0.022, 0.010),
        (chernoff, 1e-2, 1.48, 0.0020, 0.0011),
        (chernoff, 1e-3, 1.68, 0.0002, 0.0001),
    ],
)
def test_oracle_baselines_of_the_benchmark(bound, delta, draws, steps, end):
    line, _, value, laws = benchmark(3)
    steered = on_line.clipped(line, value, bound(line, value, delta), laws[0])
    apart = total_variation(steered.last, laws[-1])
    assert steered.draws.mean() == pytest.approx(draws, rel=0.01)
    assert steered.variation.sum() == pytest.approx(steps, rel=0.05, abs=5e-5)
    assert apart == pytest.approx(end, rel=0.05, abs=5e-5)
    assert apart <= steered.variation.sum()


def test_svdd_on_the_benchmark():
    line, _, value, laws = benchmark(3)
    steered = on_line.selected(line, value, 32, start=laws[0])
    assert steered.variation.sum() == pytest.approx(0.020, abs=5e-4)
    assert total_variation(steered.last, laws[-1]) == pytest.approx(0.0088, abs=3e-4)


def test_bad_input():
    grid = on_line.midpoints(-1, 1, 10)
    start, means, stds = np.full(10, 0.1), np.zeros((2, 10)), np.ones(2)
    line = Line(grid, start, means, stds)
    for broken, why in [
        ((grid, start, means[:, :9], stds), "means"),
        ((grid, start, means, stds[:1]), "T 1"),
        ((grid**3, start, means, stds), "evenly"),
        ((grid[::-1], start, means, stds), "evenly"),
        ((grid, start * 2, means, stds), "sum 1"),
        ((grid, start, means, stds / 100), "too coarse"),
        ((grid, start, means, -stds), "too coarse"),
        ((grid, start, means, stds * np.nan), "too coarse"),
    ]:
        with pytest.raises(ValueError, match=why):
            Line(*broken)
    value = np.zeros((3, 10))
    with pytest.raises(ValueError, match="baselines"):
        on_line.clipped(line, value, np.zeros((3, 10)))
    with pytest.raises(ValueError, match="values"):
        on_line.clipped(line, value[:2], np.zeros((2, 10)))
    with pytest.raises(ValueError, match="not finite"):
        on_line.selected(line, value + INF, 2)
    with pytest.raises(ValueError, match="nothing is accepted"):
        on_line.clipped(line, value, np.full((2, 10), 2000.0))
    for children, alpha in [(0, 1.0), (2, 0.0), (2, float("nan"))]:
        with pytest.raises(ValueError, match="children"):
            on_line.selected(line, value, children, alpha)
    for bound in (quantiles, chernoff):
        with pytest.raises(ValueError, match="delta"):
            bound(line, value, 0.0)
