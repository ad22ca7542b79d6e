"""Whether pictures can be drawn here."""

from __future__ import annotations

from italic.core.registry import missing_library


def check_plotting(what: str) -> None:
    """Raise SpecError if there is nothing to draw with; what: who wants to draw."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as failure:
        raise missing_library(what, failure) from failure
