"""Augmentation and normalisation of whole batches, on whatever device they are.

Batches are images (B, C, H, W), clips (B, C, T, H, W), sequences (B, C, T) or vectors (B, D). Random operations make
one draw for each sample (a clip's frames share it) from the generator of the Transform they are part of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Operation = Callable[[Tensor, torch.Generator], Tensor]


class Transform:
    """A chain of batch operations with a generator of its own.

    The generator lives on the CPU, so that a run draws the same augmentations on any device, and its state is part of
    every checkpoint.

    Args:
        operations: called in turn as operation(batch, generator).
        seed: of the generator.
    """

    def __init__(self, operations: Sequence[Operation], seed: int = 0) -> None:
        self.operations = list(operations)
        self.generator = torch.Generator().manual_seed(seed)

    def __call__(self, batch: Tensor) -> Tensor:
        for operation in self.operations:
            batch = operation(batch, self.generator)
        return batch


def _draw(n: int, high: int, batch: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randint(high, (n,), generator=generator).to(batch.device)


class RandomCrop:
    """Pad the last two dimensions with zeros (if `padding`), then cut out `size` x `size` at a random place."""

    def __init__(self, size: int, padding: int = 0) -> None:
        self.size, self.padding = size, padding

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        pad = self.padding
        padded = F.pad(batch, (pad, pad, pad, pad)) if pad else batch
        height, width = padded.shape[-2:]
        n = len(batch)
        top = _draw(n, height - self.size + 1, batch, generator)
        left = _draw(n, width - self.size + 1, batch, generator)
        # Windows are looked up, not pixels, and the result is contiguous: channels-last would spread through a network,
        # and torch 2.13 on a CPU with two threads then corrupts memory in the backward pass of convolutions of 4 or 8
        # channels.
        windows = padded.flatten(1, -3).unfold(2, self.size, 1).unfold(3, self.size, 1)
        cut = windows[torch.arange(n, device=batch.device), :, top, left]
        return cut.reshape(*batch.shape[:-2], self.size, self.size).contiguous()


class RandomResizedCrop:
    """Cut a random rectangle out of each image (B, C, H, W) and scale it to `size` x `size` (bilinear).

    The rectangle has `scale` of the image's area and an aspect ratio in `ratio`, uniform in area and in the logarithm
    of the ratio; what would leave the image is cut to its sides (C. Szegedy et al., Going deeper with convolutions,
    CVPR 2015, section 6). uint8 stays uint8, rounded.
    """

    def __init__(
        self, size: int, scale: tuple[float, float] = (0.08, 1.0), ratio: tuple[float, float] = (3 / 4, 4 / 3)
    ) -> None:
        self.size, self.scale, self.ratio = size, scale, ratio

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        height, width = batch.shape[-2:]
        drawn = torch.rand(4, len(batch), generator=generator)
        area = self.scale[0] + drawn[0] * (self.scale[1] - self.scale[0])
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        aspect = torch.exp(low + drawn[1] * (high - low))
        # Shares of the sides; an image of another shape than a square has an aspect ratio of its own.
        wide = (area * aspect * height / width).sqrt().clamp(max=1)
        tall = (area / aspect * width / height).sqrt().clamp(max=1)
        zero = torch.zeros_like(wide)
        middle_x, middle_y = (2 * drawn[2] - 1) * (1 - wide), (2 * drawn[3] - 1) * (1 - tall)
        rows = [wide, zero, middle_x], [zero, tall, middle_y]
        theta = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1).to(batch.device)
        shape = [len(batch), batch.shape[1], self.size, self.size]
        grid = F.affine_grid(theta, shape, align_corners=False)
        cut = F.grid_sample(batch.float(), grid, padding_mode="border", align_corners=False)
        return cut.round_().to(torch.uint8) if batch.dtype == torch.uint8 else cut


class CenterCrop:
    """Cut `size` x `size` out of the middle of the last two dimensions."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        top, left = ((length - self.size) // 2 for length in batch.shape[-2:])
        return batch[..., top : top + self.size, left : left + self.size]


class RandomFrames:
    """Cut `n_frames` neighbouring frames out of clips (B, C, T, H, W), of each clip at a random place."""

    def __init__(self, n_frames: int) -> None:
        self.n_frames = n_frames

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        start = _draw(len(batch), batch.shape[2] - self.n_frames + 1, batch, generator)
        cut = batch.new_empty((*batch.shape[:2], self.n_frames, *batch.shape[3:]))
        for i, first in enumerate(start.tolist()):
            cut[i] = batch[i, :, first : first + self.n_frames]
        return cut


class CenterFrames:
    """Cut `n_frames` frames out of the middle of clips (B, C, T, H, W)."""

    def __init__(self, n_frames: int) -> None:
        self.n_frames = n_frames

    def __call__(self, batch: Tensor, generator: torch.Generator | None = None) -> Tensor:
        start = (batch.shape[2] - self.n_frames) // 2
        return batch[:, :, start : start + self.n_frames]


class RandomHorizontalFlip:
    """Mirror each sample with probability 1/2."""

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        mirrored = _draw(len(batch), 2, batch, generator).nonzero().view(-1)
        result = batch.clone()
        result[mirrored] = batch[mirrored].flip(-1)
        return result


class ToFloat:
    """uint8 to float32 in [0, 1]; floats pass unchanged."""

    def __call__(self, batch: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return batch.float().div_(255) if batch.dtype == torch.uint8 else batch


class Scale:
    """Multiply by a number."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, batch: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return batch * self.factor


class ReverseChannels:
    """RGB to BGR, or back."""

    def __call__(self, batch: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return batch.flip(1)


class Normalize:
    """(x - mean) / std for each channel (dimension 1)."""

    def __init__(self, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> None:
        self.mean, self.std = torch.as_tensor(mean).float(), torch.as_tensor(std).float()

    def __call__(self, batch: Tensor, generator: torch.Generator | None = None) -> Tensor:
        # In place where the tensor is ours: clips are hundreds of megabytes.
        return (batch - _per_channel(self.mean, batch)).div_(_per_channel(self.std, batch))


class Denormalize(Normalize):
    """The inverse of `Normalize` with the same arguments."""

    def __call__(self, batch: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return batch * _per_channel(self.std, batch) + _per_channel(self.mean, batch)


def _per_channel(values: Tensor, batch: Tensor) -> Tensor:
    return values.to(batch.device).view(-1, *[1] * (batch.ndim - 2))
