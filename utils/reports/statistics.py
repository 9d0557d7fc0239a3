"""What is computed over seeds. Pure functions; a value that is undefined is NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

CONFIDENCE = 0.95
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Estimate:
    """What the seeds of a cell say about a figure.

    Attributes:
        mean: over the defined values; NaN if there are none.
        deviation: standard deviation with n - 1 in the denominator; NaN below two values.
        n: number of defined values.
        low, high: 95 % confidence interval of the mean, Student's t; NaN below two values.
    """

    mean: float
    deviation: float
    n: int
    low: float
    high: float


def estimate(values: Sequence[float | None]) -> Estimate:
    """Mean, deviation and confidence interval; None and NaN are left out of n."""
    defined = np.asarray([value for value in values if is_defined(value)], dtype=np.float64)
    n = len(defined)
    mean = float(defined.mean()) if n else math.nan
    if n < 2:
        return Estimate(mean, math.nan, n, math.nan, math.nan)
    deviation = float(defined.std(ddof=1))
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) * deviation / math.sqrt(n)
    return Estimate(mean, deviation, n, mean - half, mean + half)


def is_defined(value: float | None) -> bool:
    """Whether there is a finite number."""
    return value is not None and math.isfinite(value)


def paired_t_test(first: Mapping[int, float], second: Mapping[int, float]) -> tuple[float, int]:
    """Two-sided paired t-test over the seeds both have.

    Args:
        first, second: seed -> value; undefined values do not count.

    Returns:
        (p, number of shared seeds). p is NaN below two shared seeds and where the differences are all the same but not
        zero; it is 1 where they are all zero.
    """
    shared = sorted(
        seed for seed in first.keys() & second.keys() if is_defined(first[seed]) and is_defined(second[seed])
    )
    if len(shared) < 2:
        return math.nan, len(shared)
    a, b = (np.asarray([values[seed] for seed in shared], dtype=np.float64) for values in (first, second))
    differences = a - b
    # Differences that are equal on paper differ by rounding, and would come out as certain.
    rounding = 1e-12 * max(float(np.abs(a).max()), float(np.abs(b).max()))
    if float(np.ptp(differences)) <= rounding:
        return (1.0 if float(np.abs(differences).max()) <= rounding else math.nan), len(shared)
    t = differences.mean() / (differences.std(ddof=1) / math.sqrt(len(shared)))
    return float(2 * stats.t.sf(abs(t), len(shared) - 1)), len(shared)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979); NaN stays NaN and does not count as a comparison."""
    corrected = [math.nan] * len(p_values)
    tested = sorted((i for i, p in enumerate(p_values) if not math.isnan(p)), key=lambda i: p_values[i])
    largest = 0.0
    for rank, i in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def mean_over_runs(arrays: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Elementwise mean of arrays of one shape; NaN only where every one is NaN."""
    stacked = np.stack(arrays)
    counts = (~np.isnan(stacked)).sum(axis=0)
    return np.where(counts > 0, np.nansum(stacked, axis=0) / np.maximum(counts, 1), np.nan)
