"""CARDS: rejection sampling one semantic segment at a time, so that a bad start costs a few tokens, not a response.

A segment ends *before* a token of which the model is unsure: there a thought ends, and there the reward of what is
written so far says most about what will be. A segment is accepted by its reward against a threshold that rises with
the length of the response, from near the prompt's own reward to the reward aimed at; if not, it is thrown away and
drawn again from the same place.

Tries are numbered, and the noise and the luck of a try depend on its number alone. So several can be drawn at once and
tested in order: how many changes what is paid, never which is accepted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, cast

import numpy as np

from italic.core.drafts import TextDrafts
from italic.core.errors import OutOfBudget, RewardError, UsageError
from italic.core.outcome import Outcome
from italic.core.protocols import Paper, Task
from italic.core.questions import Asking, extend, note, score
from italic.core.sampling import Until
from italic.methods._calibrated import Calibrated
from italic.methods._cascade import Aim, Count, Kept, added, reference_sampling
from italic.methods._rows import first_scored
from italic.values.calibration import R_QUANTILE, TAU_QUANTILE, Calibration

BETA = 0.7
"""The beta of the reference implementation, and ours where there is no calibration."""
BETA_OF_SPREAD = 0.1
"""With a calibration: beta as a share of the standard deviation of a prompt's rewards."""


