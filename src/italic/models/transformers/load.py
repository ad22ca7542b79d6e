"""Reading a model from disk or from the hub."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from italic.core.errors import ModelError, UsageError

if TYPE_CHECKING:
    from italic.models.transformers.model import TransformersModel

DEMO = "demo"
"""The name of the language model that comes with Italic."""

DTYPES = ("auto", "float32", "bfloat16", "float16")


def load(
    name: str = DEMO,
    *,
    dtype: str | None = None,
    device: str | None = None,
    rows: int = 64,
    chat: str = "auto",
    max_length: int | None = None,
    attention: str | None = None,
    path: str = "auto",
    keep_bytes: int = 2**30,
    compiled: bool = False,
) -> TransformersModel:
    """Read a decoder and its tokenizer.

    name: "demo", a directory, or a hub id. dtype: as in `from_pretrained`, where "auto" is the checkpoint's own; by
    default float32 on a CPU, so that a response does not depend on its batch, and "auto" elsewhere. device: "cpu",
    "cuda", "cuda:1", ...; by default the accelerator if there is one. rows: how many responses grow at once.
    chat: "auto" renders a plain text prompt as one user message if the tokenizer has a chat template, "always" insists
    on the template, "never" continues the text as it is. max_length: the longest prompt plus response, by default the
    model's context. attention: Transformers' `attn_implementation`. path: "ragged" or "plain" instead of the better one
    that works (see `TransformersModel.path`). keep_bytes: memory for the keys and values of rows that are not growing.
    compiled: compile the decoding step first, for long runs: half a minute once, and again, shorter, in every process
    (torch keeps what it compiled on disk); on a CPU it needs a C++ compiler.

    Raises UsageError if a setting is wrong or PyTorch is missing, ModelError if the model cannot be read.
    """
    if dtype is not None and dtype not in DTYPES:
        raise UsageError(f"dtype is {dtype!r}", hint=f"Give one of {', '.join(DTYPES)}.")
    try:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
    except ImportError as error:
        raise UsageError(
            f"the model {name!r} needs PyTorch and Transformers ({error})", hint='Type pip install "italic[hf]".'
        ) from error
    from italic.models.transformers.cpu import quicken
    from italic.models.transformers.model import TransformersModel

    device = device or accelerator(torch)
    dtype = dtype or ("float32" if device == "cpu" else "auto")
    where = str(bundled()) if name == DEMO else name
    extra: dict[str, Any] = {} if attention is None else {"attn_implementation": attention}
    try:
        tokenizer = AutoTokenizer.from_pretrained(where)
        network = AutoModelForCausalLM.from_pretrained(where, dtype=dtype, **extra)
        network = network.to(device)
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise ModelError(
            f"the model {name!r} cannot be read: {error}",
            hint=f"Give a directory with config.json and a tokenizer, a hub id, or {DEMO!r}.",
        ) from error
    quicken(network)
    return TransformersModel(
        network,
        tokenizer,
        name=name,
        rows=rows,
        chat=chat,
        max_length=max_length,
        path=path,
        keep_bytes=keep_bytes,
        compiled=compiled,
    )


def bundled() -> Path:
    """The directory of the bundled chat model. Raises ModelError if this installation lacks it."""
    folder = Path(str(resources.files("italic"))) / "bundled" / "chat"
    if not (folder / "config.json").is_file():
        raise ModelError(f"this installation of Italic has no bundled model in {folder}", hint="Install it again.")
    return folder


def accelerator(torch: Any) -> str:
    """The name of the accelerator of this machine, or "cpu"."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return "cpu" if found is None else str(found)
