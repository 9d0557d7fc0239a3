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


def softened_cross_entropy(outputs: Tensor, targets: Tensor, temperature: float = 2.0) -> Tensor:
    """Knowledge distillation as in LwF: -sum softmax(targets / T) log softmax(outputs / T), mean over the batch.

    There is no factor T^2, so the gradient with respect to the outputs is (softmax(outputs / T) - softmax(targets / T))
    / T. The smallest value is the entropy of the softened targets, not 0.

    Args:
        outputs, targets: (B, K) logits, K at least 2: over a single output every softmax is 1.
        temperature: T.

    Source: Z. Li, D. Hoiem, Learning without forgetting, TPAMI 40(12), 2018, section 3.
    """
    return F.cross_entropy(outputs / temperature, F.softmax(targets.detach() / temperature, dim=1))


def teacher_bounded_loss(outputs: Tensor, teacher: Tensor, scores: Tensor, margin: float = 0.0) -> Tensor:
    """max(0, (g - s)^2 - (g' - s)^2 + margin), mean over the batch: no worse than the teacher is good enough.

    Args:
        outputs, teacher: (B,) or (B, 1) scores g of the network and g' of the teacher.
        scores: (B,) true scores s.
        margin: by how much the squared error must be below the teacher's.

    Source: after G. Chen et al., Learning efficient object detection models with knowledge distillation, NeurIPS 2017.
    """
    error, bound = ((values.reshape(-1) - scores.to(values.dtype)).square() for values in (outputs, teacher.detach()))
    return F.relu(error - bound + margin).mean()
