"""Procedures and transforms as they are typed: `best-of-n:n=4`, `exp:t=10`."""

from __future__ import annotations

from collections.abc import Callable

from italic.core.errors import SpecError, UsageError
from italic.core.spec import convert, parse
from italic.laws.inference_aware import Transform, exponential, fixed_point, identity, log
from italic.laws.procedures import Procedure, best_of_n, plain, worst_of_n

RAW = "raw"
"""The transform of a spec that means none: the reward as it is."""

PROCEDURES = "sample, best-of-n:n=4 or worst-of-n:n=4"
TRANSFORMS = "fixed-point, identity, log, exp:t=10 or exp:t=-10"


def read_procedure(spec: str) -> Procedure:
    """The procedure that a spec names. Raises SpecError."""
    name, values = parse(spec)
    if name == "sample" and not values:
        return plain()
    kinds: dict[str, Callable[[int], Procedure]] = {"best-of-n": best_of_n, "worst-of-n": worst_of_n}
    if name not in kinds or values.keys() != {"n"}:
        raise SpecError(f"there is no procedure {spec!r}", hint=f"Write {PROCEDURES}.")
    n = convert(values["n"], int, "n")
    if n < 1:
        raise SpecError(f"{spec!r}: n is {n}", hint=f"Write {PROCEDURES}.")
    return kinds[name](n)


def read_transform(spec: str, procedure: Procedure, kl: float) -> Transform:
    """The transform that a spec names; the fixed point is that of the procedure at a divergence of kl nats.

    Raises SpecError for one that does not exist, UsageError for a divergence that has no fixed point.
    """
    name, values = parse(spec)
    known = {"identity": identity, "log": log}
    if name in known and not values:
        return known[name]()
    try:
        if name == "fixed-point" and not values:
            return fixed_point(procedure, kl)
        if name == "exp" and values.keys() == {"t"}:
            return exponential(convert(values["t"], float, "t"))
    except ValueError as failure:
        raise UsageError(f"{spec}: {failure}", hint=f"Write {TRANSFORMS}, and a --kl such as 1.") from failure
    raise SpecError(f"there is no transform {spec!r}", hint=f"Write {TRANSFORMS}.")