@dataclass(frozen=True)
class Cascade(Calibrated):
    """One response, segment by segment: each is the first of its tries whose reward passes a rising threshold.

    Law: a segment s is accepted with probability a(s) = min(1, exp((r - tau) / beta)), tau the threshold at its end, so
    that its law is p(s) a(s) / E_p[a], p being the model's law of a segment; after `tries` rejections it is the best of
    these and one more. As beta goes to 0 all that is below the threshold is rejected; as r_star goes down, or beta up,
    it is plain sampling. It is not the tilted law: see `chernoff` for that.

    r_star: the reward aimed at, in the reward's own units. tau_u: the entropy, nats, before whose token a segment ends;
    inf for segments of max_segment tokens. calibration: a file of `italic calibrate`, which gives what is not given:
    r_star, the quantile `quantile` (0.9) of the reference rewards, those of the prompt itself if it is in the file;
    tau_u, a quantile of the model's entropies; beta, a tenth of the rewards' standard deviation within a prompt. alpha:
    where the threshold starts, as a share of the way from the prompt's own reward to r_star; 1 keeps it at r_star. A
    finished response is tested against r_star itself. min_segment, max_segment: tokens. parallel, eager: at most
    `parallel` tries are drawn at once, the share `eager` of the number that it should take by the acceptance so far.

    exact: every rule of the reference implementation: tokens are drawn at temperature beta from the likeliest 40, the
    end-of-sequence token ends nothing, a response may be longer than asked for by less than a segment, and the reward
    never sees an end. The certificate's `kl` estimates, without bias where no segment is exhausted, the divergence of
    the response's law from the model's (in one answer log q/p, so that its mean over answers is the divergence).
    """

    r_star: float | None = None
    tau_u: float | None = None
    calibration: str | Calibration | None = None
    quantile: float | None = None
    alpha: float = 0.5
    beta: float | None = None
    tries: int = 20
    min_segment: int = 4
    max_segment: int = 64
    parallel: int = 8
    eager: float = 0.5
    exact: bool = False

    papers: ClassVar[tuple[Paper, ...]] = (
        Paper("2406.16306", "Li et al.", "Cascade Reward Sampling for Efficient Decoding-Time Alignment", 2025),
    )

    def __post_init__(self) -> None:
        self._refuse_bad_numbers()
        given = self.r_star is not None, self.tau_u is not None
        if self.calibration is None and not all(given):
            raise UsageError(
                "cascade does not know the reward to aim at, or where to cut",
                hint="Type `italic calibrate PROMPTS --out calibration.parquet`, then cascade:calibration="
                "calibration.parquet; or give both: cascade:r_star=1.5,tau_u=3.",
            )
        if self.quantile is not None and (self.calibration is None or self.r_star is not None):
            raise UsageError(
                f"cascade with quantile={self.quantile}, and nothing to take the quantile of",
                hint="Give it with a calibration and without r_star: cascade:calibration=FILE,quantile=0.9.",
            )
        if self.exact and (self.min_segment, self.max_segment, self.tries) != (4, 64, 20):
            raise UsageError(
                "cascade:exact=true with other min_segment, max_segment or tries than the reference implementation's",
                hint="Leave them out: they are 4, 64 and 20.",
            )
        if self.exact and self.calibration is not None:
            raise UsageError(
                "cascade:exact=true with a calibration, which the reference implementation does not know",
                hint="Give the two numbers: cascade:exact=true,r_star=1.5,tau_u=3.",
            )

    def _refuse_bad_numbers(self) -> None:
        bad = [
            ("r_star", self.r_star is not None and not math.isfinite(self.r_star), "a finite reward: r_star=1.5"),
            ("tau_u", self.tau_u is not None and not self.tau_u >= 0, "an entropy of 0 or more, inf for none: tau_u=3"),
            ("quantile", self.quantile is not None and not 0 <= self.quantile <= 1, "a share: quantile=0.9"),
            ("alpha", not 0 <= self.alpha <= 1, "a share of the way: alpha=0.5"),
            ("beta", self.beta is not None and not 0 < self.beta < math.inf, "a positive number: beta=0.7"),
            ("tries", self.tries < 0, "0 or more tries before the best is taken: tries=20"),
            ("min_segment", self.min_segment < 1, "1 token or more: min_segment=4"),
            ("max_segment", self.max_segment < self.min_segment, "no fewer tokens than min_segment: max_segment=64"),
            ("parallel", self.parallel < 1, "1 or more: parallel=8"),
            ("eager", not 0 <= self.eager < math.inf, "a share of the expected tries: eager=0.5"),
        ]
        for name, wrong, right in bad:
            if wrong:
                raise UsageError(f"cascade with {name}={getattr(self, name)}", hint=f"Give {right}.")

    @property
    def needs(self) -> frozenset[str]:
        """To go on from unfinished texts, rewards that mean something there, and the entropy where it cuts."""
        cut = frozenset({"entropy"}) if self.tau_u is None or math.isfinite(self.tau_u) else frozenset()
        return frozenset({"resume", "texts", "partial"}) | cut

    def run(self, task: Task) -> Asking[Outcome]:
        drafts, most = self._begin(task)
        aim, own = yield from self._aim(task, drafts, most)
        yield from note("aim", start=aim.start, r_star=aim.r_star, steps=aim.steps, own=own)
        count = Count()
        reward = math.nan
        try:
            while not (drafts.done[0] or drafts.steps[0] >= most):
                kept = yield from self._segment(task, drafts, aim, count)
                yield from note(
                    "segment",
                    segment=count.segments,
                    tries=kept.tested,
                    start=int(drafts.steps[0]),
                    end=int(kept.drafts.steps[0]),
                    reward=kept.reward,
                    threshold=float(aim.thresholds(kept.drafts)[0]),
                    exhausted=kept.exhausted,
                    text=added(drafts, kept.drafts),
                )
                drafts, reward = kept.drafts, kept.reward
                count.add(kept)
        except OutOfBudget:
            if count.spare is not None:
                drafts, reward = count.spare
            elif not drafts.steps[0]:
                raise
            return Outcome(drafts, np.array([reward]), 0, certificate=count.certificate(), complete=False)
        if self.exact:
            drafts = drafts.ended()
        return Outcome(drafts, np.array([reward]), chosen=0, certificate=count.certificate())

    def _begin(self, task: Task) -> tuple[TextDrafts, int]:
        """An empty draft, and how long the response is to be."""
        drafts: TextDrafts = task.start(1)
        most = int(drafts.room[0])
        if self.calibrated is not None:
            self.calibrated.agree(drafts)
        if self.exact:
            law = reference_sampling(drafts.sampling, self._beta, self.max_segment)
            drafts = cast(TextDrafts, task.begin(task.key.at("start").seeds(1), law))
        return drafts, most

    @cached_property
    def _beta(self) -> float:
        if self.beta is not None:
            return self.beta
        if self.calibrated is None:
            return BETA
        spread = self.calibrated.spread()
        if not spread > 0:
            raise UsageError(
                f"cascade without beta, and a spread of the calibration's rewards of {spread:g} to take it from",
                hint="Give beta, in units of the reward: cascade:calibration=FILE,beta=0.1.",
            )
        return BETA_OF_SPREAD * spread

    @cached_property
    def _tau_u(self) -> float:
        if self.tau_u is not None:
            return self.tau_u
        assert self.calibrated is not None
        return self.calibrated.tau_u(TAU_QUANTILE)

    def _aim(self, task: Task, drafts: TextDrafts, most: int) -> Asking[tuple[Aim, float | None]]:
        """The threshold's way for this prompt, and the prompt's own reward if it was asked for."""
        r_star = self.r_star
        if r_star is None:
            assert self.calibrated is not None
            quantile = R_QUANTILE if self.quantile is None else self.quantile
            r_star = self.calibrated.r_star(task.prompt, quantile)
        if self.alpha == 1:
            return Aim(r_star, r_star, most), None
        own = float((yield from score(drafts, strict=False))[0])
        if not math.isfinite(own):
            raise RewardError(
                f"the reward of prompt {task.prompt.id!r} without a response is {'missing' if own != own else own}, "
                "and the threshold starts from it",
                hint="Give alpha=1: the threshold is then r_star from the first segment on.",
            )
        return Aim((1 - self.alpha) * own + self.alpha * r_star, r_star, most), own

    def _segment(self, task: Task, drafts: TextDrafts, aim: Aim, count: Count) -> Asking[Kept]:
        """The next segment of a draft [1]: the first accepted of its tries, or the best of all."""
        key = task.key.at("segment", count.segments)
        until = Until(self.max_segment, self._tau_u, self.min_segment)
        last, tested = self.tries + 1, 0
        scored: list[float] = []
        top: Kept | None = None
        while tested < last:
            numbers = np.arange(tested, min(tested + self._width(count), last))
            forks = drafts[np.zeros_like(numbers)].reseed(key.at("try").seeds(numbers))
            grown = yield from extend(forks, until)
            rewards = yield from score(grown, strict=False)
            count.remember(grown, rewards)
            thresholds = aim.thresholds(grown)
            with np.errstate(invalid="ignore"):
                chances = np.minimum(0.0, (rewards - thresholds) / self._beta)
            accepted = (np.log(key.at("accept").uniform(numbers)) < chances) & (numbers < self.tries)
            for row, number in enumerate(numbers):
                count.tested += 1
                yield from note(
                    "try",
                    segment=count.segments,
                    number=int(number),
                    end=int(grown.steps[row]),
                    reward=float(rewards[row]),
                    threshold=float(thresholds[row]),
                    accepted=bool(accepted[row]),
                )
                scored.append(float(rewards[row]))
                if accepted[row]:
                    return Kept(grown[[row]], float(rewards[row]), len(scored), log_chance=float(chances[row]))
                if top is None or rewards[row] > top.reward or math.isnan(top.reward):
                    top = Kept(grown[[row]], float(rewards[row]), last, exhausted=True)
            tested += len(numbers)
        first_scored(np.array(scored), task)
        assert top is not None
        return top

    def _width(self, count: Count) -> int:
        """How many tries to draw at once: a share of those that it should take, by the acceptance so far."""
        expected = (2 + count.tested) / (1 + count.accepted)
        return min(self.parallel, max(1, int(self.eager * expected)))
