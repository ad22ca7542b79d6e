"""Conformance suites for methods, models and rewards: run them on your own.

Each check is a plain function of the method, model or reward; it returns if all is well and raises AssertionError with
a sentence that says what is wrong. Some make sense for some subjects only: `applicable` picks those that do.

    import pytest
    from italic.testing import applicable, model_checks

    MODEL = my_package.load()

    @pytest.mark.parametrize("check", applicable(model_checks, MODEL), ids=lambda check: check.__name__)
    def test_my_model(check):
        check(MODEL)

`method_checks` run on the toy model and the toy reward; `model_checks` ask the model for a few dozen short responses;
`reward_checks` score a few short texts, or the batches that you give them. `noise_checks` are those of `model_checks`
that hold for models whose noise is a function of (seed, position), as that of an in-process model must be; leave them
out for a remote server that draws its own.
"""

from __future__ import annotations

from italic.testing.checks import Check, applicable
from italic.testing.methods import method_checks
from italic.testing.models import model_checks, noise_checks
from italic.testing.rewards import reward_checks

__all__ = ["Check", "applicable", "method_checks", "model_checks", "noise_checks", "reward_checks"]
