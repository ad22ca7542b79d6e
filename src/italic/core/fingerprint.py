"""A tokenizer's fingerprint: whether two back-ends read and write text alike."""

from __future__ import annotations

import hashlib
import json

_PASSING = ("truncation", "padding")
"""Settings of the last call, kept in a tokenizer's file; they say nothing of which ids are which text."""


def fingerprint(tokenizer_json: str, chat_template: str | None) -> str:
    """16 hexadecimal digits, equal for equal tokenizers with equal chat templates.

    tokenizer_json: the content of `tokenizer.json` (`backend_tokenizer.to_str()`), in any spacing and order of keys.
    Raises ValueError if it is not JSON.
    """
    content = {k: v for k, v in json.loads(tokenizer_json).items() if k not in _PASSING}
    text = json.dumps([content, chat_template], sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
