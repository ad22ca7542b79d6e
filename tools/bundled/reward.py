"""Training and measuring the two reward models."""

from __future__ import annotations

import random
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from bundled.chats import Chat
from bundled.lm import build_config, optimizers, rate, set_rate
from bundled.pairs import LONGEST, Labelled, Pair, bound, crop, truncate

LAYERS = 2


def build(tokenizer: PreTrainedTokenizerFast, chat: Path) -> LlamaForSequenceClassification:
    """A one-score classifier with the embeddings and the first layers of the chat model; the head starts at zero."""
    config = build_config(tokenizer, LAYERS, num_labels=1)
    model = LlamaForSequenceClassification(config)
    source = LlamaForCausalLM.from_pretrained(chat, dtype=torch.float32).model
    names = set(model.model.state_dict())
    model.model.load_state_dict({name: value for name, value in source.state_dict().items() if name in names})
    nn.init.zeros_(model.score.weight)
    return model


def score(model: LlamaForSequenceClassification, rows: Sequence[list[int]]) -> Tensor:
    """The raw scores of token rows, padded on the right."""
    pad = model.config.pad_token_id
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
    hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state
    last = torch.tensor([len(row) - 1 for row in rows])
    return model.score(hidden[torch.arange(len(rows)), last]).squeeze(-1).float()


@torch.no_grad()
def score_all(model: LlamaForSequenceClassification, rows: Sequence[list[int]], batch: int = 128) -> Tensor:
    """The raw scores of many rows, in their order."""
    out = torch.zeros(len(rows))
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        out[part] = score(model, [rows[i] for i in part])
    return out


def joined(prompt: list[int], reply: list[int]) -> list[int]:
    """Prompt and reply in one row; a prompt that is too long loses its beginning."""
    room = max(LONGEST - len(reply), 16)
    return (prompt if len(prompt) <= room else [prompt[0], *prompt[len(prompt) - room + 1 :]]) + reply


def fit(
    model: LlamaForSequenceClassification,
    batches: Callable[[], Iterable[tuple[list[list[int]], Tensor]]],
    loss_of: Callable[[Tensor, Tensor], Tensor],
    minutes: float,
    rates: tuple[float, float],
) -> None:
    """Train for a number of minutes with these rates of Muon and AdamW.

    `batches` yields rows and targets, one pass each time it is called."""
    steppers = optimizers(model, muon_rate=rates[0], adam_rate=rates[1], decay=0.05)
    start, step, running = time.monotonic(), 0, 0.0
    while True:
        for rows, target in batches():
            elapsed = (time.monotonic() - start) / 60
            if elapsed > minutes:
                return
            set_rate(steppers, rate(elapsed / minutes, step, flat=0.3))
            loss = loss_of(score(model, rows), target)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            for stepper in steppers:
                stepper.step()
                stepper.zero_grad()
            running = loss.item() if step == 0 else 0.98 * running + 0.02 * loss.item()
            step += 1
            if step % 100 == 0:
                print(f"step {step} loss {running:.4f} {minutes - elapsed:.1f} min left", flush=True)


def grouped(items: list, size: Callable[[Any], int], tokens: int, rng: random.Random) -> list[list]:
    """Items of similar size in batches of about so many tokens, in random order."""
    order = sorted(items, key=lambda item: size(item) + rng.random() * 24)
    out: list[list] = []
    batch: list = []
    for item in order:
        if batch and (len(batch) + 1) * size(item) > tokens:
            out.append(batch)
            batch = []
        batch.append(item)
    if batch:
        out.append(batch)
    rng.shuffle(out)
    return out


def preference_loss(scores: Tensor, _: Tensor) -> Tensor:
    """Bradley-Terry loss of scores of better replies, then worse ones, with a pull of their mean to zero."""
    better, worse = scores.chunk(2)
    return nn.functional.softplus(worse - better).mean() + 0.1 * (better + worse).square().mean()


def pair_size(pair: Pair) -> int:
    """The number of tokens that a pair takes in a batch."""
    return 2 * (len(pair.prompt) + max(len(pair.better), len(pair.worse)))


def preference_batches(pairs: list[Pair], user: int, seed: int, tokens: int = 4096) -> Callable[[], Iterable]:
    """Batches of pairs, two in five of them truncated, three in five with less of the dialogue before them."""
    rng = random.Random(seed)

    def one_pass() -> Iterable[tuple[list[list[int]], Tensor]]:
        shorter = [crop(pair, user, rng) if rng.random() < 0.6 else pair for pair in pairs]
        ready = [truncate(pair, rng)[0] if rng.random() < 0.4 else pair for pair in shorter]
        for batch in grouped(ready, pair_size, tokens, rng):
            rows = [joined(p.prompt, p.better) for p in batch] + [joined(p.prompt, p.worse) for p in batch]
            yield rows, torch.zeros(0)

    return one_pass


