"""Figures computed from predictions and from the task matrix R. Pure functions of arrays.

R[t][k] is the metric on task k after session t, in percent, NaN where it was not measured. `r0[k]` is the metric of the
untrained model on task k. Lower-triangular lists of rows, as Mammoth keeps them, are accepted wherever R is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

Matrix = ArrayLike | Sequence[Sequence[float]]


def as_matrix(results: Matrix) -> NDArray[np.float64]:
    """R as a (sessions, tasks) float array; rows of different lengths are filled up with NaN."""
    rows = [np.asarray(row, dtype=np.float64).ravel() for row in results]  # type: ignore[union-attr]
    matrix = np.full((len(rows), max((len(row) for row in rows), default=0)), np.nan)
    for session, row in enumerate(rows):
        matrix[session, : len(row)] = row
    return matrix


def nan_mean(values: ArrayLike) -> float:
    """Mean of the values that are defined; NaN if there are none."""
    numbers = np.asarray(values, dtype=np.float64)
    numbers = numbers[~np.isnan(numbers)]
    return float(numbers.mean()) if numbers.size else float("nan")


# Predictions against truth


def accuracy(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Share of equal entries, in percent; NaN for no sample."""
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    return float(100 * np.mean(predicted == truth)) if truth.size else float("nan")


def recalls(predicted: ArrayLike, truth: ArrayLike, n_classes: int) -> NDArray[np.float64]:
    """(n_classes,) accuracy on the samples of each class, in percent; NaN for a class without samples."""
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    n = np.bincount(truth, minlength=n_classes).astype(np.float64)
    right = np.bincount(truth[predicted == truth], minlength=n_classes)
    return 100 * right / np.where(n > 0, n, np.nan)


