"""What a model must do that weighs tokens (`likelihood`) or lists them (`likeliest`): the contracts of `Weighed` and
`Fanned`. Both speak of the model's own law, whatever the drafts' sampling.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts, TextDrafts
from italic.core.keys import Key
from italic.core.protocols import Fanned, Model, Weighed
from italic.core.sampling import Sampling, Until
from italic.testing.checks import Check, expect, expect_same, only_if, rows
from italic.testing.growing import ROWS, SAMPLING, grow, offers, some_states, start

K = 3
MANY = 8
COLD = replace(SAMPLING, temperature=0.5, top_k=2)
"""A law of which neither weights nor ranks are the model's own."""


def weigh(model: Any, *batches: Drafts) -> list[Weighed]:
    """The likelihoods of each batch."""
    return list(model.likelihood(batches))


def fan(model: Any, *batches: Drafts, k: int = K) -> list[Fanned]:
    """The k likeliest children of each row of each batch."""
    return list(model.likeliest([(drafts, k) for drafts in batches]))


def going(drafts: Any) -> Any:
    """The unfinished rows."""
    return drafts[np.flatnonzero(~drafts.done)]


def inside(drafts: Drafts) -> NDArray[np.bool_]:
    """Where rows have tokens: bool [n, L]."""
    return np.arange(int(drafts.steps.max(initial=0))) < drafts.steps[:, None]


@only_if(offers("likelihood"))
def likelihoods_are_a_number_a_token(model: Model) -> None:
    """likelihood: float64 [n, L], NaN behind a row's end and nowhere else; nothing is drawn for it."""
    batches = some_states(model)
    answers = weigh(model, *batches)
    expect(len(answers) == len(batches), f"{len(answers)} answers to {len(batches)} batches of drafts")
    for drafts, answer in zip(batches, answers, strict=True):
        there = inside(drafts)
        for what, numbers in (("log-probabilities", answer.logprobs), ("entropies", answer.entropies)):
            expect(numbers.dtype == np.float64, f"the {what} are {numbers.dtype}, not float64")
            expect(numbers.shape == there.shape, f"the {what} have the shape {numbers.shape}, not {there.shape}")
            wrong = np.isnan(numbers) == there
            expect(not wrong.any(), f"the {what} of rows of {drafts.steps} steps are NaN in other places than behind")
        expect(np.all(answer.logprobs[there] <= 1e-6), "there are log-probabilities above 0")
        expect(np.all(answer.entropies[there] >= -1e-6), "there are entropies below 0")
        expect(answer.spent.tokens == 0, f"the account says that {answer.spent.tokens} tokens were drawn to weigh them")


@only_if(offers("likelihood"))
def likelihoods_are_of_the_row_alone(model: Model) -> None:
    """A row's numbers do not depend on the batch, the order, other batches or the seed, but for rounding."""
    batches = some_states(model)
    for drafts, told in zip(batches, weigh(model, *batches), strict=True):
        order = np.random.default_rng(0).permutation(len(drafts))
        _expect_weighed(weigh(model, drafts)[0], told, "a batch alone, compared with other batches")
        _expect_weighed(weigh(model, drafts[order])[0], told, f"rows in the order {order}", order)
        for i in range(len(drafts)):
            _expect_weighed(weigh(model, drafts[[i]])[0], told, f"row {i} alone", np.array([i]))
        seeds = Key(12).seeds(len(drafts))
        _expect_weighed(weigh(model, drafts.reseed(seeds))[0], told, "rows with new seeds")


def _expect_weighed(got: Weighed, wanted: Weighed, otherwise: str, index: Any = slice(None)) -> None:
    for mine, theirs in ((got.logprobs, wanted.logprobs[index]), (got.entropies, wanted.entropies[index])):
        width = mine.shape[1]
        same = np.allclose(mine, theirs[:, :width], rtol=0, atol=1e-3, equal_nan=True)
        expect(same and np.isnan(theirs[:, width:]).all(), f"{otherwise}: {mine} instead of {theirs}")


@only_if(offers("likelihood", "texts"))
def likelihoods_are_those_of_the_own_law(model: Model) -> None:
    """Without temperature and truncation the numbers are those of the draft; with them they do not change."""
    drafts = grow(model, start(model))
    _expect_logprobs(weigh(model, drafts)[0].logprobs, drafts, "rows that were drawn")
    cold = grow(model, start(model, sampling=COLD))
    own = weigh(model, replace(cold, sampling=SAMPLING, logps=np.zeros_like(cold.logps)))[0]
    _expect_weighed(weigh(model, cold)[0], own, "rows at another temperature")


