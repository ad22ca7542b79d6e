"""Drawing tokens from logits: by inverse CDF from one uniform number a row.

A row's number is a function of its seed and of the index of its token, so what is drawn does not depend on the batch.
The cumulative distribution is never written out: weights are summed in blocks of 64, the block is found in the
cumulative sum of the block sums, then the token in the cumulative sum of that block alone, both in double precision.
That is one pass over the vocabulary where `torch.multinomial` takes many.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from italic.core.sampling import Sampling

Ints: TypeAlias = NDArray[np.int64]

BLOCK = 64
BELOW_ONE = 1.0 - 2.0**-53


class Drawn(NamedTuple):
    """One token a row. ids: int64 [A]; logps: float64 [A], NaN where the logits were no logits."""

    ids: Tensor
    logps: Tensor


def warp(logits: Tensor, sampling: Sampling) -> Tensor:
    """The scores of the law that is drawn from, [A, V], -inf where a token is excluded; float32 if they changed.

    Temperature, top-k, top-p and min-p in this order and with the treatment of ties of Transformers' logits warpers.
    The temperature is positive.
    """
    changes = not sampling.plain
    scores = logits.float() if changes else logits
    if sampling.temperature != 1.0:
        scores = scores / sampling.temperature
    if sampling.top_k > 0:
        scores = scores.masked_fill(scores < _largest(scores, min(sampling.top_k, scores.shape[-1])), -torch.inf)
    if sampling.top_p < 1.0:
        scores = _nucleus(scores, sampling.top_p)
    if sampling.min_p > 0.0:
        p = scores.softmax(-1)
        scores = scores.masked_fill(p < sampling.min_p * p.amax(-1, keepdim=True), -torch.inf)
    return scores


def _largest(scores: Tensor, k: int) -> Tensor:
    """The k-th largest score of each row, [A, 1]. NumPy's partition is several times faster than `topk` on a CPU."""
    if scores.device.type == "cpu":
        at = scores.shape[-1] - k
        return torch.from_numpy(np.partition(scores.numpy(), at, axis=-1)[:, at : at + 1])
    return torch.topk(scores, k).values[:, -1:]


def _nucleus(scores: Tensor, top_p: float) -> Tensor:
    """Exclude the least likely tokens, of at most 1 - top_p in all, as `TopPLogitsWarper` does.

    That takes the sorted scores, not their order, unless the border runs between equal scores. So only the values are
    sorted, by NumPy on a CPU (twenty times faster than `torch.sort`), and rows with such a border are sorted again.
    """
    on_cpu = scores.device.type == "cpu"
    ordered = torch.from_numpy(np.sort(scores.numpy(), axis=-1)) if on_cpu else torch.sort(scores).values
    out = ordered.softmax(-1).cumsum(-1) <= 1 - top_p
    least = out[:, :-1].sum(-1, keepdim=True)
    border = ordered.gather(1, least)
    kept = scores.masked_fill(scores < border, -torch.inf)
    between = (least > 0) & (ordered.gather(1, (least - 1).clamp_(min=0)) == border)
    for row in between[:, 0].nonzero()[:, 0].tolist():
        order = torch.sort(scores[row]).indices
        kept[row, order[: least[row, 0]]] = -torch.inf
    return kept


def draw(logits: Tensor, sampling: Sampling, uniforms: Tensor) -> Drawn:
    """A token a row by the law of `sampling`.

    logits: [A, V] in any float type. uniforms: float64 [A] in (0, 1). At temperature 0 the largest logit wins, the
    first of equals, with log-probability 0: the law that it was drawn from is certain.
    """
    if sampling.temperature == 0:
        top, ids = logits.float().max(-1)
        return Drawn(ids, (top - top).double())
    weights = warp(logits, sampling).softmax(-1, dtype=torch.float32)
    rows, size = weights.shape
    if size % BLOCK:
        weights = torch.nn.functional.pad(weights, (0, -size % BLOCK))
    blocks = weights.view(rows, -1, BLOCK)
    upto = blocks.sum(-1).double().cumsum(-1)
    total = upto[:, -1]
    target = torch.minimum(uniforms * total, total * BELOW_ONE)
    each = torch.arange(rows, device=logits.device)
    block = torch.searchsorted(upto, target[:, None], right=True)[:, 0].clamp_(max=upto.shape[1] - 1)
    inside = blocks[each, block].double().cumsum(-1)
    before = torch.where(block > 0, upto[each, block - 1], 0.0)
    rest = torch.minimum(target - before, inside[:, -1] * BELOW_ONE)
    place = torch.searchsorted(inside, rest[:, None], right=True)[:, 0]
    ids = (block * BLOCK + place).clamp_(max=size - 1)
    return Drawn(ids, (weights[each, ids].double() / total).log())


def entropy(logits: Tensor) -> Tensor:
    """The entropy of the model's own law at temperature 1 over its whole vocabulary, in nats: float64 [A]."""
    return _entropy(logits.log_softmax(-1, dtype=torch.float32))


def weights(logits: Tensor, ids: Tensor) -> Tensor:
    """What the model's own law, [A, V], says of one token a row, int64 [A]: float64 [2, A], nats.

    First the token's log-probability, then the entropy of the law; NaN where the logits were no logits.
    """
    logps = logits.log_softmax(-1, dtype=torch.float32)
    return torch.stack((logps.gather(-1, ids[:, None])[:, 0].double(), _entropy(logps)))


def likeliest(logits: Tensor, k: Ints) -> tuple[Ints, Ints, NDArray[np.float64]]:
    """The k likeliest tokens of each row under the model's own law, k one a row: rows, tokens, log-probabilities, [m].

    Row by row, the likeliest first, the first of equals; tokens of probability 0 left out. A row whose logits are no
    logits has one token, of log-probability NaN.
    """
    scores = logits.float()
    logps = scores.log_softmax(-1)
    broken = logps[:, :1].isnan()
    near = (scores >= _largest(scores, min(int(k.max()), scores.shape[-1]))) & (logps > -torch.inf) & ~broken
    near[:, :1] |= broken
    row, token = near.nonzero(as_tuple=True)
    height, logp = torch.stack((scores[row, token], logps[row, token])).double().cpu().numpy()
    row, token = torch.stack((row, token)).cpu().numpy()
    order = np.lexsort((token, -height, row))
    row, token, logp = row[order], token[order], logp[order]
    kept = np.arange(len(row)) - np.searchsorted(row, row) < k[row]
    return row[kept], token[kept], logp[kept]


def _entropy(logps: Tensor) -> Tensor:
    return -(logps.exp() * logps.clamp(min=-1e30)).sum(-1).double()
