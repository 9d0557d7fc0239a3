"""A small trunk for features that a large network has taken from the windows of a clip beforehand."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor, nn

from backbone import ContinualBackbone, register_backbone
from backbone.utils.projector import ResidualProjector
from utils.args import not_negative


class ClipFeatures(ContinualBackbone):
    """Mean over windows, then residual layers x + W2 relu(W1 x) that keep the width of the features.

    Input (B, D, T): D features of each of T windows. The layers start near the identity, so that the network begins
    with the features as they were taken, and moves them as it learns. At depth 0 only the head learns.
    """

    def __init__(self, num_classes: int, feature_dim: int, width: int, depth: int) -> None:
        if depth < 0:
            raise ValueError(f"depth must not be negative, not {depth}")
        super().__init__(feature_dim, num_classes)
        self.stages = ["mean", *(f"layer{i + 1}" for i in range(depth))]
        self.layers = nn.ModuleList()
        for _ in range(depth):
            layer = ResidualProjector(feature_dim, width, zero_init=False)
            with torch.no_grad():
                for parameter in layer.residual[-1].parameters():
                    parameter.mul_(0.1)
            self.layers.append(layer)

    def feature_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = x.mean(-1)
        maps = [x]
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return x, maps


@register_backbone("clip-features")
def clip_features(
    num_classes: int,
    input_shape: tuple[int, ...],
    width: Annotated[int, "hidden units of every residual layer"] = 256,
    depth: Annotated[int, "number of residual layers; 0: the features as they are", not_negative] = 1,
) -> ClipFeatures:
    """Trunk for pre-extracted features of clips; 525,568 parameters on 1,024 features."""
    if len(input_shape) != 2:
        raise ValueError(f"it takes features of the windows of clips (D, T), not samples of shape {input_shape}")
    return ClipFeatures(num_classes, input_shape[0], width, depth)
