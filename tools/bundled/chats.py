"""Turning the collections into chats: one user request (or a dialogue) and the assistant's text."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from bundled.asks import (
    BOOK_ASK,
    BOOK_NEXT,
    OPINION_ASK,
    OPINION_TONE,
    PLAIN,
    PLOT_ASK,
    REVIEW_ABOUT,
    REVIEW_ASK,
    REVIEW_NEXT,
    REVIEW_TONE,
    SELF_ASK,
    SELF_LONG,
    SENTENCE_WORD,
    STORY_ABOUT,
    STORY_ASK,
    STORY_BEGIN,
    STORY_NEXT,
    STORY_WORDS,
    TOPICS,
    TRAITS,
    ask,
)
from bundled.sources import Sources, held_out, share
from bundled.texts import TrueCaser, coarse, complete, paragraphs, split_sentences, straighten

LONG = (380, 760)
"""Smallest and largest number of characters of a long text, about 100 to 200 tokens."""

_ABOUT = re.compile(
    r"\b(?:was|lived|were|saw|found|had) (an? [a-z' ]{3,40}?(?: named [A-Z]\w+)?)(?=[.,]| who| that| and)"
)

WINDOW = 850
"""Largest number of characters of a chat cut from a dialogue."""


@dataclass(frozen=True)
class Chat:
    """A chat that ends with an assistant message, its kind, and a sentiment label where there is one."""

    messages: tuple[tuple[str, str], ...]
    kind: str
    label: int | None = None

    @property
    def reply(self) -> str:
        return self.messages[-1][1]

    def as_messages(self) -> list[dict[str, str]]:
        return [{"role": role, "content": content} for role, content in self.messages]


def chat(user: str, reply: str, kind: str, label: int | None = None) -> Chat:
    """A chat of one request and one reply."""
    return Chat((("user", user), ("assistant", reply)), kind, label)


class Corpus:
    """Cleaned texts of one side of the split; its methods draw chats with a given random generator."""

    def __init__(self, raw: Sources, caser: TrueCaser, held: bool) -> None:
        self.held = held
        self.dialogues = [turns for _, split, turns in raw.dialogues if (split == "test" if held else split == "train")]
        self.stories = [text for text in (straighten(t).strip() for t in raw.stories) if held_out(text[:80]) == held]
        self.books = [self._book(text) for _, text in raw.books]
        self.reviews = [
            ([caser.restore(line) for line in text.split("\n") if line.strip()], label)
            for key, text, label in raw.reviews
            if held_out(key) == held
        ]
        opinions = [(t, label) for key, t, label in raw.opinions if held_out(key) == held and not coarse(t)]
        self.opinions = [(self._ended(caser.restore(text)), label) for text, label in opinions]
        self.plots = [self._ended(caser.restore(t)) for t in raw.plots if held_out(t) == held and not coarse(t)]
        self.persona = [
            (trait, self._ended(straighten(text)), match)
            for trait, text, match in raw.persona
            if trait in TRAITS and held_out(text) == held and not coarse(text) and re.search(r"\bAIs?\b", text) is None
        ]
        self.sentences = [t for t in raw.sentences if held_out(t) == held and not coarse(t) and len(t) > 12]

    @staticmethod
    def _ended(text: str) -> str:
        text = text.strip()
        text = text[:1].upper() + text[1:]
        return text if complete(text) else text.rstrip(" ,;:-") + "."

    def _book(self, text: str) -> list[str]:
        """Paragraphs of the book's first 93 %, or of its end unless that holds an editor's notes."""
        blocks = paragraphs(text)
        cut = int(0.93 * len(blocks))
        if not self.held:
            return blocks[int(0.03 * len(blocks)) : cut - 3]
        notes = any(block.startswith(("Source", "Parallels", "Remarks")) for block in blocks)
        return [] if notes else blocks[cut : int(0.99 * len(blocks))]

    def dialogue_chats(self, _: random.Random) -> list[Chat]:
        """Dialogues, cut into chats of several turns."""
        out = []
        for turns in self.dialogues:
            messages = [("user" if who == "U" else "assistant", text.strip()) for who, text in turns]
            window: list[tuple[str, str]] = []
            for user, reply in zip(messages[::2], messages[1::2], strict=False):
                if window and sum(len(text) + 8 for _, text in [*window, user, reply]) > WINDOW:
                    out.append(Chat(tuple(window), "dialogue"))
                    window = []
                window += [user, reply]
            if window:
                out.append(Chat(tuple(window), "dialogue"))
        return out

    def story_chats(self, rng: random.Random) -> list[Chat]:
        """Short stories with their own end, asked for in different ways."""
        out = []
        for text in self.stories:
            sentences = split_sentences(text)
            if len(sentences) < 4 or not complete(text):
                continue
            if len(text) > 880 or rng.random() < 0.15:
                cut, size = len(sentences), 0
                while cut > 2 and size < rng.uniform(*LONG):
                    cut -= 1
                    size += len(sentences[cut]) + 1
                if cut < 2:
                    continue
                found = text.find(sentences[cut], len(" ".join(sentences[: cut - 1])) // 2)
                lead = " ".join(sentences[max(0, cut - 2) : cut])
                out.append(chat(ask(rng, STORY_NEXT, lead), text[found:], "story"))
                continue
            out.append(chat(self._story_request(rng, text, sentences), text, "story"))
        return out

    @staticmethod
    def _story_request(rng: random.Random, text: str, sentences: list[str]) -> str:
        way = rng.random()
        about = _ABOUT.search(text)
        if way < 0.45 and about:
            return ask(rng, STORY_ABOUT, about.group(1))
        if way < 0.65:
            found = {word for word in re.findall(r"\b[a-z]{4,8}\b", text) if text.count(word) > 1}
            words = sorted(found - {"they", "with", "that"})
            if len(words) >= 3:
                picked = [f'"{word}"' for word in rng.sample(words, 3)]
                return ask(rng, STORY_WORDS, f"{picked[0]}, {picked[1]} and {picked[2]}")
        if way < 0.85:
            return ask(rng, STORY_BEGIN, sentences[0])
        return ask(rng, STORY_ASK)

    def book_chats(self, rng: random.Random) -> list[Chat]:
        """Passages of children's books, cut at sentence ends, each after a sentence or two of lead."""
        out = []
        for blocks in self.books:
            index = rng.randrange(3)
            while index < len(blocks):
                size, picked, goal = 0, [], rng.uniform(*LONG)
                lead: list[str] = []
                while index < len(blocks) and blocks[index] and size < goal:
                    sentences = split_sentences(blocks[index])
                    index += 1
                    if not lead and not picked:
                        count = 2 if len(" ".join(sentences[:2])) < 200 else 1
                        lead, sentences = sentences[:count], sentences[count:]
                    kept = []
                    for sentence in sentences:
                        if size >= goal:
                            break
                        kept.append(sentence)
                        size += len(sentence) + 1
                    if kept:
                        picked.append(" ".join(kept))
                if LONG[0] * 0.8 <= size <= LONG[1] * 1.25 and lead:
                    text = "\n\n".join(picked)
                    if not coarse(text):
                        plain = rng.random() < 0.1
                        user = ask(rng, BOOK_ASK) if plain else ask(rng, BOOK_NEXT, " ".join(lead))
                        out.append(chat(user, text, "book"))
                if not picked:
                    index += 1
        return out

    def review_chats(self, rng: random.Random) -> list[Chat]:
        """Passages of film reviews; the label is that of the whole review."""
        out = []
        for lines, label in self.reviews:
            index = rng.randrange(3)
            while index < len(lines):
                size, picked, goal, lead = 0, [], rng.uniform(*LONG), lines[index - 1] if index else ""
                last = len(lines) - index < 4
                while index < len(lines) and size < goal:
                    picked.append(lines[index])
                    size += len(lines[index]) + 1
                    index += 1
                text = " ".join(picked)
                if size < LONG[0] or size > LONG[1] * 1.25 or not complete(text) or coarse(text) or last:
                    continue
                out.append(chat(self._review_request(rng, text, lead, label), text, "review", label))
        return out

    @staticmethod
    def _review_request(rng: random.Random, text: str, lead: str, label: int) -> str:
        way = rng.random()
        words = re.findall(r"[a-z]+", text.lower())
        topics = [word for word in dict.fromkeys(words) if word in TOPICS]
        if way < 0.35 and topics:
            topic = rng.choice(topics)
            article = "" if topic in PLAIN else "an " if topic[0] in "aeiou" else "a "
            return ask(rng, REVIEW_ABOUT, article + topic)
        if way < 0.5:
            return ask(rng, REVIEW_TONE, "positive" if label else "negative")
        if way < 0.75 and 40 < len(lead) < 260 and not coarse(lead):
            return ask(rng, REVIEW_NEXT, lead)
        return ask(rng, REVIEW_ASK)

    def opinion_chats(self, rng: random.Random) -> list[Chat]:
        """One-sentence film reviews and plots."""
        out = []
        for text, label in self.opinions:
            tone = "positive" if label else "negative"
            user = ask(rng, OPINION_TONE, tone) if rng.random() < 0.25 else ask(rng, OPINION_ASK)
            out.append(chat(user, text, "review", label))
        out += [chat(ask(rng, PLOT_ASK), text, "review") for text in self.plots]
        return out

    def persona_chats(self, rng: random.Random) -> list[Chat]:
        """First-person statements: single ones, and several of one trait as a longer self-description."""
        out, groups = [], {}
        for trait, text, match in self.persona:
            if match or trait.startswith(("interest", "extra", "open", "risk")):
                groups.setdefault((trait, match), []).append(text)
        for (trait, _), texts in sorted(groups.items()):
            rng.shuffle(texts)
            half = len(texts) // 3
            for text in texts[:half]:
                out.append(chat(ask(rng, TRAITS[trait] if rng.random() < 0.75 else SELF_ASK), text, "persona"))
            index = half
            while index < len(texts):
                count = rng.randint(3, 8)
                picked = texts[index : index + count]
                index += count
                user = ask(rng, SELF_LONG) if rng.random() < 0.5 else ask(rng, TRAITS[trait])[:-1] + "? Tell me more."
                out.append(chat(user, " ".join(picked), "persona"))
        return out

    def sentence_chats(self, rng: random.Random) -> list[Chat]:
        """A short sentence that uses a given word."""
        out = []
        for text in self.sentences:
            words = re.findall(r"\b[a-z]{4,}\b", text)
            if words:
                out.append(chat(ask(rng, SENTENCE_WORD, rng.choice(words)), text, "sentence"))
        return out

    def draw(self, passes: dict[str, int], seed: int) -> list[Chat]:
        """All chats of several passes over each kind, in random order; every pass draws its requests anew."""
        makers: dict[str, Callable[[random.Random], list[Chat]]] = {
            "dialogue": self.dialogue_chats,
            "story": self.story_chats,
            "book": self.book_chats,
            "review": self.review_chats,
            "opinion": self.opinion_chats,
            "persona": self.persona_chats,
            "sentence": self.sentence_chats,
        }
        out = []
        for kind, count in passes.items():
            for turn in range(count):
                out += makers[kind](random.Random(f"{seed}/{kind}/{turn}"))
        random.Random(seed).shuffle(out)
        return out


def corpora(raw: Sources) -> tuple[Corpus, Corpus]:
    """The training corpus and the held-out one."""
    cased = [text for _, text in raw.books] + raw.stories + raw.sentences
    cased += [text for _, split, turns in raw.dialogues if split == "train" for _, text in turns]
    cased += [text for _, text, _ in raw.persona[:: max(1, len(raw.persona) // 20000)]]
    lowered = [text for _, text, _ in raw.reviews] + [text for text, _, _ in raw.opinions] + raw.plots
    caser = TrueCaser(cased, lowered)
    return Corpus(raw, caser, held=False), Corpus(raw, caser, held=True)


def fraction(items: list[Chat], part: float, salt: str) -> list[Chat]:
    """A fixed part of the chats, chosen by their replies."""
    return [item for item in items if share(item.reply, salt) < part]
