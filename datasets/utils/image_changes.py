"""Changes of whole images that make another domain of the same samples, and sources of changed samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.utils.scenarios import seeded
from datasets.utils.sources import Source


def rotate(images: Tensor, degrees: Tensor, mode: str = "bilinear") -> Tensor:
    """Turn images (B, C, H, W) counter-clockwise about their centres, each by its own angle (B,); zeros come in.

    Args:
        mode: "bilinear" or "nearest". uint8 stays uint8, rounded.
    """
    height, width = images.shape[-2:]
    angles = torch.deg2rad(degrees.float())
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    # From places in the result to places in the image; both axes run from -1 to 1 whatever their lengths.
    rows = [cos, -sin * height / width, zero], [sin * width / height, cos, zero]
    theta = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    turned = F.grid_sample(images.float(), grid, mode=mode, padding_mode="zeros", align_corners=False)
    return turned.round_().to(torch.uint8) if images.dtype == torch.uint8 else turned


@dataclass(frozen=True)
class Rotation:
    """All images by the same angle."""

    degrees: float
    mode: str

    def __call__(self, images: Tensor) -> Tensor:
        return rotate(images, torch.full((len(images),), self.degrees), self.mode)


@dataclass(frozen=True)
class PixelOrder:
    """The pixels of each channel in another order: pixel i of the result is pixel order[i]."""

    order: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        return images.flatten(2)[:, :, self.order].view_as(images)


class ChangedSource:
    """The samples of a source once for every change: sample i under change t is number t * len(base) + i."""

    def __init__(self, base: Source, changes: Sequence[Callable[[Tensor], Tensor]]) -> None:
        self.base = base
        self.changes = list(changes)

    def __len__(self) -> int:
        return len(self.base) * len(self.changes)

    def read(self, indices: np.ndarray) -> tuple[Tensor, list[int], list[str]]:
        change, sample = np.divmod(np.asarray(indices), len(self.base))
        raw, kept, problems = self.base.read(sample)
        result = torch.empty_like(raw)
        change = change[kept]
        for t in np.unique(change):
            rows = torch.from_numpy(change == t)
            result[rows] = self.changes[t](raw[rows])
        return result, kept, problems

    def fingerprint(self) -> str:
        """Of the samples as they are read; the changes follow from the run's configuration."""
        return self.base.fingerprint()


class TurnedSource:
    """Samples of a source in another order, each turned by its own angle.

    Args:
        order: (n,) positions in the source.
        degrees: (n,) angles.
        mode: of the interpolation.
    """

    def __init__(self, base: Source, order: np.ndarray, degrees: np.ndarray, mode: str) -> None:
        self.base, self.order, self.degrees, self.mode = base, order, degrees, mode

    def __len__(self) -> int:
        return len(self.order)

    def read(self, indices: np.ndarray) -> tuple[Tensor, list[int], list[str]]:
        indices = np.asarray(indices)
        raw, kept, problems = self.base.read(self.order[indices])
        return rotate(raw, torch.from_numpy(self.degrees[indices[kept]]), self.mode), kept, problems

    def fingerprint(self) -> str:
        """Of the samples as they are read; order and angles follow from the run's configuration."""
        return self.base.fingerprint()


def turning_pairs(labels: np.ndarray, n_classes: int, n_rounds: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A stream that shows two neighbouring classes at a time while all images turn slowly.

    The pairs (0, 1), (1, 2), ..., (n_classes - 1, 0) follow one another `n_rounds` times. The samples of a class, in
    random order, are dealt evenly to the pairs that it is part of, so each is shown once; those of a pair alternate. A
    class turns once in the whole stream, by the same step from each of its samples to the next, so that no two of them
    have the same angle.

    Args:
        labels: (n,) labels; samples of n_classes and above are left out.

    Returns:
        (order in which samples are shown, their angles in degrees), each (number of samples shown,).
    """
    rng = seeded(seed)
    angles = np.zeros(len(labels))
    shares = []
    for label in range(n_classes):
        members = rng.permutation(np.flatnonzero(labels == label))
        angles[members] = equal_angles(len(members))
        shares.append(iter(np.array_split(members, 2 * n_rounds)))
    order = []
    for pair in range(n_classes * n_rounds):
        parts = [next(shares[label % n_classes]) for label in (pair, pair + 1)]
        # Where in the pair each sample falls, from 0 to 1: shares of unequal size are mixed evenly too.
        place = np.concatenate([(np.arange(len(part)) + 0.5) / max(len(part), 1) for part in parts])
        order.append(np.concatenate(parts)[np.argsort(place, kind="stable")])
    shown = np.concatenate(order)
    return shown, angles[shown]


def equal_angles(n: int) -> np.ndarray:
    """(n,) angles that part the full turn evenly, from 0 degrees on."""
    return np.arange(n) * (360 / max(n, 1))
