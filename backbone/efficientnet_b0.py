"""EfficientNet-B0."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from backbone import ContinualBackbone, register_backbone
from backbone.utils.images import Stem, check_batch, require_images
from utils.args import share
from utils.torchvision_import import import_torchvision

# Of every stage: expansion, kernel size, stride, filters that come in and go out, blocks (table 1 of the paper).
SETTINGS = (
    (1, 3, 1, 32, 16, 1),
    (6, 3, 2, 16, 24, 2),
    (6, 5, 2, 24, 40, 2),
    (6, 3, 2, 40, 80, 3),
    (6, 5, 1, 80, 112, 3),
    (6, 5, 2, 112, 192, 4),
    (6, 3, 1, 192, 320, 1),
)
MIN_SIZE = 32


class EfficientNet(ContinualBackbone):
    """torchvision's EfficientNet-B0 (M. Tan, Q. Le, ICML 2019) without dropout; the small stem has no stride."""

    stages = ["stem", *(f"stage{i}" for i in range(1, 8)), "last"]

    def __init__(self, num_classes: int, in_channels: int, width: int, drop_path: float, stem: str) -> None:
        module = import_torchvision("models.efficientnet")
        settings = [module.MBConvConfig(*row, width_mult=width / 32, depth_mult=1.0) for row in SETTINGS]
        network = module.EfficientNet(settings, 0.0, stochastic_depth_prob=drop_path, num_classes=num_classes)
        head = network.classifier[1]
        super().__init__(head.in_features, num_classes)
        self.classifier = head
        self.features = network.features
        first = self.features[0][0]
        first.stride = (1, 1) if stem == "small" else (2, 2)
        if in_channels != first.in_channels:
            self.features[0][0] = nn.Conv2d(in_channels, first.out_channels, 3, first.stride, padding=1, bias=False)
            nn.init.kaiming_normal_(self.features[0][0].weight, mode="fan_out")
        self.reach = 16 * first.stride[0]

    def feature_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        check_batch(x, self.reach, self.features[0][1].training)
        maps = []
        for stage in self.features:
            x = stage(x)
            maps.append(x)
        return x.mean((2, 3)), maps

    def rename_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our names for the entries of torchvision's files, whose head follows dropout."""
        return {key.replace("classifier.1.", "classifier."): value for key, value in state.items()}


@register_backbone("efficientnet-b0")
def efficientnet_b0(
    num_classes: int,
    input_shape: tuple[int, ...],
    width: Annotated[int, "filters of the stem; 32 is the published network"] = 32,
    drop_path: Annotated[float, "rate at which the last block is left out; those before it less often", share] = 0.2,
    stem: Stem = "small",
) -> EfficientNet:
    """EfficientNet-B0; 4,135,648 parameters with 100 classes."""
    require_images(input_shape, MIN_SIZE)
    return EfficientNet(num_classes, input_shape[0], width, drop_path, stem)
