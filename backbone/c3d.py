"""C3D, the 3-D convolutional network."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone import register_backbone
from backbone.utils.windows import WINDOW, Window, WindowedBackbone, WindowStride, require_clips

CONVOLUTIONS = ("conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b")
POOL_AFTER = ("conv1", "conv2", "conv3b", "conv4b", "conv5b")
# Layers of the "features.N"/"classifier.N" layout of public C3D files, in the order of our names.
SEQUENTIAL = dict(zip(("0", "3", "6", "8", "11", "13", "16", "18"), CONVOLUTIONS, strict=True))


class C3D(WindowedBackbone):
    """Eight 3x3x3 convolutions, five poolings, two fully connected layers (Tran et al., ICCV 2015).

    The features of a window are fc6 after ReLU. Adaptive pooling before fc6 makes windows of any size fit; at
    16x112x112 it changes nothing.
    """

    stages = ["pool1", "pool2", "pool3", "pool4", "pool5"]

    def __init__(
        self, num_classes: int, in_channels: int, width: int, dropout: float, window: int, window_stride: int
    ) -> None:
        feature_dim = 64 * width
        super().__init__(feature_dim, num_classes, window, window_stride)
        channels = [in_channels, *(width * factor for factor in (1, 2, 4, 4, 8, 8, 8, 8))]
        for name, n_in, n_out in zip(CONVOLUTIONS, channels[:-1], channels[1:], strict=True):
            self.add_module(name, nn.Conv3d(n_in, n_out, kernel_size=3, padding=1))
        self.fc6 = nn.Linear(8 * width * 16, feature_dim)
        self.classifier = nn.Sequential(
            nn.Dropout(dropout),
            nn.Linear(feature_dim, feature_dim),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(feature_dim, num_classes),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = []
        if x.device.type == "cpu":
            # The layers follow the layout of their input; in this one narrow networks train in two thirds of the time.
            x = x.contiguous(memory_format=torch.channels_last_3d)
        for name in CONVOLUTIONS:
            x = getattr(self, name)(x)
            if name in POOL_AFTER:
                # The largest value's ReLU is the largest ReLU, bit for bit, and there are far fewer of them.
                x = self._pool(x, first=name == "conv1", last=name == "conv5b").relu()
                maps.append(x)
            else:
                x = x.relu()
        x = F.adaptive_avg_pool3d(x, (1, 4, 4)).flatten(1)
        return self.fc6(x).relu(), maps

    @staticmethod
    def _pool(x: Tensor, first: bool, last: bool) -> Tensor:
        # A clip shorter than 16 frames runs out of time steps before it runs out of poolings.
        kernel = (1 if first or x.shape[2] < 2 else 2, 2, 2)
        return F.max_pool3d(x, kernel, padding=(0, 1, 1) if last else 0)

    def rename_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our names for the entries of a public C3D file: flat conv1..fc8, or features.N with classifier.0 and .3."""
        sequential = any(key.startswith("features.") for key in state)
        names = {f"features.{number}": name for number, name in SEQUENTIAL.items()} if sequential else {}
        names |= {"classifier.0": "fc6", "classifier.3": "classifier.1"} if sequential else {}
        names |= {"fc7": "classifier.1", "fc8": "classifier.4"}
        renamed = {}
        for key, value in state.items():
            layer, dot, entry = key.rpartition(".")
            renamed[f"{names.get(layer, layer)}{dot}{entry}"] = value
        return renamed


@register_backbone("c3d")
def c3d(
    num_classes: int,
    input_shape: tuple[int, ...],
    width: Annotated[int, "filters of the first layer; 64 is the published network, 8 trains on a CPU"] = 64,
    dropout: Annotated[float, "dropout rate in the head"] = 0.5,
    window: Window = WINDOW,
    window_stride: WindowStride = 0,
) -> C3D:
    """C3D; 78.0 million parameters up to fc7 at width 64."""
    require_clips(input_shape, 16)
    return C3D(num_classes, input_shape[0], width, dropout, window, window_stride)
