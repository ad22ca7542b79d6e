"""A continuous batch: rows of many prompts grow together, join and leave at every token.

A step does four things. (1) Waiting rows enter free lanes, oldest ticket first; where the logits that follow them are
known already (a prompt, or a row that ended at its entropy), their next token is drawn at once. (2) One forward pass
gives every growing row the logits that follow its last token. (3) One token a row is drawn. Its entropy is tested
*before*: a row that ends there keeps the logits, and the draw is thrown away; as noise is addressed by position,
nothing is lost. (4) Rows that are through leave; a ticket whose rows have all left is answered.

The last token of a row is *pending*: drawn, but not yet through the network. It goes through if the row goes on.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from italic.core.drafts import END, LENGTH, STOP, UNFINISHED
from italic.core.errors import ProgramError
from italic.core.keys import uniforms
from italic.core.protocols import Grown
from italic.core.questions import Extend
from italic.core.sampling import Sampling
from italic.models.transformers import sampling as laws
from italic.models.transformers.board import Board
from italic.models.transformers.lanes import Row
from italic.models.transformers.network import no_numbers
from italic.models.transformers.tickets import Left, Ticket

if TYPE_CHECKING:
    from italic.models.transformers.model import TransformersModel

FloatArray: TypeAlias = NDArray[np.float64]


class TransformersSession:
    """See `italic.core.protocols.Session`. lanes: free to be used otherwise while it is not busy."""

    def __init__(self, model: TransformersModel) -> None:
        self._model = model
        self.lanes = model.lanes()
        self._board = Board.of(model.rows)
        self._active = 0
        self._tickets: dict[int, Ticket] = {}
        self._waiting: deque[tuple[Ticket, int]] = deque()
        self._through: list[Ticket] = []
        self._laws: dict[Sampling, int] = {}
        self._stops: dict[tuple[str, ...], int] = {(): 0}
        self._generated = 0

    @property
    def busy(self) -> bool:
        """Whether any job is not yet answered."""
        return bool(self._tickets)

    @property
    def hungry(self) -> bool:
        """Whether more jobs would be worked on in the next step."""
        return self._active + len(self._waiting) < self._model.rows

    @property
    def generated(self) -> int:
        """Tokens generated since the session began, jobs under way included."""
        return self._generated

    @property
    def calls(self) -> int:
        """Forward passes since the session began."""
        return self.lanes.calls

    def submit(self, ticket: int, job: Extend) -> None:
        """Take a job in. Raises ProgramError if its drafts are not this model's or the ticket is under way."""
        drafts = self._model.own(job.drafts)
        if ticket in self._tickets:
            raise ProgramError(f"ticket {ticket} is under way already", hint="Number tickets differently.")
        self._tickets[ticket], going = Ticket.of(ticket, drafts, job)
        self._waiting.extend((self._tickets[ticket], index) for index in going)
        if not going:
            self._through.append(self._tickets[ticket])

    def step(self, allowance: int | None = None) -> list[tuple[int, Grown]]:
        """Grow every row that fits by a token and return the jobs that are through. Raises ModelError."""
        with self._model.lock, torch.inference_mode():
            before = self._generated
            if allowance is not None:
                self._stop_newest(allowance)
            known = self._enter(allowance)
            if known:
                self._grow(np.asarray(list(known)), torch.stack(list(known.values())))
            if self._active and (allowance is None or self._active <= allowance - (self._generated - before)):
                for source, target in self.lanes.pack(self._board.size):
                    self._board.move(source, target)
                tokens, sizes = self._board.tokens[: self._active], self._board.size[: self._active]
                self._board.fed[: self._active] += self.lanes.cost(sizes)
                self._grow(np.arange(self._active), self.lanes.forward(tokens, sizes))
            through, self._through = self._through, []
            for ticket in through:
                del self._tickets[ticket.number]
            return [(ticket.number, ticket.answer()) for ticket in through]

    def _stop_newest(self, allowance: int) -> None:
        """Give up the newest tickets until the rows that grow fit the allowance."""
        for ticket in reversed(list(self._tickets.values())):
            if self._active <= allowance and allowance > 0:
                return
            if not ticket.open:
                continue
            ticket.stopped = True
            waiting = sum(one is ticket for one, _ in self._waiting)
            self._waiting = deque(entry for entry in self._waiting if entry[0] is not ticket)
            self._close(ticket, waiting)
            for lane in np.flatnonzero(self._board.growing & (self._board.ticket == ticket.number)):
                self._leave(int(lane), UNFINISHED)

    def _enter(self, allowance: int | None) -> dict[int, Tensor]:
        """Give lanes to waiting rows. Returns the lanes whose next logits, [V], are known."""
        free = self._model.rows - self._active
        if allowance is not None:
            free = min(free, allowance - self._active)
        chosen: list[tuple[Ticket, int, Row]] = []
        while self._waiting and len(chosen) < free:
            ticket, index = self._waiting.popleft()
            chosen.append((ticket, index, ticket.row(index)))
        known: dict[int, Tensor] = {}
        places = self.lanes.enter([row for _, _, row in chosen])
        for (ticket, index, row), place in zip(chosen, places, strict=True):
            self._seat(ticket, index, row, place.lane)
            ticket.positions += place.positions
            if place.logits is not None:
                known[place.lane] = place.logits
        self._active += len(chosen)
        return known

    def _seat(self, ticket: Ticket, index: int, row: Row, lane: int) -> None:
        """Write a row's numbers on the board."""
        board, size, sampling = self._board, len(row.tokens), ticket.drafts.sampling
        limit = size + int(ticket.most[index])
        board.widen(limit)
        board.tokens[lane, :size] = row.tokens
        board.growing[lane] = True
        board.size[lane] = board.entered[lane] = size
        board.start[lane] = row.start
        board.limit[lane] = limit
        board.tested[lane] = size + ticket.untested
        board.threshold[lane] = ticket.threshold
        board.fed[lane] = 0
        board.seeds[lane] = ticket.drafts.seeds[index]
        board.law[lane] = self._laws.setdefault(
            replace(sampling, max_tokens=1, stop=(), ignore_eos=False), len(self._laws)
        )
        board.ends[lane] = not sampling.ignore_eos
        board.stop[lane] = self._stops.setdefault(sampling.stop, len(self._stops))
        board.ticket[lane] = ticket.number
        board.row[lane] = index

    def _grow(self, lanes: NDArray[np.int64], logits: Tensor) -> None:
        """Add a token to each of `lanes` by `logits` [len(lanes), V], and let those leave that are through."""
        board = self._board
        ids, logps, entropies = self._draw(lanes, logits)
        size = board.size[lanes]
        unsure = (entropies >= board.threshold[lanes]) & (size >= board.tested[lanes])
        for i in np.flatnonzero(unsure):
            self._leave(int(lanes[i]), UNFINISHED, logits=logits[int(i)].clone())
        if unsure.any():
            lanes, ids, logps, size = lanes[~unsure], ids[~unsure], logps[~unsure], size[~unsure]
        board.tokens[lanes, size] = ids
        board.logps[lanes, size] = logps
        board.size[lanes] = size = size + 1
        self._generated += len(lanes)
        ended = self._model.stops.ends[ids] & board.ends[lanes]
        full = size >= board.limit[lanes]
        suspect = self._suspects(lanes, ids)
        for i in np.flatnonzero(ended | full | suspect):
            self._settle(int(lanes[i]), bool(ended[i]), bool(full[i]), bool(suspect[i]))

    def _draw(self, lanes: NDArray[np.int64], logits: Tensor) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
        """Tokens, log-probabilities and the entropies before them, each [len(lanes)]; one transfer from the device."""
        board = self._board
        noise = torch.from_numpy(uniforms(board.seeds[lanes], board.size[lanes] - board.start[lanes])).to(logits.device)
        law = board.law[lanes]
        names = list(self._laws)
        if (law == law[0]).all():
            ids, logps = laws.draw(logits, names[law[0]], noise)
        else:
            ids = torch.zeros(len(lanes), dtype=torch.long, device=logits.device)
            logps = torch.zeros(len(lanes), dtype=torch.double, device=logits.device)
            for one in np.unique(law):
                of = torch.from_numpy(np.flatnonzero(law == one)).to(logits.device)
                ids[of], logps[of] = laws.draw(logits[of], names[one], noise[of])
        tested = bool(np.isfinite(board.threshold[lanes]).any())
        doubt = laws.entropy(logits) if tested else torch.zeros_like(logps)
        host = torch.stack((ids.double(), logps, doubt)).cpu().numpy()
        if np.isnan(host[1:]).any():
            self._refuse(lanes[np.isnan(host[1:]).any(0)])
        return host[0].astype(np.int64), host[1], host[2]

    def _refuse(self, lanes: NDArray[np.int64]) -> None:
        """Raise ModelError for rows whose logits are not numbers."""
        lane = lanes[0]
        prompt = self._tickets[int(self._board.ticket[lane])].drafts.prompt.id
        at = self._board.size[lane] - self._board.start[lane]
        raise no_numbers(self._model.name, f"prompt {prompt!r}, response token {at} ({len(lanes)} rows in this step)")

    def _suspects(self, lanes: NDArray[np.int64], ids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which rows' new tokens may have completed a stop string."""
        stop = self._board.stop[lanes]
        suspect = np.zeros(len(lanes), dtype=np.bool_)
        if stop.any():
            for strings, number in self._stops.items():
                if number and (stop == number).any():
                    suspect |= (stop == number) & self._model.stops.suspects(strings)[ids]
        return suspect

    def _settle(self, lane: int, ended: bool, full: bool, suspect: bool) -> None:
        """Let a row leave if its newest token was its last, and say why it ended."""
        board = self._board
        ticket, size, start = self._tickets[int(board.ticket[lane])], board.size[lane], board.start[lane]
        if ended:
            self._leave(lane, END)
            return
        chars = self._model.stops.find(ticket.drafts, board.tokens[lane, start:size]) if suspect else -1
        if chars >= 0:
            self._leave(lane, STOP, chars)
        elif full:
            self._leave(lane, LENGTH if size - start >= ticket.drafts.sampling.max_tokens else UNFINISHED)

    def _leave(self, lane: int, reason: str, chars: int = -1, logits: Tensor | None = None) -> None:
        """Take a row out of its lane. logits: [V], what follows it, if it ended before its next token."""
        board = self._board
        ticket, entered, size = self._tickets[int(board.ticket[lane])], board.entered[lane], board.size[lane]
        tokens = board.tokens[lane, :size].copy()
        index = int(board.row[lane])
        ticket.grown[index] = Left(
            tokens=tokens[entered:],
            logps=board.logps[lane, entered:size].copy(),
            reason=reason,
            chars=chars,
            note=self.lanes.leave(lane, tokens, logits),
        )
        ticket.tokens += int(size - entered)
        ticket.positions += int(board.fed[lane])
        board.growing[lane] = False
        self._active -= 1
        self._close(ticket, 1)

    def _close(self, ticket: Ticket, rows: int) -> None:
        """Some of a ticket's rows are through."""
        ticket.open -= rows
        if rows and not ticket.open:
            self._through.append(ticket)
