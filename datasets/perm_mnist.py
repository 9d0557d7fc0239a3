"""Images whose pixels every task puts in another order."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from datasets.utils.domain_dataset import DomainDataset
from datasets.utils.image_changes import PixelOrder
from datasets.utils.image_sets import DigitImages, MNISTImages
from utils.conf import named_generator


class Permuted(DomainDataset):
    """Every task, the first included, has a random order of pixels of its own, drawn from the seed.

    Source: J. Kirkpatrick et al., Overcoming catastrophic forgetting in neural networks, PNAS 114(13), 2017.
    """

    def change(self, number: int) -> tuple[str, Callable[[Tensor], Tensor]]:
        generator = named_generator(self.seed, "permutation", number)
        order = torch.randperm(math.prod(self.input_shape[1:]), generator=generator)
        return f"permutation {number + 1}", PixelOrder(order)


class PermutedMNIST(Permuted, MNISTImages):
    """MNIST under 20 orders of its pixels, as in P. Buzzega et al., NeurIPS 2020."""

    NAME = "perm-mnist"


class PermutedDigits(Permuted, DigitImages):
    """scikit-learn's digits under 20 orders of their pixels; nothing to download."""

    NAME = "perm-digits"
