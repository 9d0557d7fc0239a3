"""Figures from predictions and from the task matrix, against scipy and by hand."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import spearmanr

from utils.metrics import (
    accuracy,
    as_matrix,
    backward_transfer,
    forgetting,
    forgetting_per_task,
    forgetting_published,
    forward_transfer,
    mean_absolute_error,
    nan_mean,
    relative_l2,
    srcc,
)

NAN = float("nan")
# MAGR on MTL-AQA, few-shot, as logged by its authors: percent, rows are sessions, the last of a row is zero-shot.
MAGR_LOG = [
    [92.29, 31.82],
    [91.61, -0.08, 5.34],
    [90.41, 13.09, -3.84, 34.07],
    [90.22, 26.63, -4.44, 30.05, 1.06],
    [90.96, 28.28, 15.05, 30.65, 7.09, 27.13],
    [91.06, 28.36, 39.13, 34.30, 6.49, 30.83],
]
MAGR_UNTRAINED = [1.64, -0.15, 10.68, -4.86, 30.19, -7.10]


# Predictions against truth


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.integers(2, 40).flatmap(lambda n: st.tuples(*[arrays(np.int64, n, elements=st.integers(0, 9))] * 2)))
def test_srcc_equals_scipy_with_ties(pair):
    predicted, truth = pair
    if len(set(truth)) > 1 and len(set(predicted)) > 1:
        assert srcc(predicted, truth) == pytest.approx(spearmanr(predicted, truth).statistic, abs=1e-12)
    elif len(set(truth)) > 1:
        assert srcc(predicted, truth) == 0.0
    else:
        assert math.isnan(srcc(predicted, truth))


def test_srcc_equals_scipy_without_ties():
    rng = np.random.default_rng(0)
    predicted, truth = rng.normal(size=200), rng.normal(size=200)
    assert srcc(predicted, truth) == pytest.approx(spearmanr(predicted, truth).statistic, abs=1e-12)


def test_srcc_worked_example_with_a_tie():
    # Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: covariance 4.5, variances 4.5 and 5.
    assert srcc([1, 2, 2, 3], [10, 20, 30, 40]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))


def test_srcc_sees_only_the_order():
    truth = np.array([3.0, 1.0, 4.0, 1.5, 9.0])
    assert srcc(np.exp(truth), truth) == pytest.approx(1.0)
    assert srcc(-(truth**3), truth) == pytest.approx(-1.0)


def test_srcc_accepts_column_vectors():
    assert srcc(np.array([[1.0], [3.0], [2.0]]), [1.0, 2.0, 3.0]) == pytest.approx(0.5)


def test_srcc_of_constant_predictions_is_zero():
    assert srcc([0.5, 0.5, 0.5], [1, 2, 3]) == 0.0


@pytest.mark.parametrize("truth", [[], [1.0], [2.0, 2.0, 2.0]], ids=["none", "one", "constant"])
def test_srcc_is_undefined_where_the_truth_orders_nothing(truth):
    assert math.isnan(srcc(np.arange(len(truth)), truth))


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("predicted", "truth"), [([1, NAN, 2], [1, 2, 3]), ([1, 2, 3], [1, NAN, 2]), ([NAN] * 3, [1, 2, 3])]
)
def test_srcc_with_an_undefined_value_is_undefined(predicted, truth):
    assert math.isnan(srcc(predicted, truth))


def test_relative_l2_by_hand():
    # Errors 1, 0 and -2 on a range of 10: 100 * (1 + 0 + 4) / 3 / 100.
    assert relative_l2([1, 5, 8], [0, 5, 10], (0, 10)) == pytest.approx(5 / 3)


def test_relative_l2_takes_the_range_of_the_truth_when_none_is_given():
    assert relative_l2([1, 5, 8], [0, 5, 10]) == pytest.approx(relative_l2([1, 5, 8], [0, 5, 10], (0, 10)))
    # The same errors on a grade a hundredth as wide count 10,000 times as much.
    wide, narrow = np.array([0.0, 10.0]), np.array([0.0, 0.1])
    assert relative_l2(narrow + 1, narrow) == pytest.approx(10_000 * relative_l2(wide + 1, wide))


def test_relative_l2_is_invariant_to_the_unit_of_the_scores():
    rng = np.random.default_rng(1)
    predicted, truth = rng.uniform(size=20), rng.uniform(size=20)
    assert relative_l2(3 * predicted + 7, 3 * truth + 7, (7, 10)) == pytest.approx(
        relative_l2(predicted, truth, (0, 1))
    )


def test_relative_l2_is_undefined_without_samples_or_range():
    assert math.isnan(relative_l2([], [], (0, 1)))
    assert math.isnan(relative_l2([1, 2], [3, 3]))
    assert math.isnan(relative_l2([1, 2], [3, 4], (5, 5)))


def test_a_column_of_predictions_is_not_compared_with_all_pairs():
    column, truth = np.array([[1.0], [2.0], [4.0]]), np.array([1.0, 2.0, 3.0])
    assert relative_l2(column, truth, (0, 1)) == pytest.approx(100 / 3)
    assert mean_absolute_error(column, truth) == pytest.approx(1 / 3)


def test_mean_absolute_error_by_hand():
    assert mean_absolute_error([1, 5, 8], [0, 5, 10]) == 1.0
    assert math.isnan(mean_absolute_error([], []))


def test_accuracy_is_in_percent():
    assert accuracy([1, 2, 3, 4], [1, 2, 0, 0]) == 50.0
    assert math.isnan(accuracy([], []))


def test_nan_mean_leaves_out_what_is_undefined():
    assert nan_mean([1.0, NAN, 3.0]) == 2.0
    assert math.isnan(nan_mean([NAN, NAN]))
    assert math.isnan(nan_mean([]))


# The task matrix

SQUARE = [[90.0, 10.0, 5.0], [70.0, 80.0, 20.0], [60.0, 85.0, 75.0]]


def test_as_matrix_fills_ragged_rows_with_nan():
    np.testing.assert_array_equal(as_matrix([[1], [2, 3], [4, 5, 6]]), [[1, NAN, NAN], [2, 3, NAN], [4, 5, 6]])
    assert as_matrix([]).shape == (0, 0)


def test_forgetting_by_hand():
    # Task 0: max(90, 70) - 60; task 1: best before the last session is 80, now 85.
    assert forgetting(SQUARE) == pytest.approx((30 - 5) / 2)


def test_forgetting_ignores_zero_shot_entries():
    assert forgetting([[90, 99], [90, 50], [90, 50]]) == 0.0


def test_forgetting_takes_the_best_of_all_sessions_but_the_last():
    assert forgetting([[50], [80, 10], [60, 10, 10]]) == pytest.approx((20 + 0) / 2)


def test_backward_transfer_by_hand():
    assert backward_transfer(SQUARE) == pytest.approx((60 - 90 + 85 - 80) / 2)


def test_forward_transfer_by_hand():
    assert forward_transfer(SQUARE, [1.0, 2.0, 4.0]) == pytest.approx((10 - 2 + 20 - 4) / 2)


def test_figures_are_the_same_on_lower_triangular_rows():
    ragged = [row[: k + 1] for k, row in enumerate(SQUARE)]
    assert forgetting(ragged) == forgetting(SQUARE)
    assert backward_transfer(ragged) == backward_transfer(SQUARE)
    assert math.isnan(forward_transfer(ragged, [1.0, 2.0, 4.0]))  # nothing was measured before it was learnt


@pytest.mark.parametrize("matrix", [[], [[50.0]]], ids=["no session", "one session"])
def test_figures_are_undefined_with_fewer_than_two_sessions(matrix):
    assert math.isnan(forgetting(matrix))
    assert math.isnan(backward_transfer(matrix))
    assert math.isnan(forward_transfer(matrix, [1.0]))
    assert math.isnan(forgetting_published(matrix))


def test_undefined_entries_are_left_out_of_the_means():
    matrix = [[90, NAN, NAN], [NAN, NAN, 30], [60, 40, 75]]
    assert forgetting(matrix) == 30.0  # task 1 was never measured before the end
    assert backward_transfer(matrix) == -30.0
    assert forward_transfer(matrix, [0, 0, 10]) == 20.0


def test_a_final_entry_that_is_undefined_leaves_its_task_out():
    assert forgetting([[90], [80, 70], [NAN, 65, 50]]) == 5.0
    assert backward_transfer([[90], [80, 70], [NAN, 65, 50]]) == -5.0


def test_computing_figures_leaves_the_matrix_alone():
    matrix = np.array([[90.0, NAN], [NAN, 70.0]])
    before = matrix.copy()
    forgetting(matrix), backward_transfer(matrix), forward_transfer(matrix, [1, 2]), forgetting_published(matrix)
    np.testing.assert_array_equal(matrix, before)


def test_published_figures_of_magr_follow_from_its_log():
    # The log is rounded to 0.01; the unrounded figures are 1.0586, 14.129 and 14.76.
    assert forgetting_published(MAGR_LOG) == pytest.approx(1.0586, abs=0.0015)
    assert forward_transfer(MAGR_LOG, MAGR_UNTRAINED) == pytest.approx(14.13, abs=0.02)
    assert backward_transfer(MAGR_LOG) == pytest.approx(14.76, abs=0.02)


def test_forgetting_of_magrs_log_without_the_quirks_is_negative():
    # Best of rows k..4 minus the last: 1.23, -0.08, -24.08, -3.65, 0.60.
    assert forgetting(MAGR_LOG) == pytest.approx((1.23 - 0.08 - 24.08 - 3.65 + 0.60) / 5, abs=1e-9)


def test_published_forgetting_keeps_the_quirks_of_the_released_code():
    assert forgetting_published([[50, 99], [60, 40]]) == 0.0  # the final row counts as a best
    assert forgetting_published([[50, 9], [50, 20, 70], [50, 20, 30]]) == 0.0
    assert forgetting_published([[50, 90], [50, 20], [50, 20]]) == 35.0  # so does the zero-shot entry
    assert forgetting_published([[50], [50, -20], [50, -60, 0]]) == 30.0  # and a zero where nothing was measured


@settings(max_examples=50, deadline=None, derandomize=True)
@given(arrays(np.float64, (4, 4), elements=st.floats(0, 100)))
def test_published_forgetting_is_never_negative_nor_below_the_clean_one(matrix):
    assert forgetting_published(matrix) >= max(0.0, forgetting(matrix))


def test_forgetting_per_task_counts_no_session_before_the_task_was_learnt():
    matrix = [[50.0, 99.0, NAN], [70.0, 60.0, NAN], [40.0, 65.0, 90.0]]
    np.testing.assert_array_equal(forgetting_per_task(matrix), [30.0, -5.0, NAN])
    assert forgetting(matrix) == 12.5
