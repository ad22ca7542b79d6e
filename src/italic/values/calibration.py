"""What `italic calibrate` writes: reference responses to a set of prompts, with their rewards and entropies.

It answers once for a pair what a user would else have to guess: which reward to aim at, when the model is unsure, and
whether the score of an unfinished response says anything about how it will end. The last is a rank correlation within
each prompt. Across prompts it would be large for any reward that merely likes some prompts better than others, and a
method only ever chooses among responses to the same prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts, TextDrafts
from italic.core.errors import RecordError, UsageError
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.laws.statistics import weighted_mean
from italic.values import table
from italic.values.responses import RANKED, Responses, question

FORMAT = 2

Array: TypeAlias = NDArray[np.float64]
Scope: TypeAlias = Literal["set", "prompt", "auto"]

R_QUANTILE = 0.9
"""The reward aimed at, as a quantile of the reference rewards."""
TAU_QUANTILE = 0.8
"""The entropy at which a segment ends, as a quantile of the model's entropies."""
LEAST, MOST = 4, 64
"""The tokens of a segment that are not tested for its end, and the longest segment, as CARDS has them."""
OWN = 8
"""A prompt with so many reference rewards has quantiles of its own."""
PREDICTS = 0.3
"""Partial scores predict final ones from this rank correlation on."""
UNSURE = 0.15
"""With a larger standard error, half of PREDICTS, a rank correlation tells nothing."""
FEW = 8
"""With fewer prompts a standard error is itself too rough to go by."""
SHOWN = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0)
"""The quantiles of the rewards that a report has."""


class Correlation(NamedTuple):
    """Spearman's rho between partial and final scores within a prompt: its mean over prompts, weighted by responses.

    length: tokens of the beginnings, their mean if there are several. error: the standard error of the mean. prompts,
    responses: how many went in. The mean is NaN without any, the error without two.
    """

    length: float
    mean: float
    error: float
    prompts: int
    responses: int


