"""The prompt sets that come with the package, drawn from held-out text by a fixed rule."""

from __future__ import annotations

import json
import random
from pathlib import Path

from bundled.chats import SELF_ASK, SELF_LONG, TRAITS, Chat, Corpus

DEMO = {"dialogue": 4, "story": 3, "review": 2, "book": 2, "persona": 1}
HELD_OUT = {"dialogue": 100, "story": 70, "review": 50, "book": 50, "persona": 30}


def dialogue_prompts(corpus: Corpus, seed: int) -> list[Chat]:
    """Beginnings of held-out dialogues, up to one of the first four user messages."""
    rng = random.Random(f"{seed}/dialogue prompts")
    out = []
    for turns in rng.sample(corpus.dialogues, len(corpus.dialogues)):
        users = [i for i, (who, _) in enumerate(turns[:8]) if who == "U"]
        last = rng.choice(users)
        out.append(Chat(tuple(("user" if who == "U" else "assistant", text.strip()) for who, text in turns[: last + 1]), "dialogue"))
    return out


def choose(corpus: Corpus, seed: int) -> tuple[list[dict], list[dict]]:
    """The demo prompts and the held-out prompts: the first distinct ones of each kind in an order set by the seed."""
    demo: list[dict] = []
    held: list[dict] = []
    questions = [*SELF_ASK, *SELF_LONG, *(question for group in TRAITS.values() for question in group)]
    random.Random(f"{seed}/persona prompts").shuffle(questions)
    pools = {
        "dialogue": dialogue_prompts(corpus, seed),
        "persona": [Chat((("user", question),), "persona") for question in questions],
    }
    for kind in ("story", "review", "book"):
        pools[kind] = [Chat(item.messages[:-1], kind) for item in corpus.draw({kind: 2}, seed)]
    for kind, wanted in HELD_OUT.items():
        seen: set[tuple] = set()
        for item in pools[kind]:
            if item.messages in seen or len(seen) >= wanted + DEMO[kind]:
                continue
            target, name = (demo, "demo") if len(seen) < DEMO[kind] else (held, "held")
            number = sum(line["kind"] == kind for line in target)
            target.append({"id": f"{name}-{kind}-{number:03d}", "messages": item.as_messages(), "kind": kind})
            seen.add(item.messages)
    return demo, held


def write(path: Path, lines: list[dict]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
