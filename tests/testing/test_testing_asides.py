"""The checks of `likelihood` and `likeliest`: for each there is a broken model that fails it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest

from italic.core.errors import ProgramError
from italic.core.protocols import Fanned, Spent, Weighed
from italic.core.questions import Extend
from italic.core.sampling import Sampling, Until
from italic.models.toy import ToyModel
from italic.testing import applicable, asides, model_checks, models, noise_checks
from italic.testing.growing import start
from italic.testing.strict import StrictModel

NEW = {*asides.aside_checks, *asides.aside_noise_checks}
OFFERS = frozenset({"resume", "cut", "entropy", "texts", "likelihood", "likeliest"})
PLAIN = Sampling(max_tokens=12)


def unchanged(batches: Any, answers: Any) -> Any:
    """Nothing is wrong."""
    return answers


@dataclass
class Odd:
    """The toy model with something wrong in what it answers: a function of the batches, and of the answers."""

    weighed: Any = unchanged
    fanned: Any = unchanged
    name: str = "odd"
    offers: frozenset[str] = OFFERS
    inner: ClassVar[ToyModel] = ToyModel()

    def start(self, prompt, seeds, sampling):
        return self.inner.start(prompt, seeds, sampling)

    def extend(self, jobs):
        return self.inner.extend(jobs)

    def likelihood(self, batches):
        return self.weighed(batches, self.inner.likelihood(batches))

    def likeliest(self, batches):
        return self.fanned([drafts for drafts, _ in batches], self.inner.likeliest(batches))


def weighed(change: Callable[[Weighed, Any], Weighed]) -> Odd:
    """A model that changes its likelihoods: `change(answer, drafts)`."""
    return Odd(weighed=lambda batches, answers: [change(a, d) for d, a in zip(batches, answers, strict=True)])


def fanned(change: Callable[[Fanned, Any], Fanned]) -> Odd:
    """A model that changes its children: `change(answer, drafts)`."""
    return Odd(fanned=lambda batches, answers: [change(a, d) for d, a in zip(batches, answers, strict=True)])


def children(change: Callable[[Any, Any], Any]) -> Odd:
    """A model that changes its children's drafts: `change(children, drafts)`."""
    return fanned(lambda answer, drafts: replace(answer, drafts=change(answer.drafts, drafts)))


def taken(answer: Fanned, index: Any) -> Fanned:
    """Some of the children."""
    return replace(answer, drafts=answer.drafts[index], parents=answer.parents[index])


def tokens_of_the_law(answer, drafts):
    """The numbers of the law that was drawn from."""
    return replace(answer, logprobs=np.where(np.isnan(answer.logprobs), np.nan, drafts.logps[:, : drafts.steps.max()]))


def after(answer, drafts):
    """The entropy after each token in place of that before it."""
    moved = np.roll(np.nan_to_num(answer.entropies), -1, axis=1)
    return replace(answer, entropies=np.where(np.isnan(answer.entropies), np.nan, moved))


def own_numbers(batches, answers):
    """Numbers that depend on the number of the batch."""
    return [replace(a, logprobs=a.logprobs - i) for i, a in enumerate(answers)]


def scribble(batches, answers):
    for drafts in batches:
        drafts.steps[:] = 0
    return answers


def childless(answer, drafts):
    """The first row has no children."""
    return taken(answer, np.flatnonzero(answer.parents > 0))


def crowded(answer, drafts):
    """Twice as many children as were asked for."""
    return taken(answer, np.tile(np.arange(len(answer.parents)), 2))


def of_all(answer, drafts):
    """Finished rows have children too."""
    done = np.flatnonzero(drafts.done)
    return replace(answer, drafts=answer.drafts.concat(drafts[done]), parents=np.append(answer.parents, done))


def another_beginning(grown, drafts):
    ids = grown.ids.copy()
    ids[grown.steps > 1, 0] = 0
    return replace(grown, ids=ids)


def one_token(grown, drafts):
    """All children have the same token."""
    ids = grown.ids.copy()
    ids[np.arange(len(ids)), grown.steps - 1] = 1
    return replace(grown, ids=ids)


def upwards(answer, drafts):
    """The least likely first."""
    return taken(answer, np.argsort(answer.parents * 100.0 - np.arange(len(answer.parents)), kind="stable"))


def swapped(answer, drafts):
    """The second and the third of each row change places."""
    rank = np.arange(len(answer.parents)) - np.searchsorted(answer.parents, answer.parents)
    return taken(answer, np.lexsort((np.array([0, 2, 1])[rank], answer.parents)))


def without_the_best(answer, drafts):
    """The likeliest is left out."""
    return taken(answer, np.flatnonzero(np.diff(answer.parents, prepend=-1) == 0))


def without_the_second(answer, drafts):
    """The second is left out, and the fourth takes its place."""
    wide = ToyModel().likeliest([(drafts, asides.K + 1)])[0]
    rank = np.arange(len(wide.parents)) - np.searchsorted(wide.parents, wide.parents)
    return taken(wide, np.flatnonzero(rank != 1))


