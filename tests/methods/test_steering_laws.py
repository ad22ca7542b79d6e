"""The laws of SVDD and of sequential Monte Carlo, against exact enumeration, and their wrong neighbours."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from enumerated import ROOT, Tree, mean_is_zero, normalised, unnormalised

from italic.core.errors import ProgramError
from italic.core.keys import Key
from italic.laws import finite
from italic.laws.statistics import chi_square
from italic.laws.weights import effective_sample_size
from italic.methods import svdd as svdd_module
from italic.methods.smc import Smc
from italic.methods.svdd import Svdd
from italic.models.toy import ToyModel
from italic.values.kinds import Completions

RIGHT, WRONG = 1e-4, 1e-12
N = 20_000
TREE = Tree(ToyModel(letters=3, length=2, seed=5), beta=0.7)
WRONG_VALUES = TREE.soft + 0.7 * np.random.default_rng(0).normal(size=len(TREE.soft))
NO_VALUE = np.zeros_like(TREE.soft)


def svdd_law(children, alpha, block, values=TREE.soft):
    def kernel(v, p, worth):
        return finite.soft_best_of_n(p, worth, children, alpha) if alpha else finite.best_of_n(p, worth, children)

    return TREE.law(block, kernel, values)


def svdd(**values):
    return Svdd(**{"n": N, "children": 3, "alpha": TREE.beta, "block": 1, "value": TREE.known(), **values})


@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("children", [1, 3])
def test_svdd_is_soft_best_of_n_step_by_step(children, block):
    counts = TREE.counts(svdd(children=children, block=block), 1)
    assert chi_square(counts, svdd_law(children, TREE.beta, block)).p_value > RIGHT
    assert chi_square(counts, svdd_law(children + 1, TREE.beta, block)).p_value < WRONG
    assert chi_square(counts, TREE.tilted).p_value < WRONG
    assert (chi_square(counts, TREE.p).p_value > RIGHT) == (children == 1)


def test_svdd_with_many_children_is_the_tilted_law_if_the_values_are_right():
    assert finite.total_variation(svdd_law(400, TREE.beta, 1), TREE.tilted) < 0.005
    assert chi_square(TREE.counts(svdd(n=500, children=400), 2), TREE.tilted).p_value > RIGHT
    wrong = svdd(n=500, children=400, value=TREE.known(WRONG_VALUES))
    assert chi_square(TREE.counts(wrong, 2), TREE.tilted).p_value < WRONG


@pytest.mark.parametrize("block", [1, 2])
def test_svdd_without_temperature_is_blockwise_best_of_n(block):
    counts = TREE.counts(svdd(alpha=0.0, block=block), 3)
    assert chi_square(counts, svdd_law(3, 0.0, block)).p_value > RIGHT
    assert chi_square(counts, svdd_law(3, TREE.beta, block)).p_value < WRONG, "argmax sold as softmax"
    assert chi_square(TREE.counts(svdd(alpha=0.05, block=block), 3), svdd_law(3, 0.0, block)).p_value < WRONG


def test_svdd_whose_noise_does_not_belong_to_the_child_is_rejected(monkeypatch):
    """The same seeds for all children are refused; the same luck for all of them keeps the best."""
    real = svdd_module.children
    monkeypatch.setattr(svdd_module, "children", lambda rows, tries: real(rows, tries * 0))
    with pytest.raises(ProgramError, match="the same seed"):
        TREE.drive(svdd(n=10), 4)
    monkeypatch.undo()
    gumbel = svdd_module.gumbel
    monkeypatch.setattr(svdd_module, "gumbel", lambda heights, luck: gumbel(heights, luck * 0 + 0.5))
    counts = TREE.counts(svdd(), 4)
    assert chi_square(counts, svdd_law(3, TREE.beta, 1)).p_value < WRONG
    assert chi_square(counts, svdd_law(3, 0.0, 1)).p_value > RIGHT


@pytest.mark.parametrize("alpha", [0.0, 0.7])
@pytest.mark.parametrize("out", [-np.inf, np.nan])
def test_svdd_never_keeps_what_has_no_weight_if_it_can(alpha, out):
    gone = np.array([text.startswith("a") for text in TREE.model.prefixes()])
    tree = Tree(TREE.model, TREE.beta, given=np.where(gone, out, TREE.r))
    values = np.where(gone, out, TREE.soft)
    lowest = Tree(TREE.model, TREE.beta, given=np.where(gone, -np.inf, TREE.r))

    def kernel(v, p, worth):
        return finite.soft_best_of_n(p, worth, 3, alpha) if alpha else finite.best_of_n(p, worth, 3)

    law = lowest.law(1, kernel, np.where(gone, -np.inf, TREE.soft))
    counts = tree.counts(svdd(alpha=alpha, value=tree.known(values)), 5)
    assert 0 < law[gone].sum() < TREE.p[gone].sum() ** 2, "only where all children are out"
    assert chi_square(counts, law).p_value > RIGHT


def smc(**values):
    return Smc(**{"n": N, "particles": 4, "beta": TREE.beta, "block": 1, "value": TREE.known(), **values})


VALUES = {"exact": TREE.soft, "wrong": WRONG_VALUES, "none": NO_VALUE}


@pytest.mark.parametrize("ess", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("values", VALUES)
def test_smc_is_properly_weighted_with_few_particles(values, ess):
    """The weight of a group times its answer is unbiased, whatever the values and whenever it is resampled."""
    outcome = TREE.drive(smc(value=TREE.known(VALUES[values]), ess=ess), 6)
    assert mean_is_zero(unnormalised(TREE, outcome)) > RIGHT
    unweighted = replace(outcome, log_weights=np.zeros(N))
    assert mean_is_zero(normalised(TREE, outcome)) > RIGHT
    assert mean_is_zero(normalised(TREE, unweighted)) < WRONG, "the answers of few particles are not yet the law"


@pytest.mark.parametrize("method", [smc(block=2, particles=3), smc(particles=1), smc(value=Completions(2), n=5000)])
def test_smc_is_properly_weighted_in_other_ways(method):
    outcome = TREE.drive(method, 7)
    assert mean_is_zero(unnormalised(TREE, outcome)) > RIGHT
    assert mean_is_zero(normalised(TREE, outcome)) > RIGHT


def test_smc_with_no_weight_for_some():
    gone = np.array([text.startswith("a") for text in TREE.model.prefixes()])
    for out in (-np.inf, np.nan):
        tree = Tree(TREE.model, TREE.beta, given=np.where(gone, out, TREE.r))
        true = Tree(TREE.model, TREE.beta, given=np.where(gone, -np.inf, TREE.r))
        outcome = tree.drive(smc(value=tree.known(np.where(gone, out, TREE.soft)), ess=1.0), 8)
        assert not np.isnan(outcome.log_weights).any()
        assert mean_is_zero(unnormalised(true, outcome)) > RIGHT
        alive = outcome.log_weights > -np.inf
        assert not gone[TREE.node(outcome.drafts)][alive].any()
        dead = np.isnan(outcome.rewards) | (outcome.rewards == -np.inf)
        assert np.array_equal(dead, ~alive)
        assert alive[outcome.chosen]


@pytest.mark.parametrize("ess", [0.5, 1.0])
@pytest.mark.parametrize("values", ["exact", "wrong"])
def test_smc_with_many_particles_is_the_tilted_law(values, ess):
    few = smc(n=1500, particles=2, value=TREE.known(VALUES[values]), ess=ess)
    assert chi_square(TREE.counts(few, 9), TREE.tilted).p_value < WRONG
    outcome = TREE.drive(replace(few, particles=100), 9)
    counts = np.bincount(TREE.node(outcome.drafts), minlength=TREE.model.nodes)
    assert chi_square(counts, TREE.tilted).p_value > RIGHT
    assert np.exp(outcome.log_weights) == pytest.approx(TREE.z, rel=0.7), "and each weight is nearly Z"
    assert 0 < outcome.certificate.ess <= 100


def test_smc_resamples_below_the_size_that_was_asked_for(monkeypatch):
    sizes = []

    def listening(self, log_weights, uniforms):
        before = log_weights.copy()
        rows = real(self, log_weights, uniforms)
        sizes.append((effective_sample_size(before), np.any(log_weights != before, axis=1)))
        assert np.all(log_weights == log_weights[:, :1], axis=1)[sizes[-1][1]].all()
        assert np.log(np.exp(log_weights).mean(axis=1)) == pytest.approx(np.log(np.exp(before).mean(axis=1)))
        return rows

    real = Smc._resample
    monkeypatch.setattr(Smc, "_resample", listening)
    TREE.drive(smc(n=500, value=TREE.known(WRONG_VALUES)), 10)
    assert len(sizes) == 2
    for size, evened in sizes:
        assert np.array_equal(evened, size < 2)
        assert 0 < evened.sum() < 500


@dataclass(frozen=True)
class Dropped(Smc):
    """Forgets, at every resampling, what the weights were, and where there was none too."""

    def _resample(self, log_weights, uniforms):
        rows = super()._resample(log_weights, uniforms)
        log_weights[:] = 0.0
        return rows


@dataclass(frozen=True)
class Doubled(Smc):
    """Keeps the weights of the particles that it has just multiplied by them."""

    def _resample(self, log_weights, uniforms):
        before = log_weights.copy()
        rows = super()._resample(log_weights, uniforms)
        log_weights[:] = before.flat[rows].reshape(before.shape)
        return rows


@dataclass(frozen=True)
class OneOffset(Smc):
    """The same luck for all groups and steps."""

    def _resample(self, log_weights, uniforms):
        return super()._resample(log_weights, np.full_like(uniforms, Key(1).uniform(1)[0] / 8))


@pytest.mark.parametrize(("wrong", "ess"), [(Dropped, 0.5), (Doubled, 0.5), (OneOffset, 1.0)])
def test_wrong_resampling_is_rejected(wrong, ess):
    """Weights dropped between resamplings; weights that count twice; offsets that are not uniform."""
    method = wrong(n=N, particles=4, beta=TREE.beta, block=1, value=TREE.known(WRONG_VALUES), ess=ess)
    assert mean_is_zero(normalised(TREE, TREE.drive(method, 11))) < WRONG


def test_the_tree_is_the_same_as_for_the_other_methods():
    assert TREE.soft[ROOT] == pytest.approx(TREE.beta * np.log(TREE.z))
