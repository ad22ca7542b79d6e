"""The law of Chernoff baselines, against exact enumeration: of whole responses and block by block.

10,000 draws of one run each; given its baselines, they are independent. What is expected is the law of clipped
rejection with just these baselines, compounded over the tree: where nothing is clipped it is the tilted law, and where
much is clipped it is not, which the same test must see. The wrong variants get the same number of draws.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from enumerated import ROOT, Tree, lookup_networks, mean_is_zero, normalised, unnormalised

from italic.core.errors import ProgramError
from italic.laws import chernoff as chernoff_laws
from italic.laws import finite
from italic.laws.clipping import clipped_step, exhaustion
from italic.laws.statistics import chi_square
from italic.methods import chernoff as module
from italic.methods._clipped import Taken
from italic.methods._rows import children, replaced
from italic.methods.chernoff import Chernoff
from italic.models.toy import ToyModel
from italic.values.fitted import Fitted

pytestmark = pytest.mark.slow

RIGHT, WRONG = 1e-4, 1e-12
N, PARALLEL = 10_000, 20_000
TREE = Tree(ToyModel(letters=3, length=2, seed=5), beta=0.7)
DEEP = Tree(ToyModel(letters=2, length=4, seed=3), beta=0.7)
TOP, V0 = float(TREE.r.max()), TREE.soft[ROOT] / TREE.beta
RNG = np.random.default_rng(0)
WRONG_VALUES = TREE.soft + 0.5 * RNG.normal(size=len(TREE.soft))


def run_of(**values) -> Chernoff:
    return Chernoff(**{"beta": TREE.beta, "n": N, "parallel": PARALLEL, **values})


def fits(tree, method, law, seed=1):
    return chi_square(tree.counts(method, seed), law).p_value


@pytest.fixture
def baselines(monkeypatch):
    """The baselines that the steps of a run were made with, as they were asked for: rows [k] and nats [k]."""
    seen, real = [], module.clipped_step

    def listening(propose, b, rows, key, **options):
        seen.append((rows, b))
        return real(propose, b, rows, key, **options)

    monkeypatch.setattr(module, "clipped_step", listening)
    return seen


def test_the_tree_knows_the_model():
    texts, p = TREE.model.law(TREE.prompt, TREE.sampling)
    assert dict(zip(texts, p, strict=True)) == pytest.approx(
        {t: m for t, m in zip(TREE.model.prefixes(), TREE.p, strict=True) if m > 0}
    )
    assert np.exp(V0) == pytest.approx(TREE.z)
    for tree in (TREE, DEEP):
        for block in (1, 2, 9):
            ideal = tree.law(block, lambda v, p, worth: finite.tilt(p, worth, TREE.beta), tree.soft)
            assert ideal == pytest.approx(tree.tilted, abs=1e-12), "steps tilted by the soft value are the tilted law"
        assert finite.total_variation(tree.p, tree.tilted) > 0.4


def test_the_fast_driver_is_a_driver():
    from italic.rewards.toy import ToyReward
    from italic.run.event import event_driven
    from italic.run.ledger import Ledger

    for method in (run_of(n=40), run_of(n=40, block=1, value=DEEP.known(), proper=True), run_of(n=5, block=2)):
        fast = DEEP.drive(method, 3)
        (result,) = event_driven([DEEP.task(3)], method, DEEP.model, ToyReward(seed=1), Ledger())
        slow = result.outcome
        assert fast.drafts.texts == slow.drafts.texts
        assert fast.rewards.tolist() == slow.rewards.tolist()
        assert fast.certificate == slow.certificate
        assert (fast.log_weights is None) or np.array_equal(fast.log_weights, slow.log_weights)


@pytest.mark.parametrize("bound", [TOP, TOP + 1])
def test_a_constant_bound_gives_the_tilted_law(bound):
    method = run_of(baseline="constant", bound=bound)
    assert fits(TREE, method, TREE.tilted) > RIGHT
    blocks = replace(method, block=1, value=TREE.known())
    assert bound > TOP or fits(TREE, blocks, TREE.tilted) > RIGHT
    assert bound > TOP or fits(TREE, replace(method, beta=0.8), TREE.tilted) < WRONG


def test_a_constant_bound_that_is_too_low_clips():
    low = run_of(baseline="constant", bound=0.0)
    law = clipped_step(TREE.p, TREE.r / TREE.beta, 0.0)
    assert law.tv > 0.05
    assert fits(TREE, low, law.law) > RIGHT
    assert fits(TREE, low, TREE.tilted) < WRONG


@pytest.mark.parametrize("options", [{}, {"tv": 0.2, "pilot": 300}, {"delta": 0.3}], ids=str)
def test_the_pilot_of_whole_responses(baselines, options):
    counts = TREE.counts(run_of(**options), 2)
    ((_, b),) = baselines
    assert np.all(b == b[0]), "all draws start from one state"
    expected = clipped_step(TREE.p, TREE.r / TREE.beta, float(b[0]))
    assert chi_square(counts, expected.law).p_value > RIGHT
    assert (chi_square(counts, TREE.tilted).p_value > RIGHT) == (expected.tv < 0.01)
    if options:
        assert chi_square(counts, TREE.tilted).p_value < WRONG


@pytest.mark.parametrize(
    ("options", "asked"),
    [
        ({}, ("sharp", 0.05)),
        ({"tv": 0.3}, ("sharp", 0.3)),
        ({"tv": 0.3, "block": 2, "value": DEEP.known()}, ("sharp", 0.1)),
        ({"delta": 0.3, "block": 2, "value": DEEP.known()}, ("quantile", 0.3)),
    ],
    ids=["unsaid", "tv", "tv-of-blocks", "delta-of-blocks"],
)
def test_what_a_pilot_asks_for(baselines, monkeypatch, options, asked):
    """A share of the total variation a step, of f - V / beta of `pilot` fresh proposals; or a share of these."""
    seen = []
    for name in ("sharp", "quantile"):

        def spying(f, level, name=name):
            seen.append((name, level, len(f), getattr(chernoff_laws, name)(f, level)))
            return seen[-1][-1]

        monkeypatch.setattr(module, name, spying)
    DEEP.drive(run_of(pilot=77, n=50, **options), 4)
    assert len(seen) == len(baselines) == (3 if "block" in options else 1)
    for (name, level, pilots, tau), (_, b) in zip(seen, baselines, strict=True):
        assert (name, level, pilots) == (asked[0], pytest.approx(asked[1]), 77)
        assert np.isclose(b[:, None] - tau, [0.0, *DEEP.soft / DEEP.beta]).any(axis=1).all()


@pytest.mark.parametrize("tree", [TREE, DEEP], ids=["wide", "deep"])
@pytest.mark.parametrize("block", [1, 2])
@pytest.mark.parametrize("tv", [1e-4, 0.7])
def test_the_pilot_of_blocks(baselines, tree, block, tv):
    """One tau a step: the baselines rise and fall with the soft value, and the law is that of clipping by them."""
    counts = tree.counts(run_of(block=block, value=tree.known(), tv=tv, pilot=2000), 3)
    values = tree.soft / tree.beta
    depth = np.array([len(text) for text in tree.model.prefixes()])
    assert len(baselines) == -(-(tree.model.length + 1) // block)
    taus = np.zeros(len(baselines))
    for step, (_, b) in enumerate(baselines):
        states = values[depth == step * block]
        gaps = [np.abs(np.subtract.outer(b, states + tau)).min(axis=1).max() for tau in b[0] - states]
        assert min(gaps) < 1e-12, "every baseline is a state's value and the same tau"
        taus[step] = (b[0] - states)[np.argmin(gaps)]
    law = tree.clipped(block, values + taus[np.minimum(depth // block, len(taus) - 1)], tree.soft)
    assert chi_square(counts, law).p_value > RIGHT
    off = finite.total_variation(law, tree.tilted)
    assert off < 1e-3 if tv < 0.01 else off > 0.03
    assert (chi_square(counts, tree.tilted).p_value > RIGHT) == (tv < 0.01)


def fitted(kind, block, tau, network=False, ceiling=99.0):
    """A baseline made by hand, its networks exact for each prefix, and the baseline it gives each prefix, nats [N]."""
    blocks = TREE.model.length + 1
    worth = None if block is None else lookup_networks(TREE, block, TREE.soft / TREE.beta)
    shape = 0.3 * np.random.default_rng(4).normal(size=TREE.model.nodes)
    own = lookup_networks(TREE, block, shape) if network else None
    made = Fitted(
        kind=kind,
        beta=TREE.beta,
        block=block,
        horizon=blocks,
        tau=np.full(blocks, tau),
        ceiling=np.full(blocks, ceiling),
        value="learned",
        model="toy",
        reward="toy",
        baseline=own,
        worth=worth,
    )
    b = np.full(TREE.model.nodes, tau)
    b = b if kind == "paper" or block is None else b + TREE.soft / TREE.beta
    return made, np.minimum(b + shape if network else b, ceiling)


@pytest.mark.parametrize(
    ("kind", "network", "block"),
    [
        ("conformal", False, None),
        ("conformal", False, 1),
        ("conformal", False, 2),
        ("pinball", True, None),
        ("pinball", True, 1),
        ("paper", True, 2),
    ],
)
def test_fitted_baselines(kind, network, block):
    """So high that nothing is clipped: the tilted law. So low that much is: the law of clipping by them, exactly."""
    values = TREE.r if block is None else TREE.soft
    high, _ = fitted(kind, block, 4.0, network)
    assert fits(TREE, run_of(beta=None, baseline=high), TREE.tilted) > RIGHT
    low, b = fitted(kind, block, 0.1, network)
    law = TREE.clipped(9 if block is None else block, b, values)
    assert finite.total_variation(law, TREE.tilted) > 0.03
    counts = TREE.counts(run_of(beta=None, baseline=low), 4)
    assert chi_square(counts, law).p_value > RIGHT
    assert chi_square(counts, TREE.tilted).p_value < WRONG
    assert chi_square(counts, TREE.clipped(9 if block is None else block, b + 0.5, values)).p_value < WRONG
    if kind != "paper" and block == 1:
        other = TREE.clipped(block, b - TREE.soft / (2 * TREE.beta), values)
        assert chi_square(counts, other).p_value < WRONG, "the baseline of twice the beta"


def test_no_fitted_baseline_is_above_its_ceiling():
    made, b = fitted("pinball", 1, 1.5, network=True, ceiling=0.2)
    assert 0 < np.sum(b == 0.2) < len(b)
    counts = TREE.counts(run_of(beta=None, baseline=made), 4)
    assert chi_square(counts, TREE.clipped(1, b, TREE.soft)).p_value > RIGHT
    assert chi_square(counts, TREE.clipped(1, fitted("pinball", 1, 1.5, True)[1], TREE.soft)).p_value < WRONG


def capped_law(p, f, b, cap):
    """The first accepted of at most `cap` draws, else one of them in proportion to e^f: by listing all draws."""
    accept, weight, law = np.exp(np.minimum(f - b, 0)), np.exp(f), np.zeros(len(p))
    for draws in map(list, product(range(len(p)), repeat=cap)):
        refused = np.cumprod(np.append(1, 1 - accept[draws]))
        chance = refused[:-1] * accept[draws] + refused[-1] * weight[draws] / weight[draws].sum()
        np.add.at(law, draws, np.prod(p[draws]) * chance)
    return law


def test_the_cap_falls_back_on_what_was_tried():
    b, cap = TOP / TREE.beta, 3
    method = run_of(baseline="constant", bound=TOP, max_draws=cap)
    law = capped_law(TREE.p, TREE.r / TREE.beta, b, cap)
    assert fits(TREE, method, law) > RIGHT
    assert fits(TREE, method, TREE.tilted) < WRONG
    acceptance = clipped_step(TREE.p, TREE.r / TREE.beta, b).acceptance
    assert fits(TREE, method, finite.tilt(TREE.p, TREE.r, TREE.beta / (1 - (1 - acceptance) ** cap))) < WRONG
    found, rate = TREE.drive(method, 1).certificate, float(exhaustion(acceptance, cap))
    assert abs(found.exhaustion_rate - rate) < 4.5 * np.sqrt(rate * (1 - rate) / N)
    assert found.tv >= found.exhaustion_rate
    hopeless = run_of(baseline="constant", bound=1000.0, max_draws=cap)
    assert fits(TREE, hopeless, finite.soft_best_of_n(TREE.p, TREE.r, cap, TREE.beta)) > RIGHT
    assert TREE.drive(hopeless, 1).certificate.exhaustion_rate == 1


@pytest.mark.parametrize("out", [-np.inf, np.nan], ids=["lowest", "missing"])
@pytest.mark.parametrize("block", [None, 1])
def test_what_has_no_weight_is_never_returned(out, block):
    """Responses of reward -inf, or without a score, are out; the others have the tilted law among themselves."""
    texts = TREE.model.prefixes()
    gone = np.array([text.startswith("a") or text == "cb" for text in texts])
    true = Tree(TREE.model, TREE.beta, given=np.where(gone, -np.inf, TREE.r))
    seen = Tree(TREE.model, TREE.beta, given=np.where(gone, out, TREE.r))
    options = {} if block is None else {"block": block, "value": seen.known(np.where(gone, out, true.soft))}
    for baseline in ({"baseline": "constant", "bound": TOP}, {"tv": 1e-4, "pilot": 500}):
        assert fits(seen, run_of(**baseline, **options), true.tilted) > RIGHT
    found = seen.drive(run_of(tv=1e-4, pilot=500, **options), 1).certificate
    assert 0 <= found.tv < 0.02
    assert found.exhaustion_rate == 0


@pytest.mark.parametrize("bound", [None, 0.3])
def test_a_start_without_a_value(bound):
    """It has the same law, where nothing is clipped and where much is, as the baseline's level is all that moves."""
    values = TREE.soft.copy()
    values[ROOT] = np.nan
    how = {"tv": 1e-4, "pilot": 2000} if bound is None else {"baseline": "constant", "bound": bound}
    method = run_of(block=1, value=TREE.known(values), **how)
    law = TREE.tilted if bound is None else TREE.clipped(1, np.full(TREE.model.nodes, bound / TREE.beta), TREE.soft)
    assert fits(TREE, method, law) > RIGHT
    outcome = TREE.drive(replace(method, proper=True), 2)
    assert mean_is_zero(unnormalised(TREE, outcome)) > RIGHT, "weights are relative to a start worth nothing: 0"
    found, known = outcome.certificate, TREE.drive(replace(method, value=TREE.known(), proper=True), 2).certificate
    assert bound is None or [found.tv, *found.tv_interval] == pytest.approx([known.tv, *known.tv_interval])
    assert bound is None or known.tv > 0.1
    assert found.bellman_residual == pytest.approx(V0, abs=0.1), "and the certificate says how far that is off"


