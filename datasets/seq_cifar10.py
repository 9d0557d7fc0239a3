"""CIFAR-10 as a stream of classes, from the official files or from an image folder."""

from __future__ import annotations

from collections.abc import Sequence

from datasets.utils.augment import Operation, RandomCrop, RandomHorizontalFlip
from datasets.utils.class_dataset import ClassDataset
from datasets.utils.continual_dataset import Samples
from datasets.utils.image_sets import Images, data_folder, read_cifar


class SequentialCIFAR10(Images, ClassDataset):
    """60,000 colour images of 32x32 in 10 classes, 5 tasks of 2 (A. Krizhevsky, 2009).

    `--data_root DIR` holds either the folder `cifar-10-batches-py` (downloaded there if absent and the network allows),
    or `train/<class>/` and `test/<class>/` with one image file a sample. The default is BASE_PATH/CIFAR10.
    """

    NAME = "seq-cifar10"
    N_TASKS = 5
    N_CLASSES = 10
    N_CLASSES_PER_TASK = 2
    MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2615)
    # What torchvision calls the data set, and the folder of its files.
    OFFICIAL = ("CIFAR10", "cifar-10-batches-py")

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (3, 32, 32)

    def load_samples(self) -> Samples:
        name, folder = self.OFFICIAL
        root = data_folder(self.args, name)
        return read_cifar(name, folder, root, self.N_CLASSES, bool(self.args.skip_corrupt))

    def augmentations(self) -> Sequence[Operation]:
        return (RandomCrop(32, padding=4), RandomHorizontalFlip())
