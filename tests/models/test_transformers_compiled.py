"""A compiled decoding step: the same responses, and compiled once for any number of rows and any width."""

from __future__ import annotations

import shutil

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from italic.core.errors import ModelError, UsageError
from italic.core.sampling import Until
from tiny_decoders import KINDS, finish, model, start, tokens

needs_compiler = pytest.mark.skipif(
    shutil.which("g++") is None and shutil.which("clang++") is None, reason="compiling needs a C++ compiler"
)


@needs_compiler
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # raised by PyTorch's own compiler
def test_rows_come_and_go_and_grow_as_without_compiling() -> None:
    plain, fast = model(rows=8), model(rows=8, compiled=True)
    assert (plain.network.compiled, fast.network.compiled) == (False, True)
    # As a reward would be that is loaded later, of a kind that no earlier test has loaded.
    AutoModelForSequenceClassification.from_config(KINDS["qwen3"](vocab_size=8, pad_token_id=0))
    with torch.compiler.set_stance("fail_on_recompile"):
        for n, steps in ((1, 9), (8, 150), (5, 30), (8, 128)):
            limits = Until(steps=tuple(steps - 3 * i for i in range(n)))
            answers = [
                tokens(finish(made, start(made, f"the {steps}", n=n, max_tokens=200), limits)) for made in (plain, fast)
            ]
            assert answers[0] == answers[1]
            assert any(len(row) > 5 for row in answers[0])


def test_there_is_nothing_to_compile_on_the_plain_path() -> None:
    with pytest.raises(UsageError, match="plain path") as error:
        model(path="plain", compiled=True)
    assert "compiled=true" in error.value.hint


def test_a_single_row_is_not_compiled() -> None:
    with pytest.raises(UsageError, match="single row") as error:
        model(rows=1, compiled=True)
    assert "rows=2" in error.value.hint


def test_a_compiler_that_fails_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> object:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(torch, "compile", lambda forward, **_: fails)
    with pytest.raises(ModelError, match="no compiler here") as error:
        model(compiled=True)
    assert "C++ compiler" in error.value.hint
