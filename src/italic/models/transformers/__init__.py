"""Hugging Face decoders in this process: a continuous batch that branches, rolls back and refills.

`load` reads a model; `TransformersModel` is what it returns. PyTorch is imported when a model is loaded, not before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from italic.models.transformers.load import load

if TYPE_CHECKING:
    from italic.models.transformers.model import TransformersModel
    from italic.models.transformers.session import TransformersSession

__all__ = ["TransformersModel", "TransformersSession", "load"]


def __getattr__(name: str) -> Any:
    if name == "TransformersModel":
        from italic.models.transformers.model import TransformersModel

        return TransformersModel
    if name == "TransformersSession":
        from italic.models.transformers.session import TransformersSession

        return TransformersSession
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
