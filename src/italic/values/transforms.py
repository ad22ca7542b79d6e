"""Procedures and transforms as they are typed, `best-of-n:n=4`, `exp:t=10`; the reference rewards of a prompt."""

from __future__ import annotations

from collections.abc import Callable

from italic.core.errors import SpecError, UsageError
from italic.core.prompt import Prompt
from italic.core.spec import convert, parse
from italic.laws.inference_aware import Transform, exponential, fixed_point, identity, log
from italic.laws.procedures import Array, Procedure, best_of_n, plain, worst_of_n
from italic.values.calibration import Calibration

RAW = "raw"
"""The transform of a spec that means none: the reward as it is."""
FIXED_POINT = "fixed-point"

KINDS: dict[str, Callable[[int], Procedure]] = {"best-of-n": best_of_n, "worst-of-n": worst_of_n}
PROCEDURES = "sample, best-of-n:n=4 or worst-of-n:n=4"
TRANSFORMS = "fixed-point, identity, log, exp:t=10 or exp:t=-10"


def procedure_of(spec: str) -> tuple[str, int]:
    """The kind of procedure that a spec names, sample, best-of-n or worst-of-n, and its n, 1 for sample.

    Raises SpecError.
    """
    name, values = parse(spec)
    if name == "sample" and not values:
        return name, 1
    if name not in KINDS or values.keys() != {"n"}:
        raise SpecError(f"there is no procedure {spec!r}", hint=f"Write {PROCEDURES}.")
    return name, convert(values["n"], int, "n")


def read_procedure(spec: str) -> Procedure:
    """The procedure that a spec names. Raises SpecError."""
    name, n = procedure_of(spec)
    if n < 1:
        raise SpecError(f"{spec!r}: n is {n}", hint=f"Write {PROCEDURES}.")
    return KINDS[name](n) if name in KINDS else plain()


def read_transform(spec: str, procedure: Procedure, kl: float | None, rival: Procedure | None = None) -> Transform:
    """The transform that a spec names; the fixed point is that of the procedure at a divergence of kl nats.

    rival: how the reference is used, for the fixed point; the same procedure unless given. Raises SpecError for one
    that does not exist, UsageError for a divergence that has no fixed point, None among them.
    """
    name, values = parse(spec)
    known = {"identity": identity, "log": log}
    if name in known and not values:
        return known[name]()
    try:
        if name == FIXED_POINT and not values:
            if kl is None:
                raise ValueError("it is the best at one divergence, and none is given")
            return fixed_point(procedure, kl, rival)
        if name == "exp" and values.keys() == {"t"}:
            return exponential(convert(values["t"], float, "t"))
    except ValueError as failure:
        raise UsageError(f"{spec}: {failure}", hint=f"Write {TRANSFORMS}, and a kl such as 1.") from failure
    raise SpecError(f"there is no transform {spec!r}", hint=f"Write {TRANSFORMS}.")


def reference_rewards(calibration: Calibration, prompt: Prompt) -> Array:
    """The reference rewards of a prompt that are there, float64 [*], one at least.

    Raises UsageError, naming the prompt, if it is not in the calibration or all its rewards are missing.
    """
    found = calibration.rewards_of(prompt)
    if found is None:
        raise UsageError(
            f"prompt {prompt.id!r} is not in the calibration, which has reference rewards of its own prompts alone",
            hint="Calibrate on the prompts to be answered: italic calibrate PROMPTS --out calibration.parquet.",
        )
    if not len(found):
        raise UsageError(
            f"the calibration has no reference reward of prompt {prompt.id!r}: every score was missing",
            hint="Try the reward on this prompt alone: `italic doctor` shows what it answers.",
        )
    return found
