"""Regressors that turn features into one score."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from utils.score_distribution import N_BINS

HEADS = ("linear", "mlp", "gaussian", "usdl")


def score_head(kind: str, feature_dim: int, sample: str = "train") -> nn.Module:
    """A regressor (B, feature_dim) -> (B, 1), or -> (B, N_BINS) with "usdl".

    Args:
        kind: "linear"; "mlp", MAGR's sizes feature_dim-256-128-1 with ReLU; "gaussian", the same with a second output,
            the log variance, from which scores are sampled; "usdl", the same with one logit for each bin of a score
            distribution (utils/score_distribution.py).
        sample: gaussian only: "train" samples in training mode, "always" also in evaluation as MAGR's released code.

    Raises:
        ValueError: unknown kind.
    """
    if kind == "linear":
        return nn.Linear(feature_dim, 1)
    if kind == "mlp":
        return _mlp(feature_dim, 1)
    if kind == "gaussian":
        return GaussianScore(feature_dim, sample)
    if kind == "usdl":
        return _mlp(feature_dim, N_BINS)
    raise ValueError(f"score head must be one of {', '.join(HEADS)}, not {kind!r}")


def _mlp(feature_dim: int, n_outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(feature_dim, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, n_outputs)
    )


class GaussianScore(nn.Module):
    """mu + exp(log_variance / 2) * noise while sampling, mu otherwise (MAGR, Zhou et al., ECCV 2024)."""

    def __init__(self, feature_dim: int, sample: str) -> None:
        super().__init__()
        self.sample = sample
        self.layers = _mlp(feature_dim, 2)

    def forward(self, features: Tensor) -> Tensor:
        mean, log_variance = self.layers(features).chunk(2, dim=1)
        if self.training or self.sample == "always":
            return mean + torch.exp(log_variance / 2) * torch.randn_like(mean)
        return mean
