"""Italic: inference-time reward-guided alignment of generative models."""

__version__ = "0.1.0"
