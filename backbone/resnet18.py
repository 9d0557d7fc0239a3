"""ResNets for images: those of 18, 34 and 50 layers with either stem, and the one of 32 layers for CIFAR."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F
from torch import Tensor, nn

from backbone import ContinualBackbone, register_backbone
from backbone.utils.images import Stem, check_batch, require_images

Width = Annotated[int, "filters of the first stage; 64 is the published network, 20 suits a CPU"]


def _conv3x3(n_in: int, n_out: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(n_in, n_out, kernel_size=3, stride=stride, padding=1, bias=False)


def _projection(n_in: int, n_out: int, stride: int) -> nn.Sequential:
    """The shortcut around a block that changes the size of its input (option B of He et al.); empty around others."""
    if stride == 1 and n_in == n_out:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(n_in, n_out, 1, stride, bias=False), nn.BatchNorm2d(n_out))


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut (He et al., CVPR 2016, figure 5 left; projection shortcuts)."""

    expansion = 1

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = _conv3x3(n_in, width, stride), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv3x3(width, width), nn.BatchNorm2d(width)
        self.shortcut: nn.Module = _projection(n_in, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu()
        return (self.bn2(self.conv2(out)) + self.shortcut(x)).relu()


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around a shortcut (figure 5 right); the 3x3 one strides, as in torchvision."""

    expansion = 4

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__()
        n_out = self.expansion * width
        self.conv1, self.bn1 = nn.Conv2d(n_in, width, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = _conv3x3(width, width, stride), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, n_out, 1, bias=False), nn.BatchNorm2d(n_out)
        self.shortcut = _projection(n_in, n_out, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn1(self.conv1(x)).relu()
        out = self.bn2(self.conv2(out)).relu()
        return (self.bn3(self.conv3(out)) + self.shortcut(x)).relu()


class PaddedShortcut(nn.Module):
    """Every `stride`-th pixel, and channels of zeros to make up `n_out` (option A of He et al.): nothing to learn."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.stride, before = stride, (n_out - n_in) // 2
        self.channels = (before, n_out - n_in - before)

    def forward(self, x: Tensor) -> Tensor:
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *self.channels))


class PaddedBlock(BasicBlock):
    """A basic block whose shortcut has no parameters."""

    def __init__(self, n_in: int, width: int, stride: int) -> None:
        super().__init__(n_in, width, stride)
        self.shortcut = PaddedShortcut(n_in, width, stride)


class ResNet(ContinualBackbone):
    """A stem and stages of residual blocks; every stage after the first halves the sides and doubles the filters.

    The stem is a 3x3 convolution, so that images of 32x32 keep their detail, or that of ImageNet, a 7x7 convolution of
    stride 2 and max-pooling of stride 2.

    Source: K. He et al., Deep residual learning for image recognition, CVPR 2016.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        n_blocks: Sequence[int],
        num_classes: int,
        in_channels: int,
        width: int,
        stem: str,
    ) -> None:
        n_stages = len(n_blocks)
        super().__init__(block.expansion * width * 2 ** (n_stages - 1), num_outputs=num_classes)
        self.stages = ["stem", *(f"layer{i + 1}" for i in range(n_stages))]
        small = stem == "small"
        self.conv1 = _conv3x3(in_channels, width) if small else nn.Conv2d(in_channels, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        # Sides of the input that the last map brings down to one pixel.
        self.reach = (1 if small else 4) * 2 ** (n_stages - 1)
        self.pool = nn.Identity() if small else nn.MaxPool2d(3, stride=2, padding=1)
        self.layers = nn.ModuleList()
        n_in = width
        for stage, n in enumerate(n_blocks):
            blocks = []
            for i in range(n):
                blocks.append(block(n_in, width * 2**stage, 2 if stage and not i else 1))
                n_in = block.expansion * width * 2**stage
            self.layers.append(nn.Sequential(*blocks))

    def feature_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        check_batch(x, self.reach, self.bn1.training)
        x = self.bn1(self.conv1(x)).relu()
        maps = [x]
        x = self.pool(x)
        for layer in self.layers:
            x = layer(x)
            maps.append(x)
        return F.adaptive_avg_pool2d(x, 1).flatten(1), maps

    def rename_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our names for the entries of torchvision's files, and of the usual ones for CIFAR, whose head is `linear`."""
        return {_our_name(key): value for key, value in state.items()}


def _our_name(key: str) -> str:
    key = re.sub(r"^layer(\d+)\.", lambda match: f"layers.{int(match[1]) - 1}.", key)
    key = re.sub(r"^(layers\.\d+\.\d+)\.downsample\.", r"\1.shortcut.", key)
    return re.sub(r"^(fc|linear)\.", "classifier.", key)


def _he_initialised(network: ResNet) -> ResNet:
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return network


@register_backbone("resnet18")
def resnet18(num_classes: int, input_shape: tuple[int, ...], width: Width = 64, stem: Stem = "small") -> ResNet:
    """ResNet-18; 11,173,962 parameters with 10 classes, width 64 and the small stem."""
    require_images(input_shape)
    return ResNet(BasicBlock, (2, 2, 2, 2), num_classes, input_shape[0], width, stem)


@register_backbone("resnet34")
def resnet34(num_classes: int, input_shape: tuple[int, ...], width: Width = 64, stem: Stem = "small") -> ResNet:
    """ResNet-34; 21.3 million parameters at width 64."""
    require_images(input_shape)
    return ResNet(BasicBlock, (3, 4, 6, 3), num_classes, input_shape[0], width, stem)


@register_backbone("resnet50")
def resnet50(num_classes: int, input_shape: tuple[int, ...], width: Width = 64, stem: Stem = "small") -> ResNet:
    """ResNet-50 as in torchvision; 23.5 million parameters at width 64, features of 32 times the width."""
    require_images(input_shape)
    return _he_initialised(ResNet(Bottleneck, (3, 4, 6, 3), num_classes, input_shape[0], width, stem))


@register_backbone("resnet32")
def resnet32(
    num_classes: int,
    input_shape: tuple[int, ...],
    width: Annotated[int, "filters of the first stage; 16 is the published network"] = 16,
) -> ResNet:
    """ResNet-32 for CIFAR: three stages of five blocks, shortcuts without parameters, 464,154 parameters."""
    require_images(input_shape)
    return _he_initialised(ResNet(PaddedBlock, (5, 5, 5), num_classes, input_shape[0], width, "small"))
