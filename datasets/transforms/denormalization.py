"""The inverse of a normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class DeNormalize:
    """x * std + mean for each channel, of an image (C, H, W) or a batch (B, C, H, W)."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean, self.std = torch.as_tensor(mean).float(), torch.as_tensor(std).float()

    def __call__(self, x: Tensor) -> Tensor:
        std, mean = (values.to(x.device).view(-1, 1, 1) for values in (self.std, self.mean))
        return x * std + mean
