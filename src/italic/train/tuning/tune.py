"""Tuning a model to an objective: what is common to all trainers, from the calibration to the saved model."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from italic.core.errors import RecordError, UsageError
from italic.core.protocols import Reward
from italic.train.tuning.common import Told, processes
from italic.train.tuning.credit import Credit, decays, foretold, parts
from italic.train.tuning.lead import ABOVE, Lead
from italic.train.tuning.losses import bonbon_loss, qrpo_loss
from italic.train.tuning.objective import Objective
from italic.train.tuning.offline import Lesson, offline
from italic.train.tuning.online import rloo
from italic.train.tuning.settings import Tuning
from italic.train.tuning.signal import Signal, finished
from italic.values.calibration import Calibration
from italic.values.responses import Responses

Array: TypeAlias = NDArray[np.float64]
Listen: TypeAlias = Callable[[int, int, Mapping[str, float]], None]

LAST = 0.1
"""The report's figures are means over this share of the steps, the last ones."""
GAE_LAMBDA = 0.9
"""Of the credit of parts, where beginnings foretell enough."""
FORETELLS, LATE = 0.2, 0.75
"""The share of the variance that is enough, and at which share of the mean response."""
ASKED, EACH = 64, 16
"""Of so many prompts so many reference responses are cut to see that, at most."""
ALIKE = 0.02
"""Log-probabilities, nats, and rewards that differ by less, in parts of 1 or of their size, are the same."""


def tune(
    model: Any,
    reward: Reward,
    calibration: Calibration,
    objective: Objective,
    tuning: Tuning,
    folder: Path,
    listen: Listen | None = None,
) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """Tune the model in place and save it to the folder; its report, and its log with one entry a step.

    calibration: of this pair, every prompt with two scored responses or more. A checkpoint in the folder is gone on
    from. listen: told step, steps and figures. Raises UsageError for a calibration that is not this pair's or was
    sampled as no trainer can, RecordError if the model cannot be written.
    """
    began = time.monotonic()
    check_sampling(calibration)
    spot_check(model, reward, calibration)
    known = calibration.responses
    watch = [] if listen is None else [Told(listen)]
    references = [np.sort(r.present) for r in known]
    prompts = [r.prompt for r in known]
    told: dict[str, float] = {}
    if tuning.trainer == "rloo":
        lead = Lead(objective.start / ABOVE, objective.kl if objective.lead else None, tuning.steps)
        credit, told = _credit(model, reward, calibration, objective, tuning)
        cuts = () if credit is None else credit.cuts
        signal = Signal(model, reward, calibration.sampling, prompts, references, objective.worth, cuts)
        log = rloo(model, signal, credit, prompts, lead, tuning, calibration.sampling, folder, watch)
    else:
        lessons = [_lesson(model, r, objective) for r in known]
        few = min(len(lesson.tokens) for lesson in lessons)
        if few < tuning.group:
            raise UsageError(
                f"{few} scored responses to a prompt of the calibration, and --group is {tuning.group}",
                hint=f"Calibrate with --samples {tuning.group} or more, or give a smaller --group.",
            )
        bonbon = tuning.trainer == "bonbon"
        loss = bonbon_loss(tuning.group) if bonbon else qrpo_loss(objective.beta, objective.log_z(few - 1))
        log = offline(model, lessons, loss, tuning, calibration.sampling.temperature, folder, watch)
    try:
        if processes().is_main_process:
            model.network.decoder.save_pretrained(folder)
            model.tokenizer.save_pretrained(folder)
    except OSError as failure:
        raise RecordError(f"cannot write {folder}: {failure}", hint="Free some space and go on.") from failure
    last = log[-max(1, round(LAST * len(log))) :]
    names = {"kl": "kl_sequence", "reward": "true_reward", "quantile": "quantile", "beta": "beta", "loss": "loss"}
    report = {name: float(np.mean([e[key] for e in last])) for name, key in names.items() if key in last[-1]}
    return {**report, **told, "seconds": time.monotonic() - began}, log


