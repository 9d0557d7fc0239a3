"""MNIST as a stream of classes."""

from __future__ import annotations

from datasets.utils.class_dataset import ClassDataset
from datasets.utils.image_sets import MNISTImages


class SequentialMNIST(MNISTImages, ClassDataset):
    """MNIST, 5 tasks of 2 digits, as in P. Buzzega et al., NeurIPS 2020."""

    NAME = "seq-mnist"
    N_TASKS = 5
    N_CLASSES_PER_TASK = 2
