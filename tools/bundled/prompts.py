"""The prompt sets that come with the package, drawn from held-out text by a fixed rule."""

from __future__ import annotations

import json
import random
from pathlib import Path

from bundled.asks import SELF_ASK, SELF_LONG, STORY_NEXT, TRAITS
from bundled.chats import Chat, Corpus

DEMO = {
    "dialogue": ("I need", "I want", "Can", "Find"),
    "story": ("Write a short story", "Tell me a story about", "Write a story about", "Write a story that begins"),
    "review": ("How was the film?", "What did you think of the film?"),
    "book": (),
    "persona": ("Tell me something about yourself", "Do you like music"),
}
"""The demo has one prompt for each of these beginnings: the first single message that starts so."""

HELD_OUT = {"dialogue": 110, "story": 90, "review": 40, "book": 30, "persona": 30}
STORY_NEXT_STARTS = tuple(template.partition("{")[0] for template in STORY_NEXT)


def dialogue_prompts(corpus: Corpus, seed: int) -> list[Chat]:
    """Beginnings of held-out dialogues, up to one of the first four user messages."""
    rng = random.Random(f"{seed}/dialogue prompts")
    out = []
    for turns in rng.sample(corpus.dialogues, len(corpus.dialogues)):
        users = [i for i, (who, _) in enumerate(turns[:8]) if who == "U"]
        last = rng.choice(users)
        messages = [("user" if who == "U" else "assistant", text.strip()) for who, text in turns[: last + 1]]
        out.append(Chat(tuple(messages), "dialogue"))
    return out


def fit(request: str) -> bool:
    """Whether a request can be understood without its context, which a story's middle cannot."""
    return not request.startswith(STORY_NEXT_STARTS)


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
    draws = {"story": {"story": 3}, "review": {"review": 1, "opinion": 1}, "book": {"book": 1}}
    for kind, passes in draws.items():
        pools[kind] = [Chat(item.messages[:-1], kind) for item in corpus.draw(passes, seed) if fit(item.messages[0][1])]
    for kind, wanted in HELD_OUT.items():
        distinct = list(dict.fromkeys(item.messages for item in pools[kind]))
        shown = []
        for start in DEMO[kind]:
            fits = (m for m in distinct if len(m) == 1 and m[0][1].startswith(start) and m not in shown)
            shown.append(next(fits))
        rest = [messages for messages in distinct if messages not in shown][:wanted]
        for name, lines, chosen in (("demo", demo, shown), ("held", held, rest)):
            for number, messages in enumerate(chosen):
                content = Chat(messages, kind).as_messages()
                lines.append({"id": f"{name}-{kind}-{number:03d}", "messages": content, "kind": kind})
    return demo, held


def write(path: Path, lines: list[dict]) -> None:
    """Write JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
