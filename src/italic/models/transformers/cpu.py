"""Linear layers laid out for a CPU and few rows at a time, and the memory of networks in training.

A decoding step multiplies a few dozen rows by every weight matrix. Two things about CPUs make that slower than it
need be: a float32 matrix is multiplied up to 45 % faster if it lies in memory as [in, out] rather than as PyTorch's
[out, in]; and a product of bfloat16 matrices takes a third of the time of the same product in float32 on one processor
and twice as long on another, whatever their flags say (decision 9). So float32 weights are re-laid, behind the same
shape; and where bfloat16 is slow, as is measured once, bfloat16 layers get a float32 copy of their weights: inputs and
outputs are bfloat16 as before, and sums were taken in float32 anyway. These leave the numbers what they are. `narrow`
does not: it gives float32 layers bfloat16 products, for rollouts of a policy that is trained with them.

Done by `load`, which owns the network it has just read: the copies would not follow later changes of the weights,
which `restore` prepares for.
"""

from __future__ import annotations

import ctypes
import sys
import time
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4
"""Of mallopt: how much freed memory is given back, how much is asked for beyond need, how many blocks stand alone."""
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


class Narrowed:
    """The forward of a float32 linear layer by a bfloat16 product."""

    def __init__(self, layer: nn.Linear) -> None:
        self._weight = layer.weight.detach().bfloat16()
        self._bias = None if layer.bias is None else layer.bias.detach().bfloat16()

    def __call__(self, rows: Tensor) -> Tensor:
        """[..., in] to [..., out], both float32."""
        return linear(rows.bfloat16(), self._weight, self._bias).float()


def quicken(network: Any) -> None:
    """Re-lay or widen the linear layers of a network on a CPU; leave others alone."""
    layers = [m for m in network.modules() if type(m) is nn.Linear and m.weight.device.type == "cpu"]
    half = [layer for layer in layers if layer.weight.dtype == torch.bfloat16]
    if half and 4 * sum(layer.weight.numel() for layer in half) <= WIDEST and not multiplies_bfloat16():
        for layer in half:
            layer.forward = Widened(layer)  # type: ignore[method-assign, assignment]
    for layer in layers:
        if layer.weight.dtype == torch.float32:
            layer.weight.data = layer.weight.data.t().contiguous().t()


def narrow(network: Any) -> None:
    """Give the float32 linear layers of a network on a CPU bfloat16 products; leave others alone."""
    for layer in network.modules():
        if type(layer) is nn.Linear and layer.weight.device.type == "cpu" and layer.weight.dtype == torch.float32:
            layer.forward = Narrowed(layer)  # type: ignore[method-assign, assignment]


def restore(network: Any) -> None:
    """Undo `quicken` and `narrow`, for a network whose weights are about to change and to be saved."""
    for layer in (m for m in network.modules() if type(m) is nn.Linear):
        if isinstance(vars(layer).get("forward"), Widened | Narrowed):
            del layer.forward
        layer.weight.data = layer.weight.data.contiguous()


@cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices faster than float32 ones: measured, some ten milliseconds."""
    rows, weight = torch.ones(256, 256), torch.ones(1024, 256)
    return _quickest(rows.bfloat16(), weight.bfloat16()) < _quickest(rows, weight)


def _quickest(rows: Tensor, weight: Tensor, tries: int = 5) -> float:
    """Seconds of the fastest of a few products, after one that does not count."""
    found = []
    with torch.inference_mode():
        for _ in range(tries + 1):
            began = time.perf_counter()
            linear(rows, weight)
            found.append(time.perf_counter() - began)
    return min(found[1:])


def keep_memory() -> None:
    """Have this process keep the memory that it frees, where its C library can be told so (glibc).

    A step of training frees and asks for the same few hundred megabytes again, and new pages are dear: without this it
    took half as long again (decision 13).
    """
    tell = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for option, value in ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, 2**31 - 1), (M_TOP_PAD, 2**28)) if tell else ():
        tell(option, value)
