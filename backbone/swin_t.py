"""Swin-T."""

from __future__ import annotations

from typing import Annotated

from torch import Tensor, nn

from backbone import ContinualBackbone, register_backbone
from backbone.utils.images import require_images
from utils.args import share
from utils.torchvision_import import import_torchvision

MIN_SIZE = 32


class SwinTransformer(ContinualBackbone):
    """torchvision's Swin transformer with windows of 7x7 (Z. Liu et al., ICCV 2021); images of any size are padded."""

    stages = ["stem", "stage1", "stage2", "stage3", "stage4"]

    def __init__(self, num_classes: int, in_channels: int, width: int, drop_path: float, patch_size: int) -> None:
        if width % 8:
            raise ValueError(f"width must be a multiple of 8, not {width}")
        heads = max(1, width // 32)
        if width % heads:
            raise ValueError(f"width {width} cannot be shared among {heads} heads; take a multiple of 32")
        network = import_torchvision("models.swin_transformer").SwinTransformer(
            patch_size=[patch_size, patch_size],
            embed_dim=width,
            depths=[2, 2, 6, 2],
            num_heads=[heads, 2 * heads, 4 * heads, 8 * heads],
            window_size=[7, 7],
            stochastic_depth_prob=drop_path,
            num_classes=num_classes,
        )
        super().__init__(8 * width, num_classes)
        self.features, self.norm, self.classifier = network.features, network.norm, network.head
        if in_channels != 3:
            self.features[0][0] = nn.Conv2d(in_channels, width, patch_size, patch_size)

    def feature_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = []
        for i, module in enumerate(self.features):
            x = module(x)
            # Between the stages are the modules that merge patches. Within, channels are the last axis.
            if i % 2 or not i:
                maps.append(x.permute(0, 3, 1, 2).contiguous())
        return self.norm(x).mean((1, 2)), maps

    def rename_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our names for the entries of torchvision's files, which call the head head."""
        return {f"classifier.{key[5:]}" if key.startswith("head.") else key: value for key, value in state.items()}


@register_backbone("swin-t")
def swin_t(
    num_classes: int,
    input_shape: tuple[int, ...],
    width: Annotated[int, "channels of the first stage; 96 is the published network"] = 96,
    drop_path: Annotated[float, "rate at which the last block is left out; those before it less often", share] = 0.2,
    patch_size: Annotated[int, "pixels of a side of a patch; 4 is the published network, 2 suits small images"] = 4,
) -> SwinTransformer:
    """Swin-T; 27,596,254 parameters with 100 classes."""
    require_images(input_shape, MIN_SIZE)
    return SwinTransformer(num_classes, input_shape[0], width, drop_path, patch_size)
