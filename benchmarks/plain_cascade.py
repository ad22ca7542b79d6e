"""Cascade reward sampling the plain way, written from the paper: one prompt, one row, one try at a time, no cache.

The prefix goes through the model anew for every token of every try, and the whole text through the reward model for
every try, as in the reference implementation. Its random numbers are those of `cascade:exact=true`, addressed by name,
so the tokens must be the same. For tests and for the benchmark of the cascade.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from italic.core.keys import Key, uniforms

LEAST, MOST, TRIES, TOP_K = 4, 64, 20, 40


@dataclass
class Loop:
    """What a run of the loop came to. tries: of each segment. lm, rm: positions through the two networks."""

    tokens: list[int] = field(default_factory=list)
    tries: list[int] = field(default_factory=list)
    reward: float = math.nan
    lm: int = 0
    rm: int = 0


def plain_cascade(
    network: Any,
    prompt: list[int],
    score: Callable[[list[int]], tuple[float, int]],
    key: Key,
    *,
    r_star: float,
    tau_u: float,
    new_tokens: int,
    alpha: float = 0.5,
    beta: float = 0.7,
) -> Loop:
    """One response. score(response tokens): the reward of the prompt with them, and the positions that it took."""
    done = Loop()
    own, read = score([])
    done.rm += read
    low = (1 - alpha) * own + alpha * r_star
    while len(done.tokens) < new_tokens:
        segment, best, tested = key.at("segment", len(done.tries)), None, 0
        while True:
            seed = segment.at("try").seeds(tested + 1)[-1:]
            candidate = _segment(network, prompt, done, tau_u, beta, seed)
            reward, read = score(candidate)
            done.rm += read
            tested += 1
            if best is None or reward > best[0]:
                best = reward, candidate
            if tested > TRIES:
                done.reward, done.tokens = best
                break
            threshold = min(low + len(candidate) * (r_star - low) / new_tokens, r_star)
            if segment.at("accept").uniform(tested)[-1] < math.exp(min(0.0, (reward - threshold) / beta)):
                done.reward, done.tokens = reward, candidate
                break
        done.tries.append(tested)
    return done


def _segment(network: Any, prompt: list[int], done: Loop, tau_u: float, beta: float, seed: Any) -> list[int]:
    """The response so far with one more segment."""
    response = list(done.tokens)
    while len(response) - len(done.tokens) < MOST:
        ids = torch.tensor([prompt + response])
        with torch.inference_mode():
            logits = network(input_ids=ids, use_cache=False).logits[0, -1].double()
        done.lm += ids.shape[1]
        law = logits.softmax(-1)
        entropy = float(torch.special.entr(law).sum())
        if len(response) - len(done.tokens) >= LEAST and entropy >= tau_u:
            break
        weights = (logits / beta).softmax(-1)
        weights[weights < weights.topk(min(TOP_K, len(weights))).values[-1]] = 0
        upto = np.cumsum(weights.numpy())
        noise = uniforms(seed, np.array([len(response)]))[0]
        response.append(int(np.searchsorted(upto, noise * upto[-1], side="right")))
    return response
