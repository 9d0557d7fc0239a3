"""I3D, the Inception network whose filters and poolings are inflated to three dimensions."""

from __future__ import annotations

import math
import re
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone import register_backbone
from backbone.utils.windows import WINDOW, Window, WindowedBackbone, WindowStride, require_clips

# Filters of branches 0, 1a, 1b, 2a, 2b, 3b of every Inception block (Szegedy et al., CVPR 2015, table 1).
INCEPTION = {
    "mixed_3b": (64, 96, 128, 16, 32, 32),
    "mixed_3c": (128, 128, 192, 32, 96, 64),
    "mixed_4b": (192, 96, 208, 16, 48, 64),
    "mixed_4c": (160, 112, 224, 24, 64, 64),
    "mixed_4d": (128, 128, 256, 24, 64, 64),
    "mixed_4e": (112, 144, 288, 32, 64, 64),
    "mixed_4f": (256, 160, 320, 32, 128, 128),
    "mixed_5b": (256, 160, 320, 32, 128, 128),
    "mixed_5c": (384, 192, 384, 48, 128, 128),
}
# Our names for the parts of the names in public files, those of piergiaj and of hassony2, in lower case.
RENAMES = (
    (r"^conv3d_(1a|2b|2c)_\dx\d\.", r"conv\1."),
    (r"\.batch3d\.", ".bn."),
    (r"\.branch_0\.", ".b0."),
    (r"\.branch_([12])\.0\.", r".b\1a."),
    (r"\.branch_([123])\.1\.", r".b\1b."),
    (r"^(logits|conv3d_0c_1x1)\.conv3d\.", "classifier.1."),
)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, of TensorFlow's SAME padding: ceil(size / stride) outputs, the odd zero comes last."""
    total = max((math.ceil(size / stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


class Unit(nn.Module):
    """Convolution with SAME padding, batch normalisation, ReLU."""

    def __init__(self, n_in: int, n_out: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride
        # At stride 1 the padding is symmetric whatever the size, and the convolution pads for itself.
        padding = kernel // 2 if stride == 1 else 0
        self.conv3d = nn.Conv3d(n_in, n_out, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm3d(n_out, eps=1e-3)
        nn.init.kaiming_normal_(self.conv3d.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        if self.stride > 1:
            x = F.pad(x, [n for size in reversed(x.shape[2:]) for n in same_padding(size, self.kernel, self.stride)])
        return self.bn(self.conv3d(x)).relu()


class SamePool(nn.Module):
    """Max-pooling with SAME padding of what is not negative, such as the outputs of a ReLU."""

    def __init__(self, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        # Over place, then over time: faster than max_pool3d, whose gradient also is not repeatable on a GPU.
        (t, h, w), (step_t, step_h, step_w) = self.kernel, self.stride
        x = self._pool(x.flatten(1, 2), (h, w), (step_h, step_w)).unflatten(1, x.shape[1:3])
        return self._pool(x.flatten(3), (t, 1), (step_t, 1)).unflatten(3, x.shape[3:])

    @staticmethod
    def _pool(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int]) -> Tensor:
        sizes = zip(x.shape[2:], kernel, stride, strict=True)
        before = [same_padding(*each)[0] for each in sizes]
        # Rounding the output up gives the window that hangs over the end, so nothing is copied. What hangs over counts
        # as minus infinity instead of 0, which makes no difference here.
        return x if kernel == stride == (1, 1) else F.max_pool2d(x, kernel, stride, before, ceil_mode=True)


class Inception(nn.Module):
    """Four branches side by side: 1x1x1; 1x1x1 and 3x3x3; the same with fewer filters; max-pooling and 1x1x1."""

    def __init__(self, n_in: int, channels: list[int]) -> None:
        super().__init__()
        self.n_out = channels[0] + channels[2] + channels[4] + channels[5]
        self.b0 = Unit(n_in, channels[0], 1)
        self.b1a, self.b1b = Unit(n_in, channels[1], 1), Unit(channels[1], channels[2], 3)
        self.b2a, self.b2b = Unit(n_in, channels[3], 1), Unit(channels[3], channels[4], 3)
        self.b3a, self.b3b = SamePool((3, 3, 3), (1, 1, 1)), Unit(n_in, channels[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x))], dim=1)


class I3D(WindowedBackbone):
    """Inflated Inception-v1 with batch normalisation (Carreira & Zisserman, CVPR 2017).

    The features of a window are the mean of its last map over time and place: for 16 frames of 224x224 what the
    published average pooling of 2x7x7 gives, and defined for any other size too. The published classifier, a 1x1x1
    convolution averaged over time, is the linear head applied to this mean.
    """

    def __init__(
        self, num_classes: int, in_channels: int, width: int, dropout: float, window: int, window_stride: int
    ) -> None:
        def scaled(n: int) -> int:
            return max(1, n * width // 64)

        blocks = {name: [scaled(n) for n in channels] for name, channels in INCEPTION.items()}
        last = blocks["mixed_5c"]
        super().__init__(last[0] + last[2] + last[4] + last[5], num_classes, window, window_stride)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(self.feature_dim, num_classes))
        n_in = scaled(192)
        layers: dict[str, nn.Module] = {
            "conv1a": Unit(in_channels, scaled(64), 7, stride=2),
            "maxpool2a": SamePool((1, 3, 3), (1, 2, 2)),
            "conv2b": Unit(scaled(64), scaled(64), 1),
            "conv2c": Unit(scaled(64), n_in, 3),
            "maxpool3a": SamePool((1, 3, 3), (1, 2, 2)),
        }
        for name, channels in blocks.items():
            if name == "mixed_4b":
                layers["maxpool4a"] = SamePool((3, 3, 3), (2, 2, 2))
            if name == "mixed_5b":
                layers["maxpool5a"] = SamePool((2, 2, 2), (2, 2, 2))
            layers[name] = block = Inception(n_in, channels)
            n_in = block.n_out
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.stages = [*layers, "pooled"]

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = []
        for name in self.stages[:-1]:
            x = getattr(self, name)(x)
            maps.append(x)
        features = x.mean((2, 3, 4))
        return features, [*maps, features]

    def rename_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our names for the entries of a public I3D file: Mixed_3b.b1a (rgb_imagenet.pt), mixed_3b.branch_1.0."""
        renamed = {}
        for key, value in state.items():
            name = key.lower()
            for pattern, ours in RENAMES:
                name = re.sub(pattern, ours, name)
            # The head of public files is a convolution over one step of time and one place.
            renamed[name] = value.flatten(1) if name == "classifier.1.weight" else value
        return renamed


@register_backbone("i3d")
def i3d(
    num_classes: int,
    input_shape: tuple[int, ...],
    width: Annotated[int, "filters of the first layer, the others in proportion; 64 is the published network"] = 64,
    dropout: Annotated[float, "dropout rate in the head"] = 0.5,
    window: Window = WINDOW,
    window_stride: WindowStride = 0,
) -> I3D:
    """I3D; 12,287,264 parameters and 1,024 features at width 64, before the head."""
    require_clips(input_shape, 33)
    return I3D(num_classes, input_shape[0], width, dropout, window, window_stride)
