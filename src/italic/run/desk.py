"""The desk: what both drivers share.

It holds the prompts under way, their open questions in the order they were asked, the account and the budget. A driver
takes questions off the desk, has them answered, and puts the answers back; each answer leads to new questions or to a
result. A question that the budget cannot pay is answered by throwing OutOfBudget into the method that asked it. A
method that has no use for that is answered for: the desk has the finished drafts scored as far as the budget goes, and
returns the best of them with `complete=False`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts
from italic.core.errors import OutOfBudget, ProgramError
from italic.core.outcome import Outcome, Usage
from italic.core.prompt import Prompt
from italic.core.protocols import Fanned, Grown, Method, Mused, Reward, Scored, Spent, Task
from italic.core.questions import Aside, Asking, Extend, Note, Share, best, score
from italic.run.asides import price
from italic.run.ledger import Ledger
from italic.run.routine import Leaf, Node, Routine
from italic.run.scores import Sheet, complete, prepare

A = TypeVar("A")
Listener: TypeAlias = Callable[[Prompt, Note], None]


@dataclass(frozen=True, eq=False)
class Result:
    """One prompt's outcome; `order` is the prompt's place in the input."""

    order: int
    prompt: Prompt
    outcome: Outcome


@dataclass(eq=False)
class Case:
    """One prompt under way."""

    order: int
    task: Task
    routine: Routine
    known: dict[Hashable, float] | None
    usage: Usage = field(default_factory=Usage)
    best: tuple[Drafts, float] | None = None
    unscored: dict[Node, list[Drafts]] = field(default_factory=dict)
    partial: Drafts | None = None
    ending: bool = False
    sharing: tuple[Node, Share] | None = None


class Desk:
    """Prompts under way and their questions. `results` fills up as prompts get through."""

    def __init__(
        self,
        tasks: Sequence[Task],
        method: Method,
        reward: Reward,
        ledger: Ledger,
        listen: Listener | None = None,
    ) -> None:
        self.ledger = ledger
        self.results: list[Result] = []
        self._tasks = tasks
        self._method = method
        self._reward = reward
        self._listen = listen
        self._admitted = 0
        self._tickets = 0
        self._cases: dict[int, Case] = {}
        self._growing: dict[int, tuple[Case, Node, Extend]] = {}
        self._scoring: dict[int, tuple[Case, Node, Sheet]] = {}
        self._musing: dict[int, tuple[Case, Node, Aside]] = {}
        self._extends: list[int] = []
        self._scores: list[int] = []
        self._asides: list[int] = []
        self._batch: int = getattr(method, "batch", None) or max(1, len(tasks))
        self._going: Counter[int] = Counter()
        self._sharing = 0

    @property
    def open(self) -> int:
        """How many prompts are under way."""
        return len(self._cases)

    @property
    def active(self) -> int:
        """How many prompts are under way and do not wait for others of their batch."""
        return len(self._cases) - self._sharing

    @property
    def scores_asked(self) -> bool:
        """Whether any Score question waits."""
        return bool(self._scores)

    @property
    def scores_waiting(self) -> int:
        """How many drafts wait for a score."""
        return sum(len(self._scoring[ticket][2].first) for ticket in self._scores)

    @property
    def asides_waiting(self) -> int:
        """How many asides wait."""
        return len(self._asides)

    def admit(self) -> bool:
        """Start the next prompt; False if there is none, or none that the budget could carry through."""
        if self._admitted == len(self._tasks) or self.ledger.tokens_left()[0] == 0:
            return False
        scores_left = self.ledger.scores_left()[0]
        if scores_left is not None and scores_left <= self.scores_waiting:
            return False
        order = self._admitted
        self._admitted += 1
        task = self._tasks[order]
        prompt, listen = task.prompt, self._listen
        hear = None if listen is None else lambda note: listen(prompt, note)
        routine = Routine(self._method.run(task), hear)
        case = Case(order, task, routine, {} if self._reward.deterministic else None)
        self._cases[order] = case
        self._going[order // self._batch] += 1
        self._pursue(case, lambda: routine.begin())
        return True

    def settle(self) -> bool:
        """Answer the prompts that wait for their batch, when nothing else is left to do and no prompt can be started.

        A batch all of whose prompts were started is answered as soon as all of them wait. Returns whether any waited.
        """
        waiting = {case.order // self._batch for case in self._cases.values() if case.sharing is not None}
        for batch in sorted(waiting):
            self._settle(batch, started=True)
        return bool(waiting)

    def _settle(self, batch: int, *, started: bool = False) -> None:
        """Answer the prompts of a batch if all that are under way wait. started: whether no more can be started."""
        first, last = batch * self._batch, min((batch + 1) * self._batch, len(self._tasks))
        while not self._going[batch] and (started or self._admitted >= last):
            cases = [self._cases[order] for order in range(first, last) if order in self._cases]
            cases.sort(key=lambda case: case.task.prompt.id)
            asked = [case.sharing for case in cases if case.sharing is not None]
            if not asked:
                return
            answers = asked[0][1].settle([question.value for _, question in asked])
            if len(answers) != len(asked):
                raise ProgramError(f"{len(asked)} prompts shared, and {len(answers)} answers were found for them")
            self._sharing -= len(cases)
            self._going[batch] = len(cases) + 1  # one more, so that who shares again is seen to here
            for case in cases:
                case.sharing = None
            for case, (node, _), answer in zip(cases, asked, answers, strict=True):
                self._pursue(case, _answerer(case, node, answer))
            self._going[batch] -= 1

    def take_extends(self) -> list[tuple[int, Extend]]:
        """Hand over the extensions that were asked for since the last call, with their tickets."""
        taken, self._extends = self._extends, []
        return [(ticket, self._growing[ticket][2]) for ticket in _awaited(taken, self._growing)]

    def grown(self, ticket: int, grown: Grown) -> None:
        """Answer an extension and book what it cost, even if nobody waits for it any more."""
        case, node, _ = self._growing.pop(ticket)
        self._book(case, grown.spent)
        if not node.alive:
            return
        _keep_finished(case, node, grown.drafts)
        if grown.stopped:
            self._refuse(case, node, grown.drafts)
        else:
            self._pursue(case, lambda: case.routine.answer(node, grown.drafts))

    def _book(self, case: Case, spent: Spent) -> None:
        usage = Usage(tokens_generated=spent.tokens, positions=spent.positions)
        self.ledger.add(usage)
        case.usage += usage

    def take_asides(self) -> list[tuple[int, Aside]]:
        """Hand over the asides that were asked for since the last call, with their tickets: as many as can be paid.

        The others are answered here, by throwing OutOfBudget.
        """
        taken, self._asides = self._asides, []
        left, _ = self.ledger.tokens_left()
        affordable: list[tuple[int, Aside]] = []
        for ticket in _awaited(taken, self._musing):
            case, node, question = self._musing[ticket]
            need = price(question)
            if left is None or need <= left:
                left = None if left is None else left - need
                affordable.append((ticket, question))
            else:
                del self._musing[ticket]
                self._refuse(case, node, question.drafts)
        return affordable

    def mused(self, ticket: int, answer: Mused) -> None:
        """Answer an aside and book what it cost, even if nobody waits for it any more."""
        case, node, _ = self._musing.pop(ticket)
        self._book(case, answer.spent)
        if not node.alive:
            return
        if isinstance(answer, Fanned):
            _keep_finished(case, node, answer.drafts)
        self._pursue(case, lambda: case.routine.answer(node, answer.value))

    def _refuse(self, case: Case, node: Node, drafts: Drafts) -> None:
        case.partial = drafts
        stop = OutOfBudget(self.ledger.tokens_left()[1], drafts)
        self._pursue(case, lambda: case.routine.throw(node, stop))

    def take_scores(self) -> list[tuple[int, Sheet]]:
        """Hand over the drafts to be scored, with their tickets: as many questions as the budget pays for.

        The others are answered here, by throwing OutOfBudget.
        """
        taken, self._scores = self._scores, []
        left, resource = self.ledger.scores_left()
        affordable: list[tuple[int, Sheet]] = []
        claimed: dict[int, set[Hashable]] = {}
        for ticket in _awaited(taken, self._scoring):
            case, node, sheet = self._scoring[ticket]
            others = claimed.setdefault(case.order, set()) if sheet.known is case.known else set()
            sheet = sheet.without(others)
            if left is None or len(sheet.first) <= left:
                left = None if left is None else left - len(sheet.first)
                others.update(sheet.claims)
                self._scoring[ticket] = (case, node, sheet)
                affordable.append((ticket, sheet))
            else:
                del self._scoring[ticket]
                stop = OutOfBudget(resource, sheet.drafts)
                self._pursue(case, _thrower(case, node, stop))
        return affordable

    def scored(self, ticket: int, scored: Scored | None) -> None:
        """Answer a Score question and book what it cost. scored: None if all scores were known already."""
        case, node, sheet = self._scoring.pop(ticket)
        spent = sheet.cost(scored)
        self.ledger.add(spent)
        case.usage += spent
        rewards = complete(sheet, scored, self._reward.name)
        case.unscored.pop(node, None)
        self._remember(case, sheet.drafts, rewards)
        if node.alive:
            self._pursue(case, lambda: case.routine.answer(node, rewards))

    def close(self) -> None:
        """End every prompt under way, so that the methods' `finally` clauses run."""
        for case in self._cases.values():
            case.routine.close()
        self._cases.clear()

    def _remember(self, case: Case, drafts: Drafts, rewards: NDArray[np.float64]) -> None:
        finished = np.where(drafts.done, rewards, np.nan)
        if np.all(np.isnan(finished)):
            return
        top = best(finished)
        if case.best is None or finished[top] > case.best[1]:
            case.best = (drafts[[top]], float(finished[top]))

    def _pursue(self, case: Case, go: Callable[[], list[Leaf]]) -> None:
        """Let the method go on to its next questions; those with an answer at hand are answered at once."""
        moves = [go]
        while moves:
            try:
                leaves = moves.pop()()
            except OutOfBudget:
                moves = [self._end(case)]
                continue
            for node, question in leaves:
                if isinstance(question, Share):
                    self._wait(case, node, question)
                    continue
                drafts = question.drafts
                if isinstance(question, Extend):
                    if np.all(drafts.done):
                        moves.append(_answerer(case, node, drafts))
                    else:
                        self._growing[self._ticket()] = (case, node, question)
                        self._extends.append(self._tickets)
                elif isinstance(question, Aside):
                    self._musing[self._ticket()] = (case, node, question)
                    self._asides.append(self._tickets)
                elif len(drafts) == 0:
                    moves.append(_answerer(case, node, np.zeros(0)))
                else:
                    self._scoring[self._ticket()] = (case, node, prepare(question, case.known))
                    self._scores.append(self._tickets)
        if case.routine.done:
            self._finish(case)
        if case.routine.done or case.sharing is not None:
            batch = case.order // self._batch
            self._going[batch] -= 1
            self._settle(batch)

    def _wait(self, case: Case, node: Node, question: Share) -> None:
        if node.parent is not None:
            raise ProgramError(
                f"a part of {type(self._method).__name__} shares by itself", hint="Share outside of `together`."
            )
        case.sharing = node, question
        self._sharing += 1

    def _ticket(self) -> int:
        self._tickets += 1
        return self._tickets

    def _end(self, case: Case) -> Callable[[], list[Leaf]]:
        """Replace a method that the budget ended by one that makes the best of what there is."""
        unscored = [d for batch in case.unscored.values() for d in batch]
        case.routine.close()
        left = 0 if case.ending else self.ledger.scores_left()[0]
        case.ending = True
        case.routine = Routine(_best_so_far(case, unscored, left))
        return case.routine.begin

    def _finish(self, case: Case) -> None:
        del self._cases[case.order]
        outcome = case.routine.result
        if not isinstance(outcome, Outcome):
            raise ProgramError(
                f"{type(self._method).__name__}.run returned {type(outcome).__name__}",
                hint="Return an Outcome(drafts, rewards, chosen).",
            )
        kept = 0 if outcome.chosen is None else int(outcome.drafts.steps[outcome.chosen])
        usage = replace(case.usage, tokens_kept=kept, cost=self.ledger.price(case.usage))
        self.ledger.add(Usage(tokens_kept=kept))
        self.results.append(Result(case.order, case.task.prompt, replace(outcome, usage=usage)))


