"""Tiny ImageNet as a stream of classes, from its official files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.utils.augment import Operation, RandomCrop, RandomHorizontalFlip
from datasets.utils.class_dataset import ClassDataset
from datasets.utils.continual_dataset import Samples
from datasets.utils.image_sets import Images, data_folder
from datasets.utils.sources import class_folders, images_of, open_images
from utils.errors import DataError

FOLDER = "tiny-imagenet-200"


class SequentialTinyImageNet(Images, ClassDataset):
    """110,000 colour images of 64x64 in 200 classes of ImageNet, 10 tasks of 20 (Stanford CS231n, 2015).

    `--data_root DIR` holds `tiny-imagenet-200` or is that folder: `train/<class>/images/*.JPEG`, `val/images/*.JPEG`
    and `val/val_annotations.txt`, as in the official archive. Its validation images are for testing; its test images
    have no public labels. Classes arrive in alphabetical order of their WordNet numbers. The default is
    BASE_PATH/TINYIMG.
    """

    NAME = "seq-tinyimg"
    N_TASKS = 10
    N_CLASSES = 200
    N_CLASSES_PER_TASK = 20
    MEAN, STD = (0.4802, 0.4480, 0.3975), (0.2770, 0.2691, 0.2821)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (3, 64, 64)

    def load_samples(self) -> Samples:
        root = self._folder
        notes = root / "val" / "val_annotations.txt"
        if not (root / "train").is_dir() or not notes.is_file():
            raise DataError(
                f"no Tiny ImageNet in {root}: it lacks train/<class>/images/ or val/val_annotations.txt. Get "
                f"http://cs231n.stanford.edu/{FOLDER}.zip, unpack it and give its place with --data_root"
            )
        names = class_folders(root / "train")
        if len(names) != self.N_CLASSES:
            raise DataError(f"{root / 'train'} holds {len(names)} class folders, Tiny ImageNet has {self.N_CLASSES}")
        skip = bool(self.args.skip_corrupt)
        train = open_images(root / "train", *images_of(root / "train", names, "images"), 64, skip)
        test = open_images(root / "val" / "images", *_annotated(notes, names), 64, skip)
        return Samples(
            train.source, test.source, train.labels, test.labels, names=names, problems=train.problems + test.problems
        )

    def texts(self, names: Sequence[str]) -> list[str]:
        """The first of the words that `words.txt` beside the images has for a WordNet number, all of them where that
        one is another class's too; the number where there is no such file or line."""
        words = self._folder / "words.txt"
        lines = words.read_text(encoding="utf-8").splitlines() if words.is_file() else []
        meaning = dict(line.split("\t", 1) for line in lines if "\t" in line)
        whole = [meaning.get(name, name).strip() for name in names]
        first = [text.split(",")[0] for text in whole]
        return [short if first.count(short) == 1 else text for short, text in zip(first, whole, strict=True)]

    @property
    def _folder(self) -> Path:
        root = data_folder(self.args, "TINYIMG")
        return root / FOLDER if (root / FOLDER).is_dir() else root

    def augmentations(self) -> Sequence[Operation]:
        return (RandomCrop(64, padding=4), RandomHorizontalFlip())


def _annotated(notes: Path, classes: list[str]) -> tuple[list[str], np.ndarray]:
    """Names of images and their labels, from lines `name<TAB>class<TAB>...`."""
    names, labels = [], []
    known = {name: label for label, name in enumerate(classes)}
    for number, line in enumerate(notes.read_text(encoding="utf-8").splitlines(), 1):
        words = line.split("\t")
        if len(words) < 2 or words[1] not in known:
            raise DataError(
                f"{notes}, line {number}: expected an image and one of the classes of train/, found '{line}'"
            )
        names.append(words[0])
        labels.append(known[words[1]])
    return names, np.asarray(labels, dtype=np.int64)
