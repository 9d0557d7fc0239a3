"""Images that every task turns by another angle."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from datasets.utils.domain_dataset import DomainDataset
from datasets.utils.image_changes import Rotation
from datasets.utils.image_sets import DigitImages, MNISTImages
from utils.conf import named_generator


class Rotated(DomainDataset):
    """Every task, the first included, turns its images counter-clockwise by a random angle in [0, 180) degrees.

    Source: D. Lopez-Paz, M. Ranzato, Gradient episodic memory for continual learning, NeurIPS 2017; the angles as in
    P. Buzzega et al., NeurIPS 2020.
    """

    INTERPOLATION: str

    def change(self, number: int) -> tuple[str, Callable[[Tensor], Tensor]]:
        degrees = 180 * torch.rand((), generator=named_generator(self.seed, "rotation", number)).item()
        return f"{degrees:.1f} degrees", Rotation(degrees, self.INTERPOLATION)


class RotatedMNIST(Rotated, MNISTImages):
    """MNIST under 20 angles."""

    NAME = "rot-mnist"


class RotatedDigits(Rotated, DigitImages):
    """scikit-learn's digits under 20 angles; nothing to download."""

    NAME = "rot-digits"
