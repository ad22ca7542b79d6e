"""Chernoff baselines on a rare event, against the exact law: `python benchmarks/gaussian_mixture.py --B 3`.

A diffusion chain of a Gaussian mixture in the plane is tilted towards x_1 < -7, where it comes in 0.75 % of cases, by a
reward of B and beta = 1. The first coordinate is a chain of its own, so that the law of every baseline that depends on
it alone, a learned one too, follows by quadrature: `sum_tv`, the total variation of the steps added up, and `tv_final`,
that of the finished coordinate to the tilted law, are computed, not estimated. Draws and seconds are the sampler's.
SMC has no such law: its `tv_final` is estimated on 20 cells, `tv_noise` is what exact samples would show there.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts
from italic.core.latents import LatentDrafts
from italic.core.prompt import Prompt
from italic.core.protocols import Method
from italic.core.sampling import Sampling
from italic.laws import line as lines
from italic.laws.finite import total_variation
from italic.laws.statistics import chi_square
from italic.methods.chernoff import Chernoff
from italic.methods.smc import Smc
from italic.methods.svdd import Svdd
from italic.models.gaussian import GaussianModel, load
from italic.rewards.region import Region
from italic.run.align import make_tasks, stream
from italic.run.conclude import conclude
from italic.run.ledger import Ledger
from italic.train.baseline import FitBaseline, fit_baseline
from italic.values.fitted import Fitted
from italic.values.kinds import Known, Value

Array = NDArray[np.float64]

EDGE = -7.0
GRID = lines.midpoints(-15.0, 15.0, 1500)
CELLS = 20
SIZES = {"conformal": (8000, 8), "pinball": (4000, 4), "paper": (4000, 4)}
"""States and proposals of a fit. A number alone rests on the few proposals above it; it has no network to pay for."""


@dataclass(frozen=True, eq=False)
class Problem:
    """The chain, its exact values in nats [T + 1, m], and the tilted laws of its states [T + 1, m]."""

    model: GaussianModel
    reward: Region
    bound: float
    line: lines.Line
    values: Array
    target: Array

    @classmethod
    def of(cls, bound: float) -> Problem:
        """The problem with a reward of `bound`."""
        model = replace(load(), features=(0,))
        line = lines.Line(GRID, lines.normal(GRID), *model.line_means(GRID))
        f = np.where(GRID < EDGE, bound, 0.0)
        reward = Region(bound, below=EDGE)
        return cls(model, reward, bound, line, lines.values(line, f), lines.tilted(line, f))

    @property
    def steps(self) -> int:
        """The number of transitions."""
        return len(self.line.stds)

    @property
    def exact(self) -> Value:
        """The exact soft value of unfinished drafts."""

        def known(drafts: Drafts) -> Array:
            assert isinstance(drafts, LatentDrafts)
            found = np.empty(len(drafts))
            for step in np.unique(drafts.steps):
                rows = drafts.steps == step
                found[rows] = np.interp(drafts.x[rows, 0], GRID, self.values[step])
            return found

        return Known(known)

    def learned(self, fitted: Fitted) -> Array:
        """The values that a fit goes by, exact or learned, on the grid: [T + 1, m]."""
        if fitted.worth is None:
            return self.values
        rows = [fitted.worth(GRID[:, None], np.full(len(GRID), step)) for step in range(self.steps)]
        return np.array([*rows, self.values[-1]])

    def baselines(self, fitted: Fitted, values: Array) -> Array:
        """The fitted baselines on the grid: [T, m]."""
        b = np.repeat(fitted.tau[:, None], len(GRID), axis=1)
        for step in range(self.steps):
            b[step] += 0.0 if fitted.kind == "paper" else values[step]
            if fitted.baseline is not None:
                b[step] += fitted.baseline(GRID[:, None], np.full(len(GRID), step))
        return np.minimum(b, fitted.ceiling[:, None])


def fit(problem: Problem, arguments: argparse.Namespace) -> tuple[Fitted, float]:
    """The fitted baseline, and the seconds it took."""
    states, proposals = SIZES[arguments.baseline]
    settings = FitBaseline(
        beta=1.0,
        kind=arguments.baseline,
        block=1,
        value="learned" if arguments.value == "learned" else problem.exact,
        delta=arguments.delta,
        states=arguments.states or states,
        proposals=arguments.proposals or proposals,
        trajectories=arguments.trajectories,
    )
    began = time.perf_counter()
    tasks = make_tasks([Prompt("fit", text="")], problem.model, arguments.seed, Sampling())
    asking = fit_baseline(tasks, settings, (problem.model.name, problem.reward.name))
    fitted = conclude(asking, problem.model, problem.reward, Ledger())
    return fitted, time.perf_counter() - began


def sample(problem: Problem, method: Method, seed: int) -> tuple[LatentDrafts, Any, float]:
    """Samples, their certificate, and the seconds they took."""
    began = time.perf_counter()
    prompt = Prompt("samples", text="")
    (result,) = stream([prompt], problem.model, problem.reward, method, seed=seed)
    drafts = result.outcome.drafts
    assert isinstance(drafts, LatentDrafts)
    return drafts, result.outcome.certificate, time.perf_counter() - began


def counts(problem: Problem, drafts: LatentDrafts, law: Array) -> tuple[NDArray[np.int64], Array]:
    """Samples and a law on cells of equal mass of the target, cut at the edge of the event."""
    heights = np.cumsum(problem.target[-1])
    cuts = np.searchsorted(heights, np.arange(1, CELLS) / CELLS)
    edges = np.unique([*cuts, np.searchsorted(GRID, EDGE)])
    borders = (GRID[edges] + GRID[edges - 1]) / 2
    cells = len(borders) + 1
    seen = np.bincount(np.searchsorted(borders, drafts.x[:, 0]), minlength=cells)
    return seen, np.bincount(np.searchsorted(borders, GRID), weights=law, minlength=cells)


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    problem = Problem.of(arguments.B)
    name, _, size = arguments.baseline.partition(":")
    fitted, trained, training = None, 0.0, 0
    n = arguments.samples
    method: Method
    if name == "constant":
        method = Chernoff(
            beta=1.0, baseline="constant", bound=arguments.B, block=1, value=problem.exact, n=n, parallel=n,
            max_draws=100_000,
        )  # fmt: skip
        steered = lines.clipped(problem.line, problem.values, np.full(problem.line.means.shape, arguments.B))
    elif name == "svdd":
        method = Svdd(n=n, children=int(size), alpha=1.0, block=1, value=problem.exact)
        steered = lines.selected(problem.line, problem.values, int(size))
    elif name == "smc":
        method = Smc(n=n, particles=int(size), beta=1.0, block=1, value=problem.exact)
        steered = None
    else:
        fitted, trained = fit(problem, arguments)
        training = fitted.report["training_proposals"]
        values = problem.learned(fitted)
        method = Chernoff(baseline=fitted, n=n, parallel=n, max_draws=100_000)
        steered = lines.clipped(problem.line, values, problem.baselines(fitted, values))
    drafts, certificate, seconds = sample(problem, method, arguments.seed + 1)
    constant = float(np.mean(np.exp(arguments.B - problem.values[:-1]) * problem.target[:-1]) * len(GRID))
    draws = float(size) if name in ("svdd", "smc") else float(certificate.mean_draws)
    saved = problem.steps * (constant - draws)
    seen, exact = counts(problem, drafts, problem.target[-1] if steered is None else steered.last)
    goal = counts(problem, drafts, problem.target[-1])[1]
    return {
        "B": arguments.B,
        "baseline": arguments.baseline,
        "value": arguments.value,
        "delta": arguments.delta,
        "samples": n,
        "draws_per_step": draws,
        "sum_tv": None if steered is None else float(steered.variation.sum()),
        "tv_final": total_variation(seen / n, goal)
        if steered is None
        else total_variation(steered.last, problem.target[-1]),
        "tv_noise": float(0.4 * np.sum(np.sqrt(goal * (1 - goal) / n))) if steered is None else None,
        "training_proposals": training,
        "break_even_samples": training / saved if training and saved > 0 else None,
        "seconds": seconds,
        "training_seconds": trained,
        "draws_per_step_exact": None if steered is None else float(steered.draws.mean()),
        "event": float(np.mean(drafts.x[:, 0] < EDGE)),
        "event_exact": None if steered is None else float(steered.last[GRID < EDGE].sum()),
        "event_target": float(problem.target[-1][GRID < EDGE].sum()),
        "fit_p_value": None if steered is None else chi_square(seen, exact).p_value,
        "proposals": None if certificate is None else certificate.proposals,
        "certificate_tv": None if certificate is None else certificate.tv,
        "certificate_interval": None if certificate is None else certificate.tv_interval,
        "bellman_residual": None if certificate is None else certificate.bellman_residual,
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--B", type=float, default=3.0, help="the reward of the event")
    parser.add_argument("--baseline", default="pinball", help="constant, conformal, pinball, paper, svdd:M or smc:K")
    parser.add_argument("--value", choices=("exact", "learned"), default="exact", help="what the states are worth")
    parser.add_argument("--delta", type=float, default=1e-3, help="the share of proposals above the baseline")
    parser.add_argument("--samples", type=int, default=5000)
    parser.add_argument("--states", type=int, help="chains to fit on: 4000, for conformal 8000")
    parser.add_argument("--proposals", type=int, help="fresh proposals a state, for network and number: 4 each, or 8")
    parser.add_argument("--trajectories", type=int, default=5000, help="chains to learn the value from")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()
    name, _, size = arguments.baseline.partition(":")
    rivals = name in ("svdd", "smc") and size.isdigit() and int(size) > 0
    if not (rivals or arguments.baseline in ("constant", *SIZES)) or arguments.samples < 1 or not arguments.B > 0:
        parser.error("--baseline is constant, conformal, pinball, paper, svdd:M or smc:K; --samples and --B positive")
    if arguments.value == "learned" and arguments.baseline not in SIZES:
        parser.error("a value is learned by --baseline conformal, pinball or paper")
    report = measure(arguments)
    if arguments.json:
        print(json.dumps(report))
    else:
        for key, value in report.items():
            print(f"{key:22} {value}")


if __name__ == "__main__":
    main()