def test_what_is_missing_is_clipped_of_nothing():
    """The certificate of proposals without a score is that of proposals of weight zero, not of fewer proposals."""
    gone = np.array([text.startswith("a") or text == "cb" for text in TREE.model.prefixes()])
    worthless = Tree(TREE.model, TREE.beta, given=np.where(gone, -np.inf, TREE.r))
    missing = Tree(TREE.model, TREE.beta, given=np.where(gone, np.nan, TREE.r))
    for options in ({}, {"block": 1}):
        found = []
        for tree, out in ((worthless, -np.inf), (missing, np.nan)):
            value = {"value": tree.known(np.where(gone, out, worthless.soft))} if options else {}
            found.append(tree.drive(run_of(baseline="constant", bound=0.0, **options, **value), 1).certificate)
        assert found[0] == found[1]
        assert found[0].tv > 0.05


def plain_step(propose, b, rows, key, *, most, parallel, proper, partial, variant="right"):
    """One proposal for each waiting state, and again: clipped rejection without cunning, or a wrong variant of it."""
    assert not proper
    width = 8 if variant == "the best accepted of a round" else 1
    b = b - 1.0 if variant == "a lower baseline" else b
    at = key.at("same") if variant == "luck shared by steps" else key
    waiting, f, draws, drafts = np.arange(len(b)), np.zeros(len(b)), np.zeros(len(b), dtype=np.int64), None
    first, tested = np.zeros(0), []
    for tries in range(0, most, width):
        tried = np.arange(tries, tries + width)
        numbers = children(rows[waiting], tried)
        some, worth = yield from propose(np.repeat(waiting, width), key.at("try").seeds(numbers))
        worth = worth.reshape(-1, width)
        luck = at.at("accept").uniform(numbers if variant != "luck shared by rows" else numbers * 0 + tries)
        accepted = np.log(luck.reshape(-1, width)) < worth - b[waiting, None]
        first = worth[:, 0] if not tries else first
        tested.append(worth.ravel())
        draws[waiting] += width
        column = np.where(accepted, worth, -np.inf).argmax(axis=1) if width > 1 else np.zeros(len(waiting), np.int64)
        lucky = np.flatnonzero(accepted.any(axis=1))
        if drafts is None:
            drafts = some[::width]
        drafts = replaced(drafts, waiting[lucky], some[(np.arange(len(waiting)) * width + column)[lucky]])
        f[waiting[lucky]] = worth[lucky, column[lucky]]
        waiting = np.delete(waiting, lucky)
        if not len(waiting):
            break
    return Taken(drafts, f, draws, first, np.concatenate(tested), np.zeros(len(b), dtype=bool), np.zeros(len(b)))