def _keep_finished(case: Case, node: Node, drafts: Drafts) -> None:
    """Remember the finished rows of an answer until the method has them scored, in case the budget ends before."""
    done = drafts.done
    if np.any(done):
        case.unscored.setdefault(node, []).append(drafts[np.flatnonzero(done)])


def _best_so_far(case: Case, unscored: Sequence[Drafts], left: int | None) -> Asking[Outcome]:
    """The best finished draft, after scoring as many of the unscored ones as can be paid."""
    finished = unscored[0].concat(*unscored[1:]) if unscored else case.task.start(0)
    affordable = finished[:left]
    known = case.best
    rewards = yield from score(affordable, strict=known is None)
    if known is not None:
        drafts, rewards = known[0].concat(affordable), np.append(known[1], rewards)
        return Outcome(drafts, rewards, chosen=best(rewards), complete=False)
    if len(affordable):
        return Outcome(affordable, rewards, chosen=best(rewards), complete=False)
    rest = finished if len(finished) or case.partial is None else case.partial
    return Outcome(rest, np.full(len(rest), np.nan), chosen=None, complete=False)


def _awaited(tickets: Sequence[int], asked: dict[int, tuple[Case, Node, A]]) -> Iterator[int]:
    """The tickets whose answer somebody still waits for; the questions of closed generators are forgotten."""
    for ticket in tickets:
        if asked[ticket][1].alive:
            yield ticket
        else:
            del asked[ticket]


def _answerer(case: Case, node: Node, value: object) -> Callable[[], list[Leaf]]:
    return lambda: case.routine.answer(node, value)


def _thrower(case: Case, node: Node, stop: OutOfBudget) -> Callable[[], list[Leaf]]:
    return lambda: case.routine.throw(node, stop)
