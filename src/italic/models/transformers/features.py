"""What a decoder knows about rows, as numbers: its hidden state after their last token.

A row goes through the network alone and unpadded, so that its features do not depend on the batch. Equal rows, in most
cases the empty drafts of one prompt, go through once, and what went through last is remembered, as whoever asks for the
features of a prompt tends to ask again.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import TextDrafts
from italic.core.errors import ModelError, ProgramError
from italic.core.protocols import Embedded, Spent
from italic.models.transformers.network import Network
from italic.models.transformers.strands import Tokens

MOST = 1000
"""How many rows' features are remembered."""


class Features:
    """The features of rows. most: how many are remembered; those unused for longest go first."""

    def __init__(self, network: Network, most: int = MOST) -> None:
        self._network = network
        self._most = most
        self._kept: OrderedDict[bytes, NDArray[np.float64]] = OrderedDict()

    def of(self, drafts: TextDrafts) -> Embedded:
        """The features of one batch, float64 [n, d]; spent is what was not known before.

        Raises ModelError if the network fails or gives no numbers, ProgramError for rows of no tokens at all.
        """
        found: dict[bytes, NDArray[np.float64]] = {}
        rows = [np.concatenate((drafts.prompt_tokens, response)) for response in drafts.tokens]
        spent = Spent()
        for tokens in rows:
            name = tokens.tobytes()
            if name in found:
                continue
            if name not in self._kept:
                self._put(name, self._compute(tokens, drafts.prompt.id))
                spent += Spent(positions=len(tokens), calls=1)
            self._kept.move_to_end(name)
            found[name] = self._kept[name]
        if not rows:
            return Embedded(np.zeros((0, self._network.width)))
        return Embedded(np.stack([found[tokens.tobytes()] for tokens in rows]), spent)

    def _compute(self, tokens: Tokens, prompt: str) -> NDArray[np.float64]:
        if not len(tokens):
            raise ProgramError(
                f"the drafts of prompt {prompt!r} have no tokens, so there is no last one to read features after",
                hint="Make drafts with the model's `start`: it begins an empty prompt with a token, or refuses it.",
            )
        features = np.asarray(self._network.hidden(tokens).cpu().double().numpy())
        if not np.isfinite(features).all():
            raise ModelError(
                f"the features of prompt {prompt!r} are NaN or infinite",
                hint="Check the weights; if they are sound, load the model with dtype='float32' or 'bfloat16'.",
            )
        return features

    def _put(self, name: bytes, features: NDArray[np.float64]) -> None:
        self._kept[name] = features
        while len(self._kept) > self._most:
            self._kept.popitem(last=False)
