"""What every model must do: the contract of `italic.core.protocols.Model`, one check a sentence of it.

The checks ask for short responses, with seeds of their own. sampling: how; prompts: to what. Drafts need not be text:
of latents, the checks compare every bit, and what `Sampling` says is left to the model.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts, TextDrafts
from italic.core.keys import Key
from italic.core.protocols import ABILITIES, Model
from italic.core.questions import Extend
from italic.core.sampling import FINISH, Until
from italic.testing.asides import aside_checks, aside_noise_checks, fan, weigh
from italic.testing.checks import PROMPTS, Check, expect, expect_same, expect_untouched, only_if, rows, snapshot
from italic.testing.growing import ROWS, SAMPLING, grow, offers, some_states, start
from italic.testing.sessions import session_checks


def describe(model: Any, *batches: Drafts) -> list[NDArray[np.float64]]:
    """The features of each batch."""
    return [answer.features for answer in model.embed(batches)]


def guess(model: Any, *batches: Drafts) -> list[Any]:
    """The preview of each batch."""
    return [answer.drafts for answer in model.preview(batches)]


def it_says_what_it_offers(model: Model) -> None:
    """name is a text, offers a frozenset of known abilities."""
    expect(isinstance(model.name, str) and model.name, f"the model's name is {model.name!r}, not a text")
    expect(isinstance(model.offers, frozenset), f"offers is a {type(model.offers).__name__}, not a frozenset")
    unknown = model.offers - (ABILITIES.keys() - {"partial"})
    expect(not unknown, f"it offers {', '.join(sorted(unknown))}, which a model cannot offer")


def start_gives_empty_rows(model: Model) -> None:
    """start: one empty, unfinished row a seed, for the prompt it was given."""
    drafts = start(model, 3)
    expect(len(drafts) == 3, f"start gave {len(drafts)} rows for 3 seeds")
    expect(drafts.prompt == PROMPTS[0], "start gave drafts of another prompt")
    expect(not drafts.done.any(), "start gave finished rows")
    expect(np.all(drafts.steps == 0), f"start gave rows of {drafts.steps} steps")
    expect(np.array_equal(drafts.seeds, Key(7).at(PROMPTS[0].id, "").seeds(3)), "start changed the seeds")


def finishing_ends_every_row(model: Model) -> None:
    """extend without a limit ends every row within the room that it had."""
    jobs = [Extend(start(model, prompt=p)) for p in PROMPTS]
    answers = model.extend(jobs)
    expect(len(answers) == len(jobs), f"{len(answers)} answers to {len(jobs)} jobs")
    for job, grown in zip(jobs, answers, strict=True):
        drafts = grown.drafts
        expect(drafts.prompt == job.drafts.prompt, "the answers are not in the order of the jobs")
        expect(len(drafts) == ROWS, f"{len(drafts)} rows came back of {ROWS}")
        expect(np.array_equal(drafts.seeds, job.drafts.seeds), "the rows came back with other seeds")
        expect(drafts.done.all(), f"rows {np.flatnonzero(~drafts.done)} were not finished")
        expect(not grown.stopped, "an extension without a budget came back as stopped")
        expect(np.all(drafts.steps >= 1), "a finished row has no steps")
        room = job.drafts.room
        expect(np.all(drafts.steps <= room), f"rows of {drafts.steps} steps, for which there was a room of {room}")


def the_account_is_true(model: Model) -> None:
    """Spent.tokens is the number of tokens drawn; some positions and calls were paid for them."""
    first = start(model)
    half = model.extend([Extend(first, Until(steps=2))])[0]
    whole = model.extend([Extend(start(model))])[0]
    for before, grown in ((first, half), (first, whole)):
        drawn = int(grown.drafts.steps.sum() - before.steps.sum())
        expect(grown.spent.tokens == drawn, f"the account says {grown.spent.tokens} tokens, {drawn} were drawn")
        expect(grown.spent.calls >= 1, "the account says that no forward pass was made")


def room_is_what_is_left(model: Model) -> None:
    """room is 0 for finished rows, and otherwise positive and less by each step taken."""
    drafts = start(model)
    room = drafts.room
    grown = grow(model, drafts, Until(steps=3))
    going = ~grown.done
    expect(np.all(room > 0), f"the room of empty rows is {room}")
    bound = SAMPLING.max_tokens if "texts" in model.offers else np.inf
    expect(np.all(room <= bound), f"the room is {room} with max_tokens=12")
    expect(np.all(grown.room[grown.done] == 0), "a finished row has room")
    expect(np.array_equal(grown.room[going], (room - grown.steps)[going]), "room does not fall with the steps taken")
    expect(np.all(grow(model, start(model)).room == 0), "a finished row has room")


@only_if(offers("texts"))
def max_tokens_is_kept(model: Model) -> None:
    """No row is longer than max_tokens."""
    for most in (1, 2, 5):
        steps = grow(model, start(model, sampling=replace(SAMPLING, max_tokens=most))).steps
        expect(np.all(steps <= most), f"rows of {steps} steps with max_tokens={most}")


def steps_are_kept(model: Model) -> None:
    """until.steps: unfinished rows grow by exactly that much, one number for all or one a row."""
    for steps in (1, 3, tuple(range(1, ROWS + 1))):
        grown = grow(model, start(model), Until(steps=steps))
        most = Until(steps=steps).most(ROWS)
        expect(np.all(grown.steps <= most), f"rows grew by {grown.steps} steps with steps={steps}")
        late = ~grown.done & (grown.steps != most)
        expect(not late.any(), f"unfinished rows grew by {grown.steps[late]} steps with steps={steps}")


def asking_again_gives_the_same(model: Model) -> None:
    """The same drafts extended again give the same text."""
    drafts = start(model)
    expect_same(grow(model, drafts), grow(model, drafts), "the same extension twice")


def rows_do_not_depend_on_the_batch(model: Model) -> None:
    """A row alone is the row in company."""
    together = grow(model, start(model))
    for i in range(ROWS):
        expect_same(grow(model, start(model)[[i]]), together[[i]], f"row {i} alone, compared with a batch of {ROWS}")


def rows_do_not_depend_on_the_order(model: Model) -> None:
    """Rows in another order are the same rows."""
    order = np.random.default_rng(0).permutation(ROWS)
    expect_same(grow(model, start(model)[order]), grow(model, start(model))[order], f"rows in the order {order}")


def jobs_do_not_depend_on_one_another(model: Model) -> None:
    """Jobs asked for at once, or one at a time, give the same; of texts, also jobs with different samplings."""
    jobs = [Extend(start(model, n, p), Until(steps=s)) for p, n, s in zip(PROMPTS, (2, 5, 1), (9, 2, 20), strict=True)]
    if "texts" in model.offers:
        jobs.append(Extend(start(model, 2, sampling=replace(SAMPLING, temperature=0.5, max_tokens=4))))
    for i, grown in enumerate(model.extend(jobs)):
        alone = model.extend([jobs[i]])[0]
        expect_same(grown.drafts, alone.drafts, f"job {i} in company, compared with the job alone")


def seeds_matter(model: Model) -> None:
    """Rows of different seeds differ, and a row that is given another seed goes on differently."""
    many = rows(grow(model, start(model, 4 * ROWS)))
    expect(len(set(many)) > 1, f"{4 * ROWS} rows of different seeds are all {many[0]}")
    other = rows(grow(model, start(model, 4 * ROWS).reseed(Key(8).seeds(4 * ROWS))))
    expect(many != other, "new seeds gave the old rows")


def drafts_never_change(model: Model) -> None:
    """Extending, gathering and what is asked aside leave the drafts that they start from as they were."""
    drafts = start(model)
    before = snapshot(drafts)
    grown = grow(model, drafts, Until(steps=2))
    expect_untouched(before, drafts, "extending changed the drafts it was given")
    between = snapshot(grown)
    for ability, ask in (("embed", describe), ("preview", guess), ("likelihood", weigh), ("likeliest", fan)):
        if ability in model.offers:
            ask(model, drafts, grown)
            expect_untouched(before, drafts, f"{ability} changed the drafts it was given")
            expect_untouched(between, grown, f"{ability} changed the drafts it was given")
    grown.reseed(Key(3).seeds(ROWS))
    grown[[0, 0]].concat(grown)
    grow(model, start(model))
    expect_untouched(between, grown, "later work changed drafts that were there before")


@only_if(offers("resume"))
def growing_leaves_the_prefix(model: Model) -> None:
    """What is extended begins with what was there, and finished rows come back as they were."""
    drafts = start(model, 4 * ROWS)
    for until in (*[Until(steps=3)] * 4, FINISH, FINISH):
        before = snapshot(drafts)
        longer = grow(model, drafts, until)
        expect_untouched(before, drafts, "extending changed the drafts it was given")
        expect(np.all(longer.done >= drafts.done), "a finished row came back unfinished")
        done = np.flatnonzero(drafts.done)
        expect_same(longer[done], drafts[done], "finished rows that were extended")
        if isinstance(drafts, TextDrafts):
            for i, (old, new) in enumerate(zip(drafts.tokens, longer.tokens, strict=True)):
                expect(np.array_equal(new[: len(old)], old), f"row {i} was {old} and became {new}")
        drafts = longer


@only_if(offers("resume"))
def pieces_are_the_whole(model: Model) -> None:
    """Extended piece by piece, a row is the same as in one go: its noise depends on (seed, position) alone."""
    whole = grow(model, start(model))
    for steps in (1, 5):
        drafts = start(model)
        while not drafts.done.all():
            drafts = grow(model, drafts, Until(steps=steps))
        expect_same(drafts, whole, f"rows grown by {steps} steps at a time, compared with one go")


@only_if(offers("resume"))
def forks_are_rows_of_their_own(model: Model) -> None:
    """A row taken twice goes on as each of the two would alone."""
    parents = grow(model, start(model), Until(steps=2))
    going = np.flatnonzero(~parents.done)[:2]
    expect(len(going), "all rows ended within 2 steps: give a model, or prompts, with longer responses")
    fork = parents[np.repeat(going, 3)].reseed(Key(5).seeds(3 * len(going)))
    children = grow(model, fork)
    expect(len(set(rows(children))) > 1, "all forks of a row went on in the same way, with different seeds")
    for i in range(len(children)):
        expect_same(grow(model, fork[[i]]), children[[i]], f"fork {i} alone, compared with all forks at once")


@only_if(offers("resume", "cut"))
def cutting_back_and_growing_again(model: Model) -> None:
    """A shortened row is its own prefix; with its seed it grows as before, with another it differs."""
    whole = grow(model, start(model))
    keep = whole.steps // 2
    short = whole.cut(keep)
    expect(np.array_equal(short.steps, keep), f"rows cut to {keep} steps have {short.steps}")
    expect(not short.done[keep < whole.steps].any(), "a shortened row is still done")
    expect_same(grow(model, short), whole, "rows that were cut to half and grown again")
    expect_same(grow(model, whole.cut(0)), whole, "rows that were cut to nothing and grown again")
    other = grow(model, short.reseed(Key(9).seeds(ROWS)))
    expect(rows(other) != rows(whole), "rows cut to half went on as before, with other seeds")
    if isinstance(whole, TextDrafts):
        for i, (old, new) in enumerate(zip(short.tokens, other.tokens, strict=True)):
            expect(np.array_equal(new[: len(old)], old), f"row {i} was cut to {old} and became {new}")


@only_if(offers("entropy"))
def entropy_ends_an_extension(model: Model) -> None:
    """until.entropy: 0 ends after min_steps, infinity never; neither changes what is drawn."""
    for least in (1, 3):
        grown = grow(model, start(model), Until(entropy=0.0, min_steps=least))
        wrong = (grown.steps > least) | (~grown.done & (grown.steps < least))
        expect(not wrong.any(), f"entropy=0, min_steps={least} ended after {grown.steps[wrong]} steps")
    whole = grow(model, start(model))
    expect_same(grow(model, start(model), Until(entropy=float("inf"))), whole, "entropy=inf, compared with no limit")
    drafts = start(model)
    while not drafts.done.all():
        before, drafts = drafts, grow(model, drafts, Until(entropy=1.0))
        stuck = ~drafts.done & (drafts.steps == before.steps)
        expect(not stuck.any(), "an extension with an entropy limit made no progress")
    expect_same(drafts, whole, "rows grown by segments of entropy 1, compared with one go")


@only_if(offers("texts"))
def texts_have_log_probabilities(model: Model) -> None:
    """Every token has a log-probability, at most 0; greedy rows do not depend on the seed."""
    drafts = grow(model, start(model))
    expect(isinstance(drafts, TextDrafts), f"it offers texts, but its drafts are {type(drafts).__name__}")
    for tokens, logps in zip(drafts.tokens, drafts.logprobs, strict=True):
        expect(len(tokens) == len(logps), f"{len(logps)} log-probabilities for {len(tokens)} tokens")
        expect(np.all(np.isfinite(logps)) and np.all(logps <= 1e-6), f"log-probabilities are {logps}")
    greedy = rows(grow(model, start(model, sampling=replace(SAMPLING, temperature=0.0))))
    expect(len(set(greedy)) == 1, "greedy rows of different seeds differ")


@only_if(offers("texts"))
def stop_strings_end_a_row(model: Model) -> None:
    """A stop string ends a row, is no part of its text, and changes nothing before it."""
    free = grow(model, start(model))
    stop = next((t[len(t) // 2] for t in free.texts if len(t) > 1), None)
    expect(stop is not None, "no response has two characters: give a model, or prompts, with longer responses")
    stopped = grow(model, start(model, sampling=replace(SAMPLING, stop=(stop or "",))))
    expect(stopped.done.all(), "rows were not finished")
    for before, after in zip(free.texts, stopped.texts, strict=True):
        wanted = before.partition(stop or "")[0]
        expect(after == wanted, f"with the stop string {stop!r} the text {before!r} became {after!r}, not {wanted!r}")


@only_if(offers("embed"))
def features_are_a_row_each(model: Any) -> None:
    """embed: finite float64 [n, d], with the same d for every prompt; no tokens are drawn for it."""
    batches = some_states(model)
    answers = model.embed(batches)
    expect(len(answers) == len(batches), f"{len(answers)} answers to {len(batches)} batches of drafts")
    for drafts, answer in zip(batches, answers, strict=True):
        features = np.asarray(answer.features)
        expect(features.dtype == np.float64, f"the features are {features.dtype}, not float64")
        expect(
            features.ndim == 2 and len(features) == len(drafts) and features.shape[1],
            f"the features of {len(drafts)} rows have the shape {features.shape}",
        )
        expect(np.isfinite(features).all(), "the features are NaN or infinite")
        expect(answer.spent.tokens == 0, f"the account says that {answer.spent.tokens} tokens were drawn to embed")
    widths = {answer.features.shape[1] for answer in answers}
    expect(len(widths) == 1, f"rows have different numbers of features: {sorted(widths)}")


@only_if(offers("embed"))
def features_are_of_the_row_alone(model: Model) -> None:
    """A row's features do not depend on the batch, the order, other batches or on what was asked before, to a bit."""
    batches = some_states(model)
    for drafts, features in zip(batches, describe(model, *batches), strict=True):
        order = np.random.default_rng(0).permutation(len(drafts))
        _expect_features(describe(model, drafts)[0], features, "a batch alone, compared with other batches")
        _expect_features(describe(model, drafts[order])[0], features[order], f"rows in the order {order}")
        for i in range(len(drafts)):
            _expect_features(describe(model, drafts[[i]])[0], features[[i]], f"row {i} alone")


