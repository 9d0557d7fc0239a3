"""Multinomial logistic regression by steps that need no rate."""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_RIDGE = 1e-8


def improved(
    weights: Tensor, towards: Tensor, features: Tensor, labels: Tensor, ridge: float, steps: int = 1
) -> tuple[Tensor, float]:
    """Weights W that lower the loss L(W), the cross-entropy of softmax(x W') plus r / 2 |W - W_0|^2.

    r is `ridge` times the mean variance of a feature, so that the same ridge serves embeddings that lie far apart and
    such that lie close together; it is at least 1e-8, since a lone sample has no variance. A step is Newton's with
    X'X / 2B + r I in place of the curvature, an upper bound of it (whatever the softmax, diag(p) - pp' is at most
    I / 2), so that no step ever raises the loss. The least loss is at one W only. A step on a part of the samples with
    W_0 = W is one of stochastic gradient descent, whose rate is at most 1 / r.

    Args:
        weights: (n, E) W to begin with.
        towards: (n, E) W_0.
        features: (B, E) x, at least one.
        labels: (B,) int64 rows of W.
        ridge: above 0.
        steps: how many.

    Returns:
        (n, E) the new weights and the cross-entropy of those to begin with.

    Source: D. Böhning, Multinomial logistic regression algorithm, Annals of the Institute of Statistical Mathematics
    44(1), 1992.
    """
    # In single precision a ridge far below the largest eigenvalue would be lost.
    wide = features.double()
    r = float((ridge * wide.var(0, correction=0).mean()).clamp_min(LEAST_RIDGE))
    curvature = wide.T @ wide / (2 * len(wide))
    curvature.diagonal().add_(r)
    factor = torch.linalg.cholesky(curvature)
    rows, first = torch.arange(len(labels), device=labels.device), 0.0
    for step in range(steps):
        log_p = (features @ weights.T).log_softmax(1)
        if step == 0:
            first = float(-log_p[rows, labels].mean())
        error = log_p.exp()
        error[rows, labels] -= 1
        gradient = error.T @ features / len(features) + r * (weights - towards)
        weights = weights - torch.cholesky_solve(gradient.T.double(), factor).T.to(weights.dtype)
    return weights, first
