"""Dividing the steps of a session into phases."""

from __future__ import annotations


def phase_starts(n_steps: int, second: float, third: float) -> tuple[int, int]:
    """First steps of the second and the third of three phases.

    They are the nearest to the given shares of the session, moved as little as needed for every phase with a share to
    get at least one step. With fewer than three steps there is no second phase.

    Args:
        n_steps: of the session, counted from 0.
        second, third: shares after which these phases begin, 0 <= second <= third <= 1; a phase without a share (the
            first with second = 0, the second with second = third, the third with third = 1) gets no step.
    """
    if n_steps < 3:
        start = round(second * n_steps)
        return start, start
    start = max(round(second * n_steps), int(second > 0))
    end = max(round(third * n_steps), start + int(third > second))
    end = min(end, n_steps - int(third < 1))
    return min(start, end - int(third > second)), end