def _credit(
    model: Any,
    reward: Reward,
    calibration: Calibration,
    objective: Objective,
    tuning: Tuning,
) -> tuple[Credit | None, dict[str, float]]:
    """Who gives the parts of rollouts credit, and what the report says of it; None if each token has that of the whole.

    Beginnings of reference responses are scored first, if the reward says that this means something, or a lambda was
    typed: they say which parts reveal what. If that is enough, a lambda that was not typed is chosen.
    """
    cuts, given = parts(calibration.sampling.max_tokens), tuning.gae_lambda
    if not cuts or (given is None and not reward.partial):
        return None, {"gae_lambda": 1.0}
    shares = _foretold(model, reward, calibration, objective, cuts)
    late = shares[int(np.searchsorted(cuts, LATE * calibration.mean_length, side="right"))]
    chosen = given if given is not None else GAE_LAMBDA if late >= FORETELLS else 1.0
    told = {"foretold": float(late), "gae_lambda": chosen}
    return None if given is None and chosen == 1 else Credit(cuts, decays(shares, chosen)), told


def _foretold(
    model: Any,
    reward: Reward,
    calibration: Calibration,
    objective: Objective,
    cuts: tuple[int, ...],
) -> Array:
    """What beginnings of reference responses foretell (see `credit.foretold`), of some responses to some prompts.

    They are set against the prompt's other responses alone: among all of them their ranks are known beforehand, so that
    the mean of the others would tell each one's own.
    """
    known = calibration.responses
    numbers = [int(i) for i in np.linspace(0, len(known) - 1, min(len(known), ASKED)).round()]
    batches, references = [], []
    for i in numbers:
        there = np.flatnonzero(~np.isnan(known[i].rewards))
        cut, rest = np.split(there, [min(EACH, len(there) // 2)])
        rows = [known[i].tokens[row].tolist() for row in cut]
        batches.append(finished(model, known[i].prompt, calibration.sampling, rows))
        references.append(known[i].rewards[rest])
    prompts = [known[i].prompt for i in numbers]
    signal = Signal(model, reward, calibration.sampling, prompts, references, objective.worth, cuts)
    rolled = signal.rolled(range(len(numbers)), batches)
    groups = np.split(rolled.worth, np.cumsum([len(b) for b in batches])[:-1])
    others = np.concatenate([(np.nansum(g) - g) / max(1, np.sum(~np.isnan(g)) - 1) for g in groups])
    return foretold(cuts, rolled, others)


def check_sampling(calibration: Calibration) -> None:
    """Raise UsageError unless the responses were drawn as trainers draw and weigh them: untruncated, to their end."""
    sampling = calibration.sampling
    if sampling.truncates or sampling.stop or sampling.ignore_eos:
        raise UsageError(
            f"the calibration's responses were sampled with {sampling}, and a trainer knows temperatures alone",
            hint="Calibrate without top-k, top-p, min-p and stop strings, at a temperature above 0.",
        )


def spot_check(model: Any, reward: Reward, calibration: Calibration) -> None:
    """Ask the pair about one prompt's responses again. Raises UsageError if it says something else than it did."""
    then = calibration.responses[0]
    drafts = finished(model, then.prompt, calibration.sampling, [ids.tolist() for ids in then.tokens])
    logprobs = np.nansum(model.likelihood([drafts])[0].logprobs, axis=1)
    (scored,) = reward.score([drafts])
    there = ~np.isnan(then.rewards) & ~scored.missing
    for what, before, now in (
        ("log-probability", then.logprobs, logprobs),
        ("reward", then.rewards[there], scored.rewards[there]),
    ):
        off = np.abs(before - now) / np.maximum(1.0, np.abs(before))
        if len(off) and off.max() > ALIKE:
            worst = int(off.argmax())
            raise UsageError(
                f"the calibration is stale: response {worst + 1} of prompt {then.prompt.id!r} had the {what} "
                f"{before[worst]:.4g}, and has {now[worst]:.4g} now",
                hint="The model or the reward has changed since. Write another: italic calibrate.",
            )


def _lesson(model: Any, responses: Responses, objective: Objective) -> Lesson:
    here = np.flatnonzero(~np.isnan(responses.rewards))
    return Lesson(
        model.codec.encode(responses.prompt),
        tuple(responses.tokens[i] for i in here),
        responses.logprobs[here],
        objective.own(responses.rewards[here]),
    )