def with_step(monkeypatch, variant):
    monkeypatch.setattr(module, "clipped_step", lambda *args, **kw: plain_step(*args, **kw, variant=variant))


STEPS = {"whole": {}, "blocks": {"block": 1, "value": TREE.known()}}


@pytest.mark.parametrize("how", STEPS)
def test_proposing_many_at_once_is_proposing_one_by_one(monkeypatch, how):
    method = run_of(n=3000, tv=0.1, **STEPS[how])
    clever = TREE.drive(method, 5)
    with_step(monkeypatch, "right")
    assert TREE.drive(method, 5).drafts.texts == clever.drafts.texts


@pytest.mark.parametrize("how", STEPS)
@pytest.mark.parametrize(
    "variant", ["the best accepted of a round", "a lower baseline", "luck shared by rows", "luck shared by steps"]
)
def test_wrong_steps_are_rejected(monkeypatch, how, variant):
    if variant == "luck shared by steps":
        real = plain_step

        def shared(propose, b, rows, key, **options):
            return real(propose, b, rows, TREE.task(6).key, **options)

        monkeypatch.setattr(module, "clipped_step", shared)
    else:
        with_step(monkeypatch, variant)
    method = run_of(baseline="constant", bound=TOP, **STEPS[how])
    p_value = fits(TREE, method, TREE.tilted, seed=6)
    if (variant, how) == ("luck shared by steps", "whole"):
        assert p_value > RIGHT, "there is one step"
    else:
        assert p_value < WRONG