def _expect_logprobs(numbers: NDArray[np.float64], drafts: TextDrafts, otherwise: str) -> None:
    for i, logps in enumerate(drafts.logprobs):
        close = np.allclose(numbers[i, : len(logps)], logps, atol=1e-3)
        expect(close, f"{otherwise}: the log-probabilities of row {i} are {numbers[i]} instead of {logps}")


@only_if(offers("likelihood", "entropy"))
def entropies_are_those_that_end_an_extension(model: Model) -> None:
    """With until.entropy a row ends before its first token, but the very first, whose entropy is at least that."""
    whole = grow(model, start(model))
    entropies = weigh(model, whole)[0].entropies
    heights = np.sort(entropies[inside(whole)])
    between = ((heights[1:] + heights[:-1]) / 2)[np.diff(heights) > 1e-3]
    for limit in between[np.linspace(0, len(between) - 1, min(len(between), 4), dtype=np.int64)].tolist():
        steps = grow(model, start(model), Until(entropy=limit)).steps
        for i, row in enumerate(entropies):
            high = np.flatnonzero(row[1:] >= limit) + 1
            wanted = high[0] if len(high) else whole.steps[i]
            expect(steps[i] == wanted, f"row {i} ends after {steps[i]} steps at entropy {limit}, but these are {row}")


@only_if(offers("likeliest"))
def children_are_a_token_longer(model: Model) -> None:
    """likeliest: 1 to k children of each unfinished row, each a step longer, with its seed; none of the others."""
    batches = some_states(model)
    answers = fan(model, *batches)
    expect(len(answers) == len(batches), f"{len(answers)} answers to {len(batches)} batches of drafts")
    for drafts, answer in zip(batches, answers, strict=True):
        children, parents = answer.drafts, answer.parents
        expect(children.prompt == drafts.prompt, "the answers are not in the order of the batches")
        expect(parents.dtype == np.int64, f"the parents are {parents.dtype}, not int64")
        expect(parents.shape == (len(children),), f"{len(children)} children have {parents.shape} parents")
        each = np.bincount(parents, minlength=len(drafts))
        expect(not each[drafts.done].any(), f"finished rows have {each[drafts.done]} children")
        right = (each >= 1) & (each <= K)
        expect(right[~drafts.done].all(), f"unfinished rows have {each[~drafts.done]} children with k={K}")
        expect(np.array_equal(children.steps, drafts.steps[parents] + 1), "the children are not a step longer")
        expect(np.array_equal(children.seeds, drafts.seeds[parents]), "the children have other seeds")
        paid, wanted = answer.spent.tokens, int(np.sum(~drafts.done))
        expect(paid == wanted, f"the account says {paid} tokens for {wanted} unfinished rows")


@only_if(offers("likeliest", "texts"))
def children_begin_as_their_parents(model: Model) -> None:
    """A child has its parent's tokens and log-probabilities, and then a token that no other child has."""
    for drafts in some_states(model):
        answer = fan(model, drafts)[0]
        told = zip(answer.parents.tolist(), answer.drafts.tokens, answer.drafts.logprobs, strict=True)
        seen = set()
        for parent, tokens, logps in told:
            before = drafts.tokens[parent]
            expect(np.array_equal(tokens[:-1], before), f"a child of {before} is {tokens}")
            expect(np.array_equal(logps[:-1], drafts.logprobs[parent]), "a child has other log-probabilities before it")
            expect(np.isfinite(logps[-1]) and logps[-1] <= 1e-6, f"a child has the log-probability {logps[-1]}")
            seen.add((parent, int(tokens[-1])))
        expect(len(seen) == len(answer.parents), "two children of one row have the same token")


@only_if(offers("likeliest", "texts"))
def children_are_the_likeliest(model: Model) -> None:
    """The likeliest first, from the greedy one down; no token that is drawn is likelier than the least of them."""
    parents = going(grow(model, start(model), Until(steps=2)))
    expect(len(parents), "all rows ended within 2 steps: give a model, or prompts, with longer responses")
    greedy = grow(model, replace(parents, sampling=replace(SAMPLING, temperature=0.0)), Until(steps=1))
    forks = parents[np.repeat(np.arange(len(parents)), MANY)].reseed(Key(14).seeds(MANY * len(parents)))
    drawn = grow(model, forks, Until(steps=1))
    for law in (SAMPLING, COLD):
        answer = fan(model, replace(parents, sampling=law))[0]
        for i in range(len(parents)):
            mine = np.flatnonzero(answer.parents == i)
            found = {int(answer.drafts.tokens[j][-1]): float(answer.drafts.logprobs[j][-1]) for j in mine}
            logps = list(found.values())
            first, best = next(iter(found)), int(greedy.tokens[i][-1])
            expect(first == best, f"the likeliest token of row {i} is {first}, the greedy one {best}")
            expect(logps == sorted(logps, reverse=True), f"the children of row {i} are in the order {logps}")
            for j in range(MANY * i, MANY * i + MANY):
                token, logp = int(drawn.tokens[j][-1]), float(drawn.logprobs[j][-1])
                close = abs(found.get(token, logp) - logp) <= 1e-3
                expect(close, f"the token {token} of row {i} has the log-probability {found.get(token)}, drawn {logp}")
                missed = len(logps) == K and logp <= logps[-1] + 1e-3
                expect(token in found or missed, f"the token {token} of row {i} is not among its {K} likeliest")


