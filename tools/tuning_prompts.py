"""The prompts that benchmarks/tuning.py trains on: short requests from the collections of the bundled models.

    python tools/tuning_prompts.py --data DIR

They come from the side of each collection that the chat model was trained on, and none is a bundled prompt, by which
tuned models are judged. Two in three ask for a story, the others begin a dialogue, as the short bundled ones do."""

from __future__ import annotations

import argparse
import json
from importlib import resources
from pathlib import Path

from bundled.chats import Chat
from bundled.prompts import dialogue_prompts, interleaved, story_prompts, write
from bundled.sources import load
from bundled.steps import corpora
from italic.models.transformers import load as load_model
from italic.run.inputs import collect

COUNTS = {"dialogue": 340, "story": 684}
LONGEST = 40
"""Tokens of a prompt, the template's included."""
SEED = 1


def main() -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help='a folder with the collections, or "hub"')
    parser.add_argument("--out", type=Path, default=Path("benchmarks/prompts/tuning.jsonl"))
    arguments = parser.parse_args()
    training, _ = corpora(load(arguments.data))
    folder = Path(str(resources.files("italic"))) / "bundled" / "prompts"
    lines = [
        line for name in ("demo", "heldout") for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()
    ]
    judged = {json.dumps(json.loads(line)["messages"]) for line in lines}
    model = load_model()
    found: list[dict] = []
    for kind, pool in (("dialogue", dialogue_prompts(training, SEED)), ("story", story_prompts(training, SEED))):
        number = 0
        for messages in dict.fromkeys(pool):
            content = Chat(messages, kind).as_messages()
            (prompt,) = collect([(1, {"messages": content})]).good
            if json.dumps(content) in judged or len(model.codec.encode(prompt)) > LONGEST:
                continue
            found.append({"id": f"tuning-{kind}-{number:03d}", "messages": content, "kind": kind})
            number += 1
            if number == COUNTS[kind]:
                break
    write(arguments.out, interleaved(found))
    print(len(found))


if __name__ == "__main__":
    main()
