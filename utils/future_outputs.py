"""Outputs of classes that come after a sample's own: keeping them low, and what is stored of them up to date."""

from __future__ import annotations

import torch
from torch import Tensor


def excess(values: Tensor, limits: Tensor, margin: float) -> Tensor:
    """By how much values come closer to their limits than the margin allows: mean over those that do."""
    excesses = (values + margin - limits).relu()
    return excesses.sum() / (excesses > 0).sum().clamp(min=1)


def transplanted(stored: Tensor, answers: Tensor, labels: Tensor, first: int, gamma: float) -> Tensor:
    """Stored outputs, those from class `first` on replaced by present ones; (B, C).

    Where a replaced output would be above the stored one of the sample's own class, all of them are scaled down to
    gamma times that. An own output that is not positive cannot be a share's base; they are then moved down to it.
    """
    new, own = answers[:, first:], stored.gather(1, labels.unsqueeze(1))
    largest = new.amax(1, keepdim=True)
    lowered = torch.where(own > 0, new * (gamma * own / largest), new + own - largest)
    return torch.cat([stored[:, :first], torch.where(largest > own, lowered, new)], dim=1)
