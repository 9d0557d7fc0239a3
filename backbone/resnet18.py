"""ResNet-18 for small images."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from backbone import ContinualBackbone, register_backbone
from utils.errors import TrainingError


def _conv3x3(n_in: int, n_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel_size=3, stride=stride, padding=1, bias=False)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al., CVPR 2016, figure 5 left; projection shortcuts)."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3x3(n_in, n_out, stride), nn.BatchNorm2d(n_out)
        self.conv2, self.bn2 = _conv3x3(n_out, n_out), nn.BatchNorm2d(n_out)
        self.shortcut = nn.Sequential()
        if stride != 1 or n_in != n_out:
            self.shortcut = nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(out)) + self.shortcut(x)).relu()


class ResNet18(ContinualBackbone):
    """Four stages of two blocks; 3x3 stride-1 stem without max-pooling, so that 32x32 images keep their detail."""

    stages = ["stem", "layer1", "layer2", "layer3", "layer4"]

    def __init__(self, num_classes: int, in_channels: int, width: int) -> None:
        super().__init__(feature_dim=8 * width, num_outputs=num_classes)
        self.conv1, self.bn1 = _conv3x3(in_channels, width), nn.BatchNorm2d(width)
        self.layers = nn.ModuleList()
        n_in = width
        for stage in range(4):
            n_out = width * 2**stage
            self.layers.append(
                nn.Sequential(BasicBlock(n_in, n_out, 1 if stage == 0 else 2), BasicBlock(n_out, n_out, 1))
            )
            n_in = n_out

    def feature_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        if self.bn1.training and len(x) == 1 and max(x.shape[-2:]) <= 8:
            raise TrainingError(
                "batch normalisation cannot learn from a batch of one image of 8x8 or less: choose a --batch_size that "
                "leaves no single sample over, or --backbone mlp"
            )
        x = self.bn1(self.conv1(x)).relu()
        maps = [x]
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return F.adaptive_avg_pool2d(x, 1).flatten(1), maps


@register_backbone("resnet18")
def resnet18(
    num_classes: int,
    input_shape: tuple[int, ...],
    width: Annotated[int, "filters of the first stage; 64 is the published network, 20 suits a CPU"] = 64,
) -> ResNet18:
    """ResNet-18 for images of about 32x32; 11,173,962 parameters with 10 classes at width 64."""
    if len(input_shape) != 3:
        raise ValueError(f"it takes images (C, H, W), not samples of shape {input_shape}")
    return ResNet18(num_classes, input_shape[0], width)
