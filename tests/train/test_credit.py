from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from italic.train.tuning.credit import BEFORE, DOUBT, MEMORY, Credit, Rolled, decays, foretold, parts
from two_tokens import errors, exact, gradients, table, worth_of
from two_tokens import others as others_of

NAN = float("nan")
HALF = np.full(4, 0.5)


def rolled(worth, steps, begun):
    """begun: [B, J], what beginnings would be worth; their quantiles are set to that, too."""
    worth, begun = np.asarray(worth, dtype=float), np.asarray(begun, dtype=float)
    return Rolled(worth, worth, worth, np.asarray(steps), np.stack([begun, begun], axis=2))


def some(seed, rows=64, cuts=3):
    rng = np.random.default_rng(seed)
    steps = rng.integers(1, 4 * cuts + 1, rows)
    begun = np.where(steps[:, None] > 4 * np.arange(1, cuts + 1), rng.normal(size=(rows, cuts)), NAN)
    told = np.nan_to_num(begun).sum(axis=1)
    quantiles = np.clip(begun / 5 + 0.5, 0, 1)
    worth = told + rng.normal(size=rows)
    return Rolled(worth, worth, worth, steps, np.stack([begun, quantiles], axis=2)), rng.normal(size=rows)


def test_where_responses_are_cut() -> None:
    assert parts(32) == (4, 8, 12, 16, 20, 24, 28)
    assert parts(30) == (4, 8, 12, 16, 20, 24, 28)
    assert parts(5) == (1, 2, 3, 4)
    assert parts(1) == ()


def test_before_it_knows_anything_as_much_is_expected_as_the_others_are_worth() -> None:
    found, others = some(0)
    expected = Credit((4, 8, 12), HALF).expected(found, others)
    for row in range(64):
        going = 1 + int((found.steps[row] > np.array([4, 8, 12])).sum())
        assert expected[row, :going] == pytest.approx(others[row])
        assert expected[row, going:] == pytest.approx(found.worth[row])


def test_what_is_expected_is_a_ridge_regression_on_the_steps_before() -> None:
    """By the normal equations of all steps, older ones weighing less."""
    credit, before = Credit((4, 8, 12), np.ones(4)), [some(seed) for seed in range(3)]
    for found, others in before:
        credit.learn(found, others)
    now, told = some(9)
    for j, start in enumerate((-1, 4, 8, 12)):
        left, right = DOUBT * np.eye(4), DOUBT * BEFORE
        for age, (found, others) in enumerate(reversed(before)):
            here = found.steps > start
            begun = found.begun[here, j - 1] if j else np.zeros((here.sum(), 2))
            rows = np.column_stack([np.ones(here.sum()), others[here], begun])
            left, right = left + MEMORY**age * rows.T @ rows, right + MEMORY**age * rows.T @ found.worth[here]
        here = now.steps > start
        begun = now.begun[here, j - 1] if j else np.zeros((here.sum(), 2))
        wanted = np.column_stack([np.ones(here.sum()), told[here], begun]) @ np.linalg.solve(left, right)
        assert credit.expected(now, told)[here, j] == pytest.approx(wanted)


@pytest.mark.parametrize("weights", [[0.0] * 4, [0.6] * 4, [1.0, 0.3, 0.7, 0.1], [1.0] * 4], ids=str)
def test_credit_is_the_decayed_sum_of_what_is_added(weights: list[float]) -> None:
    credit = Credit((4, 8, 12), weights)
    credit.learn(*some(1))
    found, others = some(2)
    expected, assigned = credit.expected(found, others), credit.assign(found, others)
    for j in range(4):
        added = [expected[:, k + 1] - expected[:, k] for k in range(j, 4)]
        assert assigned[:, j] == pytest.approx(sum(np.prod(weights[j : j + k]) * a for k, a in enumerate(added)))
    if weights == [1.0] * 4:
        assert assigned == pytest.approx(found.worth[:, None] - expected[:, :-1])


def test_tokens_have_the_credit_of_their_part() -> None:
    credit = Credit((2, 3), np.ones(3))
    assert credit.of_tokens(np.array([[1.0, 2.0, 3.0]]), 5).tolist() == [[1.0, 1.0, 2.0, 3.0, 3.0]]


def test_what_is_missing_gives_no_credit_and_teaches_nothing() -> None:
    found = rolled([1.0, NAN, 2.0], [9, 9, 9], [[0.5, 0.7], [0.1, 0.2], [NAN, 0.3]])
    credit, others = Credit((3, 6), np.ones(3)), np.array([0.5, 0.5, NAN])
    assert credit.assign(found, others)[1:].tolist() == [[0.0] * 3] * 2
    credit.learn(found, others)
    alone = Credit((3, 6), np.ones(3))
    alone.learn(rolled([1.0], [9], [[0.5, 0.7]]), np.array([0.5]))
    assert np.array_equal(credit.squares, alone.squares)
    found = rolled([1.0, 2.0], [9, 9], [[0.5, 0.7], [NAN, 0.3]])
    expected = credit.expected(found, np.array([0.5, 0.6]))
    assert expected[1, 1] == expected[1, 0]


