"""MAGR's graph regulariser: angles between features should be arranged as the gaps between their scores.

Source: K. Zhou et al., MAGR, ECCV 2024 (intra- and inter-joint graph regulariser), and MAGR++, arXiv:2510.06842 (row
scaling, temperature, masked diagonal; there the Jensen-Shannon divergence, and the mean of the five parts where this is
their sum).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.divergences import js_divergence, kl_divergence

SCALES = ("minmax", "raw")
DIVERGENCES = ("kl", "symmetric", "js", "released", "mse")
BLOCKS = ("all", "joint", "parts")


def angular_distances(features: Tensor) -> Tensor:
    """Angles in radians between all pairs of rows.

    Args:
        features: (N, d) with d >= 2.

    Returns:
        (N, N). Cosines are clamped away from +-1, so gradients stay finite for parallel and zero rows.

    Raises:
        ValueError: d < 2; the angle between numbers is 0 or pi and has no gradient.
    """
    if features.ndim != 2 or features.shape[1] < 2:
        raise ValueError(f"angles need features of shape (N, d >= 2), not {tuple(features.shape)}")
    directions = F.normalize(features, dim=1, eps=1e-6)
    return torch.acos((directions @ directions.T).clamp(-1 + 1e-6, 1 - 1e-6))


def graph_regularizer(
    features: Tensor,
    scores: Tensor,
    n_old: int,
    scale: str = "minmax",
    divergence: str = "kl",
    temperature: float = 0.2,
    blocks: str = "all",
) -> Tensor:
    """Disagreement between the graph of feature angles and the graph of score gaps.

    Args:
        features: (N, d), replayed ones first.
        scores: (N,).
        n_old: how many rows are replayed; the matrices are cut into old and new blocks there.
        scale: "minmax" scales the rows of both matrices to [0, 1], leaves out the diagonal and compares
            softmax(-row / temperature); "raw" compares softmax(row) of radians and score gaps as they are (the paper).
        divergence: between the two rows' distributions: "kl", mean over rows of KL(angles || gaps); "symmetric", the
            mean of both directions; "js", the Jensen-Shannon divergence; "released", the released code's sum over rows
            in bits; "mse", the mean squared difference of the (scaled) matrices.
        temperature: of "minmax".
        blocks: "joint" compares the whole matrix, "parts" its old-old, old-new, new-old and new-new blocks, "all" both.

    Returns:
        Scalar. Blocks with too few entries a row to say anything count 0: fewer than 2, or with "minmax", which maps
        any two to 0 and 1, fewer than 3.
    """
    scores = scores.reshape(-1)
    angles, gaps = angular_distances(features), (scores[:, None] - scores[None, :]).abs()
    n = len(features)
    everything, old, new = slice(0, n), slice(0, n_old), slice(n_old, n)
    # With nothing replayed the only part is the whole matrix, which must not count twice.
    parts = [(everything, everything)] if blocks in ("all", "joint") or n_old in (0, n) else []
    if blocks in ("all", "parts") and 0 < n_old < n:
        parts += [(old, old), (old, new), (new, old), (new, new)]
    total = features.new_zeros(())
    for rows, columns in parts:
        a, s = angles[rows, columns], gaps[rows, columns]
        n_compared = a.shape[1] - (rows == columns and scale == "minmax")
        if n_compared >= (3 if scale == "minmax" else 2):
            total = total + _compare(a, s, rows == columns, scale, divergence, temperature)
    return total


def _compare(angles: Tensor, gaps: Tensor, square: bool, scale: str, divergence: str, temperature: float) -> Tensor:
    if scale == "minmax":
        if square:
            # Dropping the diagonal entry of every row leaves (N, N - 1); a mask would put infinities in the softmax.
            angles, gaps = _without_diagonal(angles), _without_diagonal(gaps)
        # Rows of nearly equal angles are not blown up: their gradient would be without bound.
        angles, gaps = _row_minmax(angles, smallest_range=1e-2), _row_minmax(gaps, smallest_range=1e-6)
    if divergence == "mse":
        return F.mse_loss(angles, gaps)
    sign = -1 / temperature if scale == "minmax" else 1.0
    log_p, log_q = F.log_softmax(sign * angles, dim=1), F.log_softmax(sign * gaps, dim=1)
    if divergence == "js":
        return js_divergence(log_p, log_q).mean()
    forward = kl_divergence(log_p, log_q)
    if divergence == "kl":
        return forward.mean()
    both = (forward + kl_divergence(log_q, log_p)) / 2
    return both.mean() if divergence == "symmetric" else both.sum() / torch.log(both.new_tensor(2.0))


def _without_diagonal(matrix: Tensor) -> Tensor:
    n = len(matrix)
    return matrix.flatten()[1:].view(n - 1, n + 1)[:, :-1].reshape(n, n - 1)


def _row_minmax(matrix: Tensor, smallest_range: float) -> Tensor:
    low, high = matrix.amin(1, keepdim=True), matrix.amax(1, keepdim=True)
    return (matrix - low) / (high - low).clamp_min(smallest_range)
