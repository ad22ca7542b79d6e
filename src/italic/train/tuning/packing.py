"""Rollouts of one prompt as one row: the prompt goes through the network once for all of them, not once for each.

    tokens      prompt . . . | first response . . | second response . . . | padding
    positions   0 1 2 ... P-1  P P+1 ...            P P+1 ...

A response sees the prompt and itself, by a mask of its own, so that its logits are those of a row alone. What is saved
is the prompt's share of the tokens, forwards and backwards; what it costs is attention over the longer row.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

LONGEST = 1024
"""Rows that would be longer are left alone: attention over them costs more than their prompts."""


class Packed(NamedTuple):
    """G rows of S tokens. ids, positions: int64 [G, S]; mask: [G, 1, S, S], added to attention scores; keep: for how
    many last positions logits are needed. place: int64 [M], where among the G * keep logits that which predicts each
    token of each response is found, M tokens, response by response.
    """

    ids: Tensor
    positions: Tensor
    mask: Tensor
    keep: int
    place: Tensor


def pack(prompts: Tensor, known: Tensor, responses: Tensor, there: Tensor, dtype: torch.dtype) -> Packed | None:
    """Put rows of equal prompts together; None if that would make rows of more than `LONGEST` tokens.

    prompts, known: int64 [B, P], tokens padded on the left and where they are no padding; responses, there: [B, L], on
    the right. dtype: of the mask.
    """
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, (ids, mask) in enumerate(zip(prompts, known, strict=True)):
        groups.setdefault(tuple(ids[mask.bool()].tolist()), []).append(row)
    sizes = there.sum(dim=1).tolist()
    start = prompts.shape[1]
    longest = start + max(sum(sizes[row] for row in rows) for rows in groups.values())
    if longest > LONGEST:
        return None
    count, keep = len(groups), longest - start + 1
    ids = prompts.new_zeros((count, longest))
    positions = torch.zeros_like(ids)
    owner = torch.full_like(ids, -1)  # -1: padding, 0: the prompt, k: the k-th response
    place = prompts.new_zeros((len(prompts), responses.shape[1]))
    for group, rows in enumerate(groups.values()):
        first = rows[0]
        length = int(known[first].sum())
        ids[group, :start] = prompts[first]
        positions[group, start - length : start] = torch.arange(length, device=ids.device)
        owner[group, start - length : start] = 0
        at = start
        for number, row in enumerate(rows, 1):
            size = sizes[row]
            ids[group, at : at + size] = responses[row, :size]
            positions[group, at : at + size] = length + torch.arange(size, device=ids.device)
            owner[group, at : at + size] = number
            before = torch.arange(at - 1, at + size - 1, device=ids.device)
            before[:1] = start - 1
            place[row, :size] = group * keep + before - (start - 1)
            at += size
    order = torch.arange(longest, device=ids.device)
    causal = order[:, None] >= order
    same = (owner[:, :, None] == owner[:, None, :]) | (owner[:, None, :] == 0)
    seen = (causal & same & (owner[:, None, :] >= 0)) | torch.eye(longest, dtype=torch.bool, device=ids.device)
    mask = torch.zeros(seen.shape, dtype=dtype, device=ids.device).masked_fill_(~seen, torch.finfo(dtype).min)
    return Packed(ids, positions, mask[:, None], keep, place[there.bool()])


class Asked(NamedTuple):
    """What a network is asked for a batch, and where its answers are. place: int64 [M], see `Packed`."""

    inputs: dict[str, Any]
    place: Tensor

    def pick(self, found: Tensor) -> Tensor:
        """Of what stands at the network's last positions, [G, S, X], what is before each response token: [M, X]."""
        return found[:, -self.inputs["logits_to_keep"] :].flatten(0, 1)[self.place]


def ask(prompts: Tensor, known: Tensor, responses: Tensor, there: Tensor, dtype: torch.dtype, *, packed: bool) -> Asked:
    """How to ask a network for responses: see `pack`; row by row if not `packed`, or if that would be too long."""
    found = pack(prompts, known, responses, there, dtype) if packed else None
    if found is not None:
        named = {"input_ids": found.ids, "attention_mask": found.mask, "position_ids": found.positions}
        return Asked({**named, "logits_to_keep": found.keep}, found.place)
    mask = torch.cat([known, there], dim=1)
    inputs = {
        "input_ids": torch.cat([prompts, responses], dim=1),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),
        "logits_to_keep": responses.shape[1] + 1,
    }
    row, column = there.bool().nonzero(as_tuple=True)
    return Asked(inputs, row * (responses.shape[1] + 1) + column)
