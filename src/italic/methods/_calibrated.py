"""What methods have in common that take a file of `italic calibrate`."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from italic.core.protocols import Task
from italic.values.calibration import Calibration
from italic.values.transforms import reference_rewards


class Calibrated:
    """A method with a parameter `calibration`: a calibration, the path of one, or None."""

    calibration: str | Calibration | None

    @cached_property
    def calibrated(self) -> Calibration | None:
        """The calibration, read. Raises UsageError if there is none at that path."""
        given = self.calibration
        return Calibration.load(Path(given)) if isinstance(given, str) else given

    @property
    def made_for(self) -> tuple[str, str] | None:
        """The model and the reward of the calibration."""
        return None if self.calibrated is None else self.calibrated.made_for

    def known(self, task: Task) -> NDArray[np.float64] | None:
        """The reference rewards of the task's prompt, float64 [*]; None without a calibration.

        Raises UsageError if the task samples otherwise than the calibration did, or there are none of that prompt.
        """
        if self.calibrated is None:
            return None
        self.calibrated.agree(task.start(1))
        return reference_rewards(self.calibrated, task.prompt)
