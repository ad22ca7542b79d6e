from collections.abc import Callable, Sequence

import numpy as np
import pytest

from italic.core.drafts import TextDrafts
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling


class Characters:
    """A codec of one token a character."""

    fingerprint = "characters"

    def decode(self, prompt_tokens: np.ndarray, tokens: np.ndarray) -> str:
        return "".join(chr(t) for t in tokens)


Make = Callable[..., TextDrafts]


@pytest.fixture
def write() -> Make:
    """Drafts of given texts: `write(prompt, ["a", "b"], done=[True, False])`; the prompt may be a string."""

    def make(prompt: Prompt | str, texts: Sequence[str], done: bool | Sequence[bool] = True) -> TextDrafts:
        prompt = Prompt(id=prompt, text=prompt) if isinstance(prompt, str) else prompt
        n, width = len(texts), max(map(len, texts), default=0)
        ids = np.full((n, width), -1, dtype=np.int32)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text)] = [ord(c) for c in text]
        return TextDrafts(
            prompt=prompt,
            sampling=Sampling(max_tokens=10_000),
            codec=Characters(),
            prompt_tokens=np.zeros(1, dtype=np.int32),
            ids=ids,
            logps=np.zeros((n, width), dtype=np.float32),
            steps=np.array([len(t) for t in texts], dtype=np.int64),
            reason=np.where(np.broadcast_to(done, n), "end", "").astype("<U6"),
            seeds=np.arange(n, dtype=np.uint64),
            chars=np.full(n, -1, dtype=np.int64),
            memory=(None,) * n,
        )

    return make
