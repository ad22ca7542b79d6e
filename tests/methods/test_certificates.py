"""What the certificates of Chernoff baselines claim, over 400 runs each: intervals that cover the exact truth."""

from __future__ import annotations

import numpy as np
import pytest
from enumerated import ROOT, Tree

from italic.laws import finite
from italic.laws.clipping import certify, clipped_step
from italic.methods.chernoff import Chernoff
from italic.models.toy import ToyModel
from italic.values.fitted import Fitted
from italic.values.kinds import Known

RUNS, DRAWS = 400, 200
SHALLOW = Tree(ToyModel(letters=3, length=1, seed=0), beta=0.7)
TREE = Tree(ToyModel(letters=2, length=2, seed=3), beta=0.7)


def intervals(tree, method):
    """The total variation and its interval, float64 [runs, 3], of runs with seeds of their own."""
    found = [tree.drive(method, 1000 + seed).certificate for seed in range(RUNS)]
    assert all(c.exhaustion_rate == 0 and c.tv_interval[0] <= c.tv <= c.tv_interval[1] for c in found)
    return np.array([(c.tv, *c.tv_interval) for c in found])


@pytest.mark.parametrize("bound", [0.8, 0.6, 0.4])
def test_whole_responses(bound):
    """The lower the bound, the more is clipped: a total variation of 0.016, 0.042 and 0.074."""
    truth = clipped_step(TREE.p, TREE.r / TREE.beta, bound / TREE.beta)
    assert 0.01 < truth.tv < 0.1
    tv, low, high = intervals(TREE, Chernoff(TREE.beta, n=DRAWS, baseline="constant", bound=bound, parallel=1000)).T
    assert abs(tv.mean() - truth.tv) < 0.05 * truth.tv
    assert np.mean((low <= truth.tv) & (truth.tv <= high)) >= 0.95
    assert np.mean(high - low) < truth.tv, "and it says something"
    assert np.mean(high < 2 * truth.tv) > 0.95
    assert np.mean(low > truth.tv / 2) > 0.95


def test_the_interval_of_a_fixed_number_of_draws():
    """At its nominal level: 4,000 times 369 draws, as many as 200 accepted ones take, where much is clipped."""
    f, b, rng = TREE.r / TREE.beta, 0.4 / TREE.beta, np.random.default_rng(0)
    truth = float(clipped_step(TREE.p, f, b).tv)
    found = [certify(f[rng.choice(len(f), p=TREE.p, size=369)], b) for _ in range(4000)]
    assert np.mean([c.low <= truth <= c.high for c in found]) > 0.945


class WithSoftValues(Fitted):
    """A fitted baseline whose values are exact."""

    tree: Tree

    @property
    def valued(self) -> Known:
        return self.tree.known()


def exact(tree, block, tau):
    """Of the baseline V / beta + tau: the total variation of the response, and the expected sum of its steps' HS_M."""
    b, lost = tree.soft / tree.beta + tau, 0.0
    law = tree.clipped(block, b, tree.soft)
    reached = np.zeros(tree.model.nodes)
    reached[ROOT] = 1.0
    for v in range(tree.model.nodes):
        if reached[v] == 0:
            continue
        ends = tree.ahead(v, block)
        worth = np.array([tree.r[w] if done else tree.soft[w] for w, done, _ in ends])
        step = clipped_step(np.array([p for *_, p in ends]), worth / tree.beta, b[v])
        lost += reached[v] * step.hs
        for (w, done, _), chance in zip(ends, step.law, strict=True):
            reached[w] += reached[v] * chance * (not done)
    return finite.total_variation(law, tree.tilted), lost


@pytest.mark.parametrize(("tree", "block", "tau"), [(SHALLOW, 1, 0.5), (TREE, 2, 0.55)], ids=["shallow", "blocks"])
def test_blocks(tree, block, tau):
    truth, bound = exact(tree, block, tau)
    assert 0.01 < truth < bound < 0.2
    blocks = tree.model.length + 1
    made = WithSoftValues(
        kind="conformal",
        beta=tree.beta,
        block=block,
        horizon=blocks,
        tau=np.full(blocks, tau),
        ceiling=np.full(blocks, 99.0),
        value="known",
        model="toy",
        reward="toy",
    )
    object.__setattr__(made, "tree", tree)
    tv, low, high = intervals(tree, Chernoff(n=DRAWS, baseline=made, parallel=1000)).T
    assert np.mean((low <= truth) & (truth <= high)) >= 0.95
    assert np.mean(high >= bound) >= 0.95
    assert abs(tv.mean() - bound) < 0.05 * bound
    assert np.mean(high) < bound + 0.1, "and it says something"