@only_if(offers("embed"))
def features_do_not_depend_on_the_seed(model: Model) -> None:
    """A fork with another seed, which is in the same state, has the same features."""
    batches = some_states(model)
    for drafts, features in zip(batches, describe(model, *batches), strict=True):
        index = np.repeat(np.arange(len(drafts)), 2)
        fork = drafts[index].reseed(Key(12).seeds(len(index)))
        _expect_features(describe(model, fork)[0], features[index], "forks with new seeds")


def _expect_features(got: NDArray[np.float64], wanted: NDArray[np.float64], otherwise: str) -> None:
    expect(got.shape == wanted.shape, f"{otherwise}: features of shape {got.shape} instead of {wanted.shape}")
    off = np.abs(got - wanted).max(initial=0)
    expect(np.array_equal(got, wanted), f"{otherwise}: the features differ by up to {off:.3g}")


@only_if(offers("preview"))
def previews_are_finished_rows(model: Any) -> None:
    """preview: every row comes back finished; one that was finished before comes back as it was."""
    batches = some_states(model)
    answers = model.preview(batches)
    expect(len(answers) == len(batches), f"{len(answers)} previews of {len(batches)} batches of drafts")
    for drafts, answer in zip(batches, answers, strict=True):
        ahead = answer.drafts
        expect(ahead.prompt == drafts.prompt, "the previews are not in the order of the batches")
        expect(len(ahead) == len(drafts), f"{len(ahead)} rows came back of {len(drafts)}")
        expect(ahead.done.all(), f"the previews of rows {np.flatnonzero(~ahead.done)} are not finished")
        expect(not answer.stopped, "a preview came back as stopped")
        done = np.flatnonzero(drafts.done)
        expect_same(ahead[done], drafts[done], "the previews of finished rows")


