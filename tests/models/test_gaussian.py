"""The kernel against its formulas, the samples against quadrature, and what rows may depend on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from italic.core.drafts import TextDrafts
from italic.core.errors import ModelError, ProgramError, SpecError, UsageError
from italic.core.keys import Key
from italic.core.prompt import Prompt
from italic.core.protocols import Model, Spent
from italic.core.questions import Extend
from italic.core.sampling import FINISH, Sampling, Until
from italic.core.spec import build_model
from italic.laws import line as on_line
from italic.laws.statistics import chi_square
from italic.models.gaussian import GaussianModel, Mixture, Schedule, load
from italic.models.toy import ToyCodec
from italic.testing import Check, applicable, model_checks

PROMPT = Prompt("p", text="x")
MODEL = load()
LOPSIDED = Mixture(np.array([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0], [-4.0, 0.0, 0.0]]), np.array([0.2, 0.5, 0.3]), 0.7)
UNEVEN = replace(LOPSIDED, std=np.array([0.5, 1.0, 2.0]))
FLOW = Schedule(np.linspace(0, 1, 7), np.linspace(1, 0, 7))


def start(n, model=MODEL, key=1, prompt=PROMPT):
    return model.start(prompt, Key(key).seeds(n), Sampling())


def grow(drafts, until=FINISH, model=MODEL):
    (grown,) = model.extend([Extend(drafts, until)])
    return grown


@dataclass
class Counting:
    """A denoiser that remembers how many rows it was asked about, in each call."""

    inner: Mixture = field(default_factory=lambda: MODEL.denoiser)
    rows: list[int] = field(default_factory=list)

    def __call__(self, x, a, b):
        self.rows.append(len(x))
        return self.inner(x, a, b)


def counting():
    denoiser = Counting()
    return replace(MODEL, denoiser=denoiser), denoiser.rows


def log_density(mixture, x, a, b):
    stds = np.broadcast_to(mixture.std, mixture.weights.shape)
    v = (a * stds) ** 2 + b**2
    far = ((x[:, None, :] - a * mixture.means) ** 2).sum(axis=2)
    d = x.shape[1]
    return np.log((mixture.weights * np.exp(-far / 2 / v) / v ** (d / 2)).sum(axis=1))


@pytest.mark.parametrize("check", applicable(model_checks, MODEL), ids=lambda check: check.__name__)
def test_it_conforms(check: Check) -> None:
    check(MODEL)


@pytest.mark.parametrize("mixture", [LOPSIDED, UNEVEN], ids=["even", "uneven"])
@pytest.mark.parametrize(("a", "b"), [(0.3, 0.9), (1.0, 0.0), (0.0, 1.0), (0.9, 0.2)])
def test_score_and_denoiser(mixture, a, b):
    x = np.random.default_rng(0).normal(size=(50, 3))
    score, clean = mixture.score(x, a, b), mixture(x, a, b)
    for j, h in enumerate(1e-5 * np.eye(3)):
        slope = (log_density(mixture, x + h, a, b) - log_density(mixture, x - h, a, b)) / 2e-5
        assert np.allclose(score[:, j], slope, atol=1e-6)
    assert np.allclose(a * clean, x + b**2 * score, atol=1e-12), "Tweedie's formula"
    if a == 0:
        assert np.allclose(clean, mixture.weights @ mixture.means), "noise says nothing"


def test_the_denoiser_is_the_posterior_mean():
    rng = np.random.default_rng(1)
    mixture, a, b = replace(UNEVEN, means=UNEVEN.means[:, :1]), 0.8, 0.6
    x0 = np.linspace(-30, 30, 20_001)
    density = np.exp(log_density(mixture, x0[:, None], 1.0, 0.0))
    x = rng.normal(size=(20, 1))
    joint = density * np.exp(-((x - a * x0) ** 2) / 2 / b**2)
    assert np.allclose(mixture(x, a, b)[:, 0], (joint @ x0) / joint.sum(axis=1), atol=1e-9)


def test_far_away_it_does_not_overflow():
    x = np.array([[1e6, 0.0, 0.0], [-1e6, 1e6, 1e6]])
    assert np.isfinite(UNEVEN(x, 0.5, 0.5)).all()
    assert np.isfinite(UNEVEN.score(x, 0.5, 0.5)).all()


def test_the_schedule_of_the_benchmark():
    schedule = Schedule.logarithmic(20)
    assert len(schedule.a) == 20
    assert schedule.a[-1] == 1
    assert schedule.b[-1] == 0
    rate = 4 * np.log(20) / 20
    alphas = [1 - 0.02] + [1 - rate * min(0.02 * (1 + rate) ** t, 1) for t in range(2, 20)]
    assert np.allclose(schedule.a[::-1] ** 2, np.cumprod([1.0, *alphas]), rtol=1e-12)
    assert np.allclose(schedule.a**2 + schedule.b**2, 1)


@pytest.mark.parametrize("variance", ["posterior", "reverse"])
def test_the_mean_and_variances_of_the_benchmark(variance):
    schedule = Schedule.logarithmic(20)
    ahead, back, width = schedule.kernel(1.0, variance)
    x = np.random.default_rng(0).normal(scale=3, size=(100, 2))
    for t in range(19):
        a, b = schedule.a[t], schedule.b[t]
        alpha = (a / schedule.a[t + 1]) ** 2
        mean = (x + (1 - alpha) * MODEL.denoiser.score(x, a, b)) / np.sqrt(alpha)
        assert np.allclose(ahead[t] * MODEL.denoiser(x, a, b) + back[t] * x, mean, atol=1e-8)
        posterior = (1 - alpha) * schedule.b[t + 1] ** 2 / b**2
        assert width[t] ** 2 == pytest.approx((1 - alpha) / alpha if variance == "reverse" else posterior, rel=1e-9)


@pytest.mark.parametrize("schedule", [FLOW, Schedule.logarithmic(20)], ids=["flow", "diffusion"])
@pytest.mark.parametrize("eta", [1.0, 0.3])
def test_a_perfect_guess_keeps_the_marginals(schedule, eta):
    """If x0_hat = x0, x_s is a_s x0 + b_s noise again: v^2 b_t^2 + w^2 = b_s^2 and u + v a_t = a_s."""
    ahead, back, width = schedule.kernel(eta, "posterior")
    a, b, later = schedule.a[:-1], schedule.b[:-1], schedule.b[1:]
    assert np.allclose(ahead + back * a, schedule.a[1:], atol=1e-12)
    assert np.allclose((back * b) ** 2 + width**2, later**2, atol=1e-12)
    if eta == 1:  # Markov forward: x_t = (a_t/a_s) x_s + noise, so Cov(x_t, x_s) = (a_t/a_s) b_s^2 given x0
        assert np.allclose(back * b**2, a / schedule.a[1:] * later**2, atol=1e-12)
    else:
        assert np.all(width < schedule.kernel(1.0, "posterior").width + 1e-15)


def quadrature(model, cells=600):
    grid = on_line.midpoints(-15, 15, cells)
    means, stds = model.line_means(grid)
    return grid, on_line.marginals(on_line.Line(grid, on_line.normal(grid), means, stds))[-1]


@pytest.mark.parametrize(
    "model", [MODEL, load(variance="posterior", eta=0.7, separation=2.0, share=0.5, std=0.8)], ids=["default", "other"]
)
def test_samples_follow_the_quadrature(model):
    n = 20_000
    drafts = grow(start(n, model), model=model).drafts
    assert drafts.done.all()
    grid, law = quadrature(model)
    width = grid[1] - grid[0]
    bins = 20  # cells of quadrature in a cell of the test
    counts = np.bincount(((drafts.x[:, 0] + 15) / width / bins).astype(int), minlength=len(grid) // bins)
    assert chi_square(counts, law.reshape(-1, bins).sum(axis=1)).p_value > 1e-3
    shifted = np.roll(law, 2)
    assert chi_square(counts, shifted.reshape(-1, bins).sum(axis=1)).p_value < 1e-3, "the test can tell a shift of .1"
    # The other coordinate is a chain of one Gaussian, whose law is Gaussian with a known variance.
    ahead, back, noise = model.schedule.kernel(model.eta, model.variance)
    variance = 1.0
    for t in range(model.horizon):
        a, b = model.schedule.a[t], model.schedule.b[t]
        shrink = a * model.denoiser.std**2 / (a**2 * model.denoiser.std**2 + b**2)
        variance = (ahead[t] * shrink + back[t]) ** 2 * variance + noise[t] ** 2
    y = drafts.x[:, 1]
    assert np.mean(y**2) == pytest.approx(variance, abs=5 * variance * np.sqrt(2 / n))
    assert abs(np.mean(y)) < 5 * np.sqrt(variance / n)
    assert abs(np.corrcoef(drafts.x.T)[0, 1]) < 5 / np.sqrt(n)


def test_the_start_is_standard_normal_and_every_draw_has_noise_of_its_own():
    first = start(20_000)
    edges = np.linspace(-3, 3, 31)
    law = np.diff(np.concatenate([[0.0], [0.5 * (1 + _erf(e / np.sqrt(2))) for e in edges], [1.0]]))
    for column in first.x.T:
        assert chi_square(np.bincount(np.digitize(column, edges), minlength=32), law).p_value > 1e-3
    ahead, back, width = MODEL.schedule.kernel(1.0, "reverse")
    draws, drafts = [first.x], first
    for t in range(19):
        clean = MODEL.denoiser(drafts.x, MODEL.schedule.a[t], MODEL.schedule.b[t])
        mean, drafts = ahead[t] * clean + back[t] * drafts.x, grow(drafts, Until(steps=1)).drafts
        draws.append((drafts.x - mean) / width[t])
    noise = np.concatenate(draws, axis=1)
    assert noise.shape == (20_000, 40)
    assert len(np.unique(noise[:100])) == 4000
    apart = np.abs(np.corrcoef(noise.T) - np.eye(40))
    assert apart.max() < 6 / np.sqrt(20_000)


def _erf(x):
    from scipy.special import erf

    return float(erf(x))


@pytest.mark.parametrize("denoiser", [MODEL.denoiser, UNEVEN], ids=["benchmark", "uneven"])
def test_a_row_alone_is_the_row_in_a_crowd(denoiser):
    model = GaussianModel("m", denoiser, Schedule.logarithmic(12), d=denoiser.means.shape[1])
    crowd = start(1000, model)
    whole = grow(crowd, model=model).drafts
    previews = model.preview([crowd])[0].drafts
    for i in [0, 1, 7, 500, 997, 998, 999]:
        alone = start(1000, model)[[i]]
        assert np.array_equal(grow(alone, model=model).drafts.x, whole.x[[i]])
        assert np.array_equal(model.preview([alone])[0].drafts.x, previews.x[[i]])
    for size in (2, 3, 5, 9, 17):
        assert np.array_equal(grow(start(1000, model)[:size], model=model).drafts.x, whole.x[:size])


def test_rows_of_many_jobs_at_many_levels():
    whole = grow(start(30)).drafts
    limits = tuple(1 + k % 19 for k in range(30))
    part = grow(start(30), Until(steps=limits)).drafts
    assert part.steps.tolist() == list(limits)
    order = np.random.default_rng(0).permutation(30)
    jobs = [
        Extend(part[rows], until) for rows, until in zip(np.split(order, 3), [FINISH, Until(3), FINISH], strict=True)
    ]
    first, second, third = MODEL.extend(jobs)
    assert np.array_equal(first.drafts.x, whole.x[order[:10]])
    assert np.array_equal(second.drafts.steps, np.minimum(19, part.steps[order[10:20]] + 3))
    assert np.array_equal(grow(second.drafts).drafts.x, whole.x[order[10:20]])
    assert np.array_equal(third.drafts.x, whole.x[order[20:]])
    for job, grown in zip(jobs, (first, second, third), strict=True):
        drawn = int((grown.drafts.steps - job.drafts.steps).sum())
        assert (grown.spent.tokens, grown.spent.positions) == (drawn, drawn)
        assert np.array_equal(grown.drafts.seeds, job.drafts.seeds)
    assert first.spent.calls > 0
    assert second.spent.calls == third.spent.calls == 0
    assert MODEL.extend([]) == []


def test_forks_of_a_row_cost_one_pass():
    model, rows = counting()
    parents = grow(start(4, model), Until(steps=5), model=model).drafts
    del rows[:]
    forks = parents[np.repeat(np.arange(4), 50)].reseed(Key(3).seeds(200))
    one, two = model.extend([Extend(forks[:100], Until(1)), Extend(forks[100:], Until(1))])
    assert rows == [4]
    assert one.spent == Spent(tokens=100, positions=2, calls=1)
    assert two.spent == Spent(tokens=100, positions=2, calls=0)
    assert len(np.unique(one.drafts.x[:, 0])) == 100, "children differ"
    again = model.extend([Extend(forks.reseed(Key(4).seeds(200)), Until(1))])[0]
    assert rows == [4], "more children of the same parents cost nothing"
    assert again.spent == Spent(tokens=200)
    shared = model.extend([Extend(one.drafts[[0, 0]].reseed(Key(k).seeds(2)), Until(1)) for k in (5, 6)])
    assert rows == [4, 1], "two jobs about one row"
    assert [grown.spent.positions for grown in shared] == [1, 0]
    unshared = grow(replace_guesses(forks), Until(1))
    assert np.array_equal(unshared.drafts.x[:100], one.drafts.x), "the cache changes nothing"
    grow(one.drafts[[0]], model=model)
    assert rows == [4, 1] + 12 * [1], "children have guesses of their own"


def replace_guesses(drafts):
    return type(drafts).at(drafts.prompt, drafts.x, drafts.steps, drafts.horizon, drafts.seeds)


def test_a_preview_is_the_next_steps_pass():
    model, rows = counting()
    drafts = grow(start(6, model), Until(steps=(2, 2, 2, 19, 4, 4)), model=model).drafts
    del rows[:]
    (guessed,) = model.preview([drafts])
    assert guessed.spent == Spent(positions=5, calls=2)
    assert sorted(rows) == [2, 3]
    assert guessed.drafts.done.all()
    assert np.array_equal(guessed.drafts.x[3], drafts.x[3]), "a done row is as it is"
    level = model.schedule.a[2], model.schedule.b[2]
    assert np.array_equal(guessed.drafts.x[:3], MODEL.denoiser(drafts.x[:3], *level))
    assert model.preview([drafts[[1, 1, 0]]])[0].spent == Spent()
    grown = grow(drafts, Until(steps=1), model=model)
    assert grown.spent == Spent(tokens=5)
    assert sorted(rows) == [2, 3]
    joined = drafts.concat(drafts[[0]])
    assert model.preview([joined])[0].spent == Spent(), "joining keeps what is known"
    assert model.preview([]) == []


def test_a_denoiser_that_fails_leaves_no_guesses():
    class Failing:
        calls = 0

        def __call__(self, x, a, b):
            self.calls += 1
            return MODEL.denoiser(x, a, b) * (np.nan if self.calls == 1 else 1)

    model = replace(MODEL, denoiser=Failing())
    drafts = start(3, model)
    with pytest.raises(ModelError, match="not finite"):
        model.extend([Extend(drafts)])
    assert np.array_equal(grow(drafts, model=model).drafts.x, grow(start(3)).drafts.x)
    with pytest.raises(ModelError, match=r"shape \(3,\)"):
        grow(start(3), model=replace(MODEL, denoiser=lambda x, a, b: x[:, 0]))


def test_embed_returns_the_latents_or_some_of_them():
    drafts = grow(start(5), Until(steps=3)).drafts
    (whole,) = MODEL.embed([drafts])
    assert np.array_equal(whole.features, drafts.x)
    assert whole.features.dtype == np.float64
    assert not np.shares_memory(whole.features, drafts.x)
    assert whole.spent == Spent()
    second, both = replace(MODEL, features=(1,)), replace(MODEL, features=(1, 0))
    assert np.array_equal(second.embed([drafts, drafts[:2]])[1].features, drafts.x[:2, 1:])
    assert np.array_equal(both.embed([drafts])[0].features, drafts.x[:, ::-1])


def test_drafts_do_not_change():
    drafts = grow(start(5), Until(steps=3)).drafts
    x, steps = drafts.x.copy(), drafts.steps.copy()
    grown = grow(drafts)
    MODEL.preview([drafts])
    assert np.array_equal(drafts.x, x)
    assert np.array_equal(drafts.steps, steps)
    again = grow(grown.drafts)
    assert again.spent == Spent()
    assert np.array_equal(again.drafts.x, grown.drafts.x)


def test_prompts_and_max_tokens_do_not_matter_but_seeds_do():
    other = MODEL.start(Prompt("q", text="y"), Key(1).seeds(4), Sampling(max_tokens=1))
    assert np.array_equal(grow(other).drafts.x, grow(start(4)).drafts.x)
    assert not np.any(start(4, key=2).x == start(4).x)


def test_a_line_needs_a_coordinate_of_its_own():
    means, stds = MODEL.line_means(np.linspace(-3, 3, 7), axis=1)
    assert means.shape == (19, 7)
    assert np.allclose(stds, MODEL.schedule.kernel(1.0, "reverse").width)
    tilted = GaussianModel("m", LOPSIDED, Schedule.logarithmic(), d=3)
    with pytest.raises(UsageError, match="depends on the others"):
        tilted.line_means(np.linspace(-3, 3, 7))


def test_specs():
    assert isinstance(MODEL, Model)
    assert MODEL.horizon == 19
    assert MODEL.offers == {"resume", "latents", "preview", "embed"}
    spec = "gaussian:separation=3.5,share=0.5,std=2.0,steps=30,eta=0.5,variance=posterior"
    model = build_model(spec)
    assert model.name == spec
    assert model.horizon == 29
    assert np.array_equal(build_model("gaussian").denoiser.means, [[5, 0], [-5, 0]])
    rebuilt = build_model(MODEL.name)
    assert np.array_equal(grow(start(3, rebuilt), model=rebuilt).drafts.x, grow(start(3)).drafts.x)


@pytest.mark.parametrize(
    ("spec", "hint"),
    [
        ("gaussian:eta=0,variance=posterior", "eta=1"),
        ("gaussian:eta=0", "eta=1"),
        ("gaussian:eta=nan,variance=posterior", "eta=1"),
        ("gaussian:eta=0.5", "variance=posterior"),
        ("gaussian:eta=3,variance=posterior", "eta=1"),
        ("gaussian:share=1", "share=0.95"),
        ("gaussian:std=0", "positive standard deviations"),
        ("gaussian:separation=inf", "finite means"),
        ("gaussian:steps=1", "steps=20"),
        ("gaussian:steps=5", "steps=20"),
    ],
)
def test_bad_options(spec, hint):
    with pytest.raises(UsageError) as caught:
        build_model(spec)
    assert hint in caught.value.hint


def test_bad_specs():
    for spec in ("gaussian:variance=other", "gaussian:steps=2.5", "gaussian:means=3", "gaussian:path"):
        with pytest.raises(SpecError):
            build_model(spec)


def test_bad_parts():
    mean, weight = np.zeros((2, 2)), np.full(2, 0.5)
    for arguments in [(mean[0], weight), (mean, weight[:1]), (mean, weight, np.ones(3)), (mean, np.array([1.5, -0.5]))]:
        with pytest.raises(UsageError, match="a mixture of"):
            Mixture(*arguments)
    rising, falling = np.array([0.0, 0.5, 1.0]), np.array([1.0, 0.5, 0.0])
    for a, b in [(falling, rising), (rising[:2], falling), (rising[:1], falling[:1]), (rising, falling * np.nan)]:
        with pytest.raises(UsageError, match="from noise to data"):
            Schedule(a, b)
    with pytest.raises(UsageError, match="instead of noise"):
        Schedule.of_alphas([0.9, 0.9])
    with pytest.raises(UsageError, match="alphas"):
        Schedule.of_alphas([0.9, 1.0])
    with pytest.raises(UsageError, match="variance=reverse"):
        replace(MODEL, schedule=FLOW)
    for wrong in [{"features": (2,)}, {"features": (-1,)}, {"d": 0}, {"variance": "other"}]:
        with pytest.raises(UsageError):
            replace(MODEL, **wrong)


@pytest.mark.parametrize(
    "sampling",
    [Sampling(temperature=0.5), Sampling(temperature=0), Sampling(top_k=3), Sampling(top_p=0.5), Sampling(min_p=0.1)],
)
def test_settings_that_latents_do_not_have(sampling):
    for wrong in (sampling, Sampling(stop=("a",))):
        with pytest.raises(UsageError, match="latents have no"):
            MODEL.start(PROMPT, Key(0).seeds(2), wrong)


def test_questions_of_others():
    with pytest.raises(ProgramError, match="entropy"):
        MODEL.extend([Extend(start(2), Until(entropy=1.0))])
    texts = TextDrafts.empty(PROMPT, Sampling(), ToyCodec(2), [], Key(0).seeds(2))
    foreign = [texts, start(2, load(steps=30)), start(2, GaussianModel("m", LOPSIDED, Schedule.logarithmic(), d=3))]
    for drafts in foreign:
        for ask in (lambda d: MODEL.extend([Extend(d)]), lambda d: MODEL.preview([d]), lambda d: MODEL.embed([d])):
            with pytest.raises(ProgramError, match="no drafts of"):
                ask(drafts)
