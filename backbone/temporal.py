"""A small temporal convolutional network for sequences of joint angles or tool kinematics."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from backbone import ContinualBackbone, register_backbone

KERNEL_SIZE = 5
N_NORM_GROUPS = 4


class TemporalNetwork(ContinualBackbone):
    """Convolutions over time with group normalisation; the features are mean and standard deviation over time.

    Input (B, C, T). The first convolution keeps the time step, every later one doubles it. There are no batch
    statistics, so a batch of one trains like any other.
    """

    def __init__(self, num_classes: int, in_channels: int, width: int, depth: int) -> None:
        if width % N_NORM_GROUPS or depth < 1:
            raise ValueError(f"width must be a multiple of {N_NORM_GROUPS} and depth at least 1, not {width}, {depth}")
        super().__init__(feature_dim=2 * width, num_outputs=num_classes)
        self.stages = [f"layer{i + 1}" for i in range(depth)]
        sizes = [in_channels] + [width] * depth
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(n_in, n_out, KERNEL_SIZE, stride=1 if i == 0 else 2, padding=KERNEL_SIZE // 2),
                nn.GroupNorm(N_NORM_GROUPS, n_out),
                nn.ReLU(),
            )
            for i, (n_in, n_out) in enumerate(zip(sizes[:-1], sizes[1:], strict=True))
        )

    def feature_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = []
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        # The square root has no gradient at 0, which is what a constant channel or a single time step gives.
        spread = (x.var(-1, unbiased=False) + 1e-5).sqrt()
        return torch.cat([x.mean(-1), spread], dim=1), maps


@register_backbone("temporal")
def temporal(
    num_classes: int,
    input_shape: tuple[int, ...],
    width: Annotated[int, "filters of every layer"] = 32,
    depth: Annotated[int, "number of layers"] = 3,
) -> TemporalNetwork:
    """Temporal network with 2 * width features; 11 thousand parameters on 4 channels."""
    if len(input_shape) != 2:
        raise ValueError(f"it takes sequences (C, T), not samples of shape {input_shape}")
    return TemporalNetwork(num_classes, input_shape[0], width, depth)
