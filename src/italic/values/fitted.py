"""What `italic fit-baseline` writes: a directory with `baseline.json` (settings, thresholds, report) and the networks.

A fitted baseline says how much a proposal must be worth before it is accepted for certain, b(x) in nats, for every
state x it was fitted on: at the end of each block of `block` steps, or at the prompt alone if the block is the whole
response.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from italic.core.drafts import Drafts, TextDrafts
from italic.core.errors import ModelError, RecordError, UsageError
from italic.core.questions import Asking, embed
from italic.core.registry import missing_library
from italic.values.kinds import Learned, Value, build_value
from italic.values.networks import Networks

FORMAT = 1
SETTINGS, NETWORKS = "baseline.json", "networks.safetensors"

Kind: TypeAlias = Literal["pinball", "paper", "conformal"]
OBJECTS = ("baseline", "worth", "given")

LEARNED = "learned"
"""The value of a fitted baseline that has value networks of its own."""


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted baseline and the value it goes with.

    kind: how it was fitted. beta: of the tilt. block: steps a block, None if a block is the whole response. horizon:
    the longest response in steps. tau: float64 [T], nats, added to each block's baseline. ceiling: float64 [T], nats,
    the largest log-weight that the fit saw in each block: no baseline is above it. value: the spec of the value,
    "learned" for `worth`. baseline, worth: networks, None where there are none. model, reward: names of the pair.
    sampling: that of the fit's drafts, None if any will do. report: what the fit measured (proposals, draws).
    given: a value that has no spec, which is not saved.
    """

    kind: Kind
    beta: float
    block: int | None
    horizon: int
    tau: NDArray[np.float64]
    ceiling: NDArray[np.float64]
    value: str
    model: str
    reward: str
    sampling: Mapping[str, Any] | None = None
    report: Mapping[str, Any] = field(default_factory=dict)
    baseline: Networks | None = None
    worth: Networks | None = None
    given: Value | None = None

    @property
    def needs(self) -> frozenset[str]:
        """What a model must offer for `at`."""
        return frozenset() if self.baseline is None else frozenset({"embed"})

    @property
    def valued(self) -> Value | None:
        """The value of unfinished drafts; None if a block is the whole response."""
        if self.block is None:
            return None
        if self.worth is not None:
            return Learned(self.worth, self.block)
        return build_value(self.value) if self.given is None else self.given

    def at(self, drafts: Drafts, values: NDArray[np.float64]) -> Asking[NDArray[np.float64]]:
        """The baselines b of unfinished drafts with these soft values, float64 [n], nats.

        Raises UsageError for responses sampled otherwise, or of another length, than those of the fit.
        """
        self._agree(drafts)
        blocks = np.zeros(len(drafts), dtype=np.int64) if self.block is None else drafts.steps // self.block
        if np.any(blocks >= len(self.tau)):
            raise UsageError(
                f"block {int(blocks.max()) + 1} of a response, and those of the fit had ended after {len(self.tau)}",
                hint="Fit again, with more states or other prompts: italic fit-baseline --states 64.",
            )
        b = self.tau[blocks] + (0.0 if self.kind == "paper" else values / self.beta)
        if self.baseline is not None:
            features = yield from embed(drafts)
            b += self.baseline(features, blocks)
        return np.asarray(np.minimum(b, self.ceiling[blocks]))

    def _agree(self, drafts: Drafts) -> None:
        longest, now = int(np.max(drafts.steps + drafts.room, initial=0)), told(drafts)
        if longest != self.horizon:
            raise UsageError(
                f"responses of up to {longest} steps, and the baseline was fitted to {self.horizon}",
                hint=f"Set the longest response to {self.horizon} steps (--max-tokens), or fit again.",
            )
        if self.sampling is not None and now != self.sampling:
            raise UsageError(
                f"responses sampled with {now}, and the baseline was fitted with {self.sampling}",
                hint="Use the same temperature, top-k, top-p, min-p and stop strings, or fit again.",
            )

    def save(self, folder: Path) -> None:
        """Write the directory. Raises RecordError if it cannot be written."""
        safetensors = _safetensors()
        arrays: dict[str, Any] = {} if self.baseline is None else self.baseline.arrays("baseline")
        arrays |= {} if self.worth is None else self.worth.arrays("worth")
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in OBJECTS}
        settings |= {"tau": self.tau.tolist(), "ceiling": self.ceiling.tolist()}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            safetensors.numpy.save_file(arrays, folder / NETWORKS)
            text = json.dumps({"format": FORMAT, **settings, "report": dict(self.report)}, indent=2)
            (folder / SETTINGS).write_text(text + "\n", encoding="utf-8")
        except (OSError, safetensors.SafetensorError) as failure:
            raise RecordError(f"cannot write {folder}: {failure}", hint="Choose another --out.") from failure

    @classmethod
    def load(cls, folder: Path) -> Fitted:
        """Read the directory. Raises UsageError if it is none of ours, ModelError if it is broken."""
        if not (folder / SETTINGS).is_file():
            raise UsageError(
                f"there is no fitted baseline in {str(folder)!r}",
                hint="Write baseline=pilot, baseline=constant, or the directory that `italic fit-baseline` wrote.",
            )
        load_file = _safetensors().numpy.load_file
        try:
            settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
            arrays = load_file(folder / NETWORKS)
            if settings.pop("format") != FORMAT or settings["kind"] not in get_args(Kind):
                raise ValueError("another format")
            for name in ("tau", "ceiling"):
                settings[name] = np.asarray(settings[name], dtype=np.float64)
            return cls(**settings, baseline=Networks.of(arrays, "baseline"), worth=Networks.of(arrays, "worth"))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, _safetensors().SafetensorError) as failure:
            raise ModelError(
                f"the fitted baseline in {str(folder)!r} cannot be read: {failure}", hint="Fit it again."
            ) from failure


def told(drafts: Drafts) -> dict[str, Any] | None:
    """How drafts of text are sampled, their length apart; None for others."""
    if not isinstance(drafts, TextDrafts):
        return None
    kept = {f.name: getattr(drafts.sampling, f.name) for f in fields(drafts.sampling) if f.name != "max_tokens"}
    return kept | {"stop": list(drafts.sampling.stop)}


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as failure:
        raise missing_library("a fitted baseline", failure) from failure
    return safetensors
