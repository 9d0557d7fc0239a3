"""Losses over labels that may not be all there are."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def loss_with_other(logits: Tensor, labels: Tensor, other: Tensor, beta: float) -> Tensor:
    """Cross-entropy among the labels and "other", plus beta times that of "other" where the true label is left out.

    main = -log e^{z_y} / (sum_k e^{z_k} + e^b), aux = -log e^b / (sum_{k != y} e^{z_k} + e^b), mean over the batch of
    main + beta aux: the true label is to win, and where it is absent, none of the others.

    Args:
        logits: (B, n) of the labels.
        labels: (B,) int64 columns of the true ones.
        other: scalar, the logit b of "other" for every sample.
        beta: weight of the second term.

    Source: Z. Zhu, Y. Gong, D. Hoiem, Anytime continual learning for open vocabulary classification, ECCV 2024.
    """
    everything = torch.cat([logits, other.expand(len(logits), 1)], dim=1)
    main = F.cross_entropy(everything, labels)
    without = everything.scatter(1, labels[:, None], -math.inf)
    return main + beta * F.cross_entropy(without, torch.full_like(labels, logits.shape[1]))
