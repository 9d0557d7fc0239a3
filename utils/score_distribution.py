"""Scores as distributions over bins: uncertainty-aware score distribution learning.

Source: Y. Tang et al., Uncertainty-aware score distribution learning for action quality assessment (USDL), CVPR 2020.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

N_BINS = 101
# Standard deviation of the soft label as a share of the score range: 5 of 100 in the paper.
DEVIATION = 0.05


def bin_centres(low: float, high: float, like: Tensor) -> Tensor:
    """(N_BINS,) scores that the bins stand for, evenly spread from `low` to `high`, on the device of `like`."""
    return torch.linspace(low, high, N_BINS, device=like.device, dtype=like.dtype)


def soft_labels(scores: Tensor, low: float, high: float) -> Tensor:
    """(B, N_BINS) Gaussians around the scores (B,), normalised over the bins; a score outside peaks at the end bin."""
    spread = DEVIATION * (high - low)
    distance = (bin_centres(low, high, scores) - scores.reshape(-1, 1).clamp(low, high)) / spread
    return torch.softmax(-distance.square() / 2, dim=1)


class ScoreDistributionLoss:
    """KL(soft label || softmax(outputs)), mean over the batch; outputs (B, N_BINS), scores (B,) in [low, high]."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def __call__(self, outputs: Tensor, scores: Tensor) -> Tensor:
        if outputs.ndim != 2 or outputs.shape[1] != N_BINS or len(outputs) != scores.numel():
            raise ValueError(f"{tuple(outputs.shape)} outputs do not fit {scores.numel()} scores of {N_BINS} bins each")
        labels = soft_labels(scores.to(outputs.dtype), self.low, self.high)
        return F.kl_div(F.log_softmax(outputs, dim=1), labels, reduction="batchmean")


def expected_scores(outputs: Tensor, low: float, high: float) -> Tensor:
    """(B, 1) means of the distributions (B, N_BINS); the paper takes the modes, which tie where means do not."""
    return (torch.softmax(outputs, dim=1) @ bin_centres(low, high, outputs)).unsqueeze(1)
