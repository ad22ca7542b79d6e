"""A model that can be enumerated: letters, an end symbol, a table of probabilities. The ground truth of the law tests.

Prefixes of letters are the nodes of a tree in heap order: the root is node 0, and the children of node v are
`letters * v + 1 + letter`. A prompt and a sampling turn the tree into a table with one row a node, so that a step of
thousands of rows is one look-up, and `law` can add up the probability of every finished response.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import END, LENGTH, STOP, UNFINISHED, Drafts, TextDrafts
from italic.core.errors import UsageError
from italic.core.keys import Key, Seeds, uniforms
from italic.core.prompt import Prompt
from italic.core.protocols import Embedded, Fanned, Grown, Spent, Weighed
from italic.core.questions import Extend
from italic.core.sampling import Sampling
from italic.models._lengthen import lengthen

MOST_NODES = 200_000
KEPT_TABLES = 512
ROWS = 1024


class Table(NamedTuple):
    """The policy for one prompt and one sampling, a row for each of the N nodes.

    normal, probabilities, cumulated: float64 [N, letters + 1], the end symbol last; `spread` times normal are the
    logits, whatever the sampling. own: float64 [N, letters + 1], probabilities of the model's own law (temperature 1,
    untruncated); entropy: float64 [N], nats, of that. chars: int64 [N], where a stop string cuts the text, -1 where
    there is none.
    """

    normal: NDArray[np.float64]
    own: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    cumulated: NDArray[np.float64]
    entropy: NDArray[np.float64]
    chars: NDArray[np.int64]


@dataclass(frozen=True)
class ToyCodec:
    """Token k is the k-th letter, token `letters` ends the response, higher ones are the bytes of a prompt."""

    letters: int

    @property
    def fingerprint(self) -> str:
        return f"toy/{self.letters}"

    def encode(self, prompt: Prompt) -> list[int]:
        """The prompt's bytes as tokens; of a conversation, one line a message."""
        text = prompt.text
        if text is None:
            text = "".join(f"{m['role']}: {m['content']}\n" for m in prompt.messages or ())
        return [self.letters + 1 + byte for byte in text.encode()]

    def decode(self, prompt_tokens: NDArray[np.int32], tokens: NDArray[np.int32]) -> str:
        return "".join(chr(ord("a") + t) for t in tokens.tolist() if t < self.letters)


