"""What backbones for images share: which shapes they take, which stem they begin with."""

from __future__ import annotations

from argparse import ArgumentTypeError
from typing import Annotated

from torch import Tensor

from utils.errors import TrainingError

STEMS = ("small", "imagenet")


def stem_name(text: str) -> str:
    """One of STEMS."""
    if text not in STEMS:
        raise ArgumentTypeError(f"'{text}' is neither {' nor '.join(STEMS)}")
    return text


Stem = Annotated[str, "small: for images of about 32x32; imagenet: the published one, for 224x224", stem_name]


def require_images(input_shape: tuple[int, ...], min_size: int = 1) -> None:
    """Refuse what is no image (C, H, W), and images of less than `min_size` pixels either way.

    Raises:
        ValueError: with the shape that was given.
    """
    if len(input_shape) != 3:
        raise ValueError(f"it takes images (C, H, W), not samples of shape {input_shape}")
    if min(input_shape[1:]) < min_size:
        size = f"{input_shape[1]}x{input_shape[2]}"
        raise ValueError(f"it takes images of at least {min_size}x{min_size} pixels, not {size}; try resnet18 or mlp")


def check_batch(x: Tensor, reach: int, is_training: bool) -> None:
    """Refuse to learn from one image that a network with batch normalisation brings down to a single pixel.

    Args:
        x: (B, C, H, W).
        reach: sides of the input that the last map brings down to one pixel.

    Raises:
        TrainingError: there are no statistics of a single value.
    """
    if is_training and len(x) == 1 and max(x.shape[-2:]) <= reach:
        raise TrainingError(
            f"batch normalisation cannot learn from a batch of one image of {reach}x{reach} or less: choose a "
            "--batch_size that leaves no single sample over, or --backbone mlp"
        )
