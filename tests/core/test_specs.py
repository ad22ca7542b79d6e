"""Specs and the registry: what is typed is found and read, what is mistyped is said."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from italic.core import registry
from italic.core.errors import ProgramError, SpecError, UsageError
from italic.core.protocols import Paper
from italic.core.registry import Entry, entries, find, method_class, missing_library
from italic.core.spec import build_method, build_model, build_reward, convert, method_name, method_spec, parse
from italic.methods.best_of_n import BestOfN
from italic.methods.rejection import Rejection
from italic.methods.soft_best_of_n import SoftBestOfN
from italic.models.toy import ToyModel
from italic.rewards.toy import ToyReward


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("best-of-n", "best-of-n", {}),
        ("best-of-n:", "best-of-n", {}),
        (" best-of-n : n = 4 , k=x y ", "best-of-n ", {"n": "4", "k": "x y"}),
        ("m:max-draws=3,url=http://h:1/a=b", "m", {"max_draws": "3", "url": "http://h:1/a=b"}),
        ("m:a=,", "m", {"a": ""}),
    ],
)
def test_a_spec_is_a_name_and_values(text: str, name: str, values: dict[str, str]) -> None:
    assert parse(text) == (name, values)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("m:n", "'n' in 'm:n' is not key=value"),
        ("m:=4", "'=4' in 'm:=4' is not key=value"),
        ("m:n=4,n=5", "'n' is given twice"),
        ("m:max-draws=4,max_draws=5", "'max_draws' is given twice"),
    ],
)
def test_a_malformed_spec_is_refused(text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message) as caught:
        parse(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("4", int, 4),
        ("-4", int | None, -4),
        ("none", int | None, None),
        ("None", str | None, None),
        ("none", str, "none"),
        ("1e-3", float, 1e-3),
        ("inf", float, float("inf")),
        ("TRUE", bool, True),
        ("false", bool | None, False),
        ("b", Literal["a", "b"], "b"),
        ("b", Literal["a", "b"] | None, "b"),
        ("7", str | int, "7"),
    ],
)
def test_values_are_read_as_their_type_says(text: str, kind: Any, value: object) -> None:
    read = convert(text, kind, "x")
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "kind", "message"),
    [
        ("4.5", int, "x is '4.5', not a whole number\nWrite x=16"),
        ("many", float, "x is 'many', not a number\nWrite x=0.5"),
        ("none", float, "x is 'none', not a number"),
        ("yes", bool, "x is 'yes'\nWrite true or false"),
        ("c", Literal["a", "b"], "x cannot be 'c'\nChoose one of a, b"),
    ],
)
def test_a_value_of_another_type_is_refused(text: str, kind: Any, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        convert(text, kind, "x")
    assert str(caught.value).startswith(message)


def test_methods_by_spec() -> None:
    assert build_method("best-of-n:n=4") == BestOfN(4)
    assert build_method("best-of-n") == BestOfN()
    method = BestOfN(3)
    assert build_method(method) is method
    assert build_method("best-of-n", n=4, batch=2) == BestOfN(4)
    assert build_method("best-of-n:n=3", n=4) == BestOfN(3)
    assert build_method("rejection:bound=3,max-draws=9") == Rejection(bound=3.0, max_draws=9)


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ("best-off-n", SpecError, "there is no method 'best-off-n'\nDid you mean best-of-n"),
        ("zzz", SpecError, "there is no method 'zzz'\nKnown: adaptive-best-of-n, "),
        ("best-of-n:m=4", SpecError, "the method best-of-n has no parameter 'm'\n"),
        ("rejection", SpecError, "the method rejection needs bound\nWrite for instance rejection:bound=1."),
        ("best-of-n:n=0", UsageError, "best-of-n with n=0"),
    ],
)
def test_a_method_that_cannot_be_is_refused(spec: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        build_method(spec)
    assert str(caught.value).startswith(message)


@given(st.integers(1, 10**6), st.floats(1e-6, 1e6), st.floats(-1e6, 1e6))
def test_a_full_spec_reads_back_as_the_method(n: int, beta: float, bound: float) -> None:
    for method in (BestOfN(n), SoftBestOfN(n, beta), Rejection(bound, beta, n, n)):
        assert build_method(method_spec(method, method_name(method))) == method


@dataclass(frozen=True)
class Bare:
    """A method without parameters."""

    needs: ClassVar[frozenset[str]] = frozenset()
    papers: ClassVar[tuple[Paper, ...]] = ()


def test_a_method_without_parameters_is_its_name() -> None:
    assert method_spec(Bare(), "bare") == "bare"  # type: ignore[arg-type]


def test_models_and_rewards_by_spec() -> None:
    assert build_model("toy:letters=2,seed=5") == ToyModel(letters=2, seed=5)
    assert build_model("toy", rows=7, dtype=None) == ToyModel(rows=7)
    model, reward = ToyModel(), ToyReward()
    assert build_model(model) is model
    assert build_reward(reward) is reward
    assert build_reward("toy:seed=3,levels=none") == ToyReward(seed=3)
    assert build_reward("2*toy").name == "2*toy:seed=0,scale=1"
    for spec in ("0.5*toy + -2*toy:seed=1", "0.5*toy+-2*toy:seed=1", ".5 * toy + -2e0*toy:seed=1"):
        total = build_reward(spec)
        assert total.name == "0.5*toy:seed=0,scale=1+-2*toy:seed=1,scale=1"
        assert build_reward(total.name) == total
    assert build_reward("toy + 3*toy:seed=1").name == "1*toy:seed=0,scale=1+3*toy:seed=1,scale=1"
    assert build_reward("1*toy+3*toy:seed=1").name == "1*toy:seed=0,scale=1+3*toy:seed=1,scale=1"


def test_what_follows_the_name_may_be_a_plain_argument(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def length(completions): return [float(len(c)) for c in completions]\n")
    assert build_reward(f"function:{file}:length,partial=true").partial
    assert not build_reward(f"function:{file}:length").partial


@pytest.mark.parametrize(
    ("kind", "spec", "options", "message"),
    [
        ("models", "toy:letter=2", {}, "the model 'toy:letter=2' has no option 'letter'\nDid you mean letters"),
        ("models", "toy:letters=two", {}, "letters is 'two', not a whole number"),
        ("models", "toy:letters", {}, "'letters' in 'toy:letters' is not key=value\n`italic models` shows"),
        ("models", "toy", {"attention": "sdpa"}, "the model 'toy' has no option 'attention'"),
        ("models", "toyy:letters=2", {}, "there is no model 'toyy:letters=2'\nDid you mean toy"),
        ("models", "demmo", {}, "there is no model 'demmo'\nDid you mean demo"),
        ("models", "demo:roows=8", {}, "the model 'demo:roows=8' has no option 'roows'\nDid you mean rows"),
        ("models", "demo:compiled=maybe", {}, "compiled is 'maybe'\nWrite true or false"),
        ("models", "./mine:rows=many", {}, "rows is 'many', not a whole number"),
        ("models", "./mine:rows=8,rows=9", {}, "'rows' is given twice"),
        ("rewards", "demo:chatt=never", {}, "the reward 'demo:chatt=never' has no option 'chatt'\nDid you mean chat"),
        ("rewards", "function", {}, "'function' lacks what to load\n`italic rewards` shows"),
        ("rewards", "toy + ", {}, "'' is no term of a sum of rewards"),
        ("rewards", "1.2.3*toy", {}, "a weight is '1.2.3', not a number"),
        ("rewards", "tooy", {}, "there is no reward 'tooy'"),
    ],
)
def test_a_model_or_reward_that_cannot_be_is_refused(
    kind: str, spec: str, options: dict[str, Any], message: str
) -> None:
    build = {"models": build_model, "rewards": build_reward}[kind]
    with pytest.raises(SpecError) as caught:
        build(spec, **options)
    assert str(caught.value).startswith(message), str(caught.value)


@pytest.fixture
def fresh_registry() -> Iterator[None]:
    entries.cache_clear()
    yield
    entries.cache_clear()


def points(monkeypatch: pytest.MonkeyPatch, *found: EntryPoint) -> None:
    """Pretend that other packages are installed."""
    monkeypatch.setattr(registry, "entry_points", lambda group: tuple(p for p in found if p.group == group))


@pytest.mark.usefixtures("fresh_registry")
def test_other_packages_join_by_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("somebody_elses")
    monkeypatch.setitem(sys.modules, "somebody_elses", module)
    exec(
        "from dataclasses import dataclass\n"
        "@dataclass(frozen=True)\n"
        "class Theirs:\n"
        "    n: int = 2\n"
        "    def run(self, task): ...\n",
        vars(module),
    )
    points(monkeypatch, EntryPoint("theirs", "somebody_elses", "italic.methods"))
    assert "theirs" in entries("methods")
    assert list(entries("methods")) == sorted(entries("methods"))
    assert build_method("theirs:n=5").n == 5  # type: ignore[attr-defined]
    assert "theirs" not in entries("models")


@pytest.mark.usefixtures("fresh_registry")
def test_a_name_can_be_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    points(monkeypatch, EntryPoint("best-of-n", "somebody_elses", "italic.methods"))
    with pytest.raises(ProgramError, match="somebody_elses registers the method 'best-of-n', which exists already"):
        entries("methods")


def test_a_module_that_needs_what_is_not_installed() -> None:
    with pytest.raises(SpecError, match="theirs needs no_such_library, which is not installed") as caught:
        Entry("theirs", "no_such_library.inner").load()
    assert caught.value.hint == "Type: pip install no_such_library"
    hint = missing_library("x", ImportError("gone", name="torch.nn")).hint
    assert hint == "Type: pip install 'italic[hf]'"
    assert "needs gone" in missing_library("x", ImportError("gone")).message


def test_a_method_module_has_one_method() -> None:
    with pytest.raises(ProgramError, match=r"italic\.core\.keys has 0 method classes"):
        method_class(Entry("keys", "italic.core.keys"))
    assert method_class(find("methods", "best-of-n")) is BestOfN


@pytest.mark.usefixtures("fresh_registry")
def test_private_modules_are_no_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "_shared.py").touch()
    (tmp_path / "open_one.py").touch()
    import italic.methods

    monkeypatch.setattr(italic.methods, "__path__", [str(tmp_path)])
    assert list(entries("methods")) == ["open-one"]