def warped(grown, drafts):
    """Log-probabilities by the temperature of the drafts' sampling."""
    return replace(grown, logps=grown.logps / np.float32(drafts.sampling.temperature))


def fewer_in_company(batches, answers):
    """One child a row, if there are many rows."""
    return [
        taken(a, np.searchsorted(a.parents, np.unique(a.parents))) if len(d) > 1 else a
        for d, a in zip(batches, answers, strict=True)
    ]


def endless(grown, drafts):
    return replace(grown, reason=np.full(len(grown), "", dtype="<U6"))


def with_its_stop(grown, drafts):
    """The stop string counts as text."""
    return replace(grown, chars=np.full(len(grown), -1))


def reseeded(grown, drafts):
    return grown.reseed(grown.seeds + np.uint64(1))


class Forgetful(Odd):
    """A model that goes on from children with other noise."""

    def __init__(self):
        super().__init__()
        self.known = set()

    def likeliest(self, batches):
        answers = super().likeliest(batches)
        for answer in answers:
            self.known |= {tuple(tokens.tolist()) for tokens in answer.drafts.tokens}
        return answers

    def extend(self, jobs):
        changed = []
        for job in jobs:
            theirs = np.array([tuple(t.tolist()) in self.known for t in job.drafts.tokens], dtype=np.uint64)
            changed.append(replace(job, drafts=job.drafts.reseed(job.drafts.seeds + theirs)))
        answers = super().extend(changed)
        return [replace(a, drafts=a.drafts.reseed(j.drafts.seeds)) for a, j in zip(answers, jobs, strict=True)]


BROKEN = [
    (asides.likelihoods_are_a_number_a_token, lambda: Odd(weighed=lambda b, a: a[1:]), "2 answers to 3 batches"),
    (
        asides.likelihoods_are_a_number_a_token,
        lambda: weighed(lambda a, d: replace(a, entropies=a.entropies.astype(np.float32))),
        "the entropies are float32, not float64",
    ),
    (
        asides.likelihoods_are_a_number_a_token,
        lambda: weighed(lambda a, d: replace(a, logprobs=a.logprobs[1:])),
        r"the log-probabilities have the shape \(5, 0\), not \(6, 0\)",
    ),
    (
        asides.likelihoods_are_a_number_a_token,
        lambda: weighed(lambda a, d: replace(a, logprobs=np.nan_to_num(a.logprobs))),
        "are NaN in other places than behind",
    ),
    (
        asides.likelihoods_are_a_number_a_token,
        lambda: weighed(lambda a, d: replace(a, logprobs=a.logprobs + 9)),
        "log-probabilities above 0",
    ),
    (
        asides.likelihoods_are_a_number_a_token,
        lambda: weighed(lambda a, d: replace(a, entropies=a.entropies - 9)),
        "entropies below 0",
    ),
    (
        asides.likelihoods_are_a_number_a_token,
        lambda: weighed(lambda a, d: replace(a, spent=Spent(tokens=1))),
        "1 tokens were drawn to weigh",
    ),
    (asides.likelihoods_are_of_the_row_alone, lambda: Odd(weighed=own_numbers), "compared with other batches"),
    (
        asides.likelihoods_are_of_the_row_alone,
        lambda: weighed(lambda a, d: replace(a, logprobs=a.logprobs - len(d))),
        "row 0 alone",
    ),
    (
        asides.likelihoods_are_of_the_row_alone,
        lambda: weighed(lambda a, d: replace(a, entropies=a.entropies + np.arange(len(d))[:, None])),
        "rows in the order",
    ),
    (
        asides.likelihoods_are_of_the_row_alone,
        lambda: weighed(lambda a, d: replace(a, logprobs=a.logprobs - (d.seeds % np.uint64(7))[:, None])),
        "rows with new seeds",
    ),
    (asides.likelihoods_are_those_of_the_own_law, lambda: weighed(tokens_of_the_law), "at another temperature"),
    (
        asides.likelihoods_are_those_of_the_own_law,
        lambda: weighed(lambda a, d: replace(a, logprobs=2 * a.logprobs)),
        "rows that were drawn: the log-probabilities of row 0",
    ),
    (asides.entropies_are_those_that_end_an_extension, lambda: weighed(after), "steps at entropy .* but these are"),
    (asides.children_are_a_token_longer, lambda: Odd(fanned=lambda b, a: a[1:]), "2 answers to 3 batches"),
    (asides.children_are_a_token_longer, lambda: Odd(fanned=lambda b, a: a[::-1]), "not in the order of the batches"),
    (
        asides.children_are_a_token_longer,
        lambda: fanned(lambda a, d: replace(a, parents=a.parents.astype(np.int32))),
        "int32, not int64",
    ),
    (
        asides.children_are_a_token_longer,
        lambda: fanned(lambda a, d: replace(a, parents=a.parents[1:])),
        r"18 children have \(17,\) parents",
    ),
    (asides.children_are_a_token_longer, lambda: fanned(of_all), "finished rows have"),
    (asides.children_are_a_token_longer, lambda: fanned(childless), r"unfinished rows have \[0 3"),
    (asides.children_are_a_token_longer, lambda: fanned(crowded), r"unfinished rows have \[6 6"),
    (asides.children_are_a_token_longer, lambda: children(lambda c, d: c.cut(1)), "not a step longer"),
    (asides.children_are_a_token_longer, lambda: children(reseeded), "have other seeds"),
    (
        asides.children_are_a_token_longer,
        lambda: fanned(lambda a, d: replace(a, spent=Spent(tokens=len(a.parents)))),
        "the account says 18 tokens for 6 unfinished rows",
    ),
    (asides.children_begin_as_their_parents, lambda: children(another_beginning), r"a child of \[.*\] is \["),
    (
        asides.children_begin_as_their_parents,
        lambda: children(lambda c, d: replace(c, logps=np.where(c.logps, -1.0, 0).astype(np.float32))),
        "other log-probabilities before it",
    ),
    (
        asides.children_begin_as_their_parents,
        lambda: children(lambda c, d: replace(c, logps=c.logps + 9)),
        "has the log-probability",
    ),
    (asides.children_begin_as_their_parents, lambda: children(one_token), "have the same token"),
    (asides.children_are_the_likeliest, lambda: fanned(without_the_best), "the greedy one"),
    (asides.children_are_the_likeliest, lambda: fanned(swapped), "the children of row 0 are in the order"),
    (asides.children_are_the_likeliest, lambda: fanned(without_the_second), "is not among its 3 likeliest"),
    (asides.children_are_the_likeliest, lambda: children(warped), "has the log-probability"),
    (asides.children_are_of_the_row_alone, lambda: Odd(fanned=fewer_in_company), "row 0 alone: "),
    (
        asides.children_are_of_the_row_alone,
        lambda: Odd(fanned=lambda b, a: [taken(x, np.arange(len(x.parents) - i)) for i, x in enumerate(a)]),
        "a batch alone, compared with others",
    ),
    (
        asides.children_are_of_the_row_alone,
        lambda: fanned(lambda a, d: a if d.seeds[0] < d.seeds.max() else upwards(a, d)),
        "rows in the order|rows with new seeds|row . alone",
    ),
    (asides.children_end_as_drawn_rows_do, lambda: children(endless), "a child is"),
    (asides.children_end_as_drawn_rows_do, lambda: children(with_its_stop), r"stop=\('.',\).* a child is"),
    (asides.children_go_on_as_drawn_rows_do, Forgetful, "children that were extended"),
    (models.drafts_never_change, lambda: Odd(weighed=scribble), "likelihood changed the drafts"),
    (models.drafts_never_change, lambda: Odd(fanned=scribble), "likeliest changed the drafts"),
]


