"""Augmentation and normalisation of whole batches, on whatever device they are.

Batches are images (B, C, H, W), clips (B, C, T, H, W), sequences (B, C, T) or vectors (B, D). Random operations make
one draw for each sample (a clip's frames share it) from the generator of the Transform they are part of.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
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
        padded = torch.nn.functional.pad(batch, (pad, pad, pad, pad)) if pad else batch
        height, width = padded.shape[-2:]
        n = len(batch)
        top = _draw(n, height - self.size + 1, batch, generator)
        left = _draw(n, width - self.size + 1, batch, generator)
        offsets = torch.arange(self.size, device=batch.device)
        rows = (top[:, None] + offsets)[:, :, None]
        columns = (left[:, None] + offsets)[:, None, :]
        sample = torch.arange(n, device=batch.device)[:, None, None]
        flat = padded.flatten(1, -3)
        # Without contiguous() the result is channels-last, which spreads through a network; torch 2.13 on a CPU with
        # two threads then corrupts memory in the backward pass of convolutions of 4 or 8 channels.
        cut = flat[sample, :, rows, columns].movedim(-1, 1).contiguous()
        return cut.view(*batch.shape[:-2], self.size, self.size)


class CenterCrop:
    """Cut `size` x `size` out of the middle of the last two dimensions."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        top, left = ((length - self.size) // 2 for length in batch.shape[-2:])
        return batch[..., top : top + self.size, left : left + self.size]


class RandomHorizontalFlip:
    """Mirror each sample with probability 1/2."""

    def __call__(self, batch: Tensor, generator: torch.Generator) -> Tensor:
        mirrored = _draw(len(batch), 2, batch, generator).bool().view(-1, *[1] * (batch.ndim - 1))
        return torch.where(mirrored, batch.flip(-1), batch)


class ToFloat:
    """uint8 to float32 in [0, 1]; floats pass unchanged."""

    def __call__(self, batch: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return batch.float() / 255 if batch.dtype == torch.uint8 else batch


class Normalize:
    """(x - mean) / std for each channel (dimension 1)."""

    def __init__(self, mean: Sequence[float] | Tensor, std: Sequence[float] | Tensor) -> None:
        self.mean, self.std = torch.as_tensor(mean).float(), torch.as_tensor(std).float()

    def __call__(self, batch: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return (batch - _per_channel(self.mean, batch)) / _per_channel(self.std, batch)


class Denormalize(Normalize):
    """The inverse of `Normalize` with the same arguments."""

    def __call__(self, batch: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return batch * _per_channel(self.std, batch) + _per_channel(self.mean, batch)


def _per_channel(values: Tensor, batch: Tensor) -> Tensor:
    return values.to(batch.device).view(-1, *[1] * (batch.ndim - 2))
