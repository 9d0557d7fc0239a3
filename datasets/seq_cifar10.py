"""CIFAR-10 as a stream of classes, from the official files or from an image folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from datasets.utils.augment import Denormalize, Normalize, Operation, RandomCrop, RandomHorizontalFlip, ToFloat
from datasets.utils.class_dataset import ClassDataset
from datasets.utils.continual_dataset import Samples
from datasets.utils.sources import TensorSource, read_image_folder
from utils.errors import DataError
from utils.torchvision_import import import_torchvision

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2615)


class SequentialCIFAR10(ClassDataset):
    """60,000 colour images of 32x32 in 10 classes, 5 tasks of 2 (A. Krizhevsky, 2009).

    `--data_root DIR` holds either the folder `cifar-10-batches-py` (downloaded there if absent and the network allows),
    or `train/<class>/` and `test/<class>/` with one image file a sample. The default is BASE_PATH/CIFAR10.
    """

    NAME = "seq-cifar10"
    N_TASKS = 5
    N_CLASSES = 10
    N_CLASSES_PER_TASK = 2

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (3, 32, 32)

    def load_samples(self) -> Samples:
        root = Path(self.args.data_root or Path(self.args.base_path) / "CIFAR10")
        if (root / "train").is_dir() or (root / "test").is_dir():
            return self._from_folders(root)
        datasets = import_torchvision("datasets")
        try:
            train, test = (datasets.CIFAR10(str(root), train=part, download=True) for part in (True, False))
        except Exception as error:
            raise DataError(
                f"no CIFAR-10 under {root}: it holds neither train/<class>/ and test/<class>/ nor intact official "
                f"files, and downloading them failed ({error}). Put cifar-10-batches-py or such folders there, or name "
                "another place with --data_root"
            ) from error
        return Samples(
            train=TensorSource(torch.from_numpy(train.data).permute(0, 3, 1, 2).contiguous()),
            test=TensorSource(torch.from_numpy(test.data).permute(0, 3, 1, 2).contiguous()),
            train_targets=np.asarray(train.targets, dtype=np.int64),
            test_targets=np.asarray(test.targets, dtype=np.int64),
            names=list(train.classes),
        )

    def _from_folders(self, root: Path) -> Samples:
        skip = bool(self.args.skip_corrupt)
        train, train_labels, names, train_problems = read_image_folder(root / "train", 32, skip)
        test, test_labels, test_names, test_problems = read_image_folder(root / "test", 32, skip)
        if names != test_names or len(names) != self.N_CLASSES:
            raise DataError(
                f"{root}: expected the same {self.N_CLASSES} class folders in train/ and test/, found {names} and "
                f"{test_names}"
            )
        return Samples(
            train=TensorSource(train),
            test=TensorSource(test),
            train_targets=train_labels,
            test_targets=test_labels,
            names=names,
            problems=train_problems + test_problems,
        )

    def augmentations(self) -> Sequence[Operation]:
        return (RandomCrop(32, padding=4), RandomHorizontalFlip())

    def normalization(self) -> Sequence[Operation]:
        return (ToFloat(), Normalize(MEAN, STD))

    def denormalization(self) -> Sequence[Operation]:
        return (Denormalize(MEAN, STD),)