@pytest.mark.parametrize(("check", "make", "message"), BROKEN, ids=lambda v: getattr(v, "__name__", ""))
def test_broken_models_fail(check, make, message):
    with pytest.raises(AssertionError, match=message):
        check(make())


def test_every_check_has_a_broken_model():
    assert {check for check, _, _ in BROKEN} == NEW | {models.drafts_never_change}
    assert set(model_checks) > NEW
    assert NEW & set(noise_checks) == set(asides.aside_noise_checks)


@pytest.mark.parametrize(
    "check", [*sorted(NEW, key=lambda c: c.__name__), models.drafts_never_change], ids=lambda c: c.__name__
)
def test_the_odd_model_without_oddities_passes(check):
    check(Odd())


@pytest.mark.parametrize("ability", ["likelihood", "likeliest"])
def test_checks_apply_to_what_is_offered(ability):
    there = set(applicable(model_checks, Odd(offers=OFFERS - {ability})))
    gone = NEW - there
    assert gone == {check for check in NEW if check.__name__.startswith("children") == (ability == "likeliest")}


def test_a_strict_model_refuses_what_was_not_asked_for():
    toy, strict = ToyModel(), StrictModel(ToyModel(), frozenset({"embed"}))
    drafts = start(toy)
    with pytest.raises(ProgramError, match=r"uses likelihood .* not among its needs"):
        strict.likelihood([drafts])
    with pytest.raises(ProgramError, match=r"uses likeliest .* not among its needs"):
        strict.likeliest([(drafts, 2)])
    begun = toy.extend([Extend(drafts, Until(steps=1))])[0].drafts
    with pytest.raises(ProgramError, match="uses resume"):
        StrictModel(toy, frozenset({"likeliest"})).likeliest([(begun, 2)])


def test_a_strict_model_hands_on_what_was_asked_for():
    toy, strict = ToyModel(), StrictModel(ToyModel(), frozenset({"likelihood", "likeliest", "resume"}))
    drafts = start(toy)
    found = strict.likeliest([(strict.start(drafts.prompt, drafts.seeds, PLAIN), 2)])[0]
    wanted = toy.likeliest([(drafts, 2)])[0]
    assert found.parents.tolist() == wanted.parents.tolist()
    assert [t.tolist() for t in found.drafts.tokens] == [t.tolist() for t in wanted.drafts.tokens]
    with pytest.raises(ProgramError, match="uses texts"):
        _ = found.drafts.texts
    weighed = strict.likelihood([found.drafts])[0]
    assert np.array_equal(weighed.logprobs, toy.likelihood([wanted.drafts])[0].logprobs)
