"""What the engine makes of the cascade: `python benchmarks/cascade.py`. For what it is worth: `cascade_rewards.py`.

The bundled pair, prompts of 100 tokens, responses of 128. The plain loop (`plain_cascade.py`) recomputes the prefix for
every token of every try and the whole text for every score, one prompt and one try at a time, as the reference
implementation does. `cascade:exact=true` makes the same responses, token by token, so the ratio is one of time alone:

    one      one prompt at a time
    many     32 prompts at once, against the plain loop's time for one
    default  the same for the default form of the method: for the scale, its responses are others

Positions are those through each network over what is unavoidable: the prompt once, and every token that was drawn.
All ratios are of one run, sides in turn.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from typing import Any

import numpy as np
import torch

import italic
from italic.cli.demo import bundled_prompts
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling
from italic.methods.cascade import Cascade
from plain_cascade import Loop, plain_cascade

PROMPT_TOKENS, NEW_TOKENS, MANY = 100, 128, 32


def prompts(model: Any, count: int) -> list[Prompt]:
    """Held-out requests for stories, several in one, so that there are a hundred tokens."""
    stories = [p.last for p in bundled_prompts("heldout") if p.columns["kind"] == "story"]
    found = []
    for i in range(count):
        text = stories[i]
        for more in stories[i + 1 :]:
            if len(model.codec.encode(Prompt("", text=text))) >= PROMPT_TOKENS:
                break
            text = f"{text} {more}"
        found.append(Prompt(f"{i}", text=text))
    return found


class Plain:
    """The plain loop on a pair: the same networks, called without a cache."""

    def __init__(self, model: Any, reward: Any, method: Cascade) -> None:
        self._model, self._reward, self._method = model, reward, method

    def __call__(self, prompt: Prompt, seed: int) -> Loop:
        """One response."""
        model, checkpoint = self._model, self._reward.checkpoint
        tokens = np.asarray(model.codec.encode(prompt), dtype=np.int32)
        chat = [{"role": "user", "content": prompt.text}]
        before = checkpoint.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)

        def score(response: list[int]) -> tuple[float, int]:
            text = model.codec.decode(tokens, np.asarray(response, dtype=np.int32)).rstrip("\ufffd")
            ids = checkpoint.tokenizer(before + text, add_special_tokens=False, return_tensors="pt").input_ids
            with torch.inference_mode():
                return float(checkpoint.model(ids, use_cache=False).logits[0, checkpoint.label]), ids.shape[1]

        return plain_cascade(
            model.network.decoder,
            tokens.tolist(),
            score,
            Key(seed).at(prompt.id),
            r_star=self._method.r_star or 0.0,
            tau_u=self._method.tau_u or 0.0,
            new_tokens=NEW_TOKENS,
        )


def run(model: Any, reward: Any, method: Cascade, which: list[Prompt], seed: int) -> tuple[float, Any]:
    """Seconds, and the answers."""
    began = time.perf_counter()
    answers = italic.align(which, model, reward, method, seed=seed, sampling=Sampling(NEW_TOKENS))
    return time.perf_counter() - began, answers


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    model = italic.build_model(arguments.model, dtype=arguments.dtype)
    reward = italic.build_reward("demo", dtype="float32")
    exact = Cascade(r_star=arguments.r_star, tau_u=arguments.tau_u, exact=True, parallel=16, eager=arguments.eager)
    default = Cascade(r_star=arguments.r_star, tau_u=arguments.tau_u, beta=0.1, parallel=16, eager=arguments.eager)
    plain, asked = Plain(model, reward, exact), prompts(model, MANY)
    run(model, reward, exact, asked[-1:], 99)
    loops, slow, fast, once = [], 0.0, 0.0, []
    for i, prompt in enumerate(asked[: arguments.prompts]):
        seconds, answers = run(model, reward, exact, [prompt], i)
        fast += seconds
        once.append(answers)
        began = time.perf_counter()
        loops.append(plain(prompt, i))
        slow += time.perf_counter() - began
        same = answers.results[0].outcome.drafts.tokens[0].tolist() == loops[-1].tokens
        print(f"prompt {i}: {seconds:.2f} s, plain {slow:.1f} s so far, same tokens: {same}", flush=True)
    many, answers = run(model, reward, exact, asked, 1000)
    default_one, _ = run(model, reward, default, asked[:1], 0)
    default_many, told = run(model, reward, default, asked, 1000)
    prompt_tokens = sum(len(model.codec.encode(p)) for p in asked[: arguments.prompts])
    drawn = sum(a.usage.tokens_generated for a in once)
    least = prompt_tokens + drawn
    tries = [t for loop in loops for t in loop.tries]
    plain_drawn = sum(sum(loop.tries) for loop in loops)
    tokens = sum(len(loop.tokens) for loop in loops)
    return {
        "threads": torch.get_num_threads(),
        "same_tokens": all(
            a.results[0].outcome.drafts.tokens[0].tolist() == loop.tokens for a, loop in zip(once, loops, strict=True)
        ),
        "prompt_tokens": prompt_tokens / arguments.prompts,
        "response_tokens": tokens / len(loops),
        "tries_a_segment": float(np.mean(tries)),
        "tokens_drawn": drawn / len(loops),
        "lm_positions_ratio": sum(a.usage.positions for a in once) / least,
        "reward_positions_ratio": sum(a.usage.reward_tokens for a in once) / least,
        "plain_lm_positions_ratio": sum(loop.lm for loop in loops) / least,
        "plain_reward_positions_ratio": sum(loop.rm for loop in loops) / least,
        "plain_scores": plain_drawn / len(loops),
        "plain_seconds": slow / len(loops),
        "one_seconds": fast / len(loops),
        "one_times_faster": slow / fast,
        "many_seconds": many,
        "many_times_faster": MANY * slow / len(loops) / many,
        "many_tokens_drawn": answers.usage.tokens_generated / MANY,
        "default_one_seconds": default_one,
        "default_many_seconds": default_many,
        "default_many_tokens_drawn": told.usage.tokens_generated / MANY,
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--model", default="demo", help="or demo:compiled=true")
    parser.add_argument("--dtype", default="float32", help="of the model; in bfloat16 tokens may differ")
    parser.add_argument("--r-star", type=float, default=1.5)
    parser.add_argument("--tau-u", type=float, default=3.5)
    parser.add_argument("--eager", type=float, default=1.5, help="of the method: tries drawn at once")
    parser.add_argument("--prompts", type=int, default=2, help="on how many prompts the plain loop is run")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = measure(arguments)
    if arguments.json:
        print(json.dumps(found))
        return
    for key, value in found.items():
        print(f"{key:28} {value:.4g}" if isinstance(value, float) else f"{key:28} {value}")


if __name__ == "__main__":
    main()