def preference_report(
    model: LlamaForSequenceClassification, pairs: list[Pair], seed: int
) -> dict[str, dict[str, float]]:
    """Accuracy on held-out pairs by sort and task, whole and truncated, with the number of pairs."""
    rng = random.Random(seed)
    cut = [truncate(pair, rng) for pair in pairs]
    report: dict[str, dict[str, float]] = {}
    for name, items, keys in (
        ("whole, by sort", pairs, [p.kind for p in pairs]),
        ("whole, by task", pairs, [p.task for p in pairs]),
        ("truncated, by length", [p for p, _ in cut], [bound(size) for _, size in cut]),
        ("truncated, by sort", [p for p, _ in cut], [p.kind for p in pairs]),
    ):
        rows = [joined(p.prompt, p.better) for p in items] + [joined(p.prompt, p.worse) for p in items]
        better, worse = score_all(model, rows).chunk(2)
        right: dict[str, list[float]] = defaultdict(list)
        for key, gap in zip(keys, (better - worse).tolist(), strict=True):
            for group in (key, "all"):
                right[group].append(1.0 if gap > 0 else 0.5 if gap == 0 else 0.0)
        report[name] = {f"{key} (n={len(v)})": round(sum(v) / len(v), 4) for key, v in sorted(right.items())}
    return report


def sentiment_loss(scores: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy with smoothed labels, which keeps the scores from saturating."""
    return nn.functional.binary_cross_entropy_with_logits(scores, 0.05 + 0.9 * target)


def cut_reply(item: Labelled, size: int) -> Labelled:
    """The item with its reply cut to at most `size` tokens."""
    return Labelled(item.prompt, item.reply[:size], item.label, item.kind)


def sentiment_batches(items: list[Labelled], seed: int, tokens: int = 3072) -> Callable[[], Iterable]:
    """Batches of labelled replies, two in five of them truncated."""
    rng = random.Random(seed)

    def one_pass() -> Iterable[tuple[list[list[int]], Tensor]]:
        ready = [
            cut_reply(item, rng.randint(4, max(4, len(item.reply) - 1))) if rng.random() < 0.4 else item
            for item in items
        ]
        for batch in grouped(ready, lambda i: len(i.prompt) + len(i.reply), tokens, rng):
            yield [joined(i.prompt, i.reply) for i in batch], torch.tensor([float(i.label) for i in batch])

    return one_pass


def sentiment_report(model: LlamaForSequenceClassification, items: list[Labelled]) -> dict[str, dict[str, float]]:
    """Accuracy at threshold zero and area under the ROC curve, by kind, for whole replies and first tokens."""
    report: dict[str, dict[str, float]] = {}
    for name, size in (("whole", 10**6), ("first 32 tokens", 32), ("first 16 tokens", 16), ("first 8 tokens", 8)):
        scores = score_all(model, [joined(i.prompt, i.reply[:size]) for i in items])
        labels = torch.tensor([i.label for i in items])
        for kind in sorted({i.kind for i in items}):
            chosen = torch.tensor([i.kind == kind for i in items])
            s, y = scores[chosen], labels[chosen]
            wins = (s[y == 1][:, None] > s[y == 0][None]).float().mean()
            accuracy = ((s > 0) == (y == 1)).float().mean()
            report.setdefault(f"{kind} (n={len(y)})", {}).update(
                {f"accuracy, {name}": round(accuracy.item(), 4), f"AUC, {name}": round(wins.item(), 4)}
            )
    return report


def spread(
    model: LlamaForSequenceClassification, prompts: list[list[int]], replies: list[list[int]], chats: list[Chat]
) -> dict[str, float]:
    """The standard deviation of the scores of replies to one prompt, averaged over the prompts of each kind."""
    scores = score_all(model, [joined(prompt, reply) for prompt, reply in zip(prompts, replies, strict=True)]).tolist()
    groups: dict[tuple, list[float]] = defaultdict(list)
    for item, value in zip(chats, scores, strict=True):
        groups[item.kind, item.messages[:-1]].append(value)
    kinds: dict[str, list[float]] = defaultdict(list)
    for (kind, _), values in groups.items():
        for name in (kind, "all"):
            kinds[name].append(torch.tensor(values).std().item())
    return {kind: round(sum(values) / len(values), 3) for kind, values in kinds.items()}


def stretch(model: LlamaForSequenceClassification, spread: float, least: float = 1.0) -> float:
    """Multiply the scores so that a spread that is below `least` reaches it; returns the factor."""
    factor = max(1.0, least / spread)
    with torch.no_grad():
        model.score.weight.mul_(factor)
    return factor


def save(model: LlamaForSequenceClassification, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Write the model in bfloat16 and the tokenizer, padding on the right."""
    copy = LlamaForSequenceClassification(model.config)
    copy.load_state_dict(model.state_dict())
    out.mkdir(parents=True, exist_ok=True)
    copy.to(torch.bfloat16).save_pretrained(out)
    tokenizer.padding_side = "right"
    tokenizer.save_pretrained(out)