@dataclass(frozen=True)
class ToyModel:
    """Responses of at most `length` letters, then the end symbol; `length + 1` tokens in all.

    The logits of the next symbol are normal numbers with standard deviation `spread`, a pure function of the seed, the
    prompt's text and the prefix. rows: about how many rows a session works on at once.
    Raises UsageError for a tree that is too large to enumerate.
    """

    letters: int = 3
    length: int = 5
    seed: int = 0
    spread: float = 1.0
    rows: int = ROWS
    offers: frozenset[str] = frozenset({"resume", "cut", "entropy", "texts", "embed", "likelihood", "likeliest"})
    _tables: dict[tuple[bytes, Sampling], Table] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 1 <= self.letters <= 26:
            raise UsageError(f"a toy model with {self.letters} letters", hint="Give letters=1 to letters=26.")
        if self.length < 1:
            raise UsageError(f"a toy model of length {self.length}", hint="Give length=1 or more.")
        if self.nodes > MOST_NODES:
            raise UsageError(
                f"a toy model with {self.nodes} prefixes cannot be enumerated",
                hint="Give fewer letters or a smaller length, for instance letters=3,length=5.",
            )
        if not self.spread >= 0 or self.rows < 1:
            raise UsageError(
                f"a toy model with spread={self.spread},rows={self.rows}",
                hint=f"Give for instance spread=1,rows={ROWS}.",
            )

    @property
    def name(self) -> str:
        return f"toy:letters={self.letters},length={self.length},seed={self.seed}"

    @property
    def codec(self) -> ToyCodec:
        return ToyCodec(self.letters)

    @property
    def nodes(self) -> int:
        """The number of prefixes of 0 to `length` letters."""
        return sum(self.letters**k for k in range(self.length + 1))

    def prefixes(self) -> list[str]:
        """The text of every node, in heap order."""
        alphabet = [chr(ord("a") + i) for i in range(self.letters)]
        texts = [""]
        for node in range((self.nodes - 1) // self.letters):
            texts += [texts[node] + letter for letter in alphabet]
        return texts

    def start(self, prompt: Prompt, seeds: Seeds, sampling: Sampling) -> TextDrafts:
        if sampling.ignore_eos:
            raise UsageError(
                "the toy model has nothing to say after its end symbol", hint="Leave ignore_eos (exact=true) out."
            )
        return TextDrafts.empty(prompt, sampling, self.codec, self.codec.encode(prompt), seeds)

    def extend(self, jobs: Sequence[Extend]) -> list[Grown]:
        """A session of these jobs alone. The first answer carries the forward passes, which all jobs share."""
        session = ToySession(self, sum(len(job.drafts) for job in jobs))
        for ticket, job in enumerate(jobs):
            session.submit(ticket, job)
        answers: dict[int, Grown] = {}
        while session.busy:
            answers.update(session.step(None))
        if jobs:
            answers[0] = replace(answers[0], spent=answers[0].spent + Spent(calls=session.calls))
        return [answers[ticket] for ticket in range(len(jobs))]

    def open(self) -> ToySession:
        return ToySession(self, self.rows)

    def embed(self, batches: Sequence[Drafts]) -> list[Embedded]:
        """Features of the rows, float64 [n, letters + 3]: of their prompt, seed and letters alone.

        First the normal numbers that `spread` times are the logits of the next symbol, so that they tell prefixes apart
        and a linear map of them is the model, as with the hidden state of a decoder. Then the letters so far as a share
        of `length`, and 1 where the end symbol was drawn. Costs a position a row and a call a batch.
        """
        return [self._embed(drafts) for drafts in batches]

    def _embed(self, drafts: Drafts) -> Embedded:
        assert isinstance(drafts, TextDrafts)
        normal = self.table(drafts.prompt_tokens, drafts.sampling).normal[self.node(drafts.ids)]
        written = np.sum((drafts.ids >= 0) & (drafts.ids < self.letters), axis=1) / self.length
        ended = np.any(drafts.ids == self.letters, axis=1)
        n = len(drafts)
        return Embedded(np.column_stack((normal, written, ended)), Spent(positions=n, calls=min(n, 1)))

    def likelihood(self, batches: Sequence[Drafts]) -> list[Weighed]:
        """See `Weighed`. Costs a position a token and a call a batch."""
        return [self._weigh(drafts) for drafts in batches]

    def _weigh(self, drafts: Drafts) -> Weighed:
        assert isinstance(drafts, TextDrafts)
        table = self.table(drafts.prompt_tokens, drafts.sampling)
        size = len(drafts), int(drafts.steps.max(initial=0))
        logprobs, entropies = np.full(size, np.nan), np.full(size, np.nan)
        node = np.zeros(len(drafts), dtype=np.int64)
        for i in range(size[1]):
            here = np.flatnonzero(drafts.steps > i)
            token = drafts.ids[here, i]
            with np.errstate(divide="ignore"):
                logprobs[here, i] = np.log(table.own[node[here], token])
            entropies[here, i] = table.entropy[node[here]]
            node[here] = self.child(node[here], token)
        return Weighed(logprobs, entropies, Spent(positions=int(drafts.steps.sum()), calls=min(size[1], 1)))

    def likeliest(self, batches: Sequence[tuple[Drafts, int]]) -> list[Fanned]:
        """See `Fanned`. Costs a position an unfinished row and a call a batch."""
        return [self._fan(drafts, k) for drafts, k in batches]

    def _fan(self, drafts: Drafts, k: int) -> Fanned:
        assert isinstance(drafts, TextDrafts)
        table = self.table(drafts.prompt_tokens, drafts.sampling)
        going = np.flatnonzero(~drafts.done)
        node = self.node(drafts.ids[going])
        ranked = np.argsort(-table.own[node], axis=1, kind="stable")[:, :k]
        row, rank = np.nonzero(np.take_along_axis(table.own[node], ranked, axis=1))
        token, node = ranked[row, rank], node[row]
        ended = token == self.letters
        longer = lengthen(
            drafts[going[row]],
            token,
            np.log(table.own[node, token]),
            ended,
            np.where(ended, -1, table.chars[self.child(node, token)]),
        )
        n = len(going)
        return Fanned(longer, going[row], Spent(tokens=n, positions=n, calls=min(n, 1)))

    def node(self, ids: NDArray[np.int32]) -> NDArray[np.int64]:
        """The node of each row of tokens: ids as in `TextDrafts`, [n, L]; result int64 [n]."""
        node = np.zeros(len(ids), dtype=np.int64)
        for token in ids.T:
            node = self.child(node, token)
        return node

    def child(self, node: NDArray[np.int64], token: NDArray[np.integer]) -> NDArray[np.int64]:
        """Where a token leads from each node, int64 [n]: after the end symbol, or none (-1), to the node itself."""
        letter = (token >= 0) & (token < self.letters)
        return np.asarray(np.where(letter, self.letters * node + 1 + token, node))

    def table(self, prompt_tokens: NDArray[np.int32], sampling: Sampling) -> Table:
        """The policy's table for a prompt."""
        name = prompt_tokens.tobytes(), sampling
        if name not in self._tables:
            if len(self._tables) >= KEPT_TABLES:
                self._tables.clear()
            self._tables[name] = self._build(prompt_tokens, sampling)
        return self._tables[name]

    def _build(self, prompt_tokens: NDArray[np.int32], sampling: Sampling) -> Table:
        key = Key(self.seed).at("toy", *prompt_tokens.tolist())
        normal = key.generator().standard_normal((self.nodes, self.letters + 1))
        logits = self.spread * normal
        logits[(self.nodes - 1) // self.letters :, :-1] = -np.inf
        own = softmax(logits)
        entropy = -np.sum(own * np.log(own, where=own > 0, out=np.zeros_like(own)), axis=1)
        probabilities = truncate(logits, sampling)
        cumulated = np.cumsum(probabilities, axis=1)
        cumulated[cumulated >= 1 - 1e-12] = 1.0
        chars = [min((t.find(s) for s in sampling.stop if s in t), default=-1) for t in self.prefixes()]
        return Table(normal, own, probabilities, cumulated, entropy, np.asarray(chars))

    def law(self, prompt: Prompt, sampling: Sampling) -> tuple[tuple[str, ...], NDArray[np.float64]]:
        """Every finished response of positive probability: its text, and its probability, float64 [m], sum 1."""
        table = self.table(np.asarray(self.codec.encode(prompt), dtype=np.int32), sampling)
        texts = self.prefixes()
        mass = np.zeros(self.nodes)
        mass[0] = 1.0
        law: dict[str, float] = {}
        for node, text in enumerate(texts):
            if table.chars[node] >= 0:
                ended, text = mass[node], text[: table.chars[node]]
            elif len(text) == sampling.max_tokens:
                ended = mass[node]
            else:
                ended = mass[node] * table.probabilities[node, -1]
                if len(text) < self.length:
                    first = self.letters * node + 1
                    mass[first : first + self.letters] = mass[node] * table.probabilities[node, :-1]
            if ended > 0:
                law[text] = law.get(text, 0.0) + ended
        return tuple(law), np.array(list(law.values()))


class ToySession:
    """The continuous batch: every step draws one token for every row under way.

    The rows of all jobs are one structured array. `job` numbers the jobs as they come, so it is sorted: newest last.
    """

    def __init__(self, model: ToyModel, rows: int) -> None:
        self.model = model
        self.rows = rows
        self.generated = 0
        self.calls = 0
        self._fields = np.dtype(
            [
                ("ids", np.int32, (model.length + 1,)),
                ("logps", np.float32, (model.length + 1,)),
                ("steps", np.int64),
                ("reason", "<U6"),
                ("chars", np.int64),
                ("seed", np.uint64),
                ("job", np.int64),
                ("table", np.int64),
                ("node", np.int64),
                ("going", np.bool_),
                ("pause", np.int64),
                ("free", np.int64),
                ("entropy", np.float64),
                ("longest", np.int64),
            ]
        )
        self._rows = np.zeros(0, self._fields)
        self._waiting: deque[tuple[int, Extend]] = deque()
        self._queued = 0
        self._jobs: dict[int, tuple[int, Extend]] = {}
        self._submitted = 0
        self._tables: list[Table] = []
        self._table_numbers: dict[tuple[bytes, Sampling], int] = {}

    @property
    def busy(self) -> bool:
        return bool(self._waiting or self._jobs)

    @property
    def hungry(self) -> bool:
        return len(self._rows) + self._queued < self.rows

    def submit(self, ticket: int, job: Extend) -> None:
        self._waiting.append((ticket, job))
        self._queued += len(job.drafts)

    def step(self, allowance: int | None) -> list[tuple[int, Grown]]:
        """One token for every row under way; if the allowance is less, the newest jobs stop until it suffices."""
        answers = self._answer(self._admit(), stopped=False)
        if allowance is not None:
            wanted = np.cumsum(self._rows["going"])
            if len(wanted) and wanted[-1] > allowance:
                over = np.unique(self._rows["job"][wanted > allowance])
                answers += self._answer(over, stopped=True)
                answers += [(t, Grown(job.drafts, Spent(), stopped=True)) for t, job in self._waiting]
                self._waiting.clear()
                self._queued = 0
        going = np.flatnonzero(self._rows["going"])
        if len(going):
            self._draw(going)
            under_way = np.unique(self._rows["job"][self._rows["going"]])
            answers += self._answer(np.setdiff1d(list(self._jobs), under_way), stopped=False)
        return answers

    def _admit(self) -> NDArray[np.int64]:
        """Let jobs in while there is room; the numbers of those that have nothing to do."""
        parts, idle = [self._rows], []
        held = len(self._rows)
        while self._waiting:
            ticket, job = self._waiting[0]
            if held and held + len(job.drafts) > self.rows:
                break
            self._waiting.popleft()
            self._queued -= len(job.drafts)
            number = self._submitted
            self._submitted += 1
            self._jobs[number] = ticket, job
            rows = self._load(number, job)
            if not rows["going"].any():
                idle.append(number)
            parts.append(rows)
            held += len(rows)
        self._rows = np.concatenate(parts) if len(parts) > 1 else self._rows
        return np.asarray(idle, dtype=np.int64)

    def _load(self, number: int, job: Extend) -> NDArray[Any]:
        drafts = job.drafts
        assert isinstance(drafts, TextDrafts)
        width = drafts.ids.shape[1]
        rows = np.zeros(len(drafts), self._fields)
        rows["ids"] = -1
        rows["ids"][:, :width] = drafts.ids
        rows["logps"][:, :width] = drafts.logps
        rows["steps"], rows["reason"], rows["chars"] = drafts.steps, drafts.reason, drafts.chars
        rows["seed"], rows["job"] = drafts.seeds, number
        rows["node"] = self.model.node(drafts.ids)
        rows["going"] = ~drafts.done
        rows["pause"] = drafts.steps + job.until.most(len(drafts))
        rows["free"] = drafts.steps + job.until.min_steps
        rows["entropy"] = np.inf if job.until.entropy is None else job.until.entropy
        rows["longest"] = drafts.sampling.max_tokens
        name = drafts.prompt_tokens.tobytes(), drafts.sampling
        if name not in self._table_numbers:
            self._table_numbers[name] = len(self._tables)
            self._tables.append(self.model.table(drafts.prompt_tokens, drafts.sampling))
        rows["table"] = self._table_numbers[name]
        return rows

    def _draw(self, going: NDArray[np.intp]) -> None:
        """The next token of the rows `going`, and whether they end or pause after it."""
        rows = self._rows[going]
        u = uniforms(rows["seed"], rows["steps"])
        entropy = np.zeros(len(rows))
        for number in np.unique(rows["table"]):
            mine = np.flatnonzero(rows["table"] == number)
            table, node, at = self._tables[number], rows["node"][mine], rows["steps"][mine]
            token = np.sum(u[mine, None] >= table.cumulated[node], axis=1)
            rows["ids"][mine, at] = token
            rows["logps"][mine, at] = np.log(table.probabilities[node, token])
            ends = token == self.model.letters
            node = self.model.child(node, token)
            rows["node"][mine] = node
            chars = np.where(ends, -1, table.chars[node])
            rows["chars"][mine] = chars
            rows["reason"][mine] = np.select([ends, chars >= 0], [END, STOP], UNFINISHED)
            entropy[mine] = table.entropy[node]
        rows["steps"] += 1
        rows["reason"][(rows["reason"] == UNFINISHED) & (rows["steps"] == rows["longest"])] = LENGTH
        paused = (rows["steps"] == rows["pause"]) | ((rows["steps"] >= rows["free"]) & (entropy >= rows["entropy"]))
        rows["going"] = (rows["reason"] == UNFINISHED) & ~paused
        self._rows[going] = rows
        self.generated += len(rows)
        self.calls += 1

    def _answer(self, numbers: NDArray[np.int64], *, stopped: bool) -> list[tuple[int, Grown]]:
        """Take these jobs out and say what became of them."""
        if not len(numbers):
            return []
        answers = []
        first = np.searchsorted(self._rows["job"], numbers, side="left")
        last = np.searchsorted(self._rows["job"], numbers, side="right")
        for number, a, b in zip(numbers.tolist(), first, last, strict=True):
            ticket, job = self._jobs.pop(number)
            rows, before = self._rows[a:b], job.drafts
            assert isinstance(before, TextDrafts)
            width = int(rows["steps"].max(initial=0))
            after = replace(
                before,
                ids=rows["ids"][:, :width].copy(),
                logps=rows["logps"][:, :width].copy(),
                steps=rows["steps"].copy(),
                reason=rows["reason"].copy(),
                chars=rows["chars"].copy(),
            )
            tokens = int(after.steps.sum() - before.steps.sum())
            answers.append((ticket, Grown(after, Spent(tokens=tokens, positions=tokens), stopped)))
        self._rows = self._rows[~np.isin(self._rows["job"], numbers)]
        return answers


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities along the last axis."""
    weights = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(weights / weights.sum(axis=-1, keepdims=True))


def truncate(logits: NDArray[np.float64], sampling: Sampling) -> NDArray[np.float64]:
    """The law that is drawn from: temperature, then top-k, top-p and min-p, each on what the one before left.

    logits, result: float64 [N, V]. Among equals at the edge top-k keeps all, top-p the later ones, as in Transformers.
    """
    if sampling.temperature == 0:
        return np.asarray(np.eye(logits.shape[1])[logits.argmax(axis=1)])
    law = softmax(logits / sampling.temperature)
    if 0 < sampling.top_k < law.shape[1]:
        law = np.where(law >= np.sort(law, axis=1)[:, -sampling.top_k, None], law, 0.0)
        law /= law.sum(axis=1, keepdims=True)
    if sampling.top_p < 1:
        upwards = np.argsort(law, axis=1, kind="stable")
        dropped = np.cumsum(np.take_along_axis(law, upwards, axis=1), axis=1) <= 1 - sampling.top_p
        dropped[:, -1] = False
        np.put_along_axis(law, upwards, np.where(dropped, 0.0, np.take_along_axis(law, upwards, axis=1)), axis=1)
        law /= law.sum(axis=1, keepdims=True)
    if sampling.min_p > 0:
        law = np.where(law >= sampling.min_p * law.max(axis=1, keepdims=True), law, 0.0)
        law /= law.sum(axis=1, keepdims=True)
    return law


def load(*, letters: int = 3, length: int = 5, seed: int = 0, spread: float = 1.0, rows: int = ROWS) -> ToyModel:
    """The toy model of a spec such as `toy:letters=3,length=5,seed=0`."""
    return ToyModel(letters=letters, length=length, seed=seed, spread=spread, rows=rows)
