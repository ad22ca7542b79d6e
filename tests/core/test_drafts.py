from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from italic.core.drafts import END, LENGTH, STOP, UNFINISHED, Drafts, TextDrafts
from italic.core.errors import ProgramError
from italic.core.prompt import Prompt
from italic.core.sampling import Sampling

MOST = 6
SAMPLING = Sampling(max_tokens=MOST)


class Letters:
    fingerprint = "letters"

    def decode(self, prompt_tokens, tokens):
        return "".join("abcdefgh"[t] for t in tokens)


@st.composite
def batches(draw, prompt="p"):
    """A batch of 0 to 5 rows in all states a row can be in."""
    n = draw(st.integers(0, 5))
    steps = draw(st.lists(st.integers(0, MOST), min_size=n, max_size=n))
    width = max(steps, default=0)
    reasons = [
        LENGTH if k == MOST else draw(st.sampled_from([UNFINISHED, END, STOP] if k else [UNFINISHED])) for k in steps
    ]
    ids, logps = np.full((n, width), -1, np.int32), np.zeros((n, width), np.float32)
    for row, k in enumerate(steps):
        ids[row, :k] = draw(st.lists(st.integers(0, 7), min_size=k, max_size=k))
        logps[row, :k] = -1 - ids[row, :k]
    chars = [draw(st.integers(0, k)) if r == STOP else -1 for k, r in zip(steps, reasons, strict=True)]
    return TextDrafts(
        prompt=Prompt(prompt, text="x"),
        sampling=SAMPLING,
        codec=Letters(),
        prompt_tokens=np.array([1, 2], np.int32),
        ids=ids,
        logps=logps,
        steps=np.array(steps, np.int64),
        reason=np.array(reasons, "<U6"),
        seeds=np.array(draw(st.lists(st.integers(0, 2**64 - 1), min_size=n, max_size=n)), np.uint64),
        chars=np.array(chars, np.int64),
        memory=tuple(object() for _ in range(n)),
    )


def rows_of(drafts):
    """All that is known of each row, for comparing."""
    columns = (drafts.tokens, drafts.logprobs, drafts.texts, drafts.steps, drafts.reason, drafts.seeds, drafts.chars)
    rows = zip(*columns, drafts.memory, strict=True)
    return [(t.tolist(), p.tolist(), x, int(k), str(r), int(s), int(c), m) for t, p, x, k, r, s, c, m in rows]


def check(drafts):
    """What is true of any batch."""
    n = len(drafts)
    assert isinstance(drafts, Drafts)
    assert drafts.ids.shape == drafts.logps.shape
    assert all(len(getattr(drafts, f)) == n for f in ("ids", "logps", "steps", "reason", "seeds", "chars", "memory"))
    padding = np.arange(drafts.ids.shape[1]) >= drafts.steps[:, None]
    assert np.all(drafts.ids[padding] == -1)
    assert np.all(drafts.ids[~padding] >= 0)
    assert np.all(drafts.logps[padding] == 0)
    assert np.all(drafts.room[drafts.done] == 0)
    assert np.all(drafts.room[~drafts.done] == MOST - drafts.steps[~drafts.done])
    assert (drafts.ids.dtype, drafts.logps.dtype, drafts.steps.dtype, drafts.seeds.dtype) == (
        np.dtype("int32"),
        np.dtype("float32"),
        np.dtype("int64"),
        np.dtype("uint64"),
    )


def freeze(drafts):
    for f in fields(drafts):
        value = getattr(drafts, f.name)
        if isinstance(value, np.ndarray):
            value.flags.writeable = False


@settings(deadline=None)
@given(batches(), st.data())
def test_gathering_forks_and_reorders(drafts, data):
    freeze(drafts)
    rows = rows_of(drafts)
    index = data.draw(st.lists(st.integers(0, len(drafts) - 1), max_size=8)) if len(drafts) else []
    taken = drafts[np.array(index, np.int64)]
    check(taken)
    assert rows_of(taken) == [rows[i] for i in index]
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=len(drafts), max_size=len(drafts))), np.bool_)
    assert rows_of(drafts[mask]) == [r for r, keep in zip(rows, mask, strict=True) if keep]
    assert rows_of(drafts[1:]) == rows[1:]
    assert rows_of(drafts[::-1]) == rows[::-1]
    assert rows_of(drafts) == rows


@settings(deadline=None)
@given(batches(), st.data())
def test_cutting(drafts, data):
    freeze(drafts)
    before = rows_of(drafts)
    n = len(drafts)
    steps = data.draw(
        st.one_of(
            st.integers(0, MOST + 1),
            st.lists(st.integers(0, MOST + 1), min_size=n, max_size=n).map(lambda x: np.array(x, np.int64)),
        )
    )
    cut = drafts.cut(steps)
    check(cut)
    assert cut.steps.tolist() == np.minimum(drafts.steps, steps).tolist()
    for old, new in zip(before, rows_of(cut), strict=True):
        assert new[0] == old[0][: new[3]]
        if new[3] == old[3]:
            assert new == old
        else:
            assert (new[4], new[6]) == (UNFINISHED, -1)
    assert rows_of(cut.cut(steps)) == rows_of(cut)
    assert rows_of(drafts) == before


@settings(deadline=None)
@given(batches(), batches(), batches())
def test_joining(a, b, c):
    for drafts in (a, b, c):
        freeze(drafts)
    joined = a.concat(b, c)
    check(joined)
    assert rows_of(joined) == rows_of(a) + rows_of(b) + rows_of(c)
    assert rows_of(a.concat(b).concat(c)) == rows_of(joined)
    assert rows_of(a.concat()) == rows_of(a)
    assert rows_of(joined[: len(a)]) == rows_of(a)


@settings(deadline=None)
@given(batches(), st.data())
def test_reseeding(drafts, data):
    freeze(drafts)
    n = len(drafts)
    seeds = np.array(data.draw(st.lists(st.integers(0, 2**64 - 1), min_size=n, max_size=n)), np.uint64)
    fresh = drafts.reseed(seeds)
    check(fresh)
    assert np.array_equal(fresh.seeds, seeds)
    assert fresh.texts == drafts.texts
    with pytest.raises(ProgramError, match="seeds for"):
        drafts.reseed(np.zeros(n + 1, np.uint64))


def test_empty_drafts():
    drafts = TextDrafts.empty(Prompt("p", text="x"), SAMPLING, Letters(), [4, 5], np.array([9, 8], np.uint64))
    check(drafts)
    assert (len(drafts), drafts.texts, drafts.done.tolist()) == (2, ("", ""), [False, False])
    assert drafts.prompt_tokens.dtype == np.int32
    assert repr(drafts) == "TextDrafts('p', 2 rows, 0 done, steps [0 0])"


@given(batches())
def test_refusals(drafts):
    with pytest.raises(ProgramError, match="different prompts"):
        drafts.concat(TextDrafts.empty(Prompt("q", text="x"), SAMPLING, Letters(), [], np.zeros(1, np.uint64)))
    if len(drafts):
        with pytest.raises(ProgramError, match=r"drafts\[\[i\]\]"):
            drafts[0]
        with pytest.raises(ProgramError, match="negative"):
            drafts.cut(-1)
