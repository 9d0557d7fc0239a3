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


class IncrementalRotation(Rotation):
    """By an angle that grows with every image."""

    def __init__(self, init_deg: float = 0, increase_per_iteration: float = 0.006) -> None:
        self.first, self.increase_per_iteration = init_deg, increase_per_iteration
        self.iteration = 0

    @property
    def degrees(self) -> float:  # type: ignore[override]
        return (self.iteration * self.increase_per_iteration + self.first) % 360

    def __call__(self, image: Any) -> Any:
        turned = super().__call__(image)
        self.iteration += 1
        return turned

    def set_iteration(self, iteration: int) -> None:
        """Go on as after this many images."""
        self.iteration = iteration
