"""Scoring by whole forward passes: the obviously right way, to which the incremental one is held."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from italic.rewards.classifier.checkpoint import Checkpoint
from italic.rewards.classifier.render import Row


@dataclass(frozen=True, eq=False)
class Plain:
    """Every row goes through the network as a whole, right-padded, in chunks of rows of like length."""

    checkpoint: Checkpoint
    batch: int

    def score(self, rows: Sequence[Row]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """The logit of each row, float64 [n], and the positions that it took through the network, int64 [n]."""
        logits = np.empty(len(rows), dtype=np.float64)
        order = np.argsort([len(row) for row in rows], kind="stable")
        for start in range(0, len(rows), self.batch):
            chunk = order[start : start + self.batch]
            logits[chunk] = self._forward([rows[i] for i in chunk])
        return logits, np.array([len(row) for row in rows], dtype=np.int64)

    def _forward(self, rows: Sequence[Row]) -> NDArray[np.float64]:
        model = self.checkpoint.model
        ids = pad([row.ids for row in rows], self.checkpoint.pad)
        seen = pad([np.ones(len(row), dtype=np.int32) for row in rows], 0)
        inputs = {"input_ids": ids, "attention_mask": seen}
        types = [row.types for row in rows if row.types is not None]
        if types:
            inputs["token_type_ids"] = pad(types, 0)
        extra = {"use_cache": False} if self.checkpoint.causal else {}
        with torch.inference_mode():
            logits = model(**{k: v.to(model.device) for k, v in inputs.items()}, **extra).logits
        return to_numpy(logits[:, self.checkpoint.label])


def pad(rows: Sequence[NDArray[np.int32]], fill: int) -> Tensor:
    """The rows as one tensor, int64 [n, longest], filled up on the right."""
    out = np.full((len(rows), max(map(len, rows))), fill, dtype=np.int64)
    for target, row in zip(out, rows, strict=True):
        target[: len(row)] = row
    return torch.from_numpy(out)


def to_numpy(logits: Tensor) -> NDArray[np.float64]:
    """Logits on the host: float64 [n]."""
    return logits.double().cpu().numpy()
