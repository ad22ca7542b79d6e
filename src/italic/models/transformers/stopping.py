"""When a response ends: end-of-sequence tokens and stop strings.

A stop string may straddle tokens, and only the decoded text knows whether it is there. Decoding every row after every
token would cost more than the network, so each set of stop strings is first turned into the tokens that could supply
its last character: those whose text contains a stop string, or begins with the end of one. Only a row that
drew such a token is decoded.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import TextDrafts
from italic.models.transformers.codec import BROKEN, TokenizerCodec


class Stops:
    """The end-of-sequence tokens of a model and the stop strings of its users."""

    def __init__(self, codec: TokenizerCodec, vocabulary: int, ends: tuple[int, ...]) -> None:
        self._codec = codec
        self._vocabulary = vocabulary
        self._masks: dict[tuple[str, ...], NDArray[np.bool_]] = {}
        self.ends = np.zeros(vocabulary, dtype=np.bool_)
        self.ends[[i for i in ends if 0 <= i < vocabulary]] = True

    @cached_property
    def _pieces(self) -> list[str]:
        return self._codec.pieces(self._vocabulary)

    def suspects(self, stop: tuple[str, ...]) -> NDArray[np.bool_]:
        """Which tokens could complete one of the strings `stop`: bool [V]."""
        if stop not in self._masks:
            tails = {s[i:] for s in stop for i in range(len(s))}
            starts = tuple(tails)
            plain = all(s.isascii() for s in stop)
            mask = np.fromiter(
                (
                    piece.startswith(starts) or any(s in piece for s in stop) or (not plain and BROKEN in piece)
                    for piece in self._pieces
                ),
                dtype=np.bool_,
                count=self._vocabulary,
            )
            mask[[i for text, i in self._codec.special.items() if text in stop and i < self._vocabulary]] = True
            self._masks[stop] = mask
        return self._masks[stop]

    def find(self, drafts: TextDrafts, tokens: NDArray[np.int32]) -> int:
        """How many characters of the response `tokens` stand before its first stop string; -1 if it has none."""
        stop = drafts.sampling.stop
        text = self._codec.decode(drafts.prompt_tokens, tokens)
        found = [at for at in (text.find(s) for s in stop) if at >= 0]
        if found:
            return min(found)
        special = [i for s, i in self._codec.special.items() if s in stop]
        return len(text) if len(tokens) and int(tokens[-1]) in special else -1


def end_tokens(network: Any, tokenizer: Any) -> tuple[int, ...]:
    """The ids that end a response, by the generation config, the config or the tokenizer; () if there is none."""
    for source in (network.generation_config, network.config, tokenizer):
        ids = getattr(source, "eos_token_id", None)
        if ids is not None:
            return tuple(ids) if isinstance(ids, list | tuple) else (int(ids),)
    return ()
