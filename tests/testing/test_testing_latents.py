"""Latents in the model checks, and what the strict model makes of asides: features and previews."""

from dataclasses import replace

import numpy as np
import pytest

from italic.core.errors import ProgramError
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.questions import Extend
from italic.core.sampling import Sampling, Until
from italic.core.spec import build_model
from italic.models.toy import ToyModel
from italic.testing import models as suite
from italic.testing.checks import expect_same, expect_untouched, snapshot
from italic.testing.strict import StrictModel

GAUSSIAN = build_model("gaussian")


def start(model):
    return model.start(Prompt("p", text="x"), Key(1).seeds(4), Sampling())


def latents():
    return GAUSSIAN.extend([Extend(start(GAUSSIAN), Until(steps=3))])[0].drafts


def test_latents_are_compared_to_the_last_bit():
    drafts = latents()
    expect_same(latents(), drafts, "again")
    x = drafts.x.copy()
    x[2, 1] = np.nextafter(x[2, 1], np.inf)
    with pytest.raises(AssertionError, match="moved: row 2 is"):
        expect_same(replace(drafts, x=x), drafts, "moved")
    with pytest.raises(AssertionError, match="later: row 0 is"):
        expect_same(replace(drafts, steps=drafts.steps + 1), drafts, "later")


def test_latents_that_change_in_place_are_noticed():
    drafts = latents()
    before = snapshot(drafts)
    expect_untouched(before, drafts, "nothing")
    drafts.x[3, 0] += 1
    with pytest.raises(AssertionError, match="scribbled"):
        expect_untouched(before, drafts, "scribbled")


class OddLatents:
    """The Gaussian model with extensions or previews that depend on the batch."""

    name = "odd latents"

    def __init__(self, change):
        self.inner, self.change = GAUSSIAN, change
        self.offers = self.inner.offers

    def start(self, prompt, seeds, sampling):
        return self.inner.start(prompt, seeds, sampling)

    def extend(self, jobs):
        return self._off("extend", self.inner.extend(jobs))

    def preview(self, batches):
        return self._off("preview", self.inner.preview(batches))

    def _off(self, what, answers):
        if what != self.change:
            return answers
        return [replace(a, drafts=replace(a.drafts, x=a.drafts.x + 1e-12 * len(a.drafts))) for a in answers]


@pytest.mark.parametrize(
    ("change", "check"),
    [
        ("extend", suite.rows_do_not_depend_on_the_batch),
        ("extend", suite.pieces_are_the_whole),
        ("extend", suite.growing_leaves_the_prefix),
        ("preview", suite.previews_are_finished_rows),
        ("preview", suite.previews_are_of_the_row_alone),
    ],
    ids=lambda v: getattr(v, "__name__", v),
)
def test_broken_latents_fail(change, check):
    check(OddLatents(""))
    with pytest.raises(AssertionError, match=r"row \d+"):
        check(OddLatents(change))


@pytest.mark.parametrize(("ability", "inner"), [("embed", ToyModel()), ("embed", GAUSSIAN), ("preview", GAUSSIAN)])
def test_a_strict_model_refuses_what_was_not_asked_for(ability, inner):
    model = StrictModel(inner, frozenset({"resume"}))
    assert ability not in model.offers
    with pytest.raises(ProgramError, match=f"uses {ability} .* not among its needs"):
        getattr(model, ability)([start(model)])


def test_a_strict_model_hands_on_what_was_asked_for():
    toy = StrictModel(ToyModel(), frozenset({"embed"}))
    assert toy.offers == {"embed", "texts"}
    assert np.array_equal(toy.embed([start(toy)])[0].features, ToyModel().embed([start(ToyModel())])[0].features)
    model = StrictModel(GAUSSIAN, frozenset({"latents", "preview", "embed"}))
    assert model.offers == {"latents", "preview", "embed"}
    assert np.array_equal(model.embed([start(model)])[0].features, GAUSSIAN.embed([start(GAUSSIAN)])[0].features)
    expect_same(model.preview([start(model)])[0].drafts, GAUSSIAN.preview([start(GAUSSIAN)])[0].drafts, "a preview")
    with pytest.raises(ProgramError, match="uses resume"):
        model.extend([Extend(latents())])


class Guessing(ToyModel):
    """A toy model that previews a row by going on with it."""

    def preview(self, batches):
        return self.extend([Extend(drafts) for drafts in batches])


def test_previews_of_a_strict_model_are_strict():
    model = StrictModel(Guessing(offers=frozenset({"preview", "texts"})), frozenset({"preview"}))
    ahead = model.preview([start(model)])[0].drafts
    assert ahead.done.all()
    with pytest.raises(ProgramError, match="uses texts"):
        _ = ahead.texts
