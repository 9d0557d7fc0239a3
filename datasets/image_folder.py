"""Any set of images as a stream of classes: mini-ImageNet, ImageNet-1k, a set of your own."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from datasets.utils.augment import CenterCrop, Operation, RandomHorizontalFlip, RandomResizedCrop
from datasets.utils.class_dataset import ClassDataset
from datasets.utils.continual_dataset import Samples
from datasets.utils.image_sets import Images, data_folder
from datasets.utils.sources import class_folders, images_of, open_images
from utils.args import positive, positive_number
from utils.errors import DataError


class ImageFolder(Images, ClassDataset):
    """Classes are the folders of `--data_root DIR`: `DIR/train/<class>/<image>` and `DIR/test/` or `DIR/val/` likewise.

    Where both exist, `test` is for testing. Classes arrive in alphabetical order unless told otherwise. Images are read
    as squares, the shorter side scaled to 8/7 of `--image_size` (256 for 224) and the middle cut out. Training sees a
    random resized crop of that, mirrored or not, testing its middle. Sets that take more than `--memory_gib` when
    decoded are read from their files in every epoch: give `--num_workers`. Channels are scaled as ImageNet's.
    """

    NAME = "image-folder"
    N_TASKS = 10
    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

    def __init__(self, args: Namespace) -> None:
        self.root = data_folder(args, "image-folder")
        self.classes = self._classes(self.root / "train")
        self.N_CLASSES = len(self.classes)
        self.size: int = args.image_size
        super().__init__(args)

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        ClassDataset.get_parser(parser)
        parser.add_argument("--image_size", type=positive, default=224, help="pixels of a side of the network's input")
        parser.add_argument(
            "--memory_gib",
            type=positive_number,
            default=2.0,
            help="decode training or test images into memory if they take no more than this, in GiB",
        )
        return parser

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    def load_samples(self) -> Samples:
        tested = next((name for name in ("test", "val") if (self.root / name).is_dir()), "test")
        names = self._classes(self.root / tested)
        if names != self.classes:
            differing = sorted({*names} ^ {*self.classes})
            raise DataError(f"{self.root}: train/ and {tested}/ do not have the same classes; in one only: {differing}")
        limit = int(self.args.memory_gib * 1024**3)
        train, test = (
            open_images(
                self.root / part,
                *images_of(self.root / part, names),
                round(self.size * 8 / 7),
                bool(self.args.skip_corrupt),
                limit,
            )
            for part in ("train", tested)
        )
        return Samples(
            train.source, test.source, train.labels, test.labels, names=names, problems=train.problems + test.problems
        )

    def _classes(self, folder: Path) -> list[str]:
        try:
            return class_folders(folder)
        except DataError as error:
            raise DataError(
                f"{error}. image-folder reads {self.root}/train/<class>/ and {self.root}/test/<class>/ (or val/); "
                "name the place with --data_root"
            ) from error

    def augmentations(self) -> Sequence[Operation]:
        return (RandomResizedCrop(self.size), RandomHorizontalFlip())

    def normalization(self) -> Sequence[Operation]:
        return (CenterCrop(self.size), *super().normalization())
