"""Gaussians of features and scores together, one for each session, of fixed size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class JointGaussians(nn.Module):
    """Sessions as normal distributions of [h; y], features and score jointly, to draw pseudo-samples from.

    Let H (n, D) and y (n,) be the centred features and scores of a session and H / sqrt(n-1) = U diag(s) V' its
    singular value decomposition. With w ~ N(0, I) a draw is

        h = mean(h) + V diag(s) w + noise,        y = mean(y) + a'w + r e,        e ~ N(0, 1),
        a = U'y / sqrt(n-1),                      r^2 = var(y) - |a|^2.

    Then cov(h) = V diag(s^2) V' and cov(h, y) = V diag(s) a are the sample covariances H'H / (n-1) and H'y / (n-1), and
    var(y) is the sample variance. Given h, y is normal with mean mean(y) + a'w(h), the linear regression of y on h, and
    variance r^2, its residual variance. No covariance is inverted or factorised, so n may be far below D.

    If only the largest `rank` singular values are kept, the variance that is left out is spread evenly over the
    directions orthogonal to V (probabilistic PCA; Tipping & Bishop, JRSS B 61(3), 1999), and the regression uses V
    alone. The total variance of the features and the variance of the score stay what they are.

    Args:
        n_sessions: how many distributions.
        dim: D.
        rank: singular values kept; D gives the full covariance.
        shrinkage: added to the variance of every feature, independently: the covariance is shrunk towards the identity.
    """

    means: Tensor
    directions: Tensor
    deviations: Tensor
    left_out: Tensor
    score_means: Tensor
    score_slopes: Tensor
    score_residuals: Tensor

    def __init__(self, n_sessions: int, dim: int, rank: int, shrinkage: float = 0.0) -> None:
        super().__init__()
        self.shrinkage = shrinkage
        self.register_buffer("means", torch.zeros(n_sessions, dim))
        self.register_buffer("directions", torch.zeros(n_sessions, rank, dim))
        self.register_buffer("deviations", torch.zeros(n_sessions, rank))
        self.register_buffer("left_out", torch.zeros(n_sessions))
        self.register_buffer("score_means", torch.zeros(n_sessions))
        self.register_buffer("score_slopes", torch.zeros(n_sessions, rank))
        self.register_buffer("score_residuals", torch.zeros(n_sessions))

    @torch.no_grad()
    def fit(self, session: int, features: Tensor, scores: Tensor) -> None:
        """Replace the distribution of a session.

        Args:
            features: (n, D), n at least 1; the covariance of one sample is 0.
            scores: (n,).
        """
        features, scores = features.double(), scores.double()
        dim, rank = features.shape[1], self.directions.shape[1]
        scale = max(len(features) - 1, 1) ** 0.5
        centred = (scores - scores.mean()) / scale
        left, values, right = torch.linalg.svd((features - features.mean(0)) / scale, full_matrices=False)
        # Beyond the rank of the data the vectors on both sides are arbitrary.
        k = min(rank, int((values > 1e-10 * values.max()).sum()))
        slopes = left[:, :k].T @ centred
        self.means[session], self.score_means[session] = features.mean(0), scores.mean()
        for stored, found in ((self.directions, right), (self.deviations, values), (self.score_slopes, slopes)):
            stored[session] = 0
            stored[session, :k] = found[:k].to(stored.dtype)
        self.left_out[session] = (values[k:].square().sum() / max(dim - k, 1)).sqrt()
        self.score_residuals[session] = (centred @ centred - slopes @ slopes).clamp_min(0).sqrt()

    def sample(self, sessions: Sequence[int], n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw from some of the sessions.

        Args:
            n: draws of each.
            generator: CPU generator, so that the same draws are made whatever the device.

        Returns:
            (len(sessions) * n, D) features and (len(sessions) * n,) scores, session by session.
        """
        chosen = torch.as_tensor(list(sessions), device=self.means.device)
        directions = self.directions[chosen]
        rank, dim = directions.shape[1:]
        draws = torch.randn(len(chosen), n, rank + 2 * dim + 1, generator=generator).to(self.means.device)
        inner, around, small, residual = draws.split([rank, dim, dim, 1], dim=2)
        around = around - around @ directions.mT @ directions
        features = (
            self.means[chosen, None]
            + (inner * self.deviations[chosen, None]) @ directions
            + self.left_out[chosen, None, None] * around
            + self.shrinkage**0.5 * small
        )
        scores = (
            self.score_means[chosen, None]
            + (inner @ self.score_slopes[chosen, :, None]).squeeze(2)
            + self.score_residuals[chosen, None] * residual.squeeze(2)
        )
        return features.flatten(0, 1), scores.flatten()
