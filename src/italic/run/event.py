"""The event-driven driver: each prompt gets its answer as soon as it is there, and the engine's rows stay full.

One loop, no threads. Its order of preference is the whole scheduling policy:
1. While the model would work on more rows, start the next prompt, unless a full batch of drafts waits for scores;
   asides, which methods ask before they know what to extend, are answered together once no more prompts are started.
2. Score what waits, if the model would otherwise run with empty rows, or a full batch of drafts has come together.
3. Step the model: one token for all its rows. Finished extensions go back to their methods at once.
Batches form because things are needed, never because a timer says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from italic.core.errors import ProgramError
from italic.core.outcome import Usage
from italic.core.protocols import Grown, Method, Model, Reward, Session, Stepping, Task
from italic.core.questions import Extend
from italic.run.calls import Progress, answer_asides, extend_whole, policy_call, score_waiting
from italic.run.desk import Desk, Listener, Result
from italic.run.ledger import Ledger

SCORE_BATCH = 64
"""How many waiting drafts are scored even while the model has all its rows full."""


class Whole:
    """A session over a model that is asked for whole extensions: a step answers all that was submitted."""

    def __init__(self, model: Model, rows: int) -> None:
        self._model = model
        self._rows = rows
        self._jobs: list[tuple[int, Extend]] = []
        self.generated = 0
        self.calls = 0

    def submit(self, ticket: int, job: Extend) -> None:
        """Take the job in."""
        self._jobs.append((ticket, job))

    def step(self, allowance: int | None) -> list[tuple[int, Grown]]:
        """Answer everything that was submitted and can be paid."""
        jobs, self._jobs = self._jobs, []
        answers = extend_whole(self._model, jobs, allowance)
        self.generated += sum(grown.spent.tokens for _, grown in answers)
        self.calls += sum(grown.spent.calls for _, grown in answers)
        return answers

    @property
    def busy(self) -> bool:
        """Whether anything was submitted since the last step."""
        return bool(self._jobs)

    @property
    def hungry(self) -> bool:
        """Whether fewer rows than a batch were submitted."""
        return sum(len(job.drafts) for _, job in self._jobs) < self._rows


def event_driven(
    tasks: Sequence[Task],
    method: Method,
    model: Model,
    reward: Reward,
    ledger: Ledger,
    *,
    window: int = 64,
    listen: Listener | None = None,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """Run the method on every task; yields results as they come, in the order in which they are through.

    window: rows a batch, for models that are asked for whole extensions.
    Tasks that the budget leaves no room to start are not in the results.
    """
    desk = Desk(tasks, method, reward, ledger, listen)
    session: Session = model.open() if isinstance(model, Stepping) else Whole(model, window)
    answered = calls = 0
    try:
        while True:
            _submit(desk, session)
            while session.hungry and not _crowded(desk, window) and desk.admit():
                _submit(desk, session)
            if desk.asides_waiting:
                answer_asides(desk, model)
            elif desk.scores_asked and (session.hungry or desk.scores_waiting >= SCORE_BATCH):
                score_waiting(desk, reward)
            elif session.busy:
                before = session.generated
                with policy_call(model.name, ledger):
                    answers = session.step(ledger.tokens_left()[0])
                if not answers and session.generated == before and session.calls == calls:
                    raise ProgramError(f"the model {model.name} made a step in which nothing happened")
                ledger.add(Usage(model_calls=session.calls - calls))
                calls = session.calls
                answered += sum(grown.spent.tokens for _, grown in answers)
                ledger.growing(session.generated - answered)
                for ticket, grown in answers:
                    desk.grown(ticket, grown)
            elif not desk.results and not desk.settle():
                if desk.open or not session.hungry:
                    raise ProgramError(f"the model {model.name} has nothing to do and wants no work")
                return
            if progress is not None:
                progress(ledger, desk.open)
            results, desk.results = desk.results, []
            yield from results
    finally:
        desk.close()


def _crowded(desk: Desk, window: int) -> bool:
    """Whether so many asides or scores wait that they come before further prompts."""
    return desk.asides_waiting >= window or desk.scores_waiting >= SCORE_BATCH


def _submit(desk: Desk, session: Session) -> None:
    for ticket, job in desk.take_extends():
        session.submit(ticket, job)
