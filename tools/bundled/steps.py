"""The steps of the command line."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from bundled import lm, reward
from bundled.chats import Chat, Corpus, corpora
from bundled.pairs import cut_points, labelled, preference_pairs
from bundled.prompts import choose, write
from bundled.sampling import prompt_ids, sample
from bundled.sources import load
from bundled.tokens import USER, encode, load_tokenizer, pack, render, train_tokenizer

LENGTH = 256
PASSES = {"story": 8, "dialogue": 1, "book": 1, "review": 1, "opinion": 1, "persona": 1, "sentence": 1}
MINUTES = {"lm": 47.0, "preference": 8.0, "sentiment": 5.0}
CONTEXTS = {"dialogue": 2400, "story": 500, "book": 300, "review": 350, "opinion": 400, "persona": 300, "sentence": 100}
SPREAD_PROMPTS, SPREAD_REPLIES = 24, 16


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    data: str
    out: Path
    work: Path
    minutes: float | None
    seed: int
    threads: int
    half: bool
    temperature: float

    def time(self, step: str) -> float:
        """The training time of a step in minutes."""
        return MINUTES[step] if self.minutes is None else self.minutes


def prepare(settings: Settings) -> None:
    """Train the tokenizer and write the packed rows of training and held-out chats."""
    training, held = corpora(load(settings.data))
    chats = training.draw(PASSES, settings.seed)
    tokenizer = train_tokenizer(render(chat) for chat in chats[::4])
    settings.work.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(settings.work / "tokenizer")
    pad = tokenizer.pad_token_id
    rows = pack(encode(tokenizer, [render(chat) for chat in chats]), LENGTH, pad, settings.seed)
    arrays = {"train": rows}
    for kind in PASSES:
        chosen = held.draw({kind: 1}, settings.seed)[:400]
        arrays[f"held_{kind}"] = pack(encode(tokenizer, [render(chat) for chat in chosen]), LENGTH, pad, settings.seed)
    np.savez(settings.work / "rows.npz", **arrays)
    print(f"{len(chats):,} chats, {int((rows != pad).sum()):,} tokens in {len(rows):,} rows")


def language_model(settings: Settings) -> None:
    """Train the chat language model."""
    report = lm.train(
        np.load(settings.work / "rows.npz")["train"],
        held_rows(settings),
        load_tokenizer(settings.work / "tokenizer"),
        settings.out / "chat",
        settings.time("lm"),
        settings.seed,
        half=settings.half,
    )
    write_report(settings.out / "chat", {"held-out loss per token": report})


def held_rows(settings: Settings) -> dict[str, np.ndarray]:
    """The packed rows of held-out chats by kind."""
    arrays = np.load(settings.work / "rows.npz")
    return {name.removeprefix("held_"): arrays[name] for name in arrays.files if name != "train"}


def sharpen(settings: Settings) -> None:
    """Bake a sampling temperature into the chat model."""
    tokenizer = load_tokenizer(settings.work / "tokenizer")
    report = lm.sharpen(settings.out / "chat", tokenizer, held_rows(settings), settings.temperature)
    write_report(settings.out / "chat", {f"held-out loss per token, {name}": part for name, part in report.items()})


def contexts(settings: Settings, training: Corpus, held: Corpus) -> dict[str, list[Chat]]:
    """The chats whose replies the preference model learns from and is measured on, and prompts for the spread."""
    fewer = {kind: number // 5 for kind, number in CONTEXTS.items()}
    measured = cut_points(held, fewer, settings.seed)
    one_each = [chat for kind in ("dialogue", "story", "book", "review") for chat in measured if chat.kind == kind]
    step = max(1, len(one_each) // SPREAD_PROMPTS)
    return {
        "train": cut_points(training, CONTEXTS, settings.seed),
        "held": measured,
        "spread": [chat for chat in one_each[::step][:SPREAD_PROMPTS] for _ in range(SPREAD_REPLIES)],
    }


def samples(settings: Settings) -> None:
    """Draw the chat model's own replies, which the reward models need."""
    tokenizer = load_tokenizer(settings.work / "tokenizer")
    chats = contexts(settings, *corpora(load(settings.data)))
    own = {
        name: sample(settings.out / "chat", tokenizer, part, settings.seed + index)
        for index, (name, part) in enumerate(chats.items())
    }
    (settings.work / "samples.json").write_text(json.dumps(own))
    print({name: len(part) for name, part in own.items()})


