"""`italic plan`: what each transform of the reward gives at a divergence, and costs, before anything is paid for."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.table import Table

from italic.cli.plotting import check_plotting
from italic.cli.show import remark, screen
from italic.core.errors import RecordError, UsageError
from italic.laws.finite_reference import FiniteLoss, loss_of_finite
from italic.laws.inference_aware import MOST_KL, Row, Transform, compare, exponential
from italic.laws.procedures import Procedure
from italic.values.transforms import FIXED_POINT, read_procedure, read_transform

CUSTOMARY = 10.0
"""The exponent of 2412.19792."""
LEAST_T, MOST_T, TRIED = 0.5, 600.0, 24
"""Exponents that are tried, of either sign; the best at the small end means that the identity is better."""
CLOSE = 5e-4
"""How closely the best exponent is looked for, in parts."""
LEAST_KL, POINTS = 0.05, 24
"""Where the curves of a picture begin, and their points."""
SUFFIXES = (".png", ".svg", ".pdf")
COLORS = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#d55e00", "#cc79a7", "#0072b2", "#999933")


@dataclass(frozen=True)
class PlanRequest:
    """What was typed after `italic plan`."""

    procedure: str
    kl: float
    transforms: tuple[str, ...]
    rival: str | None
    samples: int | None
    plot: str | None
    as_json: bool

    @property
    def met(self) -> str:
        """How the reference is used."""
        return self.procedure if self.rival is None else self.rival


class Use(NamedTuple):
    """How the model and the reference will be used."""

    procedure: Procedure
    rival: Procedure | None

    def transform(self, spec: str, kl: float) -> Transform:
        """The transform of a spec. Raises UsageError."""
        return read_transform(spec, self.procedure, kl, self.rival)

    def rows(self, transforms: Sequence[Transform], kl: float) -> list[Row]:
        """What transforms give at a divergence, nats. Raises UsageError if one cannot reach it."""
        try:
            return compare(self.procedure, kl, transforms, self.rival)
        except ValueError as failure:
            raise UsageError(f"--kl {kl:g}: {failure}", hint="Give a --kl within that: --kl 1.") from failure


def run_plan(request: PlanRequest) -> None:
    """Carry out `italic plan`. Raises ItalicError."""
    if request.samples is not None and request.samples < 1:
        raise UsageError(f"--samples {request.samples}", hint="Give a number of reference rewards: --samples 64.")
    if request.samples is not None and request.rival is not None:
        raise UsageError(
            "--samples with --rival", hint="What few references cost is known for equal uses: leave one out."
        )
    if request.plot is not None:
        if Path(request.plot).suffix.lower() not in SUFFIXES:
            raise UsageError(f"--plot {request.plot}", hint=f"Give a file that ends in {', '.join(SUFFIXES)}.")
        check_plotting("--plot, which draws a picture,")
    use = Use(read_procedure(request.procedure), None if request.rival is None else read_procedure(request.rival))
    specs = request.transforms or default_specs(use, request.kl)
    transforms = [use.transform(spec, request.kl) for spec in specs]
    rows = [row._replace(transform=spec) for row, spec in zip(use.rows(transforms, request.kl), specs, strict=True)]
    left = [] if request.samples is None else _left(use, transforms, request.kl, request.samples)
    if request.plot is not None:
        draw_plan(request, use, rows, left)
    if request.as_json:
        found = [row._asdict() for row in rows]
        for one, finite in zip(found, left, strict=False):
            one["win_rate_finite"] = None if finite is None else finite.win_rate
        sys.stdout.write(json.dumps(found) + "\n")
    else:
        _show(request, rows, left)


def default_specs(use: Use, kl: float) -> list[str]:
    """The transforms worth comparing: with the best exponential, and the customary one of its sign."""
    best = best_exponent(use, kl)
    exponents = [] if best is None else [best]
    exponents.append(CUSTOMARY if best is None else float(np.copysign(CUSTOMARY, best)))
    return ["identity", "log", *(f"exp:t={t:g}" for t in dict.fromkeys(exponents)), FIXED_POINT]


def best_exponent(use: Use, kl: float) -> float | None:
    """The t whose exponential wins most often at a divergence, nats, to three digits; None if the identity does.

    Raises UsageError for a divergence that cannot be reached.
    """
    from scipy.optimize import minimize_scalar

    def lost(t: float) -> float:
        return -use.rows([exponential(t)], kl)[0].win_rate

    sizes = np.geomspace(LEAST_T, MOST_T, TRIED)
    tried = {sign * i: lost(sign * float(size)) for sign in (1, -1) for i, size in enumerate(sizes, 1)}
    best = min(tried, key=lambda i: tried[i])
    sign, at = (1 if best > 0 else -1), abs(best) - 1
    if at == 0:
        return None
    low, high = (float(np.log(size)) for size in sizes[[at - 1, min(at + 1, TRIED - 1)]])
    found = minimize_scalar(
        lambda x: lost(sign * math.exp(x)), bounds=(low, high), method="bounded", options={"xatol": CLOSE}
    )
    t = math.exp(float(found.x))
    return float(f"{sign * t:.3g}")


def _left(use: Use, transforms: Sequence[Transform], kl: float, samples: int) -> list[FiniteLoss | None]:
    """What is left of each win rate with so many reference rewards a prompt; None where these cannot reach the KL.

    The same for the same question. Raises UsageError if none can.
    """
    left: list[FiniteLoss | None] = []
    why = ValueError()
    for transform in transforms:
        try:
            left.append(loss_of_finite(transform, use.procedure, kl, samples, np.random.default_rng(0)))
        except ValueError as failure:
            left.append(None)
            why = failure
    if not any(left):
        raise UsageError(f"--samples {samples}: {why}", hint="Give more --samples, or a smaller --kl.") from why
    return left


def _show(request: PlanRequest, rows: Sequence[Row], left: Sequence[FiniteLoss | None]) -> None:
    grid = Table("transform", "win rate", "KL", "beta", "draws per accept")
    if left:
        grid.add_column(f"win rate with {request.samples} references")
    for column in grid.columns[1:]:
        column.justify = "right"
    for i, row in enumerate(rows):
        figures = [f"{row.win_rate:.4f}", f"{row.kl:.3g}", f"{row.beta:.4g}", f"{row.draws_per_accept:.3g}"]
        if left:
            finite = left[i]
            figures.append("-" if finite is None else f"{finite.win_rate:.4f} ± {finite.error:.4f}")
        grid.add_row(row.transform, *figures)
    screen().print(grid)
    remark(
        f"Win rate: of the policy under {request.procedure} against the model under {request.met}. beta: of "
        "transforms of range 1 (log as it is). Draws per accept: what --method tilted takes to show it untrained."
    )
    if None in left:
        remark(f"-: {request.samples} references are too few for this KL.")


def draw_plan(request: PlanRequest, use: Use, rows: Sequence[Row], left: Sequence[FiniteLoss | None]) -> None:
    """Win rate over divergence, a curve a transform. Raises RecordError if the file cannot be written."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    divergences = _divergences(request.kl)
    for i, row in enumerate(rows):
        color = COLORS[i % len(COLORS)]
        curve = np.array([use.rows([use.transform(row.transform, kl)], kl)[0][1:3] for kl in divergences])
        dashes = "--" if row.transform == FIXED_POINT else "-"
        axes.plot(curve[:, 1], curve[:, 0], dashes, color=color, lw=1.8, label=row.transform)
        axes.plot(row.kl, row.win_rate, "o", color=color, ms=5)
        finite = left[i] if left else None
        if finite is not None:
            axes.plot(row.kl, finite.win_rate, "o", mfc="white", mec=color, ms=6)
    if left:
        axes.plot([], [], "o", mfc="white", mec="0.4", ms=6, label=f"with {request.samples} references")
    axes.axvline(request.kl, color="0.8", lw=0.8, zorder=0)
    axes.set_xlim(0, divergences[-1] * 1.02)
    axes.set_xlabel("KL from the model, nats")
    axes.set_ylabel("win rate")
    title = f"The policy under {request.procedure} against the model under {request.met}"
    axes.set_title(title, fontsize=10, loc="left", parse_math=False)
    axes.grid(color="0.92", lw=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=9, frameon=False, loc="lower right")
    try:
        figure.savefig(str(request.plot), dpi=130)
    except OSError as failure:
        raise RecordError(
            f"cannot write {request.plot}: {failure.strerror}", hint="Choose another --plot."
        ) from failure


def _divergences(kl: float) -> list[float]:
    """From 0.05 nats, or a quarter of kl if that is less, to twice kl, as far as can be computed; kl among them."""
    start, end = min(LEAST_KL, kl / 4), min(2 * kl, 0.99 * MOST_KL)
    return sorted({*(np.linspace(start**0.5, end**0.5, POINTS) ** 2).tolist(), kl})