def macro_f1(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Mean over the classes that occur, as truth or as prediction, of 2 TP / (2 TP + FP + FN), in percent."""
    predicted, truth = np.asarray(predicted), np.asarray(truth)
    n = 1 + max(predicted.max(initial=-1), truth.max(initial=-1))
    right, said, true = (np.bincount(v, minlength=n) for v in (truth[predicted == truth], predicted, truth))
    occurs = said + true > 0
    return nan_mean(100 * 2 * right[occurs] / (said + true)[occurs])


def shot_accuracies(recall: ArrayLike, counts: ArrayLike) -> dict[str, float]:
    """Means of the accuracies of the classes with many (> 100), a medium number of (20 to 100) and few (< 20) training
    samples; NaN for a group without a class.

    Args:
        recall: (C,) accuracy on each class; NaN where unmeasured, which leaves the class out.
        counts: (C,) training samples.

    Source: Z. Liu et al., Large-scale long-tailed recognition in an open world, CVPR 2019.
    """
    recall, counts = np.asarray(recall, dtype=np.float64), np.asarray(counts)
    groups = {"many": counts > 100, "med": (20 <= counts) & (counts <= 100), "few": counts < 20}
    return {name: nan_mean(recall[group]) for name, group in groups.items()}


def srcc(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Spearman's rank correlation: Pearson correlation of average ranks, in [-1, 1].

    0.0 where all predictions are equal (they order nothing), NaN where the truth is constant or has under two samples
    (there is nothing to order) or a value is NaN.
    """
    predicted, truth = np.asarray(predicted, np.float64).ravel(), np.asarray(truth, np.float64).ravel()
    if truth.size < 2 or np.all(truth == truth[0]) or np.isnan(truth).any() or np.isnan(predicted).any():
        return float("nan")
    if np.all(predicted == predicted[0]):
        return 0.0
    return float(np.corrcoef(rankdata(predicted), rankdata(truth))[0, 1])


def relative_l2(predicted: ArrayLike, truth: ArrayLike, score_range: tuple[float, float] | None = None) -> float:
    """R-l2: 100 times the mean squared error in units of the score range.

    Args:
        score_range: (lowest, highest) score of the data set. None takes the range of `truth` itself, as MAGR's released
            code does, which gives huge values on narrow grades.
    """
    predicted, truth = np.asarray(predicted, np.float64).ravel(), np.asarray(truth, np.float64).ravel()
    if not truth.size:
        return float("nan")
    low, high = score_range if score_range is not None else (truth.min(), truth.max())
    if high <= low:
        return float("nan")
    return float(100 * np.mean(((predicted - truth) / (high - low)) ** 2))


def mean_absolute_error(predicted: ArrayLike, truth: ArrayLike) -> float:
    """Mean of |predicted - truth|, in the unit of the scores; NaN for no sample."""
    predicted, truth = np.asarray(predicted, np.float64).ravel(), np.asarray(truth, np.float64).ravel()
    return float(np.mean(np.abs(predicted - truth))) if truth.size else float("nan")


# The task matrix


def forgetting(results: Matrix) -> float:
    """Mean over tasks k < T-1 of (best R[t][k] for k <= t <= T-2) - R[T-1][k] (Chaudhry et al., ECCV 2018).

    Positive: knowledge was lost. NaN with a single session.
    """
    return nan_mean(forgetting_per_task(results))


def forgetting_per_task(results: Matrix) -> NDArray[np.float64]:
    """(tasks,) what `forgetting` is the mean of; NaN for the last task and where unmeasured."""
    matrix = as_matrix(results)
    last = len(matrix) - 1
    drops = np.full(matrix.shape[1], np.nan)
    for k in range(min(last, matrix.shape[1])):
        measured = matrix[k:last, k]
        measured = measured[~np.isnan(measured)]
        if measured.size:
            drops[k] = measured.max() - matrix[last, k]
    return drops


def backward_transfer(results: Matrix) -> float:
    """BWT: mean over tasks k < T-1 of R[T-1][k] - R[k][k] (Lopez-Paz & Ranzato, NeurIPS 2017)."""
    matrix = as_matrix(results)
    last = len(matrix) - 1
    return nan_mean([matrix[last, k] - matrix[k, k] for k in range(min(last, matrix.shape[1]))])


def forward_transfer(results: Matrix, untrained: ArrayLike) -> float:
    """FWT: mean over tasks k >= 1 of R[k-1][k] - r0[k], with R[k-1][k] measured just before learning task k."""
    matrix, r0 = as_matrix(results), np.asarray(untrained, np.float64).ravel()
    return nan_mean([matrix[k - 1, k] - r0[k] for k in range(1, min(len(matrix), matrix.shape[1], len(r0)))])


def forgetting_published(results: Matrix) -> float:
    """rho_aft as MAGR's released code computes it: the best is taken over ALL rows.

    That includes the final row (so that no term is negative), the zero-shot entry before task k was learnt, and zeros
    where nothing was measured (so that a negative correlation counts as 0).
    """
    matrix = np.nan_to_num(as_matrix(results), nan=0.0)
    last = len(matrix) - 1
    return nan_mean([matrix[:, k].max() - matrix[last, k] for k in range(min(last, matrix.shape[1]))])


# Several data sets: some learnt one after the other, some never


def mtil_figures(results: Matrix) -> dict[str, float]:
    """Transfer, average and last of a stream of data sets: A[i][j] is the accuracy on data set j after learning i.

    transfer is the mean over j >= 1 of the mean of A[i][j] over i < j, what was there before data set j was learnt; NaN
    of a single data set. average is the mean of all A. last is the mean of the last row. Every entry is measured.

    Raises:
        ValueError: A is not square, or has no entry.

    Source: Z. Zheng et al., Preventing zero-shot transfer degradation in continual learning of vision-language models,
    ICCV 2023.
    """
    matrix = as_matrix(results)
    if not matrix.size or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"one row is needed for each data set, one column too, not {matrix.shape}")
    before = [matrix[:j, j].mean() for j in range(1, len(matrix))]
    return {"transfer": nan_mean(before), "average": float(matrix.mean()), "last": float(matrix[-1].mean())}


def target_and_novel(accuracies: ArrayLike, is_held_out: ArrayLike) -> tuple[float, float]:
    """Unweighted means over the data sets of the stream and over the held-out ones; NaN where there are none.

    Args:
        accuracies: (n,) one for each data set.
        is_held_out: (n,) whether it is never trained on.
    """
    values, held_out = np.asarray(accuracies, dtype=np.float64), np.asarray(is_held_out, dtype=bool)
    return nan_mean(values[~held_out]), nan_mean(values[held_out])
