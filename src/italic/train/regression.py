"""Small networks fitted by gradient descent, with the losses of soft values and of baselines. PyTorch, on the CPU.

A network maps features to one number u. Its targets y are log-weights in nats; s = y - u.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import SpecError, UsageError
from italic.core.registry import missing_library
from italic.values.networks import Networks

if TYPE_CHECKING:
    from torch import Tensor

Array: TypeAlias = NDArray[np.float64]
Loss: TypeAlias = Literal["pinball", "paper", "itakura-saito", "mse"]
LOSSES_OF_VALUES = ("itakura-saito", "mse")

FIRST_LAMBDA = 10.0
"""Where the lambda of the paper's loss begins: it ends between 5 and 15 for delta = 1e-3."""


NOTHING = -1e3
"""A log-weight for -inf: exp of it is 0 beside any other."""


@dataclass(frozen=True)
class Recipe:
    """How a network is fitted. hidden: widths of the layers; steps of Adam on `batch` rows; decay: of the weights."""

    hidden: tuple[int, ...] = (64, 64)
    steps: int = 300
    batch: int = 2048
    rate: float = 2e-2
    decay: float = 0.0

    def __post_init__(self) -> None:
        if min((*self.hidden, self.steps, self.batch), default=1) < 1 or not self.rate > 0 or not self.decay >= 0:
            raise UsageError(f"{self} is no recipe", hint="Give positive sizes, steps, batch and rate.")


@dataclass(frozen=True, eq=False)
class Regressor:
    """One fitted network: u(x) = layers((x - shift) * scale). layers: pairs of weights [in, out] and biases [out].

    low, high: the least and the largest target, beyond which no mean or quantile of them can be. sharpness: the
    lambda that the paper's loss has learned; 1 for the other losses.
    """

    shift: Array
    scale: Array
    layers: tuple[tuple[Array, Array], ...]
    low: float
    high: float
    sharpness: float = 1.0

    def __call__(self, features: Array) -> Array:
        return stack([self])(features, np.zeros(len(features), dtype=np.int64))


def stack(regressors: Sequence[Regressor]) -> Networks:
    """One network a block."""
    depth = range(len(regressors[0].layers))
    return Networks(
        np.stack([r.shift for r in regressors]),
        np.stack([r.scale for r in regressors]),
        tuple(np.stack([r.layers[i][0] for r in regressors]) for i in depth),
        tuple(np.stack([r.layers[i][1] for r in regressors]) for i in depth),
        np.array([r.low for r in regressors]),
        np.array([r.high for r in regressors]),
    )


def fit(features: Array, targets: Array, loss: Loss, recipe: Recipe, *, delta: float = 0.5, seed: int = 0) -> Regressor:
    """Fit u to targets, float64 [n], nats, -inf allowed; features: float64 [n, d].

    pinball: the (1 - delta)-quantile of y given x. paper: the loss J of 2602.07738, whose 1 + exp bounds the expected
    draws, and its lambda. itakura-saito: log E[e^y | x], by e^(y - u) + u; mse: the same, by the squared error of e^u.

    Raises SpecError if PyTorch is missing, ValueError if no target is finite.
    """
    try:
        import torch
    except ImportError as failure:
        raise missing_library("a fit", failure) from failure
    shift, scale = features.mean(axis=0), 1 / np.maximum(features.std(axis=0), 1e-6)
    low, high = (float(end(targets[np.isfinite(targets)])) for end in (np.min, np.max))
    if loss in LOSSES_OF_VALUES and np.any(targets == -np.inf):
        low = NOTHING
    targets = np.maximum(targets, low)
    unit = max(float(targets.std()), 1e-6) if loss == "pinball" else 1.0
    x, y = torch.from_numpy((features - shift) * scale).float(), torch.from_numpy(targets / unit).float()
    noise = torch.Generator().manual_seed(seed)
    level = float(_log_mean_exp(y) if loss in LOSSES_OF_VALUES else y.mean())
    layers = _begin(x, recipe.hidden, level, noise)
    rough = torch.tensor(float(np.log(np.expm1(FIRST_LAMBDA)))).requires_grad_()
    weights, others = [w for w, _ in layers], [*(b for _, b in layers), rough]
    groups: list[dict[str, Any]] = [{"params": weights, "weight_decay": recipe.decay}, {"params": others}]
    adam = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.99), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, recipe.steps)
    for _ in range(recipe.steps):
        rows = torch.randint(len(x), (recipe.batch,), generator=noise) if len(x) > recipe.batch else slice(None)
        error = _loss(loss, y[rows], _forward(x[rows], layers), delta, torch.nn.functional.softplus(rough))
        adam.zero_grad()
        error.backward()
        adam.step()
        schedule.step()
    learned = [(w.detach().double().numpy(), b.detach().double().numpy()) for w, b in layers]
    learned[-1] = (learned[-1][0] * unit, learned[-1][1] * unit)
    sharpness = float(torch.nn.functional.softplus(rough.detach())) if loss == "paper" else 1.0
    return Regressor(shift, scale, tuple(learned), low, high, sharpness)


def check_loss(loss: str) -> None:
    """Raise SpecError unless it is a loss of soft values."""
    if loss not in LOSSES_OF_VALUES:
        raise SpecError(f"there is no loss {loss!r} of soft values", hint=f"Write {' or '.join(LOSSES_OF_VALUES)}.")


def _begin(x: Tensor, hidden: Sequence[int], level: float, noise: Any) -> list[tuple[Tensor, Tensor]]:
    """Layers that say `level`. The units of the first bend at rows of the data, so that they are where the data are."""
    import torch

    layers: list[tuple[Tensor, Tensor]] = []
    sizes = [x.shape[1], *hidden]
    for rows, columns in pairwise(sizes):
        w = torch.randn(rows, columns, generator=noise) * (2 / max(rows, 1)) ** 0.5
        bends = x[torch.randint(len(x), (columns,), generator=noise)]
        b = torch.randn(columns, generator=noise) / 2 if layers else -(bends.T * w).sum(0)
        layers.append((w.requires_grad_(), b.requires_grad_()))
    layers.append((torch.zeros(sizes[-1], 1).requires_grad_(), torch.tensor([level]).requires_grad_()))
    return layers


def _forward(x: Tensor, layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    for w, b in layers[:-1]:
        x = (x @ w + b).relu()
    return (x @ layers[-1][0] + layers[-1][1])[:, 0]


def _loss(loss: Loss, y: Tensor, u: Tensor, delta: float, sharpness: Tensor) -> Tensor:
    import torch

    s = y - u
    if loss == "pinball":
        return torch.maximum((1 - delta) * s, -delta * s).mean()
    if loss == "paper":
        return (_log_mean_exp(sharpness * s) - np.log(delta)) / sharpness + _log_mean_exp(-s)
    if loss == "itakura-saito":
        return (torch.exp(s.clamp(max=30.0)) - s).mean()
    top = y.max().detach()
    return ((torch.exp(y - top) - torch.exp((u - top).clamp(max=10.0))) ** 2).mean()


def _log_mean_exp(x: Tensor) -> Tensor:
    return x.logsumexp(0) - float(np.log(len(x)))
