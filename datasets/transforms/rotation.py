"""Turns of single images, tensors (C, H, W) or of Pillow, counter-clockwise by nearest pixels, as torchvision turns."""

from __future__ import annotations

from typing import Any

import numpy as np

from utils.torchvision_import import import_torchvision


class Rotation:
    """By one angle, drawn from NumPy's global generator between two angles in degrees."""

    def __init__(self, deg_min: float = 0, deg_max: float = 180) -> None:
        self.degrees = float(np.random.uniform(deg_min, deg_max))

    def __call__(self, image: Any) -> Any:
        return import_torchvision("transforms.functional").rotate(image, self.degrees)


class FixedRotation(Rotation):
    """A `Rotation` that its seed decides."""

    def __init__(self, seed: int, deg_min: float = 0, deg_max: float = 180) -> None:
        self.seed = seed
        self.degrees = float(np.random.RandomState(seed).uniform(deg_min, deg_max))
