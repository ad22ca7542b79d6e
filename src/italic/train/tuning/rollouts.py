"""Rollouts of the policy by our own engine: what the trainer calls instead of the network's `generate`.

The law of a rollout is then that of `italic generate` to the letter (no hidden top-k), each row's noise is named by the
run's seed, the step and the row, so that a resumed run draws what an undisturbed one would have drawn, and on a CPU it
takes a third to a half of the time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor

from italic.core.drafts import TextDrafts
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.questions import Extend
from italic.core.sampling import Sampling


class Rollouts:
    """Stands in for `generate`. step: the optimiser's, set before each call; pad: the token behind the end of a row;
    half: whether products are taken in bfloat16, as in the training; process: which of several this is.
    """

    def __init__(
        self, model: Any, sampling: Sampling, key: Key, pad: int, *, half: bool = False, process: int = 0
    ) -> None:
        self.step = 0
        self._model = model
        self._sampling = sampling
        self._pad = pad
        self._half = half
        self._key = key.at("rollouts", process)

    def __call__(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Tensor:
        """input_ids, attention_mask: int64 [n, P], padded on the left. Returns int64 [n, P + L], padded on the right.

        Equal rows next to one another share the prompt's keys and values.
        """
        rows = [tuple(ids[mask.bool()].tolist()) for ids, mask in zip(input_ids, attention_mask, strict=True)]
        seeds = self._key.at(self.step).seeds(len(rows))
        batches: list[TextDrafts] = []
        for tokens, same in groupby(range(len(rows)), key=rows.__getitem__):
            prompt = Prompt(f"row {len(batches)}", "")
            batches.append(
                TextDrafts.empty(prompt, self._sampling, self._model.codec, tokens, seeds[np.fromiter(same, int)])
            )
        with self._decoding():
            grown = self._model.extend([Extend(batch) for batch in batches])
        return torch.cat([input_ids, self._padded([g.drafts for g in grown]).to(input_ids)], dim=1)

    @contextmanager
    def _decoding(self) -> Iterator[None]:
        """The model ready to decode with the weights as they are now, and as it was behind that."""
        decoder = self._model.network.decoder
        training = decoder.training
        decoder.eval()
        self._model.tighten(half=self._half)
        try:
            yield
        finally:
            self._model.forget()
            self._model.loosen()
            decoder.train(training)

    def _padded(self, drafts: Sequence[Any]) -> Tensor:
        width = max(batch.ids.shape[1] for batch in drafts)
        rows = [np.pad(b.ids, ((0, 0), (0, width - b.ids.shape[1])), constant_values=-1) for b in drafts]
        ids = np.concatenate(rows).astype(np.int64)
        return torch.from_numpy(np.where(ids < 0, self._pad, ids))
