"""Italic: inference-time reward-guided alignment of generative models. A model, a reward and a budget in, answers out.

    import italic

    answers = italic.align(["Tell me a story."], model="demo", reward="demo", method="best-of-n:n=16")
    print(answers.texts[0], answers.usage)

Everything is imported on use: `import italic` itself loads neither NumPy nor torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from italic.core.errors import ItalicError, OutOfBudget
    from italic.core.keys import Key
    from italic.core.outcome import Certificate, Outcome, Usage
    from italic.core.prompt import Prompt
    from italic.core.protocols import Task
    from italic.core.questions import best, extend, note, score, together
    from italic.core.sampling import Sampling, Until
    from italic.core.spec import build_method, build_model, build_reward
    from italic.run.align import Alignment, align, stream
    from italic.run.ledger import Budget, Ledger

__version__ = "0.1.0"

_HOMES = {
    "ItalicError": "core.errors",
    "OutOfBudget": "core.errors",
    "Key": "core.keys",
    "Certificate": "core.outcome",
    "Outcome": "core.outcome",
    "Usage": "core.outcome",
    "Prompt": "core.prompt",
    "Task": "core.protocols",
    "best": "core.questions",
    "extend": "core.questions",
    "note": "core.questions",
    "score": "core.questions",
    "together": "core.questions",
    "Sampling": "core.sampling",
    "Until": "core.sampling",
    "build_method": "core.spec",
    "build_model": "core.spec",
    "build_reward": "core.spec",
    "Alignment": "run.align",
    "align": "run.align",
    "stream": "run.align",
    "Budget": "run.ledger",
    "Ledger": "run.ledger",
}

__all__ = [
    "Alignment",
    "Budget",
    "Certificate",
    "ItalicError",
    "Key",
    "Ledger",
    "OutOfBudget",
    "Outcome",
    "Prompt",
    "Sampling",
    "Task",
    "Until",
    "Usage",
    "align",
    "best",
    "build_method",
    "build_model",
    "build_reward",
    "extend",
    "note",
    "score",
    "stream",
    "together",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"italic.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'italic' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
