"""Calling plug-ins: the one place where a model's or a reward's own exceptions become Italic's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import ItalicError, ModelError, ProgramError, RewardError
from italic.core.outcome import Usage
from italic.core.protocols import Grown, Model, Reward, Scored, Spent
from italic.core.questions import Extend
from italic.run.asides import muse
from italic.run.desk import Desk
from italic.run.ledger import Ledger
from italic.run.scores import Sheet


def policy_call(name: str, ledger: Ledger) -> AbstractContextManager[None]:
    """Time a call of the model, and translate what it raises into ModelError."""
    hint = "If memory ran out, load the model with fewer rows (--rows) or shorter texts (--max-tokens)."
    return _call(
        ledger, lambda seconds: Usage(policy_seconds=seconds), f"the model {name}", partial(ModelError, hint=hint)
    )


def reward_call(name: str, ledger: Ledger) -> AbstractContextManager[None]:
    """Time a call of the reward, and translate what it raises into RewardError."""
    return _call(ledger, lambda seconds: Usage(reward_seconds=seconds), f"the reward {name}", RewardError)


@contextmanager
def _call(
    ledger: Ledger, spent: Callable[[float], Usage], who: str, error: Callable[[str], ItalicError]
) -> Iterator[None]:
    began = ledger.clock()
    try:
        yield
    except ItalicError:
        raise
    except Exception as failure:
        raise error(f"{who} failed: {type(failure).__name__}: {failure}") from failure
    finally:
        ledger.add(spent(ledger.clock() - began))


def worst_case(job: Extend) -> int:
    """The most tokens that an extension can generate."""
    room: NDArray[np.int64] = np.minimum(job.drafts.room, job.until.most(len(job.drafts)))
    return int(room.sum())


def extend_whole(model: Model, jobs: Sequence[tuple[int, Extend]], allowance: int | None) -> list[tuple[int, Grown]]:
    """Ask a model for the whole extensions that fit into the allowance come what may; the others come back stopped.

    A model that cannot be stepped cannot be stopped either, so each job's worst case is reserved before it starts.
    """
    fit: list[tuple[int, Extend]] = []
    stopped: list[tuple[int, Grown]] = []
    for ticket, job in jobs:
        need = worst_case(job)
        if allowance is None or need <= allowance:
            allowance = None if allowance is None else allowance - need
            fit.append((ticket, job))
        else:
            stopped.append((ticket, Grown(job.drafts, Spent(), stopped=True)))
    answers = model.extend([job for _, job in fit]) if fit else []
    if len(answers) != len(fit):
        raise ProgramError(f"the model {model.name} answered {len(answers)} of {len(fit)} extensions")
    for (_, job), grown in zip(fit, answers, strict=True):
        if len(grown.drafts) != len(job.drafts):
            raise ProgramError(f"the model {model.name} returned {len(grown.drafts)} of {len(job.drafts)} rows")
    return [(ticket, grown) for (ticket, _), grown in zip(fit, answers, strict=True)] + stopped


def answer_asides(desk: Desk, model: Model) -> None:
    """Have the model answer every waiting aside that the budget pays for, in one call a kind."""
    asked = desk.take_asides()
    with policy_call(model.name, desk.ledger):
        answers = muse(model, [question for _, question in asked])
    desk.ledger.add(Usage(model_calls=sum(answer.spent.calls for answer in answers)))
    for (ticket, _), answer in zip(asked, answers, strict=True):
        desk.mused(ticket, answer)


def ask_reward(reward: Reward, sheets: Sequence[Sheet], ledger: Ledger) -> list[Scored | None]:
    """The scores of the fresh drafts of every sheet, in one call; None for a sheet that has none."""
    asked = [sheet for sheet in sheets if len(sheet.first)]
    with reward_call(reward.name, ledger):
        answers = reward.score([sheet.fresh for sheet in asked]) if asked else []
    if len(answers) != len(asked):
        raise ProgramError(f"the reward {reward.name} answered {len(answers)} of {len(asked)} batches")
    coming = iter(answers)
    return [next(coming) if len(sheet.first) else None for sheet in sheets]


def score_waiting(desk: Desk, reward: Reward) -> None:
    """Have every waiting draft scored, in one call of the reward."""
    sheets = desk.take_scores()
    answers = ask_reward(reward, [sheet for _, sheet in sheets], desk.ledger)
    for (ticket, _), scored in zip(sheets, answers, strict=True):
        desk.scored(ticket, scored)


Progress = Callable[[Ledger, int], None]
"""Told from time to time: the account so far, and how many prompts are under way."""
