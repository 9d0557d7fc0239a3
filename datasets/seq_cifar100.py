"""CIFAR-100 as a stream of classes, from the official files or from an image folder."""

from __future__ import annotations

from datasets.seq_cifar10 import SequentialCIFAR10


class SequentialCIFAR100(SequentialCIFAR10):
    """60,000 colour images of 32x32 in 100 classes, 10 tasks of 10 (A. Krizhevsky, 2009).

    `--data_root DIR` holds either the folder `cifar-100-python` (downloaded there if absent and the network allows), or
    `train/<class>/` and `test/<class>/` with one image file a sample. The default is BASE_PATH/CIFAR100.
    """

    NAME = "seq-cifar100"
    N_TASKS = 10
    N_CLASSES = 100
    N_CLASSES_PER_TASK = 10
    MEAN, STD = (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)
    OFFICIAL = ("CIFAR100", "cifar-100-python")
