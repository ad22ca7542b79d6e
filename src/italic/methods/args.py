"""ARGS: reward-guided decoding token by token; the likeliest next tokens are scored, and the best of them is kept."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import TextDrafts
from italic.core.errors import UsageError
from italic.core.outcome import Outcome
from italic.core.protocols import Paper, Task
from italic.core.questions import Asking, likeliest, score
from italic.core.sampling import Sampling
from italic.laws.weights import gumbel
from italic.methods._rows import first_scored, ranked


@dataclass(frozen=True)
class Args:
    """One response, token by token: of the k likeliest the one with the largest log-probability + weight * reward.

    The reward is that of all there is so far, the token included. Law, with s = log p(v | x) + weight r(x v) for each v
    of the k likeliest tokens after x: at temperature 0 the response is a function of the prompt, at each token the
    argmax of s, the likeliest of equals; at others v is drawn with probability exp(s / temperature) / sum. So weight=0
    is greedy decoding, or sampling from the likeliest k at that temperature, and with an infinite weight the reward
    alone decides among the k. It is not the tilted law, which no token can know by the reward of its prefix. Tokens
    are those of the model's own law: a run's temperature, top_k, top_p and min_p are refused. A token without a score
    is kept only if none has one, and then it is the likeliest; an answer without a score is an error.
    """

    weight: float = 1.5
    k: int = 10
    temperature: float = 0.0

    needs: ClassVar[frozenset[str]] = frozenset({"likeliest", "resume", "texts", "partial"})
    papers: ClassVar[tuple[Paper, ...]] = (
        Paper("2402.01694", "Khanov et al.", "ARGS: Alignment as Reward-Guided Search", 2024),
    )

    def __post_init__(self) -> None:
        if not (self.weight >= 0 and math.isfinite(self.weight)):
            raise UsageError(f"args with weight={self.weight}", hint="Give 0 or a positive number: args:weight=1.5.")
        if self.k < 1:
            raise UsageError(f"args with k={self.k}", hint="Give 1 or more of the likeliest tokens: args:k=10.")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise UsageError(
                f"args with temperature={self.temperature}",
                hint="Give 0 (the best token) or a positive number: args:temperature=0.5.",
            )

    def run(self, task: Task) -> Asking[Outcome]:
        draft: TextDrafts = task.start(1)
        _refuse_other_laws(draft.sampling)
        reward = np.full(1, np.nan)
        while not draft.done[0]:
            children, _ = yield from likeliest(draft, self.k)
            rewards = yield from score(children, strict=False)
            logp = np.array([logps[-1] for logps in children.logprobs], dtype=np.float64)
            height = logp + self._gain(rewards)
            if self.temperature:
                luck = task.key.at("token", int(draft.steps[0])).uniform(len(children))
                height = gumbel(height / self.temperature, luck)
            kept = int(ranked(height).argmax())
            draft, reward = children[[kept]], rewards[[kept]]
        return Outcome(draft, reward, chosen=first_scored(reward, task))

    def _gain(self, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        """weight * reward, NaN where missing; 0 if there is no weight, even where the reward is -inf."""
        return self.weight * rewards if self.weight else np.where(np.isnan(rewards), np.nan, 0.0)


def _refuse_other_laws(sampling: Sampling) -> None:
    """Raise UsageError if the tokens are to be drawn in another way than by the model's own law."""
    own = Sampling()
    other = [f for f in ("temperature", "top_k", "top_p", "min_p") if getattr(sampling, f) != getattr(own, f)]
    if other:
        raise UsageError(
            f"args chooses among the likeliest tokens of the model's own law, so the run's {' and '.join(other)} would "
            "not be used",
            hint="Leave that out. args has a temperature and a k of its own: args:temperature=0.5,k=40.",
        )
