"""Every error Italic raises on purpose, in one small tree.

    ItalicError
    ├── UsageError            you asked for something that cannot be: change what you typed      (exit code 2)
    │   ├── SpecError         a method, model or reward spec: unknown name, key or value
    │   ├── InputError        a prompt file: a malformed line, a missing column
    │   └── MismatchError     the method needs what the model or reward does not offer
    ├── RunError              the run could not go on; what was done stays done                  (exit code 1)
    │   ├── ModelError        the model or its back-end failed
    │   ├── RewardError       the reward failed: NaN, a wrong count, an exception, nothing scored
    │   ├── RecordError       the output could not be written or read: disk full, another writer
    │   └── Interrupted       the user stopped it (Ctrl-C)
    ├── OutOfBudget           thrown into a method when a hard budget ends the run; carries what there is
    └── ProgramError          a method, model or reward breaks its contract: a bug in that plug-in

Each says whether asking again could help (`retry`) and what to type instead (`hint`). Exceptions of other
libraries are translated at the place that calls the library, with `raise ... from`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from italic.core.drafts import Drafts


class ItalicError(Exception):
    """Base of all of Italic's errors. `str(error)` is the message and, on a line of its own, the hint."""

    retry = False
    """Whether the same call may succeed later without a change."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n{self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.hint))


def _rebuild(kind: type[ItalicError], message: str, hint: str) -> ItalicError:
    return kind(message, hint=hint)


class UsageError(ItalicError):
    """The request cannot be met as it stands; nothing was spent."""


class SpecError(UsageError):
    """A spec such as `best-of-n:n=16` names something unknown or gives it a bad value."""


class InputError(UsageError):
    """A prompt file is not what it should be; the message names the line."""


class MismatchError(UsageError):
    """A method needs an ability that the model or the reward does not offer."""


class RunError(ItalicError):
    """The run cannot go on; finished prompts are kept."""


class ModelError(RunError):
    """A model's back-end failed."""


class RewardError(RunError):
    """A reward failed or returned something that is no reward."""


class RecordError(RunError):
    """The record of the run cannot be written or read."""


class Interrupted(RunError):
    """The user stopped the run."""

    retry = True


class ProgramError(ItalicError):
    """A method, a model or a reward breaks its contract: the bug is in that plug-in."""


class OutOfBudget(ItalicError):
    """A hard budget is used up. Thrown into a method at the question that could not be paid.

    `resource` names the budget (tokens, reward_calls, seconds, cost). `drafts` are the rows of that question as
    they stand: longer than asked about, perhaps, but not finished. A method may catch it and return what it has;
    a method that does not is answered for by the driver, which returns the best finished draft it has seen.
    """

    def __init__(self, resource: str, drafts: Drafts | None = None) -> None:
        super().__init__(f"the budget of {resource.replace('_', ' ')} is used up", hint="Raise the budget to go on.")
        self.resource = resource
        self.drafts = drafts

    def __reduce__(self) -> tuple[Any, ...]:
        return (OutOfBudget, (self.resource, None))
