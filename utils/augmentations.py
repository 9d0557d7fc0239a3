"""Augmentations by their names in Mammoth, and transforms of single samples and of batches."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class OneOrMany:
    """A transform of batches that takes a single sample too, as a tensor or as an image of Pillow.

    Args:
        transform: of batches.
        n_dims: dimensions of one sample.
    """

    def __init__(self, transform: Callable[[Tensor], Tensor], n_dims: int) -> None:
        self.transform, self.n_dims = transform, n_dims

    def __call__(self, samples: Any) -> Tensor:
        if not isinstance(samples, Tensor):
            from torchvision.transforms.functional import to_tensor

            samples = to_tensor(samples)
        if samples.ndim == self.n_dims:
            return self.transform(samples.unsqueeze(0))[0]
        return self.transform(samples)

    def __getattr__(self, name: str) -> Any:
        if name == "transform":
            raise AttributeError(name)
        return getattr(self.transform, name)


def apply_transform(x: Tensor, transform: Callable[[Any], Any] | None, autosqueeze: bool = False) -> Tensor:
    """Transform a batch: at once, or sample by sample where the transform is torchvision's.

    Args:
        x: (B, ...), or with `autosqueeze` a single sample (C, H, W).
        transform: None leaves x as it is. One of torchvision that begins with an image of Pillow is given one.
        autosqueeze: return a single sample for a single sample.
    """
    if transform is None:
        return x
    batch = x.unsqueeze(0) if autosqueeze and x.ndim == 3 else x
    if type(transform).__module__.startswith("torchvision."):
        done = sample_by_sample(batch, transform)
    else:
        done = transform(batch)
    return done[0] if batch is not x else done


def sample_by_sample(batch: Tensor, transform: Callable[[Any], Any]) -> Tensor:
    """What a transform of single samples makes of each sample of a batch (B, ...)."""
    done = torch.stack([torch.as_tensor(transform(_as_wanted(sample, transform))) for sample in batch.cpu()])
    return done.to(batch.device)


def _as_wanted(sample: Tensor, transform: Any) -> Any:
    """A sample as the first steps of a torchvision transform take it: an image of Pillow where one makes a tensor."""
    names = [type(step).__name__ for step in steps_of(transform)]
    if "ToTensor" not in names or "ToPILImage" in names[: names.index("ToTensor")]:
        return sample
    from torchvision.transforms.functional import to_pil_image

    return to_pil_image(sample)


def steps_of(transform: Any) -> list[Any]:
    """The steps of a chain of torchvision's, those of chains within it included."""
    if isinstance(getattr(transform, "transforms", None), list | tuple):
        return [step for part in transform.transforms for step in steps_of(part)]
    return [transform]


def normalize(x: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(x - mean) / std for each channel of a batch (B, C, H, W)."""
    shape = (1, -1, 1, 1)
    return (x - torch.as_tensor(mean).to(x).view(shape)) / torch.as_tensor(std).to(x).view(shape)


def random_flip(x: Tensor) -> Tensor:
    """Mirror each image of a batch with probability 1/2."""
    mirrored = torch.rand(len(x)) < 0.5
    result = x.clone()
    result[mirrored] = x[mirrored].flip(-1)
    return result


def random_grayscale(x: Tensor, prob: float = 0.2) -> Tensor:
    """Turn each image of a batch (B, 3, H, W) to grey with probability `prob` (ITU-R BT.601 luma)."""
    grey = torch.rand(len(x)) < prob
    result = x.clone()
    luma = (x[grey] * x.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    result[grey] = luma.expand_as(x[grey])
    return result


class CustomRandomCrop:
    """Pad with zeros, then cut out `size` x `size`, of every image of a batch at its own random place."""

    def __init__(self, size: int, padding: int = 0) -> None:
        self.size, self.padding = size, padding

    def __call__(self, x: Tensor) -> Tensor:
        padded = F.pad(x if x.ndim == 4 else x.unsqueeze(0), [self.padding] * 4)
        rows, columns = (torch.randint(side - self.size + 1, (len(padded),)) for side in padded.shape[-2:])
        windows = padded.unfold(2, self.size, 1).unfold(3, self.size, 1)
        cut = windows[torch.arange(len(padded)), :, rows, columns].contiguous()
        return cut if x.ndim == 4 else cut[0]


def random_crop(x: Tensor, padding: int) -> Tensor:
    """`CustomRandomCrop` of square images, to the size that they have."""
    return CustomRandomCrop(x.shape[-1], padding)(x)


class CustomRandomHorizontalFlip:
    """Mirror each image with probability 1/2."""

    def __call__(self, x: Tensor) -> Tensor:
        return random_flip(x) if x.ndim == 4 else random_flip(x.unsqueeze(0))[0]


class RepeatedTransform:
    """Several transforms of the same batch, stacked: (number of transforms, B, ...)."""

    def __init__(self, transform_list: Sequence[Callable[[Any], Any]], autosqueeze: bool = False) -> None:
        self.transform_list, self.autosqueeze = list(transform_list), autosqueeze

    def __call__(self, x: Tensor) -> Tensor:
        return torch.stack([apply_transform(x, each, self.autosqueeze) for each in self.transform_list])


def strong_aug(size: int, mean: Sequence[float], std: Sequence[float]) -> Callable[[Tensor], Tensor]:
    """Crops, flips, colours and grey of contrastive learning, for images as floats in [0, 1], one or a batch.

    Source: T. Chen et al., A simple framework for contrastive learning of visual representations, ICML 2020.
    """
    from utils.torchvision_import import import_torchvision

    transforms = import_torchvision("transforms")
    chain = transforms.Compose(
        [
            transforms.RandomResizedCrop(size=size, scale=(0.2, 1.0), antialias=True),
            transforms.RandomHorizontalFlip(),
            transforms.RandomApply([transforms.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            transforms.RandomGrayscale(p=0.2),
            transforms.Normalize(mean, std),
        ]
    )
    return lambda x: apply_transform(x, chain, autosqueeze=True)


def rand_bbox(size: Sequence[int], lam: float) -> tuple[int, int, int, int]:
    """A random rectangle with 1 - lam of the area of images of `size` (B, C, H, W), cut to their sides.

    Returns:
        (first row, first column, end row, end column).

    Source: S. Yun et al., CutMix, ICCV 2019.
    """
    ends = []
    for side in size[2:4]:
        half = int(side * math.sqrt(1.0 - lam)) // 2
        middle = np.random.randint(side)
        ends.append((max(middle - half, 0), min(middle + half, side)))
    (top, bottom), (left, right) = ends
    return top, left, bottom, right


def cutmix_data(
    x: Tensor, y: Tensor, alpha: float = 1.0, cutmix_prob: float = 0.5
) -> tuple[Tensor, Tensor, Tensor, float]:
    """Paste a rectangle of another image of the batch into each, with probability `cutmix_prob` for the whole batch.

    Returns:
        (images, labels, labels of what was pasted, share of the area that is the image's own).

    Source: S. Yun et al., CutMix, ICCV 2019.
    """
    if alpha <= 0:
        raise ValueError(f"alpha must be above 0, not {alpha}")
    lam = float(np.random.beta(alpha, alpha))
    if np.random.rand() > cutmix_prob:
        return x, y, y, 1.0
    index = torch.randperm(len(x)).to(x.device)
    top, left, bottom, right = rand_bbox(x.shape, lam)
    mixed = x.clone()
    mixed[:, :, top:bottom, left:right] = x[index, :, top:bottom, left:right]
    return mixed, y, y[index], 1 - (bottom - top) * (right - left) / (x.shape[-1] * x.shape[-2])
