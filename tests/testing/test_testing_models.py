"""The model checks: registered models pass them, and for each check there is a broken model that fails it."""

from dataclasses import dataclass, fields, replace
from functools import cache

import numpy as np
import pytest

from italic.core.drafts import TextDrafts
from italic.core.questions import Extend
from italic.core.registry import entries, find
from italic.core.sampling import FINISH
from italic.models.toy import ToyModel
from italic.testing import applicable, model_checks, noise_checks, sessions
from italic.testing import models as suite
from italic.testing.asides import aside_checks, aside_noise_checks
from italic.testing.sessions import session_checks

OPTIONS = {"toy": {}, "transformers": {"dtype": "float32", "device": "cpu"}, "gaussian": {}}
"""How each registered model is loaded here, by its module's name."""

PREVIEWS = {suite.previews_are_finished_rows, suite.previews_are_of_the_row_alone, suite.looking_ahead_changes_nothing}
TEXTS = {suite.max_tokens_is_kept, suite.texts_have_log_probabilities, suite.stop_strings_end_a_row}
ASIDES = {*aside_checks, *aside_noise_checks}
WITHOUT = {
    "toy": PREVIEWS,
    "transformers": PREVIEWS,
    "gaussian": {
        *TEXTS,
        *session_checks,
        *ASIDES,
        suite.cutting_back_and_growing_again,
        suite.entropy_ends_an_extension,
    },
}
"""The checks of what a registered model does not offer."""
CASES = [(name, check) for name in OPTIONS for check in model_checks if check not in WITHOUT[name]]


@cache
def registered(name):
    return find("models", name).load().load(**OPTIONS[name])


def test_every_registered_model_is_checked():
    ours = {name for name, entry in entries("models").items() if entry.module.startswith("italic.")}
    assert ours == set(OPTIONS), "say in OPTIONS how to load the new model"


@pytest.mark.parametrize("name", OPTIONS)
def test_all_that_a_registered_model_offers_is_checked(name):
    assert set(model_checks) - set(applicable(model_checks, registered(name))) == WITHOUT[name]


@pytest.mark.parametrize(("name", "check"), CASES, ids=[f"{name}-{check.__name__}" for name, check in CASES])
def test_registered_models_pass(name, check):
    check(registered(name))


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("check", session_checks, ids=lambda c: c.__name__)
def test_a_model_of_few_rows_passes(rows, check):
    check(ToyModel(rows=rows))


@dataclass
class Odd:
    """The toy model with something wrong: in what it starts, in the jobs it sees, or in what it answers.

    Its preview of a row is how the row goes on.
    """

    begin: object = staticmethod(lambda drafts: drafts)
    see: object = staticmethod(lambda jobs: jobs)
    answer: object = staticmethod(lambda jobs, answers: answers)
    described: object = staticmethod(lambda batches, answers: answers)
    ahead: object = staticmethod(lambda batches, answers: answers)
    name: str = "odd"
    offers: frozenset[str] = frozenset({"resume", "cut", "entropy", "texts", "preview", "embed"})
    inner = ToyModel()

    def start(self, prompt, seeds, sampling):
        return self.begin(self.inner.start(prompt, seeds, sampling))

    def extend(self, jobs):
        return self.answer(jobs, self.inner.extend(self.see(jobs)))

    def embed(self, batches):
        return self.described(batches, self.inner.embed(batches))

    def preview(self, batches):
        return self.ahead(batches, self.inner.extend([Extend(drafts) for drafts in batches]))


class OddSession:
    """A session of the toy model in which jobs are changed on their way in, or allowances ignored."""

    def __init__(self, see=lambda job, busy: job, ahead=0, obey=True, twice=False):
        self.inner, self.see, self.ahead, self.obey, self.twice = ToyModel().open(), see, ahead, obey, twice

    def submit(self, ticket, job):
        self.inner.submit(ticket, self.see(job, self.busy))

    def step(self, allowance):
        answers = self.inner.step(allowance if self.obey else None)
        return answers * 2 if self.twice else answers

    @property
    def busy(self):
        return self.inner.busy

    @property
    def hungry(self):
        return self.inner.hungry

    @property
    def generated(self):
        return self.inner.generated + self.ahead

    @property
    def calls(self):
        return self.inner.calls


class Stepping(Odd):
    """An odd model whose sessions are odder."""

    def __init__(self, **oddity):
        super().__init__()
        self.oddity = oddity

    def open(self):
        return OddSession(**self.oddity)


class Roomy(TextDrafts):
    """Drafts that always have room for one more step."""

    @property
    def room(self):
        return np.ones(len(self), dtype=np.int64)


