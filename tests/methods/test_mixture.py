"""Chernoff baselines on a chain whose exact laws follow by quadrature: fits, samples, certificates, weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.laws import line as lines
from italic.laws.finite import total_variation
from italic.laws.statistics import chi_square
from italic.methods.chernoff import Chernoff
from italic.methods.svdd import Svdd
from italic.models.gaussian import load
from italic.rewards.region import Region
from italic.run.align import make_tasks, stream
from italic.run.conclude import conclude
from italic.run.ledger import Ledger
from italic.train.baseline import FitBaseline, fit_baseline
from italic.train.regression import Recipe
from italic.values.kinds import Known

B, EDGE, DELTA = 3.0, -7.0, 0.01
MODEL = replace(load(steps=12), features=(0,))
REWARD = Region(B, below=EDGE)
GRID = lines.midpoints(-15, 15, 750)
LINE = lines.Line(GRID, lines.normal(GRID), *MODEL.line_means(GRID))
F = np.where(GRID < EDGE, B, 0.0)
VALUES = lines.values(LINE, F)
TARGET = lines.tilted(LINE, F)[-1]
EVENT = TARGET[GRID < EDGE].sum()
SMALL = Recipe(hidden=(32, 32), steps=150)


def known(share):
    """The exact value times `share`: the exact one is right, another is not."""

    def function(drafts):
        found = np.empty(len(drafts))
        for step in np.unique(drafts.steps):
            rows = drafts.steps == step
            found[rows] = share * np.interp(drafts.x[rows, 0], GRID, VALUES[step])
        return found

    return Known(function)


def fitted(kind, value=None, delta=DELTA, **settings):
    value = known(1.0) if value is None else value
    wanted = {"states": 2000, "proposals": 2, "recipe": SMALL, "kind": kind, "value": value, "delta": delta}
    tasks = make_tasks([Prompt("fit", text="")], MODEL, 0, Sampling())
    asking = fit_baseline(tasks, FitBaseline(block=1, **wanted | settings), (MODEL.name, REWARD.name))
    return conclude(asking, MODEL, REWARD, Ledger())


def baselines(fit, values):
    """The baselines of a fit on the grid: [T, m]."""
    found = []
    for step, tau in enumerate(fit.tau):
        b = tau + (0.0 if fit.kind == "paper" else values[step]) + np.zeros(len(GRID))
        if fit.baseline is not None:
            b = b + fit.baseline(GRID[:, None], np.full(len(GRID), step))
        found.append(np.minimum(b, fit.ceiling[step]))
    return np.array(found)


def draw(method, prompts=1, seed=1):
    names = [Prompt(str(i), text="") for i in range(prompts)]
    return [result.outcome for result in stream(names, MODEL, REWARD, method, seed=seed, driver="lockstep")]


def counted(x, law, cells=20):
    cuts = np.unique(np.searchsorted(np.cumsum(TARGET), np.arange(1, cells) / cells))
    borders = (GRID[cuts] + GRID[cuts - 1]) / 2
    seen = np.bincount(np.searchsorted(borders, x), minlength=len(borders) + 1)
    return seen, np.bincount(np.searchsorted(borders, GRID), weights=law, minlength=len(borders) + 1)


@pytest.mark.parametrize("kind", ["conformal", "pinball", "paper"])
def test_samples_of_a_fitted_baseline_have_the_law_that_quadrature_says(kind):
    fit = fitted(kind)
    steered = lines.clipped(LINE, VALUES, baselines(fit, VALUES))
    (outcome,) = draw(Chernoff(baseline=fit, n=20_000, parallel=20_000))
    assert chi_square(*counted(outcome.drafts.x[:, 0], steered.last)).p_value > 1e-3
    assert chi_square(*counted(outcome.drafts.x[:, 0], lines.marginals(LINE)[-1])).p_value < 1e-12
    assert outcome.certificate.mean_draws == pytest.approx(steered.draws.mean(), rel=0.03)
    assert steered.draws.mean() < 0.3 * np.mean(np.exp(B - VALUES[:-1]) @ TARGET)
    assert total_variation(steered.last, TARGET) < 0.05 < total_variation(lines.marginals(LINE)[-1], TARGET)


def test_a_network_is_cheaper_than_a_number_at_the_same_clipping():
    number, network = (lines.clipped(LINE, VALUES, baselines(fitted(k), VALUES)) for k in ("conformal", "pinball"))
    assert network.draws.mean() < number.draws.mean()
    assert network.variation.sum() < 1.2 * number.variation.sum()


def test_a_learned_value_is_nearly_the_exact_one():
    fit = fitted("pinball", "learned", trajectories=2000, recipe=replace(SMALL, hidden=(64, 64)))
    assert fit.worth is not None
    values = np.array([*(fit.worth(GRID[:, None], np.full(len(GRID), t)) for t in range(len(fit.tau))), F])
    steered = lines.clipped(LINE, values, baselines(fit, values))
    assert total_variation(steered.last, TARGET) < 0.04 < total_variation(lines.marginals(LINE)[-1], TARGET)
    (outcome,) = draw(Chernoff(baseline=fit, n=5000, parallel=5000))
    assert chi_square(*counted(outcome.drafts.x[:, 0], steered.last)).p_value > 1e-3


def test_svdd_has_the_law_that_quadrature_says():
    (outcome,) = draw(Svdd(n=20_000, children=4, alpha=1.0, block=1, value=known(1.0)))
    assert chi_square(*counted(outcome.drafts.x[:, 0], lines.selected(LINE, VALUES, 4).last)).p_value > 1e-3
    assert chi_square(*counted(outcome.drafts.x[:, 0], TARGET)).p_value < 1e-6


def test_certificates_cover_the_true_total_variation():
    """400 runs of 200 samples: the interval has the TV of the finished law, the upper limit is above the steps' sum."""
    fit = fitted("conformal", delta=0.02)
    steered = lines.clipped(LINE, VALUES, baselines(fit, VALUES))
    truth, total = total_variation(steered.last, TARGET), steered.variation.sum()
    intervals = [o.certificate.tv_interval for o in draw(Chernoff(baseline=fit, n=200, parallel=200), prompts=400)]
    low, high = np.array(intervals).T
    assert len(low) == 400
    assert np.mean((low <= truth) & (truth <= high)) >= 0.95
    assert np.mean(high >= total) >= 0.95
    assert np.mean(high) < 10 * total, "the limit says something"


