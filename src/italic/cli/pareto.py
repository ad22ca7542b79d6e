"""The picture of `italic evaluate`: reward and win rate against divergence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from italic.core.errors import RecordError
from italic.evaluate.tuned import Judgement

COLOURS = [f"C{number}" for number in range(10) if number != 7]
"""matplotlib's, without the grey of the curve."""
MARKERS = "s^Dv*XPp"


def draw_pareto(found: Mapping[str, Judgement], curve: Sequence[tuple[float, float, int]], path: Path) -> None:
    """Models as points with their intervals, over best-of-n of the reference: above its curve is better than it.

    curve: for some n the divergence of best-of-n, nats, its mean reward, and n. Raises RecordError if the file cannot
    be written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.2, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    left.plot([kl for kl, _, _ in curve], [reward for _, reward, _ in curve], "o-", color="0.6", label="best-of-n")
    right.plot([kl for kl, _, _ in curve], [n / (n + 1) for _, _, n in curve], "o-", color="0.6", label="best-of-n")
    for kl, reward, n in curve:
        left.annotate(str(n), (kl, reward), (3, -11), textcoords="offset points", color="0.5", fontsize=8)
        right.annotate(str(n), (kl, n / (n + 1)), (3, -11), textcoords="offset points", color="0.5", fontsize=8)
    for number, (name, one) in enumerate(found.items()):
        for axes, figure_of in ((left, one.reward), (right, one.win_rate)):
            axes.errorbar(
                one.kl.mean,
                figure_of.mean,
                xerr=[[one.kl.mean - one.kl.low], [one.kl.high - one.kl.mean]],
                yerr=[[figure_of.mean - figure_of.low], [figure_of.high - figure_of.mean]],
                fmt=MARKERS[number % len(MARKERS)],
                markersize=5,
                capsize=2,
                elinewidth=1,
                color=COLOURS[number % len(COLOURS)],
                label=name,
            )
    left.set_ylabel("mean reward of one draw")
    right.set_ylabel("win rate of one draw")
    for axes in (left, right):
        axes.set_xlabel("divergence from the reference, nats")
        axes.set_xlim(left=-0.05)
        axes.margins(y=0.08)
        axes.grid(alpha=0.25)
    right.legend(fontsize=8, loc="lower right")
    figure.suptitle(f"{next(iter(found.values())).prompts} prompts, 95 % intervals", fontsize=10)
    try:
        figure.savefig(path, dpi=130)
    except (OSError, ValueError) as failure:
        raise RecordError(f"cannot write {path}: {failure}", hint="Give --plot pareto.png.") from failure
