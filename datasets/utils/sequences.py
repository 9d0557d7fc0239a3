"""Bringing recordings of any length to a fixed number of time steps."""

from __future__ import annotations

import numpy as np


def average_bins(recording: np.ndarray, n_steps: int) -> np.ndarray:
    """Mean over `n_steps` bins of (nearly) equal length; a recording shorter than that repeats samples.

    Args:
        recording: (T, C) with T >= 1.

    Returns:
        (n_steps, C) float64.

    Raises:
        ValueError: an empty recording.
    """
    length = len(recording)
    if not length:
        raise ValueError("an empty recording cannot be resampled")
    starts = np.arange(n_steps) * length // n_steps
    ends = np.maximum((np.arange(n_steps) + 1) * length // n_steps, starts + 1)
    cumulated = np.concatenate([np.zeros((1, recording.shape[1])), np.cumsum(recording, axis=0, dtype=np.float64)])
    return (cumulated[ends] - cumulated[starts]) / (ends - starts)[:, None]
