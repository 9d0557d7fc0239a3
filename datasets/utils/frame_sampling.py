"""Which frames of a recording make a clip: pure functions of counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]


def spread(n: int, m: int) -> Numbers:
    """Positions of m of n frames, evenly spread, both ends included; frames repeat where n < m."""
    return np.rint(np.linspace(0, n - 1, m)).astype(np.int64)


def ending_at(last: int, n: int, first: int = 0, margin: int = 0, end: int | None = None) -> Numbers:
    """The n frames up to and including `last`, with `margin` more on both sides for a temporal shift.

    Frames before `first` or after `end` (default: no limit) are replaced by the first or the last there is.
    """
    return np.clip(np.arange(last - n + 1 - margin, last + 1 + margin), first, end)


def uniform_windows(n: int, n_windows: int, window: int) -> Numbers:
    """`n_windows` stretches of `window` neighbouring frames, evenly spread over n frames, one after the other.

    A recording shorter than a window repeats its last frame.
    """
    starts = np.rint(np.linspace(0, max(n - window, 0), n_windows)).astype(np.int64)
    return np.minimum((starts[:, None] + np.arange(window)).ravel(), n - 1)
