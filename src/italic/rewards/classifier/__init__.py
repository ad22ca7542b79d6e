"""Hugging Face sequence classifiers as rewards: the raw logit of a response to its prompt.

`render` makes the text that the model reads, `checkpoint` loads the model, `plain` is the obviously right way to score,
`incremental` the fast one, which keeps the keys and values of what it has read before; `reward` puts them together.
"""

from __future__ import annotations

from italic.rewards.classifier.checkpoint import Checkpoint
from italic.rewards.classifier.reward import ClassifierReward, load

__all__ = ["Checkpoint", "ClassifierReward", "load"]