def test_seeds_shared_by_rows_are_refused(monkeypatch):
    real = module.clipped_step
    monkeypatch.setattr(module, "clipped_step", lambda p, b, rows, key, **kw: real(p, b, rows * 0, key, **kw))
    with pytest.raises(ProgramError, match="the same seed"):
        TREE.drive(run_of(n=10), 1)


@pytest.mark.parametrize("tv", [1e-3, 0.5])
@pytest.mark.parametrize("block", [1, 2])
def test_wrong_values_bias_the_draws_and_proper_weights_mend_it(block, tv):
    """What the weights mend is both: the values, and the clipping."""
    method = run_of(block=block, value=TREE.known(WRONG_VALUES), tv=tv)
    assert fits(TREE, method, TREE.tilted) < WRONG
    outcome = TREE.drive(replace(method, proper=True), 7)
    whole = replace(outcome, log_weights=outcome.log_weights + WRONG_VALUES[ROOT] / TREE.beta)
    assert mean_is_zero(unnormalised(TREE, whole)) > RIGHT
    assert mean_is_zero(normalised(TREE, outcome)) > RIGHT
    assert mean_is_zero(normalised(TREE, replace(outcome, log_weights=np.zeros(N)))) < WRONG
    assert mean_is_zero(unnormalised(TREE, replace(whole, log_weights=whole.log_weights + 0.2))) < WRONG