def drafts_of(change):
    """A model whose jobs have changed drafts: `change(drafts, index of the job)`."""
    return Odd(see=lambda jobs: [replace(job, drafts=change(job.drafts, i)) for i, job in enumerate(jobs)])


def seeds_of(change):
    """A model that uses other seeds than it was given, and gives them back as they were."""

    def see(jobs):
        return [replace(j, drafts=j.drafts.reseed(change(j.drafts, i))) for i, j in enumerate(jobs)]

    def answer(jobs, answers):
        return [replace(g, drafts=g.drafts.reseed(j.drafts.seeds)) for j, g in zip(jobs, answers, strict=True)]

    return Odd(see=see, answer=answer)


def grown(change):
    """A model that changes its answers: `change(drafts before, drafts after)`."""
    return Odd(
        answer=lambda jobs, answers: [
            replace(g, drafts=change(j.drafts, g.drafts)) for j, g in zip(jobs, answers, strict=True)
        ]
    )


def described(change):
    """A model that changes its features: `change(features, drafts)`."""
    return Odd(
        described=lambda batches, answers: [
            replace(a, features=change(a.features, d)) for d, a in zip(batches, answers, strict=True)
        ]
    )


def ahead(change):
    """A model that changes its previews: `change(previews, drafts)`."""
    return Odd(
        ahead=lambda batches, answers: [
            replace(a, drafts=change(a.drafts, d)) for d, a in zip(batches, answers, strict=True)
        ]
    )


def other_previews(change):
    """A model that previews with other seeds, but rows that are done, and the seeds, come back as they were."""

    def go_on(batches, _):
        seeds = [change(drafts, i) for i, drafts in enumerate(batches)]
        answers = ToyModel().extend([Extend(d.reseed(s)) for d, s in zip(batches, seeds, strict=True)])
        return [replace(a, drafts=a.drafts.reseed(d.seeds)) for d, a in zip(batches, answers, strict=True)]

    return Odd(ahead=go_on)


def forgetful():
    """A model that goes on with other noise after each preview."""
    seen = []
    model = seeds_of(lambda drafts, _: drafts.seeds + np.uint64(len(seen)))
    model.ahead = lambda batches, answers: seen.append(0) or answers
    return model


def normalised(features, drafts):
    """Features less their mean over the batch."""
    return features - features.mean(axis=0)


def numbered(batches, answers):
    """Features that depend on the number of the batch."""
    return [replace(a, features=a.features + i) for i, a in enumerate(answers)]


def ranked(features, drafts):
    """Features that depend on the place in the batch."""
    return features + np.arange(len(drafts))[:, None]


def rounded_in_batches(features, drafts):
    """Features of which the last bits depend on the batch."""
    return features * (1 + 1e-15 * len(drafts))


def wider_for_longer_prompts(features, drafts):
    return np.pad(features, ((0, 0), (0, len(drafts.prompt_tokens))))


def with_nan(features, drafts):
    return np.where(features > 0, np.nan, features)


def counting():
    calls = iter(range(1, 10_000))
    return seeds_of(lambda drafts, _: drafts.seeds + np.uint64(next(calls)))


def one_seed(jobs, answers):
    """Every row is drawn with the seed 1."""
    model = ToyModel()
    seed = np.ones(1, dtype=np.uint64)
    whole = []
    for job, answer in zip(jobs, answers, strict=True):
        rows = [model.extend([Extend(job.drafts[[i]].reseed(seed))])[0].drafts for i in range(len(job.drafts))]
        whole.append(replace(answer, drafts=rows[0].concat(*rows[1:]).reseed(job.drafts.seeds)))
    return whole


def scribble(jobs, answers):
    for job in jobs:
        job.drafts.seeds[:] = 0
    return answers


def scribble_on(batches, answers):
    for drafts in batches:
        drafts.steps[:] = 0
    return answers


def start_over(drafts, _):
    again = (drafts.steps > 0) & ~drafts.done
    return drafts.cut(np.where(again, 0, drafts.steps)).reseed(drafts.seeds + again.astype(np.uint64))


def revive(before, after):
    """Rows that were done go on."""
    return replace(after, reason=np.where(before.done, "", after.reason))


def copy_forks(before, after):
    """Rows that went on from the same prefix go on alike."""
    first = {}
    return after[[first.setdefault(t.tobytes(), i) if len(t) else i for i, t in enumerate(before.tokens)]]


def until(change):
    return Odd(see=lambda jobs: [replace(job, until=change(job.until)) for job in jobs])


def sampling(**values):
    return drafts_of(lambda drafts, _: replace(drafts, sampling=replace(drafts.sampling, **values)))


def greedy_is_not(drafts, _):
    warm = replace(drafts.sampling, temperature=max(drafts.sampling.temperature, 0.5))
    return replace(drafts, sampling=warm)


