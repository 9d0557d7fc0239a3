"""Figures over classes, against scikit-learn and by hand."""

import json
import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from utils.evaluate import Predictions, class_figures
from utils.metrics import macro_f1, recalls, shot_accuracies


@pytest.mark.parametrize("seed", range(5))
def test_macro_f1_and_balanced_accuracy_are_scikit_learns(seed):
    draw = np.random.default_rng(seed)
    truth = draw.choice(8, 200, p=np.array([64, 32, 16, 8, 4, 2, 1, 1]) / 128)
    predicted = np.where(draw.random(200) < 0.6, truth, draw.integers(0, 9, 200))
    assert macro_f1(predicted, truth) == pytest.approx(100 * f1_score(truth, predicted, average="macro"))
    expected = 100 * balanced_accuracy_score(truth, predicted)
    assert np.nanmean(recalls(predicted, truth, 9)) == pytest.approx(expected)


def test_recalls_by_hand():
    np.testing.assert_array_equal(recalls([0, 1, 1, 0], [0, 0, 1, 3], 4), [50, 100, math.nan, 0])
    assert math.isnan(macro_f1(np.array([], int), np.array([], int)))


def test_groups_begin_above_100_and_below_20_and_an_empty_one_is_undefined():
    found = shot_accuracies([10, 20, 40, 80, 60], [101, 100, 20, 19, 500])
    assert found == {"many": 35.0, "med": 30.0, "few": 80.0}
    empty = shot_accuracies([10, math.nan], [500, 50])
    assert empty["many"] == 10
    assert math.isnan(empty["med"])
    assert math.isnan(empty["few"])


def figures(counts):
    outputs = np.eye(4, dtype=np.float32)
    # Class 0 always right, class 1 never, class 2 in half of its samples; class 3 is not yet seen.
    first = Predictions(0, outputs[[0, 0, 0]], np.array([0, 0, 1]), (0, 2), counts)
    second = Predictions(1, outputs[[2, 0]], np.array([2, 2]), (2, 3), counts)
    return class_figures([first, second], 3)


def test_session_figures_are_over_classes_whatever_their_task():
    found = figures(np.array([300, 50, 5, 5]))
    assert found["acc_all"] == pytest.approx(60)
    assert found["acc_bal"] == pytest.approx(50)
    assert found["acc_worst"] == 0
    assert (found["acc_many"], found["acc_med"], found["acc_few"], found["acc_gap"]) == (100, 0, 50, 50)
    assert found["acc_per_class"] == {"0": 100, "1": 0, "2": 50}
    assert found["macro_f1"] == pytest.approx(100 * (4 / 6 + 0 + 2 / 3) / 3)
    assert found["class_il"] == [pytest.approx(200 / 3), 50]


def test_groups_are_only_reported_where_the_data_has_a_long_tail():
    assert math.isnan(figures(np.array([300, 50, 50, 5]))["acc_gap"])
    assert {"acc_many", "acc_med", "acc_few", "acc_gap", "acc_per_class"} & figures(None).keys() == set()
    assert {"acc_all", "acc_bal", "acc_worst", "macro_f1"} <= figures(None).keys()


def test_average_incremental_accuracy_is_the_mean_over_sessions_of_that_on_all_samples_seen(launch):
    run = launch("--model sgd --dataset seq-digits --n_tasks 3 --n_epochs 1 --max_samples_per_class 20")
    rows = [json.loads(row) for row in run.metrics.splitlines()]
    sizes = [task["test"] for task in rows[0]["tasks"]]
    sessions = [row for row in rows if row["event"] == "session"]
    after = [np.average(row["class_il"], weights=sizes[: len(row["class_il"])]) for row in sessions]
    assert [row["acc_all"] for row in sessions] == pytest.approx(after)
    assert run.summary["acc_incremental"] == pytest.approx(np.mean(after))


def test_average_incremental_accuracy_is_undefined_where_sessions_were_left_out(launch):
    line = "--model sgd --dataset seq-digits --n_tasks 3 --n_epochs 1 --max_samples_per_class 20"
    first = launch(f"{line} --stop_after 1 --savecheck last")
    weights = next(first.path.rglob("*.pt"))
    run = launch(f"{line} --start_from 1 --loadcheck {weights}")
    assert run.code == 0
    assert run.summary["acc_all"] > 0
    assert run.summary["acc_incremental"] is None
