"""What every reward must do: the contract of `italic.core.protocols.Reward`.

batches: drafts to score, for rewards that need prompts of a certain kind; by default short texts of the toy model, or
points of the plane for a reward that needs `latents`. At least two batches, the first of at least three different rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from italic.core.drafts import Drafts
from italic.core.keys import Key
from italic.core.latents import LatentDrafts
from italic.core.prompt import Prompt
from italic.core.protocols import ABILITIES, Reward, Scored
from italic.core.questions import Extend
from italic.core.sampling import FINISH, Sampling, Until
from italic.testing.checks import PROMPTS, Check, expect, expect_untouched, only_if, snapshot
from italic.testing.trial import toy_model

TOLERANCE = 1e-4
CHAT = Prompt(id="chat", messages=({"role": "user", "content": "Hello there."},))


def toy_batches(until: Until = FINISH) -> list[Drafts]:
    """Responses of the toy model: five to each of two texts, three to a conversation, some of them equal."""
    model = toy_model()
    asked = ((PROMPTS[0], 5), (PROMPTS[1], 5), (CHAT, 3))
    fresh = [model.start(p, Key(2).at(p.id).seeds(n), Sampling(max_tokens=6)) for p, n in asked]
    return [grown.drafts for grown in model.extend([Extend(d, until) for d in fresh])]


def point_batches(steps: int = 4) -> list[Drafts]:
    """Points of the plane, up to 10 away from its axes, two of them equal; after that many of 4 steps."""
    made: list[Drafts] = []
    for prompt, n in ((PROMPTS[0], 6), (PROMPTS[1], 4)):
        key = Key(2).at(prompt.id)
        x = 20 * key.at("points").uniform(2 * n).reshape(n, 2) - 10
        x[-1] = x[0]
        made.append(LatentDrafts.at(prompt, x, np.full(n, steps, dtype=np.int64), 4, key.seeds(n)))
    return made


def default_batches(reward: Reward) -> list[Drafts]:
    """Finished drafts of the kind that the reward needs."""
    return point_batches() if "latents" in reward.needs else toy_batches()


def unfinished_batches(reward: Reward) -> list[Drafts]:
    """Unfinished drafts of that kind, some of them empty."""
    if "latents" in reward.needs:
        return [*point_batches(2), *point_batches(0)]
    return [*toy_batches(Until(steps=2)), *(b.cut(0) for b in toy_batches())]


def expect_equal(got: Scored, wanted: Scored, otherwise: str, rows: Sequence[int] | None = None) -> None:
    """Raise AssertionError unless `got` is `wanted` (at these rows), to a relative 1e-4."""
    rewards, missing = wanted.rewards, wanted.missing
    if rows is not None:
        rewards, missing = rewards[list(rows)], missing[list(rows)]
    expect(np.array_equal(got.missing, missing), f"{otherwise}: missing is {got.missing} instead of {missing}")
    a, b = got.rewards[~missing], rewards[~missing]
    near = np.isclose(a, b, rtol=TOLERANCE, atol=TOLERANCE)
    expect(np.all(near), f"{otherwise}: {a} instead of {b}")


def it_says_what_it_is(reward: Reward) -> None:
    """name is a text, needs a frozenset of known abilities, partial and deterministic are True or False."""
    expect(isinstance(reward.name, str) and reward.name, f"the reward's name is {reward.name!r}, not a text")
    expect(isinstance(reward.needs, frozenset), f"needs is a {type(reward.needs).__name__}, not a frozenset")
    unknown = reward.needs - ABILITIES.keys()
    expect(not unknown, f"it needs {', '.join(sorted(unknown))}, which nothing offers")
    expect(isinstance(reward.partial, bool), f"partial is {reward.partial!r}")
    expect(isinstance(reward.deterministic, bool), f"deterministic is {reward.deterministic!r}")


def every_draft_has_a_score(reward: Reward, batches: Sequence[Drafts] | None = None) -> None:
    """One answer a batch, in it one float64 a row, NaN only where it says missing."""
    batches = default_batches(reward) if batches is None else batches
    expect(reward.score([]) == [], "no batches were answered with something else than an empty list")
    answers = reward.score([*batches, batches[0][[]]])
    expect(len(answers) == len(batches) + 1, f"{len(answers)} answers to {len(batches) + 1} batches")
    for batch, scored in zip([*batches, batches[0][[]]], answers, strict=True):
        n = len(batch)
        expect(scored.rewards.shape == (n,), f"rewards of shape {scored.rewards.shape} for {n} drafts")
        expect(scored.rewards.dtype == np.float64, f"rewards are {scored.rewards.dtype}, not float64")
        expect(scored.missing.shape == (n,), f"missing of shape {scored.missing.shape} for {n} drafts")
        expect(scored.missing.dtype == np.bool_, f"missing is {scored.missing.dtype}, not bool")
        silent = np.isnan(scored.rewards) & ~scored.missing
        expect(not silent.any(), f"rows {np.flatnonzero(silent)} are NaN but not missing")
        expect(isinstance(scored.tokens, int) and scored.tokens >= 0, f"tokens is {scored.tokens!r}")
    expect(not all(s.missing.all() for s in answers), "every score is missing")


def drafts_are_left_alone(reward: Reward, batches: Sequence[Drafts] | None = None) -> None:
    """Scoring changes nothing of the drafts."""
    batches = default_batches(reward) if batches is None else batches
    before = [snapshot(batch) for batch in batches]
    reward.score(batches)
    for old, batch in zip(before, batches, strict=True):
        expect_untouched(old, batch, "scoring changed the drafts")


@only_if(lambda reward: reward.deterministic)
def asking_again_gives_the_same_score(reward: Reward, batches: Sequence[Drafts] | None = None) -> None:
    """deterministic: the same drafts get the same scores, within a batch and from call to call."""
    batches = default_batches(reward) if batches is None else batches
    twice = [b[np.repeat(np.arange(len(b)), 2)] for b in batches]
    for first, again, pairs in zip(reward.score(batches), reward.score(batches), reward.score(twice), strict=True):
        expect_equal(again, first, "the same drafts scored again")
        doubled = np.repeat(np.arange(len(first.rewards)), 2).tolist()
        expect_equal(pairs, first, "every draft twice in a batch", doubled)


@only_if(lambda reward: reward.deterministic)
def a_batch_of_one_is_a_batch_of_many(reward: Reward, batches: Sequence[Drafts] | None = None) -> None:
    """A draft's score does not depend on what else is in its batch."""
    batches = default_batches(reward) if batches is None else batches
    for batch, wanted in zip(batches, reward.score(batches), strict=True):
        for i in range(len(batch)):
            expect_equal(reward.score([batch[[i]]])[0], wanted, f"row {i} alone, compared with {len(batch)} rows", [i])


