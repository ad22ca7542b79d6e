"""The engine, eager and compiled, against `generate`, in one run: the same model, type, rows and tokens, alternating.

    python benchmarks/engine.py                                  all models and types, about 40 minutes on two cores
    python benchmarks/engine.py --model demo --dtype bfloat16    one of them
    python benchmarks/engine.py --engine eager                   without `compiled=true`
    python benchmarks/engine.py --json engine.json               numbers for a machine

Both sides are warm, from a first repetition that is not counted; every repetition has prompts of its own.

Cases. *equal*: 64 responses of 128 tokens to one prompt. *mixed*: 64 prompts, 8 responses each, lengths geometric with
mean 32 and at most 128, forced alike on both sides: step limits here, a stopping criterion there, in batches of 64.
*segments*: 64 responses grown 8 tokens at a time, every third segment thrown away and drawn again. *driver*: best-of-8
of 64 prompts through `italic.align`; its own share is the driver's and the method's: outside engine and reward.

Columns. engine: whether its decoding step was compiled; the time of compiling is not counted. engine/s, generate/s: the
responses' tokens a second, in the fastest repetition. ratio: of the two. positions: token positions through the network
over prompts once plus tokens drawn. own: share of the time outside the network.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    StoppingCriteria,
    StoppingCriteriaList,
)

from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.questions import Extend
from italic.core.sampling import Sampling, Until
from italic.methods.best_of_n import BestOfN
from italic.models.transformers import TransformersModel, load
from italic.models.transformers.load import bundled
from italic.rewards.function import FunctionReward
from italic.run.align import align

ROWS, TOKENS, PROMPTS, EACH, MEAN = 64, 128, 64, 8, 32
SIZES = {"15m": (384, 1024, 8, 6), "60m": (640, 1728, 12, 10)}
SUBJECTS = ("dog", "cat", "boy and his kite", "girl who was lost in the wood", "very old clock", "ship", "king", "bear")
WISHES = ("Tell me a story about a", "Write a short and happy tale about a", "Tell me about a", "Who was the")
ENDS = (".", ", and make it sad.")


@dataclass(frozen=True)
class Line:
    """One measurement."""

    model: str
    dtype: str
    case: str
    compiled: bool
    tokens: int
    engine: float
    generate: float | None
    ratio: float | None
    positions: float
    own: float


class AtLength(StoppingCriteria):
    """Ends each row of `generate` at a length of its own."""

    def __init__(self, prompt: int, lengths: torch.Tensor) -> None:
        self._ends = prompt + lengths

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        """Which rows are through: bool [rows]."""
        return input_ids.shape[1] >= self._ends


def build(name: str, dtype: str, ways: list[bool], folder: Path) -> tuple[list[TransformersModel], Any]:
    """The bundled model, or one with random weights and the bundled tokenizer.

    As the engine's, for each of `ways` compiled or not, and as it comes. None ends at an end-of-sequence token.
    """
    where = str(bundled())
    if name != "demo":
        words = AutoTokenizer.from_pretrained(where)
        width, hidden, layers, heads = SIZES[name]
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(words),
            hidden_size=width,
            intermediate_size=hidden,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=1024,
            tie_word_embeddings=True,
        )
        where = str(folder / f"{name}-{dtype}")
        LlamaForCausalLM(config).save_pretrained(where)
        words.save_pretrained(where)
    engines = [load(where, dtype=dtype, device="cpu", rows=ROWS, compiled=way) for way in ways]
    for made in engines:
        made.name = name
        made.stops.ends[:] = False
    stock = AutoModelForCausalLM.from_pretrained(where, dtype=dtype)
    stock.generation_config.eos_token_id = None
    stock.generation_config.pad_token_id = 0
    return engines, stock


def texts(variant: int = 0) -> list[str]:
    """64 prompts of different lengths."""
    return [f"{wish} {subject}{end} ({variant})" for subject in SUBJECTS for wish in WISHES for end in ENDS]


def jobs(made: TransformersModel, prompts: list[str], each: int, lengths: np.ndarray, seed: int) -> list[Extend]:
    """One extension a prompt, with a step limit for each of its rows."""
    drafts = [
        made.start(Prompt(text, text=text), Key(seed).at(text).seeds(each), Sampling(max_tokens=TOKENS))
        for text in prompts
    ]
    limits = lengths.reshape(len(prompts), each).tolist()
    return [Extend(d, Until(steps=tuple(limit))) for d, limit in zip(drafts, limits, strict=True)]


def by_generate(stock: Any, work: list[Extend], lengths: np.ndarray) -> None:
    """The same rows by `generate`, in batches of 64, padded on the left."""
    prompts = [job.drafts.prompt_tokens for job in work for _ in range(len(job.drafts))]
    for first in range(0, len(prompts), ROWS):
        batch = prompts[first : first + ROWS]
        width = max(map(len, batch))
        ids = torch.zeros(len(batch), width, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, tokens in enumerate(batch):
            ids[row, width - len(tokens) :] = torch.from_numpy(tokens.astype(np.int64))
            mask[row, width - len(tokens) :] = 1
        ends = AtLength(width, torch.from_numpy(lengths[first : first + ROWS]))
        equal = bool((lengths == TOKENS).all())
        with torch.inference_mode():
            stock.generate(
                ids,
                attention_mask=mask,
                do_sample=True,
                top_k=0,
                max_new_tokens=TOKENS,
                stopping_criteria=None if equal else StoppingCriteriaList([ends]),
            )


class Meter:
    """Seconds inside the network."""

    def __init__(self, made: TransformersModel) -> None:
        self.seconds = 0.0
        self._network, self._call = made.network, made.network.call
        made.network.call = self  # type: ignore[method-assign, assignment]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the network and add up the time."""
        start = time.perf_counter()
        out = self._call(*args, **kwargs)
        self.seconds += time.perf_counter() - start
        return out

    def remove(self) -> None:
        """Leave the network as it was."""
        self._network.call = self._call  # type: ignore[method-assign]


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds, and the result."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def compare(engines: list[TransformersModel], stock: Any, dtype: str, case: str, repeats: int) -> list[Line]:
    """Run all sides in turn, the first time to warm up. One line an engine."""
    many, each = (1, ROWS) if case == "equal" else (PROMPTS, EACH)
    draw = np.random.default_rng(0).geometric(1 / MEAN, many * each).clip(1, TOKENS)
    lengths = np.full(ROWS, TOKENS) if case == "equal" else draw
    total = int(lengths.sum())
    runs: list[list[tuple[float, float, float]]] = [[] for _ in engines]
    told = []
    for repeat in range(repeats + 1):
        prompts = texts(repeat)[:many]
        for made, run in zip(engines, runs, strict=True):
            run.append(once(made, jobs(made, prompts, each, lengths, repeat), total))
        work = jobs(engines[0], prompts, each, lengths, repeat)
        told.append(timed(lambda work=work: by_generate(stock, work, lengths))[0])
    lines = []
    generate = min(told[1:])
    for made, run in zip(engines, runs, strict=True):
        took, inside, positions = min(run[1:])
        speed, own, compiled = total / took, 1 - inside / took, made.network.compiled
        lines.append(
            Line(made.name, dtype, case, compiled, total, speed, total / generate, generate / took, positions, own)
        )
    return lines


