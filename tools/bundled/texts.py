"""Cleaning text: sentences, book paragraphs, and the case and spacing of tokenised lower-case reviews."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

_ABBREVIATION = re.compile(r"\b(Mr|Mrs|Ms|Dr|St|Prof|Jr|Sr|vs|etc|[A-Z])\.$")
_BREAK = re.compile(r"(?<=[.!?])(?P<close>[\"')\]]*)\s+(?=[\"'(\[]?[A-Z0-9])")
_COARSE = re.compile(
    r"\b(\w*fuck\w*|\w*shit\w*|bitch\w*|bastard\w*|asshole\w*|cunt\w*|slut\w*|whore\w*|nigg\w*|fagg?\w*|rape[ds]?|rapist\w*"
    r"|porn\w*|sex\w*|nud[ei]\w*|naked|breast\w*|penis\w*|orgasm\w*|masturbat\w*|prostitut\w*|incest\w*|retard\w*"
    r"|suicid\w*|hooker\w*|strip(?:per|tease)\w*|erotic\w*|genital\w*|semen|tits|pedophil\w*|nazi\w*|gay|lesbian\w*"
    r"|savages?|negro\w*|crap\w*|piss\w*|dick|hitler)\b",
    re.IGNORECASE,
)
_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)?")
_COMMON_ENDINGS = ("ly", "ed", "ing", "ness", "tion", "able", "ible", "ous", "ive", "ful", "less", "ism", "ish", "ment")
_DETERMINERS = frozenset(
    {"a", "an", "the", "this", "his", "her", "their", "its", "my", "our", "your"}
    | {"very", "more", "most", "too", "any", "some"}
)
_ALWAYS_UPPER = {"i": "I", "tv": "TV", "usa": "USA", "fbi": "FBI", "cia": "CIA", "ii": "II", "iii": "III", "dvd": "DVD"}


def coarse(text: str) -> bool:
    """Whether a text holds words that a general audience should not be shown."""
    return _COARSE.search(text) is not None


def straighten(text: str) -> str:
    """Plain ASCII quotes and dashes, and speech in double quotes."""
    text = re.sub(r"(?<![A-Za-z])‘", '"', text)
    text = re.sub(r"(?<=[.,!?;:\-—])’(?![A-Za-z])", '"', text)
    for old, new in (("“", '"'), ("”", '"'), ("‘", "'"), ("’", "'"), ("—", "--"), ("–", "-"), ("…", "..."), ("_", "")):
        text = text.replace(old, new)
    return text


def split_sentences(text: str) -> list[str]:
    """Sentences of a text in normal case; abbreviations such as "Mr." do not end one."""
    pieces, start = [], 0
    for match in _BREAK.finditer(text):
        piece = text[start : match.end("close")].strip()
        if piece and not _ABBREVIATION.search(piece):
            pieces.append(piece)
            start = match.end()
    tail = text[start:].strip()
    return [*pieces, tail] if tail else pieces


def complete(text: str) -> bool:
    """Whether a text ends as a sentence does."""
    return re.search(r"[.!?][\"')]*$", text) is not None


def paragraphs(text: str) -> list[str]:
    """Prose paragraphs of a plain-text book, unwrapped; headings, verse and notes are dropped."""
    out = []
    for block in re.split(r"\n\s*\n", straighten(text)):
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        body = re.sub(r"\s+", " ", " ".join(lines))
        heading = len(body) < 25 or body.isupper() or not complete(body)
        note = "Gutenberg" in body or "[" in body or "*" in body
        verse = len(lines) > 2 and sum(len(line) for line in lines) / len(lines) < 45
        out.append("" if heading or note or verse else body)
    return out


class TrueCaser:
    """Restores capitals of lower-case text from the way words are written in text of normal case."""

    def __init__(self, cased: Iterable[str], lowered: Iterable[str]) -> None:
        upper: Counter[str] = Counter()
        lower: Counter[str] = Counter()
        for text in cased:
            for sentence in split_sentences(text):
                for word in _WORD.findall(sentence)[1:]:
                    if word[0].isupper():
                        upper[word.lower()] += not word.isupper()
                    else:
                        lower[word] += 1
        seen: Counter[str] = Counter()
        after: Counter[str] = Counter()
        for text in lowered:
            words = text.split()
            seen.update(words)
            after.update(word for before, word in pairwise(words) if before in _DETERMINERS)
        self.names = {word for word, count in upper.items() if count > 3 * lower[word] + 1}
        for word, count in seen.items():
            unknown = not upper[word] and not lower[word] and not word.endswith(_COMMON_ENDINGS)
            if unknown and word.isalpha() and len(word) > 2 and count > 1 and after[word] < 0.15 * count:
                self.names.add(word)
        follows: Counter[str] = Counter()
        for text in lowered:
            words = text.split()
            follows.update(word for before, word in pairwise(words) if before in self.names)
        for word, count in seen.items():
            if word.isalpha() and len(word) > 2 and lower[word] < 2 and follows[word] > 0.4 * count:
                self.names.add(word)

    def _word(self, match: re.Match[str]) -> str:
        word = match.group()
        stem, _, rest = word.partition("'")
        if stem in _ALWAYS_UPPER:
            return _ALWAYS_UPPER[stem] + word[len(stem) :]
        return word.capitalize() if (stem if rest in ("s", "") else word) in self.names else word

    def restore(self, line: str) -> str:
        """One tokenised lower-case sentence, in normal spacing and case."""
        text = re.sub(r"\s+", " ", line).strip()
        out, open_quote = [], False
        for token in text.split(" "):
            if token in ('"', "``", "''"):
                out.append("\x01" if not open_quote else "\x02")
                open_quote = not open_quote
            else:
                out.append(token)
        text = " ".join(out).replace("\x01 ", '"').replace(" \x02", '"').replace("\x01", '"').replace("\x02", '"')
        text = re.sub(r"\. \. \.(?: \.)*", "...", text)
        text = re.sub(r" ([,.;:!?)\]%]|\.\.\.|'s\b|n't\b)", r"\1", text)
        text = re.sub(r"([(\[$#]) ", r"\1", text)
        text = re.sub(r"\b([a-z])\. ?(?=[a-z]\.)", lambda m: m.group(1).upper() + ".", text)
        text = re.sub(r"(?<=[A-Z]\.)([a-z])\.", lambda m: m.group(1).upper() + ".", text)
        text = _WORD.sub(self._word, text)
        return re.sub(r"(^[\"'(]*|[!?.][\"')]* [\"'(]*)([a-z])", lambda m: m.group(1) + m.group(2).upper(), text)
