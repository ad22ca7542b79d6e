"""Reference responses, what `italic calibrate` draws: a method, so that it runs, pays and goes on as methods do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from italic.core.drafts import TextDrafts
from italic.core.errors import UsageError
from italic.core.outcome import Outcome
from italic.core.protocols import Paper, Task
from italic.core.questions import Asking, extend, likelihood, score, together
from italic.core.sampling import Sampling


@dataclass(frozen=True)
class Reference:
    """`samples` draws of the model, with what the model and the reward say of them; the first that is scored is chosen.

    Law: the model itself. partial: score unfinished drafts as well, the empty one and those of `lengths` tokens, which
    are in ascending order. entropies: ask how uncertain the model was, which takes a second pass; without, the
    log-probabilities are those of the draws, which are to be `plain`. The notes of the outcome, n = samples:

        logprobs: float64 [n], nats, of the whole responses; entropies: n arrays float64, nats, one number a token,
            None if they are not asked for.
        prompt_reward: the score of the empty draft; partial: float64 [len(lengths), n], the scores of the first
            tokens of each response, NaN for those that are no longer than that. NaN without `partial`.
    """

    samples: int
    lengths: tuple[int, ...] = ()
    partial: bool = False
    entropies: bool = True

    papers: ClassVar[tuple[Paper, ...]] = ()

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise UsageError(f"a calibration with {self.samples} samples", hint="Give 1 or more: --samples 8.")
        if any(a >= b for a, b in zip((0, *self.lengths), self.lengths, strict=False)):
            raise UsageError(
                f"a calibration at the lengths {', '.join(map(str, self.lengths))}",
                hint="Give numbers of 1 or more in ascending order: --lengths 8,16,32.",
            )

    @property
    def needs(self) -> frozenset[str]:
        """`partial` and `likelihood` depend on the parameters."""
        asked = {"partial": self.partial, "likelihood": self.entropies}
        return frozenset({"texts", *(need for need, yes in asked.items() if yes)})

    def agree(self, sampling: Sampling) -> None:
        """See that draws by `sampling` tell how likely they are, if nothing else does. Raises UsageError."""
        if not self.entropies and (not sampling.plain or sampling.ignore_eos):
            raise UsageError(
                f"--no-entropies with {sampling}: such draws do not tell how likely the model itself finds them",
                hint="Leave --no-entropies out, or draw at temperature 1, without top-k, top-p and min-p.",
            )

    def run(self, task: Task) -> Asking[Outcome]:
        empty: TextDrafts = task.start(self.samples)
        self.agree(empty.sampling)
        drafts: TextDrafts = yield from extend(empty)
        rewards = yield from score(drafts)
        logprobs, entropies = drafts.logps.astype(np.float64), None
        if self.entropies:
            logprobs, entropies = yield from likelihood(drafts)
        own, partial = np.full(1, np.nan), np.full((len(self.lengths), self.samples), np.nan)
        if self.partial:
            longer = [np.flatnonzero(drafts.steps > length) for length in self.lengths]
            begun = [drafts[rows].cut(length) for rows, length in zip(longer, self.lengths, strict=True)]
            unfinished = (task.start(1, "prompt"), *begun)
            own, *found = yield from together(*(score(rows, strict=False) for rows in unfinished))
            for scores, rows, at in zip(found, longer, partial, strict=True):
                at[rows] = scores
        notes = {
            "logprobs": np.nansum(logprobs, axis=1),
            "entropies": None if entropies is None else [h[:n] for h, n in zip(entropies, drafts.steps, strict=True)],
            "prompt_reward": float(own[0]),
            "partial": partial,
        }
        return Outcome(drafts, rewards, chosen=int(np.argmin(np.isnan(rewards))), notes=notes)
