"""Images as people have them, as batches of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from utils.errors import UsageError

CHANNELS = (1, 3)


def raw_batches(images: Any) -> list[Tensor]:
    """Batches (B, C, H, W), uint8 or float32 in [0, 1], of images that follow one another and have the same size.

    Args:
        images: one image, or many in a list or along a first axis. An image is a PIL image; a tensor (C, H, W); or an
            array (H, W), (H, W, C) or (C, H, W). C is 1 or 3; pixels are uint8, or floats in [0, 1].

    Raises:
        UsageError: there is none, or one is none of these.
    """
    many = images
    if isinstance(images, Image.Image) or (isinstance(images, np.ndarray | Tensor) and images.ndim < 4):
        is_stack = isinstance(images, np.ndarray | Tensor) and images.ndim == 3 and not _has_channels(images)
        many = images if is_stack else [images]
    if not isinstance(many, Sequence | np.ndarray | Tensor) or isinstance(many, str | bytes):
        raise UsageError(f"images must be tensors, arrays, PIL images or a list of them, not {type(images).__name__}")
    if not len(many):
        raise UsageError("no images: give at least one")
    if isinstance(many, Tensor) and many.ndim == 4:
        return [_checked(many)]
    tensors = [_image(image, f"image {i + 1} of {len(many)}") for i, image in enumerate(many)]
    return [torch.stack(list(part)) for _, part in groupby(tensors, key=lambda image: (image.shape, image.dtype))]


def centre_square(batch: Tensor) -> Tensor:
    """The middle (B, C, S, S) of images (B, C, H, W), S the shorter side; a view."""
    height, width = batch.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return batch[..., top : top + side, left : left + side]


def _image(image: Any, name: str) -> Tensor:
    """(C, H, W)."""
    if isinstance(image, Image.Image):
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
    if not isinstance(image, np.ndarray | Tensor):
        raise UsageError(f"{name} is a {type(image).__name__}, not a tensor, an array or a PIL image")
    tensor = torch.from_numpy(np.ascontiguousarray(image)) if isinstance(image, np.ndarray) else image
    if isinstance(image, np.ndarray) and tensor.ndim == 3 and tensor.shape[2] in CHANNELS:
        tensor = tensor.permute(2, 0, 1)
    if tensor.ndim == 2:
        tensor = tensor[None]
    return _checked(tensor[None], name)[0]


def _checked(batch: Tensor, name: str = "a batch of images") -> Tensor:
    shape = tuple(batch.shape if name == "a batch of images" else batch.shape[1:])
    if batch.ndim != 4 or batch.shape[1] not in CHANNELS or not batch.shape[2] * batch.shape[3]:
        raise UsageError(f"{name} has the shape {shape}; an image is (C, H, W) with 1 or 3 channels")
    if batch.dtype == torch.uint8:
        return batch
    if not batch.is_floating_point():
        raise UsageError(f"{name} has pixels of type {batch.dtype}; give uint8, or floats between 0 and 1")
    if not ((batch >= 0) & (batch <= 1)).all():
        raise UsageError(
            f"{name} has floats that are not between 0 and 1, or are no numbers; give uint8 for pixels up to 255"
        )
    return batch.float()


def _has_channels(image: np.ndarray | Tensor) -> bool:
    return image.shape[0] in CHANNELS or image.shape[-1] in CHANNELS
