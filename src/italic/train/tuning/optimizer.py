"""Muon for the matrices, AdamW for everything else.

Muon makes all singular values of a step alike, so that what only few rollouts tell is learned as well as what all of
them do; the scale of its steps is that of AdamW's (2502.16982), and so is what a learning rate means.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer


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


def optimizer(network: Any, rate: float) -> Optimizer:
    """The optimiser of a decoder: Muon for what multiplies hidden states, AdamW for embeddings, norms and biases."""
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    head = network.get_output_embeddings()
    tables |= set() if head is None else {id(head.weight)}
    trained = [p for p in network.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim == 2 and id(p) not in tables]
    others = [p for p in trained if p.ndim != 2 or id(p) in tables]
    return Both(
        Muon(matrices, lr=rate, weight_decay=0.0, momentum=0.9, adjust_lr_fn="match_rms_adamw"),
        AdamW(others, lr=rate, weight_decay=0.0),
    )
