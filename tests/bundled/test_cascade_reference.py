"""`cascade:exact=true` against the plain loop of the paper: the same tokens, tries and rewards with the same noise.

Three models, three thresholds, three seeds. The loop knows no cache and no batch: `benchmarks/plain_cascade.py`. Only
the model's and the reward's last digits differ, so a draw on the border between two tokens could part the two; none of
these does.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

import tiny_decoders
from italic import Prompt, Sampling, align, build_model, build_reward
from italic.core.keys import Key
from italic.core.outcome import Outcome
from italic.core.questions import Note
from italic.methods.cascade import Cascade
from italic.models.transformers import TransformersModel
from italic.rewards.classifier.checkpoint import Checkpoint
from italic.rewards.classifier.reward import ClassifierReward

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE.parent / "rewards"), str(HERE.parents[1] / "benchmarks")]

import tiny  # noqa: E402

import plain_cascade  # noqa: E402

SEEDS = (0, 1, 2)
PROMPT = Prompt("one", text="the cat and the dog")
THRESHOLDS = {
    "bundled": ((0.0, 2.0, 40), (1.5, 3.0, 24), (50.0, 3.0, 12)),
    "tiny": ((-1.0, 2.5, 40), (0.5, 3.0, 32), (50.0, 2.8, 24)),
}
"""(r_star, tau_u, new tokens) for each kind of model: easy, in between, and out of reach."""


@cache
def pair(name: str) -> tuple[TransformersModel, ClassifierReward]:
    if name == "bundled":
        return build_model("demo", dtype="float32"), build_reward("demo", dtype="float32")
    words = tiny_decoders.tokenizer(ascii_only=True)
    scorer = Checkpoint.of(tiny.model("opt" if name == "gpt2" else "llama"), tiny.tokenizer(), name="tiny")
    return TransformersModel(tiny_decoders.decoder(name, size=41), words, name=name), ClassifierReward(scorer)


def by_hand(name: str, seed: int, r_star: float, tau_u: float, new: int) -> plain_cascade.Loop:
    """The plain loop on the same networks; the reward reads the whole text, tokenised by itself, every time."""
    model, reward = pair(name)
    empty = model.start(PROMPT, np.zeros(1, np.uint64), Sampling(new))
    words, scorer = reward.checkpoint.tokenizer, reward.checkpoint

    def score(response: list[int]) -> tuple[float, int]:
        text = model.codec.decode(empty.prompt_tokens, np.asarray(response, np.int32)).rstrip("\ufffd")
        chat = [{"role": "user", "content": PROMPT.text}]
        before = words.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        ids = words(before + text, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.inference_mode():
            return float(scorer.model(ids, use_cache=False).logits[0, scorer.label]), ids.shape[1]

    return plain_cascade.plain_cascade(
        model.network.decoder,
        empty.prompt_tokens.tolist(),
        score,
        Key(seed).at(PROMPT.id),
        r_star=r_star,
        tau_u=tau_u,
        new_tokens=new,
    )


def by_italic(name: str, seed: int, r_star: float, tau_u: float, new: int) -> tuple[Outcome, list[int]]:
    """The outcome, and the tries of each segment."""
    tries: list[int] = []

    def listen(_: Prompt, note: Note) -> None:
        if note.event == "segment":
            tries.append(note.values["tries"])

    method = Cascade(r_star=r_star, tau_u=tau_u, exact=True)
    answer = align([PROMPT], *pair(name), method, seed=seed, sampling=Sampling(new), listen=listen)
    return answer.results[0].outcome, tries


@pytest.mark.parametrize("which", range(3), ids=["easy", "between", "out-of-reach"])
@pytest.mark.parametrize("name", ["bundled", "llama", "gpt2"])
def test_token_identity(name: str, which: int) -> None:
    r_star, tau_u, new = THRESHOLDS.get(name, THRESHOLDS["tiny"])[which]
    all_tries: list[int] = []
    for seed in SEEDS:
        wanted = by_hand(name, seed, r_star, tau_u, new)
        outcome, tries = by_italic(name, seed, r_star, tau_u, new)
        assert outcome.drafts.tokens[0].tolist() == wanted.tokens
        assert tries == wanted.tries
        assert outcome.reward == pytest.approx(wanted.reward, abs=1e-4)
        assert new <= len(wanted.tokens) < new + 64
        assert outcome.drafts.done.all()
        all_tries += wanted.tries
    assert (set(all_tries) == {21}) == (which == 2)
    assert which == 2 or np.mean(all_tries) < 21
