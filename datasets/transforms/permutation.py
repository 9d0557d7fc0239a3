"""Orders of the values of a sample."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Permutation:
    """All samples (any shape) in one random order of their values, drawn from NumPy's global generator at the first."""

    def __init__(self) -> None:
        self.perm: np.ndarray | None = None

    def __call__(self, sample: Tensor) -> Tensor:
        if self.perm is None:
            self.perm = self.draw(sample.numel())
        return sample.flatten()[torch.from_numpy(self.perm)].view(sample.shape)

    def draw(self, n: int) -> np.ndarray:
        """The order of n values."""
        return np.random.permutation(n)


class FixedPermutation(Permutation):
    """A `Permutation` that its seed decides."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed = seed

    def draw(self, n: int) -> np.ndarray:
        return np.random.RandomState(self.seed).permutation(n)
