"""Vision transformer."""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone import ContinualBackbone, register_backbone
from backbone.utils.images import require_images
from utils.torchvision_import import import_torchvision


class VisionTransformer(ContinualBackbone):
    """torchvision's vision transformer (A. Dosovitskiy et al., ICLR 2021); the features are those of the class token.

    Maps are tokens (B, 1 + patches, width), the class token first.
    """

    def __init__(
        self, num_classes: int, in_channels: int, image_size: int, width: int, depth: int, patch_size: int
    ) -> None:
        heads = max(1, width // 64)
        if width % heads:
            raise ValueError(f"width {width} cannot be shared among {heads} heads; take a multiple of 64")
        network = import_torchvision("models.vision_transformer").VisionTransformer(
            image_size=image_size,
            patch_size=patch_size,
            num_layers=depth,
            num_heads=heads,
            hidden_dim=width,
            mlp_dim=4 * width,
        )
        super().__init__(width, num_classes)
        self.stages = [f"layer{i + 1}" for i in range(depth)]
        self.conv_proj, self.class_token, self.encoder = network.conv_proj, network.class_token, network.encoder
        if in_channels != 3:
            self.conv_proj = nn.Conv2d(in_channels, width, patch_size, patch_size)

    def feature_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        tokens = self.conv_proj(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], dim=1) + self.encoder.pos_embedding
        maps = []
        for layer in self.encoder.layers:
            x = layer(x)
            maps.append(x)
        return self.encoder.ln(x)[:, 0], maps

    def rename_keys(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Our names for the entries of torchvision's files; positions are interpolated to this network's grid."""
        renamed = {}
        for key, value in state.items():
            name = f"encoder.{key}" if key.startswith(("pos_embedding", "layers.", "ln.")) else key
            renamed[name.replace("heads.head.", "classifier.")] = value
        positions = renamed.get("encoder.pos_embedding")
        if positions is not None and positions.ndim == 3:
            renamed["encoder.pos_embedding"] = _on_grid(positions, self.encoder.pos_embedding.shape[1] - 1)
        return renamed


def _on_grid(positions: Tensor, n_patches: int) -> Tensor:
    """Embeddings (1, 1 + n, width) of a square of patches for a square of another size, bicubic."""
    side, wanted = math.isqrt(positions.shape[1] - 1), math.isqrt(n_patches)
    if side == wanted or side * side != positions.shape[1] - 1:
        return positions
    grid = positions[:, 1:].transpose(1, 2).unflatten(2, (side, side))
    grid = F.interpolate(grid, size=(wanted, wanted), mode="bicubic", align_corners=False)
    return torch.cat([positions[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


@register_backbone("vit")
@register_backbone("vit-b16")
def vit_b16(
    num_classes: int,
    input_shape: tuple[int, ...],
    width: Annotated[
        int, "size of a token; 768 is the published network, 384 and 192 are those of DeiT-S and -Ti"
    ] = 768,
    depth: Annotated[int, "number of layers"] = 12,
    patch_size: Annotated[int, "pixels of a side of a patch; 16 is the published network, 4 suits 32x32 images"] = 16,
) -> VisionTransformer:
    """ViT-B/16; 86.6 million parameters with 1,000 classes at 224x224. One head for every 64 of the width.

    Mammoth's streams call it vit; the weights that Mammoth downloads for it are to be given (--backbone_weights).
    """
    require_images(input_shape)
    height, width_in_pixels = input_shape[1:]
    if height != width_in_pixels or height % patch_size:
        raise ValueError(
            f"it takes square images whose side is a multiple of --patch_size {patch_size}, not "
            f"{height}x{width_in_pixels}"
        )
    return VisionTransformer(num_classes, input_shape[0], height, width, depth, patch_size)