@pytest.mark.parametrize("bound", [0.0, TOP])
def test_proper_weights_of_whole_responses(bound):
    outcome = TREE.drive(run_of(baseline="constant", bound=bound, proper=True), 8)
    assert mean_is_zero(unnormalised(TREE, outcome)) > RIGHT
    assert mean_is_zero(normalised(TREE, outcome)) > RIGHT
    law = clipped_step(TREE.p, TREE.r / TREE.beta, bound / TREE.beta).law
    counts = np.bincount(TREE.node(outcome.drafts), minlength=TREE.model.nodes)
    assert chi_square(counts, law).p_value > RIGHT, "the answer is the first accepted, weights or not"


def test_proper_weights_that_count_all_draws_are_rejected():
    """1 / N2 in place of 1 / (N2 - 1)."""
    outcome = TREE.drive(run_of(baseline="constant", bound=TOP, proper=True, n=20_000), 8)
    weight = np.exp(TOP / TREE.beta - outcome.log_weights)  # N2 - 1, as nothing is clipped
    assert np.allclose(weight, np.round(weight))
    wrong = replace(outcome, log_weights=outcome.log_weights - np.log1p(1 / weight))
    assert mean_is_zero(unnormalised(TREE, wrong)) < WRONG
    assert mean_is_zero(unnormalised(TREE, outcome)) > RIGHT