def once(made: TransformersModel, work: list[Extend], total: int) -> tuple[float, float, float]:
    """Seconds, those inside the network, and positions over prompts and tokens."""
    meter = Meter(made)
    took, answers = timed(lambda: made.extend(work))
    meter.remove()
    assert sum(answer.spent.tokens for answer in answers) == total
    asked = sum(len(job.drafts.prompt_tokens) for job in work)
    return took, meter.seconds, sum(answer.spent.positions for answer in answers) / (asked + total)


def segments(made: TransformersModel, dtype: str) -> Line:
    """Grow by segments, and throw every third one away."""
    (job,) = jobs(made, texts(98)[:1], ROWS, np.full(ROWS, TOKENS), 99)
    drafts, drawn, positions, inside = job.drafts, 0, 0, Meter(made)
    start = time.perf_counter()
    for i in range(3 * TOKENS // 16):
        before = drafts
        (answer,) = made.extend([Extend(drafts.reseed(Key(i).seeds(ROWS)), Until(steps=8))])
        drawn, positions = drawn + answer.spent.tokens, positions + answer.spent.positions
        drafts = before if i % 3 == 2 else answer.drafts
    took = time.perf_counter() - start
    inside.remove()
    ratio, own = positions / (len(drafts.prompt_tokens) + drawn), 1 - inside.seconds / took
    return Line(made.name, dtype, "segments", made.network.compiled, drawn, drawn / took, None, None, ratio, own)


class Watched:
    """A model whose sessions' steps are timed."""

    def __init__(self, made: TransformersModel) -> None:
        self.name, self.offers, self.start, self.extend = made.name, made.offers, made.start, made.extend
        self._made = made
        self.seconds = 0.0

    def open(self) -> Any:
        """A session whose `step` adds up its time."""
        session = self._made.open()
        step = session.step

        def timed_step(allowance: int | None) -> Any:
            took, answers = timed(lambda: step(allowance))
            self.seconds += took
            return answers

        session.step = timed_step  # type: ignore[method-assign]
        return session


def driver(made: TransformersModel, dtype: str) -> Line:
    """Best-of-8 through the driver, with a reward that takes no time of its own to speak of."""

    def letters(completions: list[str], **_: Any) -> list[float]:
        return [float(text.count("e")) for text in completions]

    watched = Watched(made)
    prompts = [Prompt(text, text=text) for text in texts(99)]
    reward = FunctionReward(letters, name="letters")
    sampling = Sampling(max_tokens=MEAN)
    took, answer = timed(lambda: align(prompts, watched, reward, BestOfN(n=EACH), sampling=sampling))
    usage = answer.usage
    asked = sum(len(made.codec.encode(prompt)) for prompt in prompts)
    drawn = usage.tokens_generated
    own = 1 - (watched.seconds + usage.reward_seconds) / took
    ratio = usage.positions / (asked + drawn)
    return Line(made.name, dtype, "driver", made.network.compiled, drawn, drawn / took, None, None, ratio, own)


def show(line: Line) -> str:
    """One row of the table."""
    told = "" if line.generate is None else f"{line.generate:,.0f}"
    ratio = "" if line.ratio is None else f"{line.ratio:.2f}x"
    way = "compiled" if line.compiled else "eager"
    left = f"{line.model:6} {line.dtype:9} {line.case:9} {way:9} {line.tokens:7,} {line.engine:10,.0f}"
    return f"{left} {told:>10} {ratio:>7} {line.positions:10.4f} {line.own:6.1%}"


ALONE = {"segments": segments, "driver": driver}
CASES = ("equal", "mixed", *ALONE)
WAYS = {"eager": False, "compiled": True}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", action="append", choices=["demo", *SIZES])
    parser.add_argument("--dtype", action="append", choices=["bfloat16", "float32"])
    parser.add_argument("--case", action="append", choices=CASES)
    parser.add_argument("--engine", action="append", choices=WAYS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.threads} threads, torch {torch.__version__}, {args.repeats} repetitions after one to warm up")
    print("model  dtype     case      engine     tokens   engine/s generate/s   ratio  positions    own")
    ways = [WAYS[way] for way in args.engine or WAYS]
    lines: list[Line] = []
    for name in args.model or ["demo", *SIZES]:
        for dtype in args.dtype or ["bfloat16", "float32"]:
            with TemporaryDirectory() as folder:
                engines, stock = build(name, dtype, ways, Path(folder))
            for case in args.case or CASES:
                if case in ALONE:
                    found = [ALONE[case](made, dtype) for made in engines]
                else:
                    found = compare(engines, stock, dtype, case, args.repeats)
                lines += found
                print("\n".join(map(show, found)), flush=True)
    if args.json is not None:
        facts = {"threads": args.threads, "torch": torch.__version__, "cpu": os.cpu_count()}
        args.json.write_text(json.dumps({**facts, "lines": [asdict(line) for line in lines]}, indent=2) + "\n")


if __name__ == "__main__":
    main()