def test_what_is_known_outlives_a_checkpoint() -> None:
    credit, other = Credit((4, 8, 12), HALF), Credit((4, 8, 12), HALF)
    credit.learn(*some(1))
    other.restore(json.loads(json.dumps(credit.state())))
    assert np.array_equal(credit.assign(*some(2)), other.assign(*some(2)))


def test_what_beginnings_foretell() -> None:
    """In two cuts: nothing and then half; nothing and then all; nothing at all."""
    rng = np.random.default_rng(0)
    worth, noise, steps, others = rng.normal(size=4000), rng.normal(size=(4000, 2)), np.full(4000, 9), np.zeros(4000)
    half = rolled(worth + noise[:, 1], steps, np.column_stack([noise[:, 0], worth]))
    assert foretold((3, 6), half, others) == pytest.approx([0, 0, 0.5, 1], abs=0.04)
    whole = rolled(worth, steps, np.column_stack([noise[:, 0], worth]))
    assert foretold((3, 6), whole, others) == pytest.approx([0, 0, 1, 1], abs=0.01)
    nothing = rolled(worth, steps, noise)
    assert foretold((3, 6), nothing, others) == pytest.approx([0, 0, 0, 1], abs=0.01)


def test_what_has_ended_is_known() -> None:
    worth = np.random.default_rng(1).normal(size=2000)
    steps = np.where(np.arange(2000) % 2, 9, 2)
    begun = np.where(steps[:, None] > 2, 0.0, np.full((2000, 2), NAN))
    assert foretold((3, 6), rolled(worth, steps, begun), np.zeros(2000)) == pytest.approx([0, 0.5, 0.5, 1], abs=0.03)


def test_where_nothing_is_left_to_know_nothing_is_foretold() -> None:
    same = rolled(np.zeros(5), np.full(5, 9), np.zeros((5, 2)))
    assert foretold((3, 6), same, np.zeros(5)).tolist() == [0, 0, 0, 1]
    unknown = rolled(np.full(5, NAN), np.full(5, 9), np.zeros((5, 2)))
    assert foretold((3, 6), unknown, np.zeros(5)).tolist() == [0, 0, 0, 1]


def test_lambda_is_below_1_where_a_part_reveals_something() -> None:
    """Three parts, an even share being a third: one reveals nothing, one half of that, one more than that."""
    assert decays(np.array([0, 0, 1 / 6, 1]), 0.6) == pytest.approx([1, 0.8, 0.6])
    assert decays(np.array([0, -0.01, 0.5, 1]), 0.0) == pytest.approx([1, 0, 0])
    assert decays(np.array([0, 0.3, 0.6, 1]), 1.0).tolist() == [1, 1, 1]


def by_parts(told, decay):
    """Advantages of two parts of a token each. told: [3], what a first token is said to be worth."""
    credit = Credit((1,), [decay, 1.0])
    credit.squares[1], credit.products[1] = 1e9 * np.eye(4), 1e9 * np.array([0, 0, 1.0, 0])

    def advantages(value, first):
        going, mean = first.numpy() > 0, others_of(value).double().numpy()
        begun = np.where(going, told[first.numpy()], NAN)[:, None]
        responses = rolled(value.double().numpy(), 1 + going, begun)
        return torch.from_numpy(credit.of_tokens(credit.assign(responses, mean), 2)).float()

    return gradients(table(1), table(2), worth_of(3), advantages)


def right():
    """What a first token is worth in the mean, under the policy."""
    return (table(1)[1].softmax(1) * worth_of(3)).sum(1).double().numpy()


@pytest.mark.parametrize(
    ("told", "decay", "unbiased"),
    [
        ("right", 1.0, True),
        ("wrong", 1.0, True),
        ("right", 0.0, True),
        ("wrong", 0.0, False),
    ],
)
def test_the_gradient_is_right_for_lambda_1_or_for_right_expectations(told: str, decay: float, unbiased: bool) -> None:
    found = by_parts(right() if told == "right" else right()[[1, 2, 0]] + 0.5, decay)
    off = errors(found, exact(table(1), table(2), worth_of(3))).max()
    assert off < 4 if unbiased else off > 10


def test_right_expectations_take_noise_away() -> None:
    whole, parts_ = by_parts(np.zeros(3), 1.0), by_parts(right(), 0.0)
    assert parts_.var(axis=0).sum() < 0.8 * whole.var(axis=0).sum()
