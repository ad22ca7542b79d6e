"""The lockstep driver: obviously right, and slower. All prompts ask, all are answered, and again.

Every prompt waits for the slowest of each round. The event-driven driver is held to this one's outcomes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from italic.core.outcome import Usage
from italic.core.protocols import Method, Model, Reward, Task
from italic.run.calls import Progress, answer_asides, extend_whole, policy_call, score_waiting
from italic.run.desk import Desk, Listener, Result
from italic.run.ledger import Ledger


def lockstep(
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
    """Run the method on every task, `window` prompts at a time; yields results as they come.

    Tasks that the budget leaves no room to start are not in the results.
    """
    desk = Desk(tasks, method, reward, ledger, listen)
    try:
        while True:
            while desk.active < window and desk.admit():
                pass
            jobs = desk.take_extends()
            if not (jobs or desk.asides_waiting or desk.scores_asked):
                desk.settle()
                jobs = desk.take_extends()
            if jobs:
                with policy_call(model.name, ledger):
                    answers = extend_whole(model, jobs, ledger.tokens_left()[0])
                ledger.add(Usage(model_calls=sum(grown.spent.calls for _, grown in answers)))
                for ticket, grown in answers:
                    desk.grown(ticket, grown)
            if desk.asides_waiting:
                answer_asides(desk, model)
            score_waiting(desk, reward)
            if progress is not None:
                progress(ledger, desk.open)
            results, desk.results = desk.results, []
            yield from results
            if not desk.open and not results:
                return
    finally:
        desk.close()
