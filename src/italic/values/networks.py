"""Small networks in plain NumPy: what `italic fit-baseline` learns and methods evaluate. Training is in `train`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import UsageError

ROWS_AT_ONCE = 16_384
"""So that the activations stay in the processor's cache."""


@dataclass(frozen=True, eq=False)
class Networks:
    """One network a block: features -> normalise -> layers with ReLU between -> one number.

    shift, scale: float64 [T, d]; weights: one [T, in, out] a layer; biases: one [T, out] a layer. low, high: float64
    [T], the answers' bounds.
    """

    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    weights: tuple[NDArray[np.float64], ...]
    biases: tuple[NDArray[np.float64], ...]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    @property
    def blocks(self) -> int:
        """How many blocks there is a network for."""
        return len(self.shift)

    def __call__(self, features: NDArray[np.float64], block: NDArray[np.int64]) -> NDArray[np.float64]:
        """The answers, float64 [n], for features [n, d] at the end of block `block`, int64 [n].

        Raises UsageError for features of another size, or a block that there is no network for.
        """
        if features.shape[1] != self.shift.shape[1]:
            raise UsageError(
                f"this network was fitted to {self.shift.shape[1]} features, and the model gives {features.shape[1]}",
                hint="Use it with the model it was fitted to, or fit it again: italic fit-baseline.",
            )
        if np.any(block >= self.blocks):
            raise UsageError(
                f"block {int(block.max())} of a response, and there are networks for {self.blocks}",
                hint="Fit again with the longest response you want: italic fit-baseline --max-tokens.",
            )
        answers = np.empty(len(features))
        for number in np.unique(block):
            rows = np.flatnonzero(block == number)
            for part in np.array_split(rows, max(1, -(-len(rows) // ROWS_AT_ONCE))):
                answers[part] = self._forward(features[part], int(number))
        return answers

    def _forward(self, x: NDArray[np.float64], number: int) -> NDArray[np.float64]:
        x = (x - self.shift[number]) * self.scale[number]
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = x @ weight[number]
            x += bias[number]
            if layer < last:
                np.maximum(x, 0.0, out=x)
        return np.clip(x[:, 0], self.low[number], self.high[number])

    def arrays(self, prefix: str) -> dict[str, NDArray[np.float32]]:
        """The parameters by name, for a file."""
        named = {f"{prefix}.{name}": getattr(self, name) for name in ("shift", "scale", "low", "high")}
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            named |= {f"{prefix}.weight.{layer}": weight, f"{prefix}.bias.{layer}": bias}
        # safetensors writes the memory as it lies: a transposed array would come back as another.
        return {name: np.ascontiguousarray(array, dtype=np.float32) for name, array in named.items()}

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], prefix: str) -> Networks | None:
        """The networks that `arrays` named; None if the file has none of that prefix."""
        if f"{prefix}.shift" not in arrays:
            return None
        layers = range(sum(name.startswith(f"{prefix}.weight.") for name in arrays))

        def read(name: str) -> NDArray[np.float64]:
            return np.asarray(arrays[f"{prefix}.{name}"], dtype=np.float64)

        return cls(
            read("shift"),
            read("scale"),
            tuple(read(f"weight.{layer}") for layer in layers),
            tuple(read(f"bias.{layer}") for layer in layers),
            read("low"),
            read("high"),
        )
