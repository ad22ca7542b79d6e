"""Muon for the matrices, AdamW for everything else.

Muon makes all singular values of a step alike, so that what only few rollouts tell is learned as well as what all of
them do; the scale of its steps is that of AdamW's (2502.16982), and so is what a learning rate means. PyTorch has one
whose products are in bfloat16 on any machine: a CPU without instructions for that takes minutes for a step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

MOMENTUM, STEPS = 0.9, 5
QUINTIC = 3.4445, -4.775, 2.0315
"""Of Newton-Schulz: five steps of a x + b x^3 + c x^5 take singular values from [0.002, 1] to between 0.68 and 1.21."""
LEAST = 1e-7
"""Of a gradient's norm."""


class Both(Optimizer):
    """Several optimisers as one: the groups of all of them, which a schedule may change."""

    def __init__(self, *parts: Optimizer) -> None:
        super().__init__([p for part in parts for group in part.param_groups for p in group["params"]], {})
        self._parts = parts
        self._join()

    def _join(self) -> None:
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """A step of each; a closure is not asked."""
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        for part, state in zip(self._parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._join()


class Muon(Optimizer):
    """Steps of 0.2 lr sqrt(max(rows, columns)) along the nearest orthogonal matrix to Nesterov's momentum.

    half: whether that is found in bfloat16.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], lr: float, *, half: bool) -> None:
        super().__init__(matrices, {"lr": lr})
        self._dtype = torch.bfloat16 if half else torch.float32

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """A step; a closure is not asked."""
        for group in self.param_groups:
            for matrix in (p for p in group["params"] if p.grad is not None):
                state = self.state[matrix]
                if not state:
                    state["momentum"] = torch.zeros_like(matrix)
                momentum = state["momentum"].lerp_(matrix.grad, 1 - MOMENTUM)
                ahead = matrix.grad.lerp(momentum, MOMENTUM)
                turned = orthogonal(ahead.to(self._dtype)).to(matrix.dtype)
                matrix.add_(turned, alpha=-0.2 * group["lr"] * max(matrix.shape) ** 0.5)


def orthogonal(matrix: Tensor) -> Tensor:
    """About the nearest orthogonal matrix, [rows, columns]: the same singular vectors, see `QUINTIC`."""
    tall = matrix.shape[0] > matrix.shape[1]
    found = matrix.T if tall else matrix
    found = found / found.norm().clamp(min=LEAST)
    a, b, c = QUINTIC
    for _ in range(STEPS):
        square = found @ found.T
        found = torch.addmm(found, torch.addmm(square, square, square, beta=b, alpha=c), found, beta=a)
    return found.T if tall else found


def optimizer(network: Any, rate: float, *, half: bool) -> Optimizer:
    """The optimiser of a decoder: Muon for what multiplies hidden states, AdamW for embeddings, norms and biases.

    half: see `Muon`.
    """
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    head = network.get_output_embeddings()
    tables |= set() if head is None else {id(head.weight)}
    trained = [p for p in network.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim == 2 and id(p) not in tables]
    others = [p for p in trained if p.ndim != 2 or id(p) in tables]
    return Both(
        Muon(matrices, lr=rate, half=half),
        AdamW(others, lr=rate, weight_decay=0.0),
    )
