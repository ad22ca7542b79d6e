"""What is drawn follows the law that Transformers' warpers define, exactly."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from transformers import MinPLogitsWarper, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from italic.core.questions import Extend
from italic.core.sampling import Sampling
from italic.models.transformers import TransformersModel
from italic.models.transformers.sampling import draw, entropy, warp
from tiny_decoders import decoder, finish, letters, start

LAWS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.6},
    {"temperature": 1.7},
    {"top_k": 5},
    {"top_k": 1000},
    {"top_p": 0.7},
    {"top_p": 0.05},
    {"min_p": 0.1},
    {"temperature": 0.8, "top_k": 30, "top_p": 0.9, "min_p": 0.02},
]


def warped(scores: torch.Tensor, law: dict[str, Any]) -> torch.Tensor:
    """Transformers' own warpers, in the order of `generate`."""
    steps: list[Any] = []
    if "temperature" in law:
        steps.append(TemperatureLogitsWarper(law["temperature"]))
    if "top_k" in law:
        steps.append(TopKLogitsWarper(law["top_k"]))
    if "top_p" in law:
        steps.append(TopPLogitsWarper(law["top_p"]))
    if "min_p" in law:
        steps.append(MinPLogitsWarper(law["min_p"]))
    for step in steps:
        scores = step(None, scores)
    return scores


@pytest.mark.parametrize("law", LAWS, ids=str)
@pytest.mark.parametrize("ties", [False, True])
def test_the_law_is_that_of_the_warpers(law: dict[str, Any], ties: bool) -> None:
    logits = 3 * torch.randn(40, 137, generator=torch.Generator().manual_seed(1))
    if ties:
        logits = logits.round()
    ours, theirs = warp(logits, Sampling(**law)).softmax(-1), warped(logits, law).softmax(-1)
    assert torch.equal(ours > 0, theirs > 0)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [3, 64, 65, 1000, 50_000])
def test_draws_invert_the_distribution_function(size: int) -> None:
    """The token drawn by u is the first whose cumulative probability exceeds u, in double precision."""
    logits = 4 * torch.randn(64, size, generator=torch.Generator().manual_seed(size))
    logits[:, ::2] = -torch.inf
    u = torch.rand(64, generator=torch.Generator().manual_seed(2), dtype=torch.double)
    drawn = draw(logits, Sampling(), u)
    p = logits.double().softmax(-1)
    upto = p.cumsum(-1).gather(1, drawn.ids[:, None])[:, 0]
    mine = p.gather(1, drawn.ids[:, None])[:, 0]
    assert bool((mine > 0).all())
    assert bool(((upto + 1e-6 >= u) & (upto - mine - 1e-6 <= u)).all())
    torch.testing.assert_close(drawn.logps, mine.log(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("u", [2.0**-54, 1 - 2.0**-53, 1.0])
def test_extreme_uniforms_draw_possible_tokens(u: float) -> None:
    logits = torch.full((1, 200), -torch.inf)
    logits[0, [3, 77, 150]] = torch.tensor([0.0, -1.0, -2.0])
    drawn = draw(logits, Sampling(), torch.tensor([u], dtype=torch.double))
    assert drawn.ids.tolist() == ([3] if u < 0.5 else [150])


def test_entropy_in_nats() -> None:
    logits = torch.stack((torch.zeros(100), torch.full((100,), -torch.inf)))
    logits[1, 7] = 2.0
    assert entropy(logits).tolist() == pytest.approx([np.log(100), 0.0], abs=1e-5)


def exact_law(made: TransformersModel, drafts: Any, law: dict[str, Any], length: int) -> dict[tuple[int, ...], float]:
    """The probability of every response of at most `length` tokens, by enumeration."""
    prompt, size = drafts.prompt_tokens.tolist(), made.network.vocabulary
    law_of: dict[tuple[int, ...], float] = {(): 1.0}
    done: dict[tuple[int, ...], float] = {}
    for _ in range(length):
        rows = torch.tensor([prompt + list(row) for row in law_of])
        with torch.inference_mode():
            logits = made.network.decoder(input_ids=rows, use_cache=False).logits[:, -1].float()
        p = warped(logits, law).double().softmax(-1).numpy()
        longer = {(*row, t): law_of[row] * p[i, t] for i, row in enumerate(law_of) for t in range(size) if p[i, t] > 0}
        done |= {row: q for row, q in longer.items() if row[-1] == 0}
        law_of = {row: q for row, q in longer.items() if row[-1] != 0}
    return done | law_of


def chi_square(counts: dict[tuple[int, ...], int], law: dict[tuple[int, ...], float], n: int) -> float:
    """The p-value of the counts under the law; outcomes expected less than five times are pooled."""
    assert set(counts) <= set(law), "something impossible was drawn"
    common = [row for row, p in law.items() if n * p >= 5]
    seen = [counts.get(row, 0) for row in common] + [n - sum(counts.get(row, 0) for row in common)]
    told = [n * law[row] for row in common] + [n * (1 - sum(law[row] for row in common))]
    statistic = sum((s - t) ** 2 / t for s, t in zip(seen, told, strict=True) if t > 1e-6)
    return float(chi2.sf(statistic, len(common)))


@pytest.mark.parametrize("law", [{}, {"temperature": 0.7}, {"top_k": 3}, {"top_p": 0.8}, {"min_p": 0.2}], ids=str)
def test_responses_follow_the_exact_law(law: dict[str, Any]) -> None:
    made = TransformersModel(decoder(size=6, scale=0.35), letters("abcde"), rows=64, chat="never")
    n = 4000
    drafts = start(made, "abc", n=n, max_tokens=3, **law)
    answer = finish(made, drafts)
    rows, times = np.unique(np.where(np.arange(3) < answer.steps[:, None], answer.ids, -1), axis=0, return_counts=True)
    counts = {tuple(t for t in row if t >= 0): int(k) for row, k in zip(rows.tolist(), times, strict=True)}
    right = chi_square(counts, exact_law(made, drafts, law, 3), n)
    assert right > 1e-3
    if law:
        wrong = exact_law(made, drafts, {}, 3)
        assert chi_square(counts, wrong, n) < 1e-9


def test_rows_with_different_laws_share_a_batch() -> None:
    made = TransformersModel(decoder(size=6, scale=0.35), letters("abcde"), rows=8, chat="never")
    laws = [{"temperature": t, "top_k": k} for t, k in itertools.product((0, 0.5, 1.0), (0, 2))]
    drafts = [start(made, "abc", n=3, max_tokens=5, **law) for law in laws]
    together = [g.drafts.ids.tolist() for g in made.extend([Extend(d) for d in drafts])]
    assert together == [finish(made, d).ids.tolist() for d in drafts]
