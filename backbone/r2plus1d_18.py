"""The three video ResNets of 18 layers: R(2+1)D, R3D, and MC3 with mixed convolutions."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from backbone import register_backbone
from backbone.utils.windows import WINDOW, Window, WindowedBackbone, WindowStride, require_clips

# Convolutions of the four stages: 3x3x3; 1x3x3; or 1x3x3 followed by 3x1x1.
VARIANTS = {
    "r2plus1d": ("split",) * 4,
    "r3d": ("full",) * 4,
    "mc3": ("full", "flat", "flat", "flat"),
}
Width = Annotated[int, "filters of the first stage; 64 is the published network"]


def _convolution(kind: str, n_in: int, n_out: int, n_between: int, stride: int) -> nn.Module:
    if kind == "full":
        return nn.Conv3d(n_in, n_out, 3, stride, padding=1, bias=False)
    if kind == "flat":
        return nn.Conv3d(n_in, n_out, (1, 3, 3), (1, stride, stride), padding=(0, 1, 1), bias=False)
    return nn.Sequential(
        nn.Conv3d(n_in, n_between, (1, 3, 3), (1, stride, stride), padding=(0, 1, 1), bias=False),
        nn.BatchNorm3d(n_between),
        nn.ReLU(),
        nn.Conv3d(n_between, n_out, (3, 1, 1), (stride, 1, 1), padding=(1, 0, 0), bias=False),
    )


class Block(nn.Module):
    """Two convolutions around a shortcut; a split convolution has as many parameters as the 3x3x3 one it replaces."""

    def __init__(self, kind: str, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        n_between = n_in * n_out * 27 // (n_in * 9 + n_out * 3)
        self.conv1 = nn.Sequential(_convolution(kind, n_in, n_out, n_between, stride), nn.BatchNorm3d(n_out), nn.ReLU())
        self.conv2 = nn.Sequential(_convolution(kind, n_out, n_out, n_between, 1), nn.BatchNorm3d(n_out))
        self.downsample = nn.Sequential()
        if stride != 1 or n_in != n_out:
            strides = (1 if kind == "flat" else stride, stride, stride)
            self.downsample = nn.Sequential(nn.Conv3d(n_in, n_out, 1, strides, bias=False), nn.BatchNorm3d(n_out))

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.downsample(x)).relu()


class VideoResNet(WindowedBackbone):
    """Stem and four stages of two blocks over time and place (Tran et al., CVPR 2018), as in torchvision.

    The features of a window are the mean of its last map over time and place.
    """

    stages = ["stem", "layer1", "layer2", "layer3", "layer4"]

    def __init__(
        self, variant: str, num_classes: int, in_channels: int, width: int, window: int, window_stride: int
    ) -> None:
        super().__init__(8 * width, num_classes, window, window_stride)
        if variant == "r2plus1d":
            n_between = max(1, 45 * width // 64)
            self.stem = nn.Sequential(
                nn.Conv3d(in_channels, n_between, (1, 7, 7), (1, 2, 2), padding=(0, 3, 3), bias=False),
                nn.BatchNorm3d(n_between),
                nn.ReLU(),
                nn.Conv3d(n_between, width, (3, 1, 1), padding=(1, 0, 0), bias=False),
                nn.BatchNorm3d(width),
                nn.ReLU(),
            )
        else:
            self.stem = nn.Sequential(
                nn.Conv3d(in_channels, width, (3, 7, 7), (1, 2, 2), padding=(1, 3, 3), bias=False),
                nn.BatchNorm3d(width),
                nn.ReLU(),
            )
        n_in = width
        for i, kind in enumerate(VARIANTS[variant]):
            n_out = width * 2**i
            blocks = Block(kind, n_in, n_out, 1 if i == 0 else 2), Block(kind, n_out, n_out, 1)
            self.add_module(f"layer{i + 1}", nn.Sequential(*blocks))
            n_in = n_out
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = []
        for name in self.stages:
            x = getattr(self, name)(x)
            maps.append(x)
        return x.mean((2, 3, 4)), maps

    def rename_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our names for the entries of torchvision's files, which call the head fc."""
        return {f"classifier.{key[3:]}" if key.startswith("fc.") else key: value for key, value in state.items()}


@register_backbone("r2plus1d-18")
def r2plus1d_18(
    num_classes: int,
    input_shape: tuple[int, ...],
    width: Width = 64,
    window: Window = WINDOW,
    window_stride: WindowStride = 0,
) -> VideoResNet:
    """R(2+1)D-18, convolutions over place and then over time; 31.5 million parameters at width 64."""
    require_clips(input_shape, 17)
    return VideoResNet("r2plus1d", num_classes, input_shape[0], width, window, window_stride)


@register_backbone("r3d-18")
def r3d_18(
    num_classes: int,
    input_shape: tuple[int, ...],
    width: Width = 64,
    window: Window = WINDOW,
    window_stride: WindowStride = 0,
) -> VideoResNet:
    """R3D-18, 3x3x3 convolutions throughout; 33.4 million parameters at width 64."""
    require_clips(input_shape, 17)
    return VideoResNet("r3d", num_classes, input_shape[0], width, window, window_stride)


@register_backbone("mc3-18")
def mc3_18(
    num_classes: int,
    input_shape: tuple[int, ...],
    width: Width = 64,
    window: Window = WINDOW,
    window_stride: WindowStride = 0,
) -> VideoResNet:
    """MC3-18, 3x3x3 convolutions in the first stage and 1x3x3 in the others; 11.7 million parameters at width 64."""
    require_clips(input_shape, 17)
    return VideoResNet("mc3", num_classes, input_shape[0], width, window, window_stride)
