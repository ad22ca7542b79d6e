"""What a tuned model gives, against the model it came from: reward, win rates and divergence, on the same prompts.

From m responses of the one and m' of the other to each prompt. A procedure's outcome needs no further draws: the i-th
smallest of m rewards is the best of n random ones of them with probability binom(i-1, n-1) / binom(m, n), so that the
inference-time win rate is a U-statistic, unbiased for m, m' >= n (2412.19792). Intervals are over prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import MismatchError, UsageError
from italic.core.prompt import Prompt
from italic.core.protocols import Model, Reward
from italic.core.sampling import Sampling
from italic.laws.best_of_n import kl_bound
from italic.laws.statistics import Interval, mean_interval
from italic.methods.sample import Sample
from italic.run.align import stream
from italic.run.ledger import Ledger

Array = NDArray[np.float64]
UNKNOWN = Interval(float("nan"), float("nan"), float("nan"))


@dataclass(frozen=True)
class Use:
    """How a model is used: the best of n draws, or the worst; n = 1 is one plain draw. Raises UsageError for n < 1."""

    n: int = 1
    worst: bool = False

    def __post_init__(self) -> None:
        if self.n < 1:
            raise UsageError(f"the best or the worst of {self.n} draws", hint="Give n of 1 or more.")

    @property
    def name(self) -> str:
        if self.n == 1:
            return "one draw"
        return f"{'worst' if self.worst else 'best'} of {self.n}"

    def weights(self, m: int) -> Array:
        """How likely each of m draws, the smallest reward first, is what comes out: float64 [m], sum 1.

        Raises UsageError for m < n.
        """
        if m < self.n:
            raise UsageError(
                f"{m} scored responses to a prompt, and the {self.name} was asked for",
                hint=f"Draw --samples {self.n} or more a prompt.",
            )
        chance = np.zeros(m)
        chance[self.n - 1] = 1.0
        for i in range(self.n, m):  # binom(i, n-1) / binom(i-1, n-1) = i / (i - n + 1)
            chance[i] = chance[i - 1] * i / (i - self.n + 1)
        chance /= chance.sum()
        return chance[::-1] if self.worst else chance


def used_reward(rewards: Array, use: Use) -> float:
    """The expected reward of what comes out: unbiased, of the rewards of m draws, float64 [m]."""
    return float(use.weights(len(rewards)) @ np.sort(rewards))


def used_win_rate(ours: Array, theirs: Array, use: Use, rival: Use | None = None) -> float:
    """How often what comes of our draws has the larger reward, equal ones counting half: the U-statistic.

    ours: float64 [m]; theirs: float64 [m']. rival: how they are used, as we are unless given. Raises UsageError for
    fewer draws than a use takes.
    """
    mine, other = np.sort(ours), np.sort(theirs)
    weights = (rival or use).weights(len(other))
    upto = np.concatenate([[0.0], np.cumsum(weights)])
    below, atmost = np.searchsorted(other, mine, side="left"), np.searchsorted(other, mine, side="right")
    return float(use.weights(len(mine)) @ ((upto[below] + upto[atmost]) / 2))


def k3(ours: Array, theirs: Array) -> Array:
    """Estimates of KL(ours || theirs) from draws of ours: float64 [n], nats, none of them negative.

    ours, theirs: float64 [n, L], the log-probabilities of each token, NaN beyond the end. Each token adds
    q/p - 1 - log(q/p), whose mean given the tokens before is the divergence of the next token's law, and the sum of
    these is that of the response's (Schulman's k3, a token at a time).
    """
    gap = theirs - ours
    return np.asarray(np.nansum(np.expm1(gap) - gap, axis=1))


@dataclass(frozen=True, eq=False)
class Sampled:
    """Responses to one prompt. rewards: float64 [m], those that are there. kl: float64 [m], `k3` of all responses,
    empty for the reference itself.
    """

    prompt: Prompt
    rewards: Array
    kl: Array


@dataclass(frozen=True)
class Judgement:
    """A tuned model against its reference, each figure with its interval over prompts.

    reward, reference: mean rewards of one draw. best: the mean reward of the reference used as asked. gain: reward less
    reference. share: what part of best less reference that is, NaN unless that is the best of several. win_rate: of one
    draw against one. used_win_rate: used as asked, both. kl: nats. prompts; samples: of the tuned model, a prompt.
    """

    reward: Interval
    reference: Interval
    best: Interval
    gain: Interval
    share: Interval
    win_rate: Interval
    used_win_rate: Interval
    kl: Interval
    prompts: int
    samples: int


def judge(policy: Sequence[Sampled], reference: Sequence[Sampled], use: Use, rival: Use | None = None) -> Judgement:
    """Compare responses to the same prompts, in the same order.

    The share is a ratio of means, with the interval of the delta method. Raises UsageError for other prompts, or fewer
    scored responses to one of them than the use takes.
    """
    pairs = _pairs(policy, reference)
    ours = np.array([one.rewards.mean() for one, _ in pairs])
    theirs = np.array([other.rewards.mean() for _, other in pairs])
    before = rival or use
    best = np.array([used_reward(other.rewards, before) for _, other in pairs])
    return Judgement(
        reward=mean_interval(ours),
        reference=mean_interval(theirs),
        best=mean_interval(best),
        gain=mean_interval(ours - theirs),
        share=UNKNOWN if before.worst or before.n == 1 else _ratio(ours - theirs, best - theirs),
        win_rate=mean_interval(_win_rates(pairs, Use())),
        used_win_rate=mean_interval(_win_rates(pairs, use, rival)),
        kl=mean_interval(np.array([one.kl.mean() for one, _ in pairs])),
        prompts=len(pairs),
        samples=max(len(one.kl) for one, _ in pairs),
    )


def lead(
    policy: Sequence[Sampled],
    over: Sequence[Sampled],
    reference: Sequence[Sampled],
    use: Use,
    rival: Use | None = None,
) -> Interval:
    """By how much the used win rate of a tuned model exceeds that of another: both against the reference.

    From differences on the same prompts, which have a narrower interval than two win rates apart: a prompt that is hard
    for one model is hard for the other. Raises UsageError as `judge` does.
    """
    ours, theirs = (_win_rates(_pairs(one, reference), use, rival) for one in (policy, over))
    return mean_interval(ours - theirs)


Pair = tuple[Sampled, Sampled]


def _pairs(policy: Sequence[Sampled], reference: Sequence[Sampled]) -> list[Pair]:
    """Responses to the same prompts, those of the tuned model first. Raises UsageError for other prompts, or none."""
    if [s.prompt.id for s in policy] != [s.prompt.id for s in reference] or not policy:
        raise UsageError("responses to other prompts, or to none", hint="Draw from both models for the same prompts.")
    return list(zip(policy, reference, strict=True))


def _win_rates(pairs: Sequence[Pair], use: Use, rival: Use | None = None) -> Array:
    """Of each prompt, float64 [n]."""
    return np.array([used_win_rate(one.rewards, other.rewards, use, rival) for one, other in pairs])


def _ratio(above: Array, below: Array) -> Interval:
    """mean(above) / mean(below) of pairs, float64 [n], with the interval of the delta method."""
    scale = float(below.mean())
    if scale == 0:
        return UNKNOWN
    ratio = float(above.mean()) / scale
    spread = mean_interval((above - ratio * below) / scale)
    return Interval(ratio, ratio + spread.low, ratio + spread.high)


def best_of_n_curve(known: Sequence[Sampled], most: int) -> list[tuple[float, float, int]]:
    """For n = 1, 2, 4, ... up to `most` the divergence of best-of-n of the reference, nats, its mean reward, and n.

    Of the prompts that have n scored responses; it ends where none has.
    """
    curve = []
    n = 1
    while n <= most:
        best = [used_reward(s.rewards, Use(n)) for s in known if len(s.rewards) >= n]
        if not best:
            break
        curve.append((kl_bound(n), float(np.mean(best)), n))
        n *= 2
    return curve


def sample(
    prompts: Sequence[Prompt],
    model: Model,
    reward: Reward,
    n: int,
    *,
    against: Model | None = None,
    seed: int = 0,
    sampling: Sampling,
    ledger: Ledger | None = None,
    progress: Any = None,
    through: Callable[[], None] | None = None,
) -> list[Sampled]:
    """n responses to each prompt, and their divergence from `against`, in the order of the prompts.

    Raises UsageError for a divergence of sampling other than at temperature 1 without truncation, MismatchError for
    models that do not tell likelihoods.
    """
    if against is not None:
        if not sampling.plain:
            raise UsageError(
                f"the divergence of responses sampled with {sampling}",
                hint="It is known at temperature 1 without top-k, top-p and min-p. Leave these out.",
            )
        for one in (model, against):
            if "likelihood" not in one.offers:
                raise MismatchError(
                    f"the model {one.name} does not tell how likely its tokens are",
                    hint="Compare language models that run here.",
                )
    found: dict[str, Sampled] = {}
    for result in stream(
        prompts, model, reward, Sample(n), seed=seed, sampling=sampling, ledger=ledger, progress=progress
    ):
        drafts: Any = result.outcome.drafts
        rewards = result.outcome.rewards
        kl = np.zeros(0)
        if against is not None:
            ours, theirs = (one.likelihood([drafts])[0].logprobs for one in (model, against))  # type: ignore[attr-defined]
            kl = k3(ours, theirs)
        found[result.prompt.id] = Sampled(result.prompt, rewards[~np.isnan(rewards)], kl)
        if through is not None:
            through()
    return [found[prompt.id] for prompt in prompts]
