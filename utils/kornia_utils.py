"""Transforms of whole batches where Mammoth uses kornia: the transforms of our streams work on batches already."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from utils.augmentations import apply_transform


def to_kornia_transform(transform: Any, apply: bool = True) -> Callable[[Tensor], Tensor]:
    """The same transform for batches (B, C, H, W), on their device where it is one of our streams.

    Args:
        transform: of a stream, or of torchvision, which is applied sample by sample.
        apply: without effect.
    """
    return lambda batch: apply_transform(batch, transform)