@only_if(offers("preview"))
def previews_are_of_the_row_alone(model: Model) -> None:
    """A row's preview does not depend on the batch, the order, other batches or on what was asked before."""
    batches = some_states(model)
    for drafts, ahead in zip(batches, guess(model, *batches), strict=True):
        order = np.random.default_rng(0).permutation(len(drafts))
        expect_same(guess(model, drafts)[0], ahead, "a preview of a batch alone, compared with other batches")
        expect_same(guess(model, drafts[order])[0], ahead[order], f"previews in the order {order}")
        for i in range(len(drafts)):
            expect_same(guess(model, drafts[[i]])[0], ahead[[i]], f"the preview of row {i} alone")


@only_if(offers("preview"))
def looking_ahead_changes_nothing(model: Model) -> None:
    """Rows that were previewed, and their forks, go on as if they had not been."""
    limits = (Until(steps=2), FINISH) if "resume" in model.offers else (FINISH,)
    unseen = [start(model)]
    for until in limits:
        unseen.append(grow(model, unseen[-1], until))
    drafts = start(model)
    for until, wanted in zip(limits, unseen[1:], strict=True):
        guess(model, drafts[[0, 0]].reseed(Key(13).seeds(2)), drafts)
        drafts = grow(model, drafts, until)
        expect_same(drafts, wanted, "rows that were previewed, then grown")


noise_checks: tuple[Check, ...] = (
    asking_again_gives_the_same,
    rows_do_not_depend_on_the_batch,
    rows_do_not_depend_on_the_order,
    jobs_do_not_depend_on_one_another,
    pieces_are_the_whole,
    forks_are_rows_of_their_own,
    cutting_back_and_growing_again,
    entropy_ends_an_extension,
    stop_strings_end_a_row,
    previews_are_of_the_row_alone,
    looking_ahead_changes_nothing,
    *aside_noise_checks,
    *session_checks,
)

model_checks: tuple[Check, ...] = (
    it_says_what_it_offers,
    start_gives_empty_rows,
    finishing_ends_every_row,
    the_account_is_true,
    room_is_what_is_left,
    max_tokens_is_kept,
    steps_are_kept,
    seeds_matter,
    drafts_never_change,
    growing_leaves_the_prefix,
    texts_have_log_probabilities,
    features_are_a_row_each,
    features_are_of_the_row_alone,
    features_do_not_depend_on_the_seed,
    previews_are_finished_rows,
    *aside_checks,
    *noise_checks,
)