@only_if(offers("likeliest"))
def children_are_of_the_row_alone(model: Model) -> None:
    """A row's children do not depend on the batch, the order, other batches, its seed or on what was asked before."""
    batches = some_states(model)
    for drafts, answer in zip(batches, fan(model, *batches), strict=True):
        _expect_fanned(fan(model, drafts)[0], answer, np.arange(len(drafts)), "a batch alone, compared with others")
        order = np.random.default_rng(0).permutation(len(drafts))
        _expect_fanned(fan(model, drafts[order])[0], answer, order, f"rows in the order {order}")
        for i in range(len(drafts)):
            _expect_fanned(fan(model, drafts[[i]])[0], answer, np.array([i]), f"row {i} alone")
        seeds = Key(15).seeds(len(drafts))
        other = fan(model, drafts.reseed(seeds))[0]
        reseeded = replace(answer, drafts=answer.drafts.reseed(seeds[answer.parents]))
        _expect_fanned(other, reseeded, np.arange(len(drafts)), "rows with new seeds")


def _expect_fanned(got: Fanned, wanted: Fanned, index: NDArray[np.int64], what: str) -> None:
    """The children of row i of `got` are those of row index[i] of `wanted`."""
    for i, row in enumerate(index):
        mine, theirs = np.flatnonzero(got.parents == i), np.flatnonzero(wanted.parents == row)
        expect_same(got.drafts[mine], wanted.drafts[theirs], f"the children of row {row}, {what}")


@only_if(offers("likeliest", "texts"))
def children_end_as_drawn_rows_do(model: Model) -> None:
    """A child has the end and the text of the row that was drawn with its token: by itself, stop string or length."""
    free = grow(model, start(model, MANY * ROWS), Until(steps=1))
    stop = next((text[0] for text in free.texts if text), None)
    expect(stop is not None, "no response begins with a character: give a model, or prompts, with longer responses")
    for sampling in (SAMPLING, replace(SAMPLING, max_tokens=1), replace(SAMPLING, stop=(stop or "",))):
        drawn = grow(model, start(model, MANY * ROWS, sampling=sampling), Until(steps=1))
        _expect_ends(model, sampling, drawn)


def _expect_ends(model: Model, sampling: Sampling, drawn: TextDrafts) -> None:
    answer = fan(model, start(model, 1, sampling=sampling), k=MANY)[0]
    assert isinstance(answer.drafts, TextDrafts)
    children = {int(tokens[-1]): row for tokens, row in zip(answer.drafts.tokens, rows(answer.drafts), strict=True)}
    for tokens, row in zip(drawn.tokens, rows(drawn), strict=True):
        child = children.get(int(tokens[-1]), row)
        expect(child == row, f"with {sampling} a child is {child}, the row that was drawn {row}")


@only_if(offers("likeliest", "texts", "resume"))
def children_go_on_as_drawn_rows_do(model: Model) -> None:
    """A child whose token is the one that its parent draws next goes on as its parent."""
    parents = going(grow(model, start(model), Until(steps=2)))
    drawn = grow(model, parents, Until(steps=1))
    answer = fan(model, parents, k=MANY)[0]
    assert isinstance(answer.drafts, TextDrafts)
    last = np.array([tokens[-1] for tokens in answer.drafts.tokens])
    wanted = np.array([tokens[-1] for tokens in drawn.tokens])
    same = np.flatnonzero(last == wanted[answer.parents])
    expect(len(same), f"no token that was drawn is among the {MANY} likeliest: give a model of a smaller vocabulary")
    whole = grow(model, parents)[answer.parents[same]]
    expect_same(grow(model, answer.drafts[same]), whole, "children that were extended, compared with their parents")


aside_checks: tuple[Check, ...] = (
    likelihoods_are_a_number_a_token,
    likelihoods_are_of_the_row_alone,
    likelihoods_are_those_of_the_own_law,
    children_are_a_token_longer,
    children_begin_as_their_parents,
    children_are_the_likeliest,
    children_are_of_the_row_alone,
    children_end_as_drawn_rows_do,
)

aside_noise_checks: tuple[Check, ...] = (
    entropies_are_those_that_end_an_extension,
    children_go_on_as_drawn_rows_do,
)
"""These hold for models whose noise is a function of (seed, position)."""
