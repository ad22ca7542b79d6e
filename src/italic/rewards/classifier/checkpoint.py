"""A sequence classifier and its tokenizer, and what must be known to score with them: label, padding, longest input."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from italic.core.errors import SpecError

BUNDLED = {"demo": "preference", "demo:preference": "preference", "demo:sentiment": "sentiment"}
UNBOUNDED = 10**9
"""Tokenizers write an enormous number where they know of no longest input."""


CACHES = ("cache", "past_key_values")
"""What networks call their keys and values, since Transformers 5.24 and before."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """What scoring needs. label: the logit that is the reward. pad: the padding token's id. longest: the most tokens
    that the model reads. cache: what the network calls the keys and values that it goes on from, None if it does not
    read from left to right."""

    name: str
    model: Any
    tokenizer: Any
    label: int
    pad: int
    longest: int
    cache: str | None

    @classmethod
    def of(
        cls,
        model: Any,
        tokenizer: Any,
        *,
        name: str = "classifier",
        label: str | int | None = None,
        pad_token: str | None = None,
        max_length: int | None = None,
    ) -> Checkpoint:
        """A loaded model with its tokenizer, whose padding token is set if it is lacking. Raises SpecError."""
        config = model.config.get_text_config()
        pad = _padding(name, config, tokenizer, pad_token)
        known = (tokenizer.model_max_length, getattr(config, "max_position_embeddings", None), max_length)
        return cls(
            name=name,
            model=model.eval(),
            tokenizer=tokenizer,
            label=_label(name, model.config, label),
            pad=pad,
            longest=min((int(k) for k in known if k is not None and 0 < k < UNBOUNDED), default=UNBOUNDED),
            cache=_cache(model),
        )

    @property
    def causal(self) -> bool:
        """Whether it reads from left to right and can go on from keys and values."""
        return self.cache is not None


def _cache(model: Any) -> str | None:
    if getattr(model.config, "is_encoder_decoder", False):
        return None
    takes = inspect.signature(model.forward).parameters
    return next((name for name in CACHES if name in takes), None)


def open_checkpoint(
    path: str,
    *,
    dtype: str = "auto",
    device: str | None = None,
    label: str | int | None = None,
    pad_token: str | None = None,
    max_length: int | None = None,
) -> Checkpoint:
    """Load a directory, a hub id or a bundled model. Raises SpecError. For the options see `load`."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    where = _bundled(path) if path.startswith("demo") and not Path(path).exists() else path
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if dtype == "auto" and device == "cpu":
        dtype = "float32"
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            where, dtype=dtype if dtype == "auto" else getattr(torch, dtype), output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise SpecError(
            f"{path!r} cannot be loaded as a sequence classifier: {error}",
            hint="Give a directory or a hub id with config.json, weights and a tokenizer, or `demo`.",
        ) from error
    absent = sorted(report["missing_keys"])
    if absent:
        raise SpecError(
            f"{path!r} is no sequence classifier: its weights lack {', '.join(absent[:3])}",
            hint="Give a reward model; a language model has no reward head.",
        )
    model = model.to(device)
    return Checkpoint.of(model, tokenizer, name=path, label=label, pad_token=pad_token, max_length=max_length)


def _bundled(path: str) -> str:
    if path not in BUNDLED:
        raise SpecError(f"there is no bundled reward {path!r}", hint=f"Bundled are {', '.join(BUNDLED)}.")
    where = Path(str(files("italic"))) / "bundled" / BUNDLED[path]
    if not (where / "config.json").is_file():
        raise SpecError(f"this installation lacks the bundled model {BUNDLED[path]}", hint="Install Italic anew.")
    return str(where)


def _label(name: str, config: Any, label: str | int | None) -> int:
    """The index of the logit that is the reward."""
    count = config.num_labels
    names = {int(i): str(text) for i, text in (config.id2label or {}).items()}
    if label is None:
        if count == 1:
            return 0
        listed = ", ".join(f"{i} ({names.get(i, i)})" for i in range(count))
        raise SpecError(
            f"{name} has {count} labels: {listed}. Which one is the reward?",
            hint=f"Give label={names.get(count - 1, count - 1)}, for instance.",
        )
    for i, text in names.items():
        if text.lower() == str(label).lower():
            return i
    if str(label).isdigit() and int(label) < count:
        return int(label)
    raise SpecError(
        f"{name} has no label {label!r}", hint=f"It has {', '.join(names.get(i, str(i)) for i in range(count))}."
    )


def _padding(name: str, config: Any, tokenizer: Any, pad_token: str | None) -> int:
    """The padding token's id, the same for model and tokenizer."""
    if pad_token is not None:
        known = tokenizer.get_vocab()
        if pad_token not in known:
            raise SpecError(f"{name} has no token {pad_token!r}", hint="Name a token of its vocabulary.")
        tokenizer.pad_token = pad_token
        config.pad_token_id = known[pad_token]
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id
    if config.pad_token_id is None:
        special = tokenizer.eos_token or "<|endoftext|>"
        raise SpecError(
            f"{name} has no padding token, so its rows cannot be padded to one length",
            hint=f"Type --reward 'classifier:{name},pad_token={special}', best with a token that never ends a text.",
        )
    return int(config.pad_token_id)