def test_proper_weights_mend_a_wrong_value():
    method = Chernoff(block=1, value=known(0.5), pilot=2000, delta=0.02, n=20_000, parallel=20_000)
    (plain,), (proper,) = draw(method), draw(replace(method, proper=True))
    event = plain.drafts.x[:, 0] < EDGE
    assert abs(event.mean() - EVENT) > 8 * np.sqrt(EVENT / len(event)), "the value is wrong, and it shows"
    w = np.exp(proper.log_weights - proper.log_weights.max())
    event = proper.drafts.x[:, 0] < EDGE
    share = np.sum(w * event) / np.sum(w)
    error = np.sqrt(np.sum((w * (event - share)) ** 2)) / np.sum(w)
    assert error < 0.02
    assert abs(share - EVENT) < 3.5 * error


def test_the_certificate_counts_what_the_start_is_off_by():
    """Exact steps from a start that is not tilted: all that is lost is the start's own total variation."""
    method = Chernoff(
        baseline="constant", bound=B, block=1, value=known(1.0), n=20_000, parallel=20_000, max_draws=10**6
    )
    (outcome,) = draw(method)
    truth = total_variation(lines.tilted(LINE, F)[0], LINE.start)
    assert truth > 5e-4
    assert outcome.certificate.tv == pytest.approx(truth, rel=0.15)
    assert outcome.certificate.clip_rate < 1e-4
