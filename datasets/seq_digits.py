"""Handwritten digits that come with scikit-learn: the small real stream for first steps and tests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.datasets import load_digits

from datasets.utils.augment import Denormalize, Normalize, Operation, ToFloat
from datasets.utils.class_dataset import ClassDataset
from datasets.utils.continual_dataset import Samples
from datasets.utils.scenarios import every_nth
from datasets.utils.sources import TensorSource

MEAN, STD = (0.3053,), (0.3760,)


class SequentialDigits(ClassDataset):
    """1,797 images of 8x8 grey values in 10 classes, 5 tasks of 2; every fifth image of a class is for testing.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998 (its test part).
    """

    NAME = "seq-digits"
    N_TASKS = 5
    N_CLASSES = 10
    N_CLASSES_PER_TASK = 2

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (1, 8, 8)

    def load_samples(self) -> Samples:
        digits = load_digits()
        images = torch.from_numpy(np.rint(digits.images * (255 / 16)).astype(np.uint8)).unsqueeze(1)
        labels = digits.target.astype(np.int64)
        train, test = every_nth(labels, n=5, offset=4)
        return Samples(
            train=TensorSource(images[torch.from_numpy(train)]),
            test=TensorSource(images[torch.from_numpy(test)]),
            train_targets=labels[train],
            test_targets=labels[test],
            names=[str(digit) for digit in range(10)],
        )

    def normalization(self) -> Sequence[Operation]:
        return (ToFloat(), Normalize(MEAN, STD))

    def denormalization(self) -> Sequence[Operation]:
        return (Denormalize(MEAN, STD),)