@only_if(lambda reward: reward.deterministic)
def batches_do_not_depend_on_one_another(reward: Reward, batches: Sequence[Drafts] | None = None) -> None:
    """Batches scored at once, one at a time, or in another order get the same scores."""
    batches = default_batches(reward) if batches is None else batches
    together = reward.score(batches)
    for i, backwards in enumerate(reversed(reward.score(list(reversed(batches))))):
        expect_equal(backwards, together[i], f"batch {i}, the batches being in reverse order")
        expect_equal(reward.score([batches[i]])[0], together[i], f"batch {i} alone, compared with all at once")


@only_if(lambda reward: reward.deterministic)
def rows_in_another_order_have_their_own_scores(reward: Reward, batches: Sequence[Drafts] | None = None) -> None:
    """The scores follow the rows."""
    batches = default_batches(reward) if batches is None else batches
    for batch, wanted in zip(batches, reward.score(batches), strict=True):
        order = np.arange(len(batch))[::-1]
        expect_equal(reward.score([batch[order]])[0], wanted, "rows in reverse order", order.tolist())


@only_if(lambda reward: reward.partial)
def unfinished_drafts_have_scores(reward: Reward, batches: Sequence[Drafts] | None = None) -> None:
    """partial: unfinished drafts, empty ones included, get scores like others. batches: unfinished drafts."""
    batches = unfinished_batches(reward) if batches is None else batches
    expect(any(not b.done.all() for b in batches), "all drafts of these batches are finished")
    for scored in reward.score(batches):
        expect(not np.any(np.isnan(scored.rewards) & ~scored.missing), "the score of an unfinished draft is NaN")
        expect(not scored.missing.all(), "every score of a batch of unfinished drafts is missing")


reward_checks: tuple[Check, ...] = (
    it_says_what_it_is,
    every_draft_has_a_score,
    drafts_are_left_alone,
    asking_again_gives_the_same_score,
    a_batch_of_one_is_a_batch_of_many,
    batches_do_not_depend_on_one_another,
    rows_in_another_order_have_their_own_scores,
    unfinished_drafts_have_scores,
)