@dataclass(frozen=True, eq=False)
class Calibration:
    """Reference responses of a pair.

    model, reward: names of the pair. sampling: of the responses. seed: of the run. samples: responses a prompt.
    lengths: ascending, tokens of the beginnings that were scored, none if the reward has no such scores. responses: one
    entry a prompt, in the order of the input. settings: what the run was asked for, so that it is known again.
    """

    model: str
    reward: str
    sampling: Sampling
    seed: int
    samples: int
    lengths: tuple[int, ...]
    responses: tuple[Responses, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def made_for(self) -> tuple[str, str]:
        """The names of the model and the reward."""
        return self.model, self.reward

    @cached_property
    def rewards(self) -> Array:
        """All reference rewards that are there, float64 [*]."""
        return _present(self.responses)

    @cached_property
    def entropies(self) -> Array:
        """The entropies of all tokens, float64 [*], nats. Raises UsageError if they were not asked for."""
        if not self.has_entropies:
            raise UsageError(
                "the calibration was made with --no-entropies, and segments end by the entropy",
                hint="Calibrate again without --no-entropies, or give tau_u, nats: cascade:calibration=FILE,tau_u=3.",
            )
        return np.concatenate([np.zeros(0), *(row for r in self.responses for row in r.entropies or ())])

    @cached_property
    def has_entropies(self) -> bool:
        """Whether the entropies of the responses are known."""
        return all(r.entropies is not None for r in self.responses)

    @cached_property
    def tokens(self) -> int:
        """Tokens of all responses."""
        return sum(int(r.steps.sum()) for r in self.responses)

    @cached_property
    def mean_length(self) -> float:
        """Tokens of a response, in the mean."""
        return self.tokens / max(1, sum(len(r.steps) for r in self.responses))

    @cached_property
    def _asked(self) -> Mapping[str, Sequence[Responses]]:
        found: dict[str, list[Responses]] = {}
        for responses in self.responses:
            found.setdefault(question(responses.prompt), []).append(responses)
        return found

    def agree(self, drafts: Drafts) -> None:
        """See that drafts are sampled as the reference responses were. Raises UsageError that names what differs."""
        if not isinstance(drafts, TextDrafts):
            raise UsageError("a calibration is of texts, and these drafts are none", hint="Use another method.")
        now, then = asdict(drafts.sampling), asdict(self.sampling)
        others = [f"{name} {now[name]!r}, there {then[name]!r}" for name in now if now[name] != then[name]]
        if others:
            raise UsageError(
                f"responses sampled otherwise than those of the calibration: {'; '.join(others)}",
                hint="Sample as the calibration did, or write another: italic calibrate.",
            )

    def rewards_of(self, prompt: Prompt) -> Array | None:
        """The reference rewards of a prompt that are there, float64 [*]; None if nobody asked that, under any id."""
        found = self._asked.get(question(prompt))
        return None if found is None else _present(found)

    def length_of(self, prompt: Prompt) -> float:
        """Tokens of a reference response to a prompt of the calibration, in the mean. Raises KeyError."""
        return float(np.mean(np.concatenate([r.steps for r in self._asked[question(prompt)]])))

    def r_star(self, prompt: Prompt, quantile: float = R_QUANTILE, scope: Scope = "auto") -> float:
        """The reward to aim at: a quantile of the reference rewards, one of them.

        scope: of the whole set, of this very prompt, or "auto": of the prompt if it is there with 8 finite rewards, of
        the set otherwise. Raises UsageError if there are none.
        """
        if scope not in get_args(Scope):
            raise UsageError(f"there is no scope {scope!r}", hint=f"Give one of {', '.join(get_args(Scope))}.")
        own = None if scope == "set" else self.rewards_of(prompt)
        if own is None and scope == "prompt":
            raise UsageError(
                f"prompt {prompt.id!r} is not in the calibration",
                hint="Calibrate on the prompts to be answered, or aim at a reward of the whole set: scope auto.",
            )
        if own is None or (scope == "auto" and np.sum(np.isfinite(own)) < OWN):
            own = self.rewards
        if not len(own):
            raise UsageError(
                f"the calibration has no reward to aim at for prompt {prompt.id!r}",
                hint="Every score was missing. Try the reward alone: `italic doctor` shows what it answers.",
            )
        return _quantile(own, quantile)

    def tau_u(self, quantile: float = TAU_QUANTILE) -> float:
        """The entropy at which a segment ends, nats: a quantile of those of all tokens. Raises UsageError."""
        return _quantile(self.entropies, quantile)

    def spread(self) -> float:
        """The standard deviation of rewards within a prompt: root mean variance of the prompts with two finite ones."""
        finite = [r.rewards[np.isfinite(r.rewards)] for r in self.responses]
        variances = [np.var(rewards, ddof=1) for rewards in finite if len(rewards) > 1]
        return math.sqrt(np.mean(variances)) if variances else math.nan

    def segment_length(self, tau_u: float, least: int = LEAST, most: int = MOST) -> float:
        """Tokens of a segment, in the mean, had the reference responses been cut as they will be.

        A segment ends before a token of entropy tau_u or more, which is not looked for in its first `least` tokens, and
        after `most` tokens at the latest. The entropies are to be known.
        """
        return self.tokens / max(1, sum(r.segments(tau_u, least, most) for r in self.responses))

    def rank_correlation(self) -> list[Correlation]:
        """How well the score of its first tokens predicts a response's reward, one entry a length.

        Of the responses that are longer than that, and of the prompts that have 4 of them, not all with one reward.
        """
        every = range(len(self.lengths))
        return [self._correlation([[i]] * len(self.responses))._replace(length=self.lengths[i]) for i in every]

    def halfway(self) -> Correlation:
        """The same for the middle of the responses, by the lengths from a quarter to three quarters of a prompt's mean.

        A prompt's rho is the mean over its lengths, weighted by responses, so that the error is one over prompts.
        """
        return self._correlation([r.middle(self.lengths) for r in self.responses])

    def _correlation(self, chosen: Sequence[Sequence[int]]) -> Correlation:
        """chosen: for each prompt, at which of the lengths."""
        found = []
        for responses, mine in zip(self.responses, chosen, strict=True):
            parts = [(self.lengths[i], *responses.correlation(i)) for i in mine]
            known = np.array([part for part in parts if part[2]])
            if len(known):
                size = known[:, 2]
                found.append((*(weighted_mean(column, size).mean for column in known[:, :2].T), size.max()))
        lengths, rho, sizes = np.array(found).reshape(-1, 3).T
        length = weighted_mean(lengths, sizes).mean
        return Correlation(length, *weighted_mean(rho, sizes), len(found), int(sizes.sum()))

    def predicts(self) -> bool | None:
        """Whether partial scores predict final ones: the rank correlation halfway is 0.3 or more.

        None if that cannot be told: it is from less than 8 prompts, or its standard error is above 0.15.
        """
        halfway = self.halfway()
        return halfway.mean >= PREDICTS if halfway.prompts >= FEW and halfway.error <= UNSURE else None

    def report(self, file: str = "calibration.parquet") -> dict[str, Any]:
        """All that a user wants to see, as plain values, NaN where the set is too small. file: for the advice.

        tau_u and segment_length are NaN without entropies, too.
        """
        tau_u = self.tau_u() if self.has_entropies else math.nan
        return {
            "model": self.model,
            "reward": self.reward,
            "prompts": len(self.responses),
            "samples": self.samples,
            "tokens": self.tokens,
            "mean_length": self.mean_length,
            "missing": sum(len(r.rewards) for r in self.responses) - len(self.rewards),
            "rewards": {f"{share:g}": _quantile(self.rewards, share) for share in SHOWN},
            "r_star": {"quantile": R_QUANTILE, "value": _quantile(self.rewards, R_QUANTILE)},
            "spread": self.spread(),
            "tau_u": {"quantile": TAU_QUANTILE, "value": tau_u},
            "segment_length": self.segment_length(tau_u) if self.has_entropies else math.nan,
            "rank_correlation": [correlation._asdict() for correlation in self.rank_correlation()],
            "halfway": self.halfway()._asdict(),
            "predicts": self.predicts(),
            "advice": self.advice(file),
        }

    def advice(self, file: str = "calibration.parquet") -> str:
        """Which method to use, and why. file: where the calibration is."""
        whole = "use --method best-of-n:n=16, or chernoff:tv=0.05 for whole responses"
        if not self.lengths:
            return f"The reward has no scores of unfinished responses, to choose segments by: {whole}"
        if not self.has_entropies:
            return f"There are no entropies, to end segments by: {whole}, or calibrate without --no-entropies"
        halfway, predicts = self.halfway(), self.predicts()
        error = "" if math.isnan(halfway.error) else f" ± {halfway.error:.2f}"
        seen = f"rank correlation {halfway.mean:.2f}{error} halfway"
        if predicts is True:
            return f"Partial scores predict final ones ({seen}): use --method cascade:calibration={file}"
        if predicts is False:
            noise = "segments would be chosen by noise"
            return f"Partial scores do not predict final ones ({seen}): {noise}; {whole} instead"
        why, what = f"{seen}, from {halfway.prompts} prompts", "calibrate on more prompts, or with more --samples"
        if not any(r.middle(self.lengths) for r in self.responses):
            middle = sorted({max(1, round(share * self.mean_length)) for share in (0.25, 0.5, 0.75)})
            why = f"no length is halfway through a response, which has {self.mean_length:.0f} tokens in the mean"
            what = f"calibrate with --lengths {','.join(map(str, middle))}"
        elif not halfway.prompts:
            why = f"no prompt has {RANKED} responses of different rewards that are long enough"
        return f"Whether partial scores predict final ones cannot be told ({why}): {what}"

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all. Raises RecordError if it cannot be written."""
        about = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "responses"}
        about |= {"format": FORMAT, "sampling": asdict(self.sampling)}
        table.write(path, [responses.row() for responses in self.responses], about)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file. Raises UsageError if it is none of ours, RecordError if it is broken or of another format."""
        rows, about = table.read(path)
        try:
            if about.pop("format") != FORMAT:
                raise ValueError("it is of another format")
            about["sampling"] = Sampling(**about["sampling"] | {"stop": tuple(about["sampling"]["stop"])})
            about["lengths"] = tuple(about["lengths"])
            return cls(**about, responses=tuple(Responses.of(row) for row in rows))
        except (ValueError, KeyError, TypeError, UsageError) as failure:
            raise RecordError(f"the calibration {path} cannot be read: {failure}", hint=table.AGAIN) from failure


def _present(found: Sequence[Responses]) -> Array:
    return np.concatenate([np.zeros(0), *(responses.present for responses in found)])


def _quantile(values: Array, share: float) -> float:
    """One of the values: the smallest that at least such a share of them does not exceed. NaN if there are none."""
    if not 0 <= share <= 1:
        raise UsageError(f"a quantile at {share}", hint="Give a share from 0 to 1.")
    return float(np.quantile(values, share, method="inverted_cdf")) if len(values) else math.nan
