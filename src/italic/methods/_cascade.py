"""What the cascade keeps count of: the threshold's way, the segments kept, and what a response has come to so far."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import TextDrafts
from italic.core.errors import UsageError
from italic.core.outcome import Certificate
from italic.core.questions import best
from italic.core.sampling import Sampling

TOP_K = 40
"""The top-k of the reference implementation."""


class Aim(NamedTuple):
    """The threshold: from `start` at no tokens it goes in a line to r_star at `steps` tokens, and is never above it.

    A finished response is as long as it will ever be: its threshold is r_star.
    """

    start: float
    r_star: float
    steps: int

    def thresholds(self, drafts: TextDrafts) -> NDArray[np.float64]:
        """Those of drafts, float64 [n]."""
        t = np.where(drafts.done, self.steps, drafts.steps)
        return np.asarray(np.minimum(self.start + t * (self.r_star - self.start) / self.steps, self.r_star))


class Kept(NamedTuple):
    """A segment that the response goes on with. tested: tries that it took. log_chance: of its acceptance."""

    drafts: TextDrafts
    reward: float
    tested: int
    exhausted: bool = False
    log_chance: float = 0.0

    @property
    def log_ratio(self) -> float:
        """An estimate of log q/p, the segment's probability here over that under the model.

        Accepted: log a - log A, with A the chance of a try; the harmonic number of the rejected tries has mean -log A,
        whatever was accepted. The best of n: at most log n - (n - 1)/n, and log n/(n - 1) for the tries being rejected
        ones, which they are with a probability of about 1/n at least.
        """
        if not self.exhausted:
            return self.log_chance + float(np.sum(1 / np.arange(1, self.tested)))
        n = self.tested
        return math.log(n) - (n - 1) / n + (math.log(n / (n - 1)) if n > 1 else 0.0)


@dataclass
class Count:
    """What a run has come to so far. log_ratio: an estimate of the log of the response's probability here over that
    under the model. spare: the best finished response among all tries, and its reward."""

    segments: int = 0
    tested: int = 0
    exhausted: int = 0
    log_ratio: float = 0.0
    spare: tuple[TextDrafts, float] | None = None

    @property
    def accepted(self) -> int:
        """Tries that were accepted by their reward."""
        return self.segments - self.exhausted

    def add(self, kept: Kept) -> None:
        """One more segment."""
        self.segments += 1
        self.exhausted += kept.exhausted
        self.log_ratio += kept.log_ratio

    def remember(self, drafts: TextDrafts, rewards: NDArray[np.float64]) -> None:
        """Keep the best finished response of these, in case a budget ends the run."""
        finished = np.where(drafts.done, rewards, np.nan)
        if not np.all(np.isnan(finished)):
            row = best(finished)
            if self.spare is None or finished[row] > self.spare[1]:
                self.spare = drafts[[row]], float(finished[row])

    def certificate(self) -> Certificate:
        """The evidence."""
        return Certificate(
            kl=self.log_ratio,
            acceptance=self.accepted / self.tested if self.tested else None,
            exhaustion_rate=self.exhausted / self.segments if self.segments else None,
            mean_draws=self.tested / self.segments if self.segments else None,
            proposals=self.tested,
            accepted=self.accepted,
        )


def reference_sampling(given: Sampling, beta: float, segment: int) -> Sampling:
    """How the reference implementation draws, with room for more than it ever writes: no response ends by itself.

    Raises UsageError if the run says otherwise.
    """
    law = replace(given, temperature=beta, top_k=TOP_K, max_tokens=given.max_tokens + segment, stop=(), ignore_eos=True)
    plain = Sampling(given.max_tokens)
    changed = [
        name
        for name in ("temperature", "top_k", "top_p", "min_p", "stop")
        if getattr(given, name) not in (getattr(plain, name), getattr(law, name))
        or (name in ("top_p", "min_p") and getattr(given, name) != getattr(plain, name))
    ]
    if changed:
        raise UsageError(
            f"cascade:exact=true with another {', '.join(changed)} than the reference implementation's",
            hint=f"Leave it out: tokens are drawn at temperature beta={beta:g} from the likeliest {TOP_K}, to the end.",
        )
    return law


def added(before: TextDrafts, after: TextDrafts) -> str:
    """What a segment adds to the text, whole characters only."""
    old, new = before.texts[0].rstrip("\ufffd"), after.texts[0]
    return new[len(old) :] if after.done[0] else new.rstrip("\ufffd")[len(old) :]
