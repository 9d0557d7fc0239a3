"""Triplets of samples that are ordered by their scores."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def score_triplet_loss(features: Tensor, scores: Tensor, margin: float) -> Tensor:
    """Of two samples, the one whose score is nearer to a third's should have the nearer features.

    Over all triplets (i, j, k) of different samples with |y_i - y_j| < |y_i - y_k|: the mean of
    max(0, d_ij - d_ik + margin), where d is the squared distance between directions, 2 - 2 cos, from 0 to 4.

    Args:
        features: (B, d).
        scores: (B,).
        margin: by how much the nearer one should be nearer.

    Returns:
        Scalar; 0 if there is no such triplet.
    """
    scores = scores.reshape(-1)
    directions = F.normalize(features, dim=1, eps=1e-6)
    distances = 2 - 2 * directions @ directions.T
    gaps = (scores[:, None] - scores[None, :]).abs()
    others = gaps.new_ones(len(scores), len(scores)).fill_diagonal_(0).bool()
    ordered = (gaps[:, :, None] < gaps[:, None, :]) & others[:, :, None]
    excess = (distances[:, :, None] - distances[:, None, :] + margin).relu()
    return (excess * ordered).sum() / ordered.sum().clamp_min(1)
