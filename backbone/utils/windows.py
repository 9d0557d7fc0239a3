"""Backbones for clips: long clips are cut into windows, encoded in one batch, and their features averaged."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from backbone import ContinualBackbone
from utils.args import not_negative

WINDOW = 16
Window = Annotated[int, "frames of a window; longer clips are cut into windows whose features are averaged"]
WindowStride = Annotated[
    int, "frames from one window to the next; 0: 10 of 16, all 16 in clips of ten windows or more", not_negative
]


def window_starts(n_frames: int, window: int = WINDOW, stride: int = 0) -> list[int]:
    """First frames of the windows that cover a clip; the last window ends with the clip.

    A stride of 0 is MAGR's rule (Zhou et al., ECCV 2024): windows of 16 frames start every 10 frames (103: 0, 10, ...,
    80, 87), and every 16 in clips of at least 160 (160: 0, 16, ..., 144). Other windows keep these proportions.
    """
    if n_frames <= window:
        return [0]
    if not stride:
        stride = window if n_frames >= 10 * window else max(1, 10 * window // 16)
    last = n_frames - window
    return [*range(0, last, stride), last]


def require_clips(input_shape: tuple[int, ...], min_size: int) -> None:
    """Refuse what is no clip (C, T, H, W), and frames of less than `min_size` pixels either way.

    Raises:
        ValueError: with the shape that was given.
    """
    if len(input_shape) != 4:
        raise ValueError(f"it takes clips (C, T, H, W), not samples of shape {input_shape}")
    if min(input_shape[2:]) < min_size:
        size = f"{input_shape[2]}x{input_shape[3]}"
        raise ValueError(f"frames must have at least {min_size}x{min_size} pixels, not {size}")


class WindowedBackbone(ContinualBackbone):
    """A backbone for clips (B, C, T, H, W) of any length.

    Subclasses implement `encode`. The windows of a clip are those of `window_starts`, the features of the clip their
    mean. Intermediate maps have one row for each window of each clip, those of a clip side by side.
    """

    def __init__(self, feature_dim: int, num_outputs: int, window: int, window_stride: int) -> None:
        if window < 1 or window_stride < 0:
            raise ValueError(f"window must be at least 1 and window_stride not negative, not {window}, {window_stride}")
        super().__init__(feature_dim, num_outputs)
        self.window = window
        self.window_stride = window_stride

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features (N, feature_dim) and intermediate maps of windows (N, C, T, H, W), T at most `window`."""
        raise NotImplementedError

    def window_features(self, x: Tensor) -> Tensor:
        """Features (B, n_windows, feature_dim) of the windows of clips (B, C, T, H, W)."""
        return self._encode_windows(x)[0]

    def feature_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        features, maps = self._encode_windows(x)
        return features.mean(1), maps

    def _encode_windows(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        starts = window_starts(x.shape[2], self.window, self.window_stride)
        n_clips = len(x)
        if len(starts) > 1:
            x = torch.stack([x[:, :, start : start + self.window] for start in starts], dim=1).flatten(0, 1)
        features, maps = self.encode(x)
        return features.unflatten(0, (n_clips, len(starts))), maps