def preference(settings: Settings) -> None:
    """Train and measure the preference model."""
    tokenizer = load_tokenizer(settings.work / "tokenizer")
    chats = contexts(settings, *corpora(load(settings.data)))
    own = json.loads((settings.work / "samples.json").read_text())
    pairs = preference_pairs(tokenizer, chats["train"], own["train"], 8, settings.seed)
    measured = preference_pairs(tokenizer, chats["held"], own["held"], 2, settings.seed + 1)
    torch.manual_seed(settings.seed)
    model = reward.build(tokenizer, settings.out / "chat")
    print(f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(pairs):,} pairs", flush=True)
    batches = reward.preference_batches(pairs, tokenizer.convert_tokens_to_ids(USER), settings.seed)
    reward.fit(model, batches, reward.preference_loss, settings.time("preference"), rates=(3e-3, 2e-3))
    finish(settings, model, tokenizer, "preference", chats["spread"], own["spread"], measured=measured)


def sentiment(settings: Settings) -> None:
    """Train and measure the sentiment model."""
    tokenizer = load_tokenizer(settings.work / "tokenizer")
    raw = load(settings.data)
    training, held = corpora(raw)
    chats = contexts(settings, training, held)
    own = json.loads((settings.work / "samples.json").read_text())
    items = labelled(tokenizer, training, raw.emotions, 4, settings.seed)
    measured = labelled(tokenizer, held, raw.emotions, 1, settings.seed)
    torch.manual_seed(settings.seed)
    model = reward.build(tokenizer, settings.out / "chat")
    print(f"{len(items):,} replies", flush=True)
    batches = reward.sentiment_batches(items, settings.seed)
    reward.fit(model, batches, reward.sentiment_loss, settings.time("sentiment"), rates=(1.5e-3, 1e-3))
    finish(settings, model, tokenizer, "sentiment", chats["spread"], own["spread"], measured=measured)


def finish(
    settings: Settings,
    model: reward.LlamaForSequenceClassification,
    tokenizer: PreTrainedTokenizerFast,
    name: str,
    chats: list[Chat],
    own: list[list[int]],
    measured: list,
) -> None:
    """Measure a reward model on held-out examples and on replies of the chat model, and save it."""
    model.eval()
    ids = prompt_ids(tokenizer, chats)
    factor = reward.stretch(model, reward.spread(model, ids, own, chats)["all"])
    reward.save(model, tokenizer, settings.out / name)
    if name == "preference":
        report: dict = reward.preference_report(model, measured, settings.seed)
    else:
        report = reward.sentiment_report(model, measured)
    report["standard deviation over replies to one prompt"] = reward.spread(model, ids, own, chats)
    report["factor of the scores"] = factor
    write_report(settings.out / name, report)


def prompts(settings: Settings) -> None:
    """Write the prompt sets."""
    training, held = corpora(load(settings.data))
    seen = {chat.messages[:-1] for chat in training.draw(PASSES, settings.seed)}
    demo, rest = choose(held, seen, settings.seed)
    write(settings.out / "prompts" / "demo.jsonl", demo)
    write(settings.out / "prompts" / "heldout.jsonl", rest)
    print(len(demo), len(rest))


def write_report(folder: Path, report: dict) -> None:
    """Keep the measurements beside the model."""
    text = json.dumps(report, indent=2)
    (folder / "metrics.json").write_text(text + "\n")
    print(text, flush=True)


RUN = {
    "prepare": prepare,
    "lm": language_model,
    "sharpen": sharpen,
    "sample": samples,
    "preference": preference,
    "sentiment": sentiment,
    "prompts": prompts,
}
