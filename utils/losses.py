"""Losses that more than one method or stream uses."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def score_mse(outputs: Tensor, scores: Tensor) -> Tensor:
    """Mean squared error between predicted and true scores.

    Args:
        outputs: (B,) or (B, 1).
        scores: (B,).

    Raises:
        ValueError: the sizes differ; broadcasting (B, 1) against (B,) would silently compare all pairs.
    """
    if outputs.numel() != scores.numel():
        raise ValueError(f"score_mse: outputs {tuple(outputs.shape)} and scores {tuple(scores.shape)} do not pair up")
    return F.mse_loss(outputs.reshape(-1), scores.reshape(-1).to(outputs.dtype))
