"""A Hugging Face decoder as an Italic model."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from italic.core.drafts import Drafts, TextDrafts
from italic.core.errors import InputError, ProgramError, UsageError
from italic.core.keys import Seeds
from italic.core.prompt import Prompt
from italic.core.protocols import Embedded, Fanned, Grown, Weighed
from italic.core.questions import Extend
from italic.core.sampling import Sampling
from italic.models.transformers.codec import TokenizerCodec
from italic.models.transformers.cpu import keep_memory, multiplies_bfloat16, narrow, quicken, restore
from italic.models.transformers.fan import fan
from italic.models.transformers.features import Features
from italic.models.transformers.fit import context, why_plain
from italic.models.transformers.lanes import Lanes
from italic.models.transformers.network import Network
from italic.models.transformers.plain import Plain
from italic.models.transformers.ragged import Prompts, Ragged
from italic.models.transformers.session import TransformersSession
from italic.models.transformers.stopping import Stops, end_tokens
from italic.models.transformers.strands import Shelf
from italic.models.transformers.weigh import weigh

PATHS = ("auto", "ragged", "plain")


class TransformersModel:
    """A decoder and its tokenizer. Implements `italic.core.protocols.Stepping`; `load` makes one from a name.

    path: "ragged" (keys and values kept, rows branch and roll back for nothing) or "plain" (every step computes every
    row anew); `why` says why it is plain. A response without an end-of-sequence token in the model ends by length.
    Float32 on a CPU: a row's tokens do not depend on the batch, the order or on what was cached, except where two
    cumulative probabilities lie within 1e-5 of its draw.
    compiled: compile the decoding step with `torch.compile`, which takes about half a minute when the model is made.
    """

    offers = frozenset({"resume", "cut", "entropy", "texts", "embed", "likelihood", "likeliest"})

    def __init__(
        self,
        network: Any,
        tokenizer: Any,
        *,
        name: str = "",
        rows: int = 64,
        chat: str = "auto",
        max_length: int | None = None,
        path: str = "auto",
        keep_bytes: int = 2**30,
        compiled: bool = False,
    ) -> None:
        if rows < 1:
            raise UsageError(f"rows is {rows}", hint="Give a number of rows of 1 or more.")
        if path not in PATHS:
            raise UsageError(f"path is {path!r}", hint=f"Give one of {', '.join(PATHS)}.")
        self.name = name or str(getattr(network, "name_or_path", "")) or type(network).__name__
        self.rows = rows
        self.network = Network(network)
        self.tokenizer = tokenizer
        self.codec = TokenizerCodec(tokenizer, chat)
        self.context = context(network, max_length)
        self.stops = Stops(self.codec, self.network.vocabulary, end_tokens(network, tokenizer))
        self.lock = threading.RLock()
        self.why = why_plain(self.network, self.context) if path == "auto" else ""
        self.path = path if path != "auto" else "plain" if self.why else "ragged"
        if self.why:
            warnings.warn(f"the model {self.name} runs on the slow plain path: {self.why}", stacklevel=2)
        if compiled and self.path == "plain":
            raise UsageError(
                f"the model {self.name} runs on the plain path, of which there is nothing to compile"
                + (f": {self.why}" if self.why else ""),
                hint="Load it without compiled=true.",
            )
        if compiled and rows == 1:
            raise UsageError("a step of a single row is not compiled", hint="Give rows=2 or more, or no compiled=true.")
        if compiled:
            self.network.compile()
        self._keep_bytes = keep_bytes
        self.forget()

    def __repr__(self) -> str:
        return f"TransformersModel({self.name!r}, {self.path}, rows={self.rows}, {self.network.dtype})"

    def forget(self) -> None:
        """Drop all keys, values and features that are kept: to be called when the network's weights have changed.

        Drafts from before then belong to another model; going on from them mixes the two.
        """
        self._shelf = Shelf(self._keep_bytes)
        self._prompts = Prompts(4 * self.rows)
        self._features = Features(self.network)
        self._session: TransformersSession | None = None

    def loosen(self) -> Any:
        """The network itself, its weights laid out as PyTorch expects, so that they can be trained and saved.

        The model goes on working; call `forget` whenever the weights have changed, and `tighten` to decode faster. On a
        CPU the process keeps the memory that it frees from now on.
        """
        if self.network.device.type == "cpu":
            keep_memory()
        restore(self.network.decoder)
        return self.network.decoder

    def tighten(self, *, half: bool = False) -> None:
        """Lay the weights out for decoding again, as they were when the model was loaded (see `cpu`).

        half: on a CPU, with bfloat16 products in a float32 network: for rollouts of what is trained with such.
        """
        (narrow if half else quicken)(self.network.decoder)

    @property
    def quicker_half(self) -> bool:
        """Whether this is a float32 network on a CPU that multiplies bfloat16 matrices faster."""
        return self.network.dtype == torch.float32 and self.network.device.type == "cpu" and multiplies_bfloat16()

    def start(self, prompt: Prompt, seeds: Seeds, sampling: Sampling) -> TextDrafts:
        """One empty draft a seed. Raises InputError if the prompt cannot be rendered or does not fit the context."""
        tokens = self.codec.encode(prompt)
        room = self.context - len(tokens)
        if room < 1:
            raise InputError(
                f"prompt {prompt.id!r} has {len(tokens)} tokens, "
                f"but the model {self.name} has a context of {self.context}",
                hint=f"Shorten the prompt to at most {self.context - 1} tokens.",
            )
        if room < sampling.max_tokens:
            raise InputError(
                f"prompt {prompt.id!r} has {len(tokens)} tokens, and max_tokens is {sampling.max_tokens}: "
                f"together more than the {self.context} tokens of the model {self.name}",
                hint=f"Set max_tokens to at most {room}, or shorten the prompt.",
            )
        return TextDrafts.empty(prompt, sampling, self.codec, tokens.tolist(), seeds)

    def open(self) -> TransformersSession:
        """A continuous batch of `rows` rows."""
        return TransformersSession(self)

    def extend(self, jobs: Sequence[Extend]) -> list[Grown]:
        """Answer all jobs, in order; the forward passes are booked on the first. Raises ModelError."""
        answers: dict[int, Grown] = {}
        with self._idle_session() as session:
            before = session.calls
            for ticket, job in enumerate(jobs):
                session.submit(ticket, job)
            while session.busy:
                answers.update(session.step(None))
            if jobs:
                first = answers[0]
                answers[0] = replace(first, spent=replace(first.spent, calls=session.calls - before))
        return [answers[ticket] for ticket in range(len(jobs))]

    @contextmanager
    def _idle_session(self) -> Iterator[TransformersSession]:
        """A session in which nothing is under way, kept for the next time unless its work is broken off."""
        session, self._session = self._session or self.open(), None
        yield session
        self._session = session

    def embed(self, batches: Sequence[Drafts]) -> list[Embedded]:
        """The hidden state after each row's last token, prompt and response: float64 [n, d], for finished rows too.

        It is what the output embedding reads to predict the next token. Each different row costs one pass of all its
        tokens, and none if its features were asked for not long ago. Raises ModelError, and ProgramError for drafts of
        another model.
        """
        with self.lock, torch.inference_mode():
            return [self._features.of(self.own(drafts)) for drafts in batches]

    def likelihood(self, batches: Sequence[Drafts]) -> list[Weighed]:
        """What the model's own law says of each token of the responses: see `Weighed`.

        Each different row of a batch costs one pass of its tokens but the last, together with rows of like length.
        Raises ModelError, and ProgramError for drafts of another model.
        """
        with self.lock, torch.inference_mode():
            return [weigh(self.network, self.own(drafts), self.rows, self.name) for drafts in batches]

    def likeliest(self, batches: Sequence[tuple[Drafts, int]]) -> list[Fanned]:
        """The children of the unfinished rows by their k likeliest tokens: see `Fanned`.

        A row whose last token has not been through the network yet costs that position, others nothing; on the plain
        path each costs all its positions. Raises ModelError, and ProgramError for drafts of another model.
        """
        asked = [(self.own(drafts), k) for drafts, k in batches]
        with self._idle_session() as session, self.lock, torch.inference_mode():
            return fan(session.lanes, self.stops, asked, self.rows, self.name)

    def own(self, drafts: Drafts) -> TextDrafts:
        """These drafts. Raises ProgramError if another model made them."""
        if not isinstance(drafts, TextDrafts) or drafts.codec.fingerprint != self.codec.fingerprint:
            raise ProgramError(
                f"the model {self.name} was given drafts it did not make: {drafts!r}",
                hint="Use drafts with the model that started them.",
            )
        return drafts

    def lanes(self) -> Lanes:
        """New lanes for a session."""
        if self.path == "plain":
            return Plain(self.network)
        return Ragged(self.network, self.rows, self._shelf, self._prompts)
