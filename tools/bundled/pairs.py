"""Training examples of the reward models: preference pairs and labelled replies, as token ids."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from bundled.asks import OPINION_ASK, OPINION_TONE, REVIEW_ASK, REVIEW_TONE, STORY_ASK, ask
from bundled.chats import LONG, Chat, Corpus
from bundled.sampling import prompt_ids
from bundled.tokens import END, encode

LONGEST = 320
"""Largest number of tokens of prompt and reply; longer prompts lose their beginning."""

SMALL_TALK = (
    "How are you?",
    "What do you think?",
    "How was your day?",
    "Tell me what you feel.",
    "What happened?",
    "And?",
)
BOUNDS = (8, 16, 32, 64)


@dataclass(frozen=True)
class Pair:
    """A prompt, a better and a worse reply, and what made the worse one worse."""

    prompt: list[int]
    better: list[int]
    worse: list[int]
    kind: str
    task: str


@dataclass(frozen=True)
class Labelled:
    """A prompt, a reply and whether the reply is positive."""

    prompt: list[int]
    reply: list[int]
    label: int
    kind: str


def cut_points(corpus: Corpus, count: dict[str, int], seed: int) -> list[Chat]:
    """Chats that end with a true reply, a given number of each kind; dialogues end at a random turn."""
    rng = random.Random(f"{seed}/contexts")
    out: list[Chat] = []
    for kind, number in count.items():
        chats = corpus.draw({kind: 1}, seed)[:number]
        for item in chats:
            turns = [i for i, (role, _) in enumerate(item.messages) if role == "assistant"]
            last = rng.choice(turns)
            first = max(0, last - 7)
            out.append(Chat(item.messages[first : last + 1], item.kind, item.label))
    return out


def corrupt(reply: list[int], end: int, rng: random.Random) -> list[int]:
    """A mildly damaged reply: words out of order, lost or repeated, or an early end."""
    body = [token for token in reply if token != end]
    ended = len(body) < len(reply)
    size = len(body)
    way = rng.randrange(5)
    if size < 4 or way == 0:
        at = rng.randrange(1, max(2, size))
        width = max(1, min(size // 3, 8))
        body = body[:at] + body[max(0, at - width) : at] * rng.randint(1, 3) + body[at:]
    elif way == 1:
        body = body[: max(1, int(size * rng.uniform(0.2, 0.8)))]
    elif way == 2:
        keep = rng.uniform(0.6, 0.9)
        body = [token for token in body if rng.random() < keep] or body[:1]
    elif way == 3:
        at = rng.randrange(size - 2)
        width = min(size - at, max(4, size // 3))
        part = body[at : at + width]
        rng.shuffle(part)
        body = body[:at] + part + body[at + width :]
    else:
        for _ in range(max(1, size // 10)):
            i, j = rng.randrange(size), rng.randrange(size)
            body[i], body[j] = body[j], body[i]
    return [*body, end] if ended else body


def preference_pairs(
    tokenizer: PreTrainedTokenizerFast, chats: list[Chat], own: list[list[int]], rounds: int, seed: int
) -> list[Pair]:
    """Pairs of every sort for the chats that have a sampled reply `own`; each round draws new pairs.

    A reply to another prompt is worse only where the prompt is a specific one, not "Tell me a story."."""
    rng = random.Random(f"{seed}/pairs")
    end = tokenizer.eos_token_id
    prompts = prompt_ids(tokenizer, chats)
    true = encode(tokenizer, [chat.reply + END for chat in chats])
    dialogue = [encode(tokenizer, [t + END for r, t in c.messages[:-1] if r == "assistant"]) for c in chats]
    groups: dict[tuple[str, bool], list[int]] = {}
    for index, item in enumerate(chats):
        groups.setdefault((item.kind, len(item.reply) > LONG[0] * 0.8), []).append(index)
    asked = Counter(chat.messages[:-1] for chat in chats)
    out: list[Pair] = []
    for _ in range(rounds):
        for index, item in enumerate(chats):
            other = rng.choice(groups[item.kind, len(item.reply) > LONG[0] * 0.8])
            specific = asked[item.messages[:-1]] == 1 or item.kind == "persona"
            if chats[other].messages[:-1] == item.messages[:-1]:
                continue
            sorts = [
                ("own sample", true[index], own[index]),
                ("corrupted", true[index], corrupt(true[index], end, rng)),
                ("own sample, corrupted", own[index], corrupt(own[index], end, rng)),
            ]
            weights = [0.35, 0.15, 0.15]
            if specific:
                sorts.append(("other reply", true[index], true[other]))
                sorts.append(("own sample of another prompt", own[index], own[other]))
                weights += [0.2, 0.15]
            if dialogue[index]:
                sorts.append(("earlier reply", true[index], rng.choice(dialogue[index])))
                weights.append(0.1)
            kind, better, worse = rng.choices(sorts, weights)[0]
            if better != worse and better and worse:
                out.append(Pair(prompts[index], better, worse, kind, item.kind))
    rng.shuffle(out)
    return out


def truncate(pair: Pair, rng: random.Random) -> tuple[Pair, int]:
    """The pair with both replies cut to one random length, so that neither has its end; and that length."""
    size = rng.randint(3, max(3, min(len(pair.better), len(pair.worse)) - 1))
    return Pair(pair.prompt, pair.better[:size], pair.worse[:size], pair.kind, pair.task), size


def crop(pair: Pair, user: int, rng: random.Random) -> Pair:
    """The pair with its prompt begun at one of the last two user messages; `user` is the token that opens one."""
    starts = [place for place, token in enumerate(pair.prompt) if token == user]
    prompt = [pair.prompt[0], *pair.prompt[rng.choice(starts[-2:]) :]]
    return Pair(prompt, pair.better, pair.worse, pair.kind, pair.task)


def bound(size: int) -> str:
    """The name of the range of lengths that holds `size`."""
    low = 0
    for high in BOUNDS:
        if size < high:
            return f"{low}-{high - 1} tokens"
        low = high
    return f"{low}+ tokens"


def labelled(
    tokenizer: PreTrainedTokenizerFast, corpus: Corpus, emotions: list[tuple[str, str, int]], passes: int, seed: int
) -> list[Labelled]:
    """Replies with a sentiment label, each under a request that says nothing about the label."""
    rng = random.Random(f"{seed}/labelled")
    texts: list[tuple[str, int, str]] = []
    for turn in range(passes):
        chats = corpus.draw({"review": 1, "opinion": 1}, seed + turn)
        for item in chats:
            if item.label is not None:
                texts.append((item.reply, item.label, "passage" if len(item.reply) > 330 else "opinion"))
    for split, text, label in emotions:
        if (split == "test") == corpus.held and split != "dev":
            texts += [(text.replace("[NAME]", "Tom"), label, "emotion")] * min(passes, 2)
    rng.shuffle(texts)
    asks = {"passage": REVIEW_ASK, "opinion": OPINION_ASK, "emotion": SMALL_TALK}
    tones = {"passage": REVIEW_TONE, "opinion": OPINION_TONE}
    users = []
    for _, _, kind in texts:
        way = rng.random()
        if way < 0.15 and kind in tones:
            users.append(ask(rng, tones[kind], rng.choice(("positive", "negative"))))
        else:
            users.append(ask(rng, asks[kind] if way < 0.75 else rng.choice((STORY_ASK, SMALL_TALK, REVIEW_ASK))))
    prompts = prompt_ids(tokenizer, [Chat((("user", user), ("assistant", "")), "") for user in users])
    replies = encode(tokenizer, [text + END for text, _, _ in texts])
    return [Labelled(p, r, label, kind) for p, r, (_, label, kind) in zip(prompts, replies, texts, strict=True)]
