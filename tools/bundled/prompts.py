"""The prompt sets that come with the package, drawn from held-out text by a fixed rule."""

from __future__ import annotations

import json
import random
from collections.abc import Container
from pathlib import Path

from bundled.asks import STORY_NEXT
from bundled.chats import Chat, Corpus

Messages = tuple[tuple[str, str], ...]

DEMO = {
    "dialogue": ("I need", "I want", "Can", "Find", "I would", "Is there"),
    "story": (
        "Tell me a story about",
        "Write a story about",
        "Write a story that begins",
        "Write a story with",
        "Can you tell me a story about",
        "Tell me a story. It starts",
    ),
}
"""The demo has one prompt for each of these beginnings: the first single message that starts so."""

HELD_OUT = {"dialogue": 160, "story": 120}
STORY_NEXT_STARTS = tuple(template.partition("{")[0] for template in STORY_NEXT)


def dialogue_prompts(corpus: Corpus, seed: int) -> list[Messages]:
    """Beginnings of held-out dialogues, up to one of the first four user messages."""
    rng = random.Random(f"{seed}/dialogue prompts")
    out: list[Messages] = []
    for turns in rng.sample(corpus.dialogues, len(corpus.dialogues)):
        users = [i for i, (who, _) in enumerate(turns[:8]) if who == "U"]
        last = rng.choice(users)
        out.append(tuple(("user" if who == "U" else "assistant", text.strip()) for who, text in turns[: last + 1]))
    return out


def story_prompts(corpus: Corpus, seed: int) -> list[Messages]:
    """Requests for stories that can be understood alone, which a story's middle cannot."""
    requests = [item.messages[:-1] for item in corpus.draw({"story": 3}, seed)]
    return [messages for messages in requests if not messages[0][1].startswith(STORY_NEXT_STARTS)]


def choose(corpus: Corpus, seen: Container[Messages], seed: int) -> tuple[list[dict], list[dict]]:
    """The demo prompts and the held-out prompts: the first of each kind in an order set by the seed.

    seen: what the chat model was asked in training, to the letter; no prompt is one of them.
    """
    demo: list[dict] = []
    held: list[dict] = []
    for kind, pool in (("dialogue", dialogue_prompts(corpus, seed)), ("story", story_prompts(corpus, seed))):
        distinct = [messages for messages in dict.fromkeys(pool) if messages not in seen]
        shown: list[Messages] = []
        for start in DEMO[kind]:
            fits = (m for m in distinct if len(m) == 1 and m[0][1].startswith(start) and m not in shown)
            shown.append(next(fits))
        rest = [messages for messages in distinct if messages not in shown][: HELD_OUT[kind]]
        for name, lines, chosen in (("demo", demo, shown), ("held", held, rest)):
            for number, messages in enumerate(chosen):
                content = Chat(messages, kind).as_messages()
                lines.append({"id": f"{name}-{kind}-{number:03d}", "messages": content, "kind": kind})
    return interleaved(demo), interleaved(held)


def interleaved(lines: list[dict]) -> list[dict]:
    """The kinds mixed evenly, so that the first k prompts are a fair share of all."""
    sizes = {kind: sum(line["kind"] == kind for line in lines) for kind in HELD_OUT}
    places = {kind: iter(range(size)) for kind, size in sizes.items()}
    return sorted(lines, key=lambda line: (next(places[line["kind"]]) + 0.5) / sizes[line["kind"]])


def write(path: Path, lines: list[dict]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