def roomy(drafts):
    return Roomy(**{f.name: getattr(drafts, f.name) for f in fields(TextDrafts)})


def more_tokens(jobs, answers):
    return [replace(g, spent=replace(g.spent, tokens=g.spent.tokens + 1)) for g in answers]


def other_seeds(job, _=True):
    return replace(job, drafts=job.drafts.reseed(job.drafts.seeds + np.uint64(1)))


BROKEN = [
    (suite.it_says_what_it_offers, lambda: Odd(offers=frozenset({"partial"})), "offers partial"),
    (suite.it_says_what_it_offers, lambda: Odd(name=""), "name is ''"),
    (suite.it_says_what_it_offers, lambda: Odd(offers={"cut"}), "offers is a set"),
    (suite.start_gives_empty_rows, lambda: Odd(begin=lambda d: d[1:]), "2 rows for 3 seeds"),
    (suite.start_gives_empty_rows, lambda: Odd(begin=lambda d: d.reseed(d.seeds + np.uint64(1))), "changed the seeds"),
    (suite.finishing_ends_every_row, lambda: grown(lambda b, a: a.cut(1)), "were not finished"),
    (suite.finishing_ends_every_row, lambda: Odd(answer=lambda j, a: a[::-1]), "not in the order"),
    (suite.finishing_ends_every_row, lambda: Odd(answer=lambda j, a: a[1:]), "2 answers to 3 jobs"),
    (suite.finishing_ends_every_row, lambda: grown(lambda b, a: a[1:]), "5 rows came back of 6"),
    (
        suite.finishing_ends_every_row,
        lambda: Odd(answer=lambda j, a: [replace(g, stopped=True) for g in a]),
        "came back as stopped",
    ),
    (suite.the_account_is_true, lambda: Odd(answer=more_tokens), "were drawn"),
    (suite.room_is_what_is_left, lambda: Odd(begin=roomy), "has room"),
    (suite.max_tokens_is_kept, lambda: sampling(max_tokens=12), "with max_tokens=1"),
    (suite.steps_are_kept, lambda: until(lambda u: FINISH), "with steps=1"),
    (suite.steps_are_kept, lambda: until(lambda u: replace(u, steps=1)), "with steps=3"),
    (suite.asking_again_gives_the_same, counting, "the same extension twice"),
    (
        suite.rows_do_not_depend_on_the_batch,
        lambda: seeds_of(lambda d, _: d.seeds + np.uint64(len(d))),
        "row 0 alone",
    ),
    (
        suite.rows_do_not_depend_on_the_order,
        lambda: seeds_of(lambda d, _: np.arange(len(d), dtype=np.uint64)),
        "rows in the order",
    ),
    (
        suite.jobs_do_not_depend_on_one_another,
        lambda: seeds_of(lambda d, i: d.seeds + np.uint64(i)),
        "job 1 in company",
    ),
    (suite.seeds_matter, lambda: Odd(answer=one_seed), "different seeds are all"),
    (suite.drafts_never_change, lambda: Odd(answer=scribble), "extending changed the drafts"),
    (suite.drafts_never_change, lambda: Odd(described=scribble_on), "embed changed the drafts"),
    (suite.drafts_never_change, lambda: Odd(ahead=scribble_on), "preview changed the drafts"),
    (suite.growing_leaves_the_prefix, lambda: drafts_of(start_over), r"row \d+ was"),
    (
        suite.growing_leaves_the_prefix,
        lambda: grown(revive),
        "came back unfinished",
    ),
    (
        suite.pieces_are_the_whole,
        lambda: seeds_of(lambda d, _: d.seeds + d.steps.astype(np.uint64)),
        "rows grown by 1 steps at a time",
    ),
    (suite.forks_are_rows_of_their_own, lambda: grown(copy_forks), "forks of a row|alone, compared"),
    (
        suite.cutting_back_and_growing_again,
        lambda: seeds_of(lambda d, _: d.seeds + (d.steps > 0)),
        "cut to half and grown again",
    ),
    (suite.entropy_ends_an_extension, lambda: until(lambda u: replace(u, entropy=None)), "ended after"),
    (
        suite.texts_have_log_probabilities,
        lambda: grown(lambda b, a: replace(a, logps=a.logps + 9)),
        "log-probabilities",
    ),
    (suite.texts_have_log_probabilities, lambda: drafts_of(greedy_is_not), "greedy rows"),
    (suite.stop_strings_end_a_row, lambda: sampling(stop=()), "with the stop string"),
    (suite.features_are_a_row_each, lambda: Odd(described=lambda b, a: a[1:]), "2 answers to 3 batches"),
    (suite.features_are_a_row_each, lambda: described(lambda f, d: f[1:]), "features of 6 rows have the shape"),
    (suite.features_are_a_row_each, lambda: described(lambda f, d: f[:, 0]), "features of 6 rows have the shape"),
    (suite.features_are_a_row_each, lambda: described(lambda f, d: f[:, :0]), "features of 6 rows have the shape"),
    (suite.features_are_a_row_each, lambda: described(lambda f, d: f.astype(np.float32)), "float32, not float64"),
    (suite.features_are_a_row_each, lambda: described(with_nan), "NaN or infinite"),
    (suite.features_are_a_row_each, lambda: described(wider_for_longer_prompts), "different numbers of features"),
    (suite.features_are_a_row_each, lambda: Odd(described=more_tokens), "1 tokens were drawn to embed"),
    (suite.features_are_of_the_row_alone, lambda: described(normalised), "row 0 alone: the features differ"),
    (suite.features_are_of_the_row_alone, lambda: described(rounded_in_batches), "row 0 alone: the features differ"),
    (suite.features_are_of_the_row_alone, lambda: described(ranked), "rows in the order"),
    (suite.features_are_of_the_row_alone, lambda: Odd(described=numbered), "compared with other batches"),
    (
        suite.features_do_not_depend_on_the_seed,
        lambda: described(lambda f, d: f + (d.seeds % np.uint64(7))[:, None]),
        "forks with new seeds",
    ),
    (suite.previews_are_finished_rows, lambda: Odd(ahead=lambda b, a: a[1:]), "2 previews of 3 batches"),
    (suite.previews_are_finished_rows, lambda: Odd(ahead=lambda b, a: a[::-1]), "not in the order"),
    (suite.previews_are_finished_rows, lambda: ahead(lambda a, d: a[1:]), "5 rows came back of 6"),
    (suite.previews_are_finished_rows, lambda: ahead(lambda a, d: d), "are not finished"),
    (
        suite.previews_are_finished_rows,
        lambda: Odd(ahead=lambda b, a: [replace(g, stopped=True) for g in a]),
        "came back as stopped",
    ),
    (suite.previews_are_finished_rows, lambda: ahead(lambda a, d: a[::-1]), "the previews of finished rows"),
    (
        suite.previews_are_of_the_row_alone,
        lambda: other_previews(lambda d, _: d.seeds + np.uint64(len(d))),
        "the preview of row 0 alone",
    ),
    (
        suite.previews_are_of_the_row_alone,
        lambda: other_previews(lambda d, _: np.arange(len(d), dtype=np.uint64)),
        "previews in the order",
    ),
    (
        suite.previews_are_of_the_row_alone,
        lambda: other_previews(lambda d, i: d.seeds + np.uint64(i)),
        "compared with other batches",
    ),
    (suite.looking_ahead_changes_nothing, forgetful, "rows that were previewed, then grown"),
    (sessions.a_session_gives_what_extend_gives, lambda: Stepping(see=other_seeds), "in a session"),
    (sessions.a_session_gives_what_extend_gives, lambda: Stepping(twice=True), "were answered as"),
    (sessions.a_session_counts_its_work, lambda: Stepping(ahead=1), "has generated 1 tokens"),
    (
        sessions.jobs_may_come_late,
        lambda: Stepping(see=lambda job, busy: other_seeds(job) if busy else job),
        "submitted while others",
    ),
    (sessions.an_allowance_is_never_exceeded, lambda: Stepping(obey=False), "with an allowance of 0"),
]


@pytest.mark.parametrize(("check", "make", "message"), BROKEN, ids=lambda v: getattr(v, "__name__", ""))
def test_broken_models_fail(check, make, message):
    with pytest.raises(AssertionError, match=message):
        check(make())


def test_every_check_has_a_broken_model():
    assert {check for check, _, _ in BROKEN} == set(model_checks) - ASIDES, "test_testing_asides.py has the others"
    assert set(noise_checks) < set(model_checks)


@pytest.mark.parametrize("check", applicable(model_checks, Odd()), ids=lambda c: c.__name__)
def test_the_odd_model_without_oddities_passes(check):
    check(Odd())


@pytest.mark.parametrize("check", session_checks, ids=lambda c: c.__name__)
def test_the_odd_session_without_oddities_passes(check):
    check(Stepping())


def test_checks_apply_to_what_is_offered():
    plain = applicable(model_checks, Odd(offers=frozenset()))
    assert suite.pieces_are_the_whole not in plain
    assert not (PREVIEWS | TEXTS | ASIDES) & set(plain)
    assert suite.features_are_a_row_each not in plain
    assert not set(session_checks) & set(plain)
    assert suite.cutting_back_and_growing_again not in applicable(model_checks, Odd(offers=frozenset({"resume"})))
