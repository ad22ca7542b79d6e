"""What a stepping model's session must do: the contract of `italic.core.protocols.Session`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from italic.core.drafts import Drafts, TextDrafts
from italic.core.keys import Key
from italic.core.protocols import Grown, Session, Stepping
from italic.core.questions import Extend
from italic.core.sampling import Sampling, Until
from italic.testing.checks import PROMPTS, Check, expect, expect_same, only_if

MOST_STEPS = 10_000


def steps_along(model: object) -> bool:
    """Whether the model opens sessions."""
    return isinstance(model, Stepping)


def some_jobs(model: Stepping) -> list[Extend]:
    """Jobs of several sizes and lengths; one of them has nothing left to do."""
    fresh = [
        model.start(p, Key(11).at(p.id).seeds(n), Sampling(max_tokens=10))
        for p, n in zip(PROMPTS, (4, 1, 3), strict=True)
    ]
    ended = model.extend([Extend(fresh[0])])[0].drafts
    return [Extend(d, Until(steps=s)) for d, s in zip(fresh, (20, 3, 6), strict=True)] + [Extend(ended)]


def run_out(session: Session, allowance: int | None = None) -> Iterator[tuple[int, Grown]]:
    """Step a session until it is idle, with an allowance for all of it, and yield its answers."""
    begun = session.generated
    for _ in range(MOST_STEPS):
        if not session.busy:
            return
        left = None if allowance is None else allowance - (session.generated - begun)
        yield from session.step(left)
        if allowance is not None:
            drawn = session.generated - begun
            expect(drawn <= allowance, f"{drawn} tokens were generated with an allowance of {allowance}")
    raise AssertionError(f"the session did not come to its end in {MOST_STEPS} steps")


def answers_of(session: Session, jobs: list[Extend], allowance: int | None = None) -> list[Grown]:
    """Submit the jobs at once and return the answers in their order."""
    for ticket, job in enumerate(jobs):
        session.submit(ticket, job)
    answered = list(run_out(session, allowance))
    tickets = sorted(ticket for ticket, _ in answered)
    expect(tickets == list(range(len(jobs))), f"tickets 0 to {len(jobs) - 1} were answered as {tickets}")
    found = dict(answered)
    return [found[ticket] for ticket in range(len(jobs))]


@only_if(steps_along)
def a_session_gives_what_extend_gives(model: Stepping) -> None:
    """The same jobs give the same drafts and the same account of tokens; each is answered once."""
    jobs = some_jobs(model)
    session = model.open()
    expect(session.hungry, "a new session is not hungry")
    expect(not session.busy, "a new session is busy")
    for i, (grown, wanted) in enumerate(zip(answers_of(session, jobs), model.extend(jobs), strict=True)):
        expect_same(grown.drafts, wanted.drafts, f"job {i} in a session, compared with extend")
        expect(not grown.stopped, f"job {i} came back as stopped without an allowance")
        drawn = int(grown.drafts.steps.sum() - jobs[i].drafts.steps.sum())
        expect(grown.spent.tokens == drawn, f"job {i} says {grown.spent.tokens} tokens, {drawn} were drawn")


@only_if(steps_along)
def a_session_counts_its_work(model: Stepping) -> None:
    """generated and calls count from the opening on, and grow with the work."""
    jobs = some_jobs(model)
    session = model.open()
    expect(session.generated == 0, f"a new session says it has generated {session.generated} tokens")
    expect(session.calls == 0, f"a new session says it has made {session.calls} forward passes")
    answers = answers_of(session, jobs)
    drawn = sum(int(g.drafts.steps.sum() - j.drafts.steps.sum()) for g, j in zip(answers, jobs, strict=True))
    expect(session.generated == drawn, f"the session says {session.generated} tokens, {drawn} were drawn")
    expect(session.calls >= 1, "the session says that it made no forward pass")


@only_if(steps_along)
def jobs_may_come_late(model: Stepping) -> None:
    """A job that is submitted while others are under way gives the same as alone."""
    jobs = some_jobs(model)
    wanted = model.extend(jobs)
    session = model.open()
    answered: dict[int, Grown] = {}
    for ticket, job in enumerate(jobs):
        session.submit(ticket, job)
        answered.update(session.step(None))
    answered.update(run_out(session))
    expect(len(answered) == len(jobs), f"{len(answered)} of {len(jobs)} jobs were answered")
    for ticket, grown in answered.items():
        expect_same(grown.drafts, wanted[ticket].drafts, f"job {ticket}, submitted while others were under way")


@only_if(steps_along)
def an_allowance_is_never_exceeded(model: Stepping) -> None:
    """With an allowance a session generates no more than that; what it could not finish comes back as it stands."""
    jobs = some_jobs(model)
    whole = model.extend(jobs)
    need = sum(int(g.drafts.steps.sum() - j.drafts.steps.sum()) for g, j in zip(whole, jobs, strict=True))
    for allowance in (0, 1, 7, need - 1, need + 100):
        for i, (grown, wanted) in enumerate(zip(answers_of(model.open(), jobs, allowance), whole, strict=True)):
            if grown.stopped:
                _expect_on_the_way(jobs[i].drafts, grown.drafts, wanted.drafts, i)
            else:
                expect_same(grown.drafts, wanted.drafts, f"job {i}, not stopped by an allowance of {allowance}")
            expect(allowance < need or not grown.stopped, f"job {i} was stopped by an allowance that suffices")


def _expect_on_the_way(before: Drafts, stopped: Drafts, whole: Drafts, job: int) -> None:
    on_the_way = (stopped.steps >= before.steps) & (stopped.steps <= whole.steps)
    expect(
        len(stopped) == len(whole) and np.all(on_the_way), f"the stopped job {job} has rows of {stopped.steps} steps"
    )
    if isinstance(stopped, TextDrafts) and isinstance(whole, TextDrafts):
        for i, (some, all_) in enumerate(zip(stopped.tokens, whole.tokens, strict=True)):
            same = np.array_equal(some, all_[: len(some)])
            expect(same, f"row {i} of the stopped job {job} is {some}, no beginning of {all_}")


session_checks: tuple[Check, ...] = (
    a_session_gives_what_extend_gives,
    a_session_counts_its_work,
    jobs_may_come_late,
    an_allowance_is_never_exceeded,
)
