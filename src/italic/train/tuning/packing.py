"""Rollouts of many prompts as one row without padding, each prompt in it once for all of its responses.

    tokens      first prompt . . | its first response . | its second . . | second prompt . | its first response . . .
    positions   0 1 2 ... P-1      P P+1 ...              P P+1 ...        0 1 2 ...

A response attends to its prompt and to itself: for attention alone, prompts and responses are laid out as rows, each
response behind its prompt's keys and values, so that logits are those of a row alone. What is saved is padding, and the
prompts' share of the tokens, forwards and backwards.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from accelerate.utils import send_to_device
from torch import Tensor
from torch.nn.functional import embedding
from torch.nn.utils.rnn import pad_sequence
from transformers import AttentionInterface
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION, LAYOUT = "italic_packed", "italic_layout"
"""The name of this attention, and of the argument that it finds its layout by."""
WITHIN = "sdpa"
"""The attention it is made of, which the network must have been loaded with."""
MOST_SCORES = 2**26
"""Attention scores of a layer that are held in memory where that is faster."""


class Rows(NamedTuple):
    """Rows of the one row's tokens. at, keys: int64 [n, Q] and [n, K], which tokens ask and which are asked; mask:
    [n, 1, Q, K], added to attention scores. There is padding in each: any token, which the mask hides.
    """

    at: Tensor
    keys: Tensor
    mask: Tensor

    def attend(self, module: Any, query: Tensor, key: Tensor, value: Tensor, **named: Any) -> Tensor:
        """query, key, value: [T, heads, d] of the one row. Returns what each row's tokens found: [n Q, heads, d]."""
        rows = [_picked(query, self.at), _picked(key, self.keys), _picked(value, self.keys)]
        attend = _by_products if self._quicker(rows[0], named) else ALL_ATTENTION_FUNCTIONS[WITHIN]
        found, _ = attend(module, *rows, self.mask.to(query.dtype), **{**named, "is_causal": False})
        return found.flatten(0, 1)

    def _quicker(self, query: Tensor, named: Mapping[str, Any]) -> bool:
        """Whether products and a softmax do, and are quicker: PyTorch's own takes three times as long backwards."""
        plain = not named.get("dropout") and named.get("softcap") is None and named.get("position_bias") is None
        few = query.shape[1] * self.mask.numel() <= MOST_SCORES
        return plain and few and query.device.type == "cpu" and query.dtype == torch.bfloat16


def _picked(states: Tensor, at: Tensor) -> Tensor:
    """Of [T, heads, d] those at [n, S]: [n, heads, S, d]. As embeddings, whose gradients are added up fast."""
    return embedding(at, states.flatten(1)).unflatten(2, states.shape[1:]).transpose(1, 2)


