"""Multi-layer perceptron for small flat inputs."""

from __future__ import annotations

import math
from typing import Annotated

from torch import Tensor, nn

from backbone import ContinualBackbone, register_backbone


class MLP(ContinualBackbone):
    """Flattened input, `depth` hidden layers of `width` units with ReLU, then the head."""

    def __init__(self, num_classes: int, input_shape: tuple[int, ...], width: int, depth: int) -> None:
        if depth < 1:
            raise ValueError(f"an MLP needs at least one hidden layer, not {depth}")
        super().__init__(feature_dim=width, num_outputs=num_classes)
        self.stages = [f"layer{i + 1}" for i in range(depth)]
        sizes = [math.prod(input_shape)] + [width] * depth
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True))

    def feature_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = x.flatten(1)
        maps = []
        for layer in self.layers:
            x = layer(x).relu()
            maps.append(x)
        return x, maps


@register_backbone("mnistmlp")
@register_backbone("mlp")
def mlp(
    num_classes: int,
    input_shape: tuple[int, ...],
    width: Annotated[int, "units of every hidden layer"] = 100,
    depth: Annotated[int, "number of hidden layers"] = 2,
) -> MLP:
    """MLP with Mammoth's default of two hidden layers of 100, there called mnistmlp."""
    return MLP(num_classes, input_shape, width, depth)
