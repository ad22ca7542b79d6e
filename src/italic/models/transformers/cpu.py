"""Linear layers laid out for a CPU and few rows at a time. The numbers stay what they are.

A decoding step multiplies a few dozen rows by every weight matrix. Two things about CPUs make that slower than it
need be (measured on AVX-512 cores, 64 rows and less): a float32 matrix is multiplied 10 to 45 % faster if it lies in
memory as [in, out] rather than as PyTorch's [out, in]; and without matrix units for bfloat16 (AMX) a product of
bfloat16 matrices takes up to twice the time of the same product in float32. So float32 weights are re-laid, behind
the same shape; and where there is no AMX, bfloat16 layers get a float32 copy of their weights: inputs and outputs are
bfloat16 as before, and sums were taken in float32 anyway.

Done by `load`, which owns the network it has just read: the copies would not follow later changes of the weights,
which `restore` prepares for.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

WIDEST = 2**29
"""No float32 copies for models in which they would take more bytes than this."""


class Widened:
    """The forward of a bfloat16 linear layer by a float32 product."""

    def __init__(self, layer: nn.Linear) -> None:
        self._weight = layer.weight.detach().float().t().contiguous().t()
        self._bias = None if layer.bias is None else layer.bias.detach().float()

    def __call__(self, rows: Tensor) -> Tensor:
        """[..., in] to [..., out], both bfloat16."""
        return linear(rows.float(), self._weight, self._bias).to(rows.dtype)


def quicken(network: Any) -> None:
    """Re-lay or widen the linear layers of a network on a CPU; leave others alone."""
    layers = [m for m in network.modules() if type(m) is nn.Linear and m.weight.device.type == "cpu"]
    narrow = [layer for layer in layers if layer.weight.dtype == torch.bfloat16]
    if not multiplies_bfloat16() and 4 * sum(layer.weight.numel() for layer in narrow) <= WIDEST:
        for layer in narrow:
            layer.forward = Widened(layer)  # type: ignore[method-assign, assignment]
    for layer in layers:
        if layer.weight.dtype == torch.float32:
            layer.weight.data = layer.weight.data.t().contiguous().t()


def restore(network: Any) -> None:
    """Undo `quicken`, for a network whose weights are about to change and to be saved."""
    for layer in (m for m in network.modules() if type(m) is nn.Linear):
        if isinstance(vars(layer).get("forward"), Widened):
            del layer.forward
        layer.weight.data = layer.weight.data.contiguous()


def multiplies_bfloat16() -> bool:
    """Whether this CPU has matrix units for bfloat16."""
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(told.get("amx_bf16", False))