def _by_products(
    module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor, *, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Attention with its scores in memory, as Transformers calls it."""
    heads = query.shape[1] // key.shape[1]
    key, value = (states.repeat_interleave(heads, dim=1) if heads > 1 else states for states in (key, value))
    weights = torch.softmax(query @ key.transpose(2, 3) * scaling + mask, dim=-1)
    return (weights.to(value.dtype) @ value).transpose(1, 2), None


class Layout(NamedTuple):
    """How the tokens of the one row attend: prompts to themselves, responses to their prompts and themselves.

    back: int64 [T], where among what the rows found, prompts' first, that of each token is.
    """

    prompts: Rows
    responses: Rows
    back: Tensor


def _halved(states: Tensor) -> Tensor:
    """In the type that products are taken in here."""
    kind = states.device.type
    return states.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else states


def _attend(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **named: Any
) -> tuple[Tensor, None]:
    """Attention as Transformers calls it."""
    layout: Layout = named.pop(LAYOUT)
    states = [_halved(heads[0].transpose(0, 1)) for heads in (query, key, value)]
    found = [rows.attend(module, *states, **named) for rows in (layout.prompts, layout.responses)]
    return torch.cat(found).index_select(0, layout.back)[None], None


AttentionInterface.register(ATTENTION, _attend)


@contextmanager
def _attending(network: Any, attention: str | None) -> Iterator[None]:
    """The network with another attention, if one is given, and with its own behind that."""
    config = network.config.get_text_config(decoder=True)
    own = config._attn_implementation
    config._attn_implementation = attention or own
    try:
        yield
    finally:
        config._attn_implementation = own


def packs(network: Any) -> bool:
    """Whether a network whose layers attend to everything before can be asked for packed rows.

    Not while it computes its layers anew in the backward pass, with the attention that it has then.
    """
    config = network.config.get_text_config(decoder=True)
    takes = config._attn_implementation == WITHIN and network._supports_attention_backend
    anew = any(getattr(module, "gradient_checkpointing", False) for module in network.modules())
    return bool(takes and not anew)


class Asked(NamedTuple):
    """What a network is asked for a batch, and where its answers are.

    attention: that which it takes, None for its own. place: int64 [M], where among the logits, [n S, V], that which
    predicts each token of each response is found, M tokens, response by response; None if they are these.
    """

    inputs: dict[str, Any]
    attention: str | None
    place: Tensor | None

    def of(self, model: Any, network: Any) -> Tensor:
        """What stands before each response token, logits [M, V], by calling `model`, in which `network` is."""
        with _attending(network, self.attention):
            found: Tensor = model(**self.inputs, use_cache=False).logits.flatten(0, 1)
        return found if self.place is None else found[self.place]


def ask(prompts: Tensor, known: Tensor, responses: Tensor, there: Tensor, dtype: torch.dtype, *, packed: bool) -> Asked:
    """How to ask a network for responses, all in one row if `packed`, else row by row.

    prompts, known: int64 [B, P], tokens padded on the left and where they are no padding; responses, there: [B, L], on
    the right. dtype: of the network.
    """
    if packed:
        return _pack(prompts, known.bool(), responses, there.bool(), dtype)
    mask = torch.cat([known, there], dim=1)
    inputs = {
        "input_ids": torch.cat([prompts, responses], dim=1),
        "attention_mask": mask,
        "position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0),
        "logits_to_keep": responses.shape[1] + 1,
    }
    row, column = there.bool().nonzero(as_tuple=True)
    return Asked(inputs, None, row * (responses.shape[1] + 1) + column)


def _pack(prompts: Tensor, known: Tensor, responses: Tensor, there: Tensor, dtype: torch.dtype) -> Asked:
    """All in one row, prompts before their responses. known, there: bool."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for row, (ids, mask) in enumerate(zip(prompts, known, strict=True)):
        groups.setdefault(tuple(ids[mask].tolist()), []).append(row)
    order = torch.arange(prompts.numel() + there.numel())
    tokens, positions, fronts = [], [], []
    front, own = [order[:0]] * len(there), [order[:0]] * len(there)
    end = 0
    for prompt, rows in groups.items():
        start, end = end, end + len(prompt)
        fronts.append(order[start:end])
        tokens.append(prompts.new_tensor(prompt))
        positions.append(order[: len(prompt)])
        for row in rows:
            tokens.append(responses[row][there[row]])
            start, end = end, end + len(tokens[-1])
            front[row], own[row] = fronts[-1], order[start:end]
            positions.append(order[len(prompt) : len(prompt) + end - start])
    before = [torch.cat([begun[-1:], at[:-1]]) for begun, at in zip(front, own, strict=True)]
    inputs = {
        "input_ids": torch.cat(tokens)[None],
        "position_ids": torch.cat(positions)[None],
        "logits_to_keep": torch.cat(before),
        LAYOUT: _layout(fronts, front, own, dtype),
    }
    return Asked(send_to_device(inputs, prompts.device), ATTENTION, None)


def _layout(fronts: list[Tensor], front: list[Tensor], own: list[Tensor], dtype: torch.dtype) -> Layout:
    """Of prompts at `fronts`, and of responses at `own` to prompts at `front`."""
    prompts, before, after = (pad_sequence(rows, batch_first=True, padding_value=-1) for rows in (fronts, front, own))
    alone, first = _causal(prompts), (before >= 0)[:, None].expand(-1, after.shape[1], -1)
    asked = [
        Rows(prompts.clamp(min=0), prompts.clamp(min=0), _added(alone, dtype)),
        Rows(
            after.clamp(min=0),
            torch.cat([before, after], dim=1).clamp(min=0),
            _added(torch.cat([first, _causal(after)], dim=2), dtype),
        ),
    ]
    found = torch.cat([prompts.flatten(), after.flatten()])
    return Layout(*asked, found.argsort(stable=True)[(found < 0).sum() :])


def _causal(at: Tensor) -> Tensor:
    """Which of the tokens at [n, S], -1 for padding, each of them attends to: bool [n, S, S]."""
    order = torch.arange(at.shape[1])
    return (order[:, None] >= order) & (at >= 0)[:, None]


def _added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """What hides from attention scores what is not seen, bool [n, Q, K]: [n, 1, Q, K]."""
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]
