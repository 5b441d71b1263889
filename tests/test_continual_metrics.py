"""Forgetting and transfer of matrices made by hand, and what must hold for any matrix."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nanohydra.continual.metrics import Matrix

R = [  # base, first, second: accuracies after stages 0 to 2
    [0.9, 0.1, 0.2],
    [0.6, 0.8, 0.3],
    [0.5, 0.7, 0.9],
]


def matrix(values: list[list[float]], lower: bool = False) -> Matrix:
    columns = len(values[0])
    return Matrix(np.array(values), tuple(range(columns)), tuple(f"d{j}" for j in range(columns)), lower)


def test_measures_of_a_matrix_made_by_hand() -> None:
    m = matrix(R)
    assert m.average() == pytest.approx((0.5 + 0.7 + 0.9) / 3)
    assert m.worst() == 0.5
    assert m.forgetting_by_domain() == pytest.approx({"d0": 0.4, "d1": 0.1})
    assert m.forgetting() == pytest.approx(0.25)
    assert m.backward_transfer() == pytest.approx(-0.25)
    assert m.zero_shot_transfer() == pytest.approx(0.3 - 0.2)
    assert m.when_trained().tolist() == [0.9, 0.8, 0.9]


def test_transfer_and_intransigence_compare_with_other_runs() -> None:
    m, alone, joint = matrix(R), matrix([[0.9, 0.1, 0.2], [0.1, 0.85, 0.2], [0.2, 0.1, 0.7]]), matrix([[0.9] * 3] * 3)
    assert m.forward_transfer_by_domain(alone) == pytest.approx({"d1": -0.05, "d2": 0.2})
    assert m.forward_transfer(alone) == pytest.approx(0.075)
    assert m.intransigence(joint) == pytest.approx((0.1 + 0.0) / 2)


def test_forgetting_counts_from_the_best_not_from_the_first() -> None:
    m = matrix([[0.5, 0.0, 0.0], [0.8, 0.5, 0.0], [0.6, 0.5, 0.5]])
    assert m.forgetting_by_domain()["d0"] == pytest.approx(0.2)
    assert m.backward_transfer() == pytest.approx((0.1 + 0.0) / 2)


def test_a_loss_is_better_when_lower_and_its_forgetting_is_the_log_of_a_ratio_of_perplexities() -> None:
    m = matrix([[1.0, 4.0], [1.0 + math.log(1.05), 2.0]], lower=True)
    assert math.exp(m.forgetting()) == pytest.approx(1.05)
    assert m.worst() == 2.0
    assert m.backward_transfer() == pytest.approx(-math.log(1.05))


def test_a_single_stage_has_nothing_to_forget_but_the_base() -> None:
    assert matrix([[0.9, 0.1], [0.7, 0.8]]).forgetting() == pytest.approx(0.2)
    only = Matrix(np.array([[0.1], [0.8]]), (1,), ("d",))
    assert math.isnan(only.forgetting())
    assert math.isnan(only.zero_shot_transfer())


def test_columns_must_fit() -> None:
    with pytest.raises(ValueError, match="one column"):
        Matrix(np.zeros((2, 2)), (0,), ("a",))
    with pytest.raises(ValueError, match="stages 0 to 1"):
        Matrix(np.zeros((2, 1)), (2,), ("a",))


values = st.lists(st.lists(st.floats(-10, 10), min_size=4, max_size=4), min_size=4, max_size=4)


@settings(deadline=None)
@given(values)
def test_a_negated_metric_that_is_better_when_lower_says_the_same(rows: list[list[float]]) -> None:
    up, down = matrix(rows), matrix([[-x for x in row] for row in rows], lower=True)
    for name in ("forgetting", "backward_transfer", "zero_shot_transfer"):
        assert getattr(up, name)() == pytest.approx(getattr(down, name)())
    assert up.average() == pytest.approx(-down.average())
    assert up.worst() == pytest.approx(-down.worst())
    assert up.intransigence(up) == pytest.approx(0.0)
    assert up.forward_transfer(up) == pytest.approx(0.0)


@settings(deadline=None)
@given(values)
def test_forgetting_is_at_least_what_backward_transfer_says_was_lost(rows: list[list[float]]) -> None:
    m = matrix(rows)
    assert m.forgetting() >= -m.backward_transfer() - 1e-9


@settings(deadline=None)
@given(values, st.floats(-5, 5))
def test_a_shift_of_the_metric_changes_no_difference(rows: list[list[float]], shift: float) -> None:
    m, moved = matrix(rows), matrix([[x + shift for x in row] for row in rows])
    assert moved.forgetting() == pytest.approx(m.forgetting(), abs=1e-9)
    assert moved.average() == pytest.approx(m.average() + shift)


@settings(deadline=None)
@given(values)
def test_what_never_changes_is_never_forgotten(rows: list[list[float]]) -> None:
    m = matrix([rows[0]] * 4)
    assert m.forgetting() == m.backward_transfer() == m.zero_shot_transfer() == 0.0
