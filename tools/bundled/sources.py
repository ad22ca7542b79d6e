"""Reading the raw text collections, from a local folder or from the Hugging Face hub."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import lzma
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bundled.asks import TRAITS

POSITIVE_EMOTIONS = (0, 1, 4, 5, 13, 15, 17, 18, 20, 21, 23)
NEGATIVE_EMOTIONS = (2, 3, 9, 10, 11, 12, 14, 16, 19, 24, 25)


@dataclass
class Sources:
    """Raw records of every collection; nothing is cleaned or split yet.

    `dialogues` holds (id, official split, turns), a turn being (speaker, text) with speaker "U" or "S". `reviews` and
    `opinions` hold (id, text, label) with label 1 for positive. `emotions` holds (split, text, label)."""

    dialogues: list[tuple[str, str, list[tuple[str, str]]]] = field(default_factory=list)
    stories: list[str] = field(default_factory=list)
    books: list[tuple[str, str]] = field(default_factory=list)
    reviews: list[tuple[str, str, int]] = field(default_factory=list)
    opinions: list[tuple[str, str, int]] = field(default_factory=list)
    plots: list[str] = field(default_factory=list)
    persona: list[tuple[str, str, int]] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    emotions: list[tuple[str, str, int]] = field(default_factory=list)


def share(key: str, salt: str = "split") -> float:
    """A number in [0, 1) that depends on the key alone, so that a split never moves between runs."""
    digest = hashlib.sha256(f"{salt}\x00{key}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def held_out(key: str, fraction: float = 0.08) -> bool:
    """Whether the record with this key is kept away from all training."""
    return share(key) < fraction


def load(data: str) -> Sources:
    """Load every collection: `data` is a folder, or the word "hub"."""
    return load_hub() if data == "hub" else load_folder(Path(data))


def _jsonl(path: Path) -> Iterator[dict]:
    with lzma.open(path, "rt", encoding="utf-8") as handle:
        for line in handle:
            yield json.loads(line)


def _zip_lines(path: Path, name: str) -> list[str]:
    with zipfile.ZipFile(path) as archive:
        text = archive.read(name).decode("latin-1")
    return [line.strip() for line in io.StringIO(text) if line.strip()]


def emotion_label(labels: list[int]) -> int | None:
    """1 or 0 when all emotion labels lean one way, None when they are neutral or mixed."""
    signs = {1 if label in POSITIVE_EMOTIONS else 0 if label in NEGATIVE_EMOTIONS else 2 for label in labels}
    return signs.pop() if signs in ({0}, {1}) else None


def load_folder(root: Path) -> Sources:
    """Read the collections from compressed files in a local folder."""
    out = Sources()
    for split in ("train", "dev", "test"):
        for row in _jsonl(root / "sgd_dialogues" / f"{split}.jsonl.xz"):
            turns = [(turn[0], turn[1]) for turn in row["turns"]]
            out.dialogues.append((f"{split}/{row['id']}", split, turns))
    out.stories = [row["text"] for row in _jsonl(root / "tinystories_sample" / "stories.jsonl.xz")]
    out.books = [(row["title"], row["text"]) for row in _jsonl(root / "childrens_books" / "books.jsonl.xz")]
    sentiment = root / "sentiment"
    for row in _jsonl(sentiment / "movie_reviews_v2.jsonl.xz"):
        out.reviews.append((row["id"], row["text"], int(row["label"] == "pos")))
    for label, name in ((1, "rt-polarity.pos"), (0, "rt-polarity.neg")):
        for text in _zip_lines(sentiment / "sentence_polarity.zip", f"sentence_polarity/{name}"):
            out.opinions.append((text, text, label))
    out.plots = _zip_lines(sentiment / "subjectivity.zip", "subjectivity/plot.tok.gt9.5000")
    for row in _jsonl(root / "anthropic_persona" / "persona.jsonl.xz"):
        out.persona.append((row["persona"], row["statement"], row["match"]))
    with gzip.open(root / "tatoeba_en" / "sentences.tsv.gz", "rt", encoding="utf-8-sig") as handle:
        out.sentences = [line.split("\t")[0].strip() for line in handle]
    for split in ("train", "dev", "test"):
        with lzma.open(sentiment / f"goemotions_{split}.tsv.xz", "rt", encoding="utf-8") as handle:
            for line in handle:
                text, labels, _ = line.rstrip("\n").split("\t")
                label = emotion_label([int(x) for x in labels.split(",")])
                if label is not None:
                    out.emotions.append((split, text, label))
    return out


def _converted(repository: str, name: str, split: str) -> str:
    """Where the hub keeps its Parquet copy of a data set that is published as a script."""
    return f"hf://datasets/{repository}@refs%2Fconvert%2Fparquet/{name}/{split}/*.parquet"


def load_hub(stories: int = 4000) -> Sources:
    """Read the same collections from the Hugging Face hub; needs the `datasets` package and a network.

    Books and example sentences are left out, because the hub does not have them: the models can be trained without.
    No test runs this function."""
    from datasets import load_dataset

    out = Sources()
    splits = {"train": "train", "validation": "dev", "test": "test"}
    for split, name in splits.items():
        files = _converted("google-research-datasets/schema_guided_dstc8", "dialogues", split)
        for row in load_dataset("parquet", data_files=files, split="train"):
            spoken = zip(row["turns"]["speaker"], row["turns"]["utterance"], strict=True)
            turns = [("US"[speaker], text) for speaker, text in spoken]
            out.dialogues.append((f"{name}/{row['dialogue_id']}", name, turns))
        files = _converted("eraser-benchmark/movie_rationales", "default", split)
        for index, row in enumerate(load_dataset("parquet", data_files=files, split="train")):
            out.reviews.append((f"{name}/{index}", row["review"], int(row["label"])))
        for row in load_dataset("cornell-movie-review-data/rotten_tomatoes", split=split):
            out.opinions.append((row["text"], row["text"], int(row["label"])))
        for row in load_dataset("google-research-datasets/go_emotions", "simplified", split=split):
            label = emotion_label(row["labels"])
            if label is not None:
                out.emotions.append((name, row["text"], label))
    rows = load_dataset("roneneldan/TinyStories", split=f"train[:{stories}]")
    out.stories = [row["text"].strip() for row in rows]
    out.plots = [
        row["text"] for row in load_dataset("SetFit/subj", split="train") if "obj" in row["label_text"].lower()
    ]
    for trait in TRAITS:
        files = f"hf://datasets/Anthropic/model-written-evals/persona/{trait}.jsonl"
        for row in load_dataset("json", data_files=files, split="train"):
            match = int(row["answer_matching_behavior"].strip() == "Yes")
            out.persona.append((trait, row["statement"], match))
    return out
