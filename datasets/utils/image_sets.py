"""Sets of small images that several streams are made of: how their files are read, their shape and normalisation."""

from __future__ import annotations

import gzip
import struct
import zlib
from argparse import Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from backbone import pixel_statistics
from datasets.utils.augment import Denormalize, Normalize, Operation, ToFloat
from datasets.utils.continual_dataset import ContinualDataset, Samples
from datasets.utils.scenarios import every_nth
from datasets.utils.sources import TensorSource, read_image_folder
from datasets.utils.training_labels import DIGIT_CONFUSIONS
from utils.errors import DataError
from utils.torchvision_import import import_torchvision

IDX_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Images(ContinualDataset):
    """Samples whose channels are normalised as the backbone wants them, or else by statistics of the stream's own.

    Attributes:
        MEAN, STD: of every channel of pixels in [0, 1]; where they are empty, the stream's own way is to leave pixels
            in [0, 1].
    """

    MEAN: tuple[float, ...] = ()
    STD: tuple[float, ...] = ()

    @property
    def pixel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """(means, standard deviations) that channels are normalised by; both empty where they are not.

        What a backbone wants of three channels is averaged over them for a stream of one.
        """
        name = getattr(self.args, "backbone", None)
        wanted = pixel_statistics(name) if name else None
        if wanted is None:
            return self.MEAN, self.STD
        mean, std = wanted
        return (mean, std) if self.input_shape[0] == 3 else ((sum(mean) / 3,), (sum(std) / 3,))

    def normalization(self) -> Sequence[Operation]:
        mean, std = self.pixel_statistics
        return (ToFloat(), Normalize(mean, std)) if mean else (ToFloat(),)

    def denormalization(self) -> Sequence[Operation]:
        mean, std = self.pixel_statistics
        return (Denormalize(mean, std),) if mean else ()


class Digits(Images):
    """Ten handwritten digits, whose texts are their words."""

    N_CLASSES = 10
    PROMPTS = ("the handwritten digit {}.",)
    CONFUSIONS = DIGIT_CONFUSIONS

    def texts(self, names: Sequence[str]) -> list[str]:
        return [DIGITS[int(name)] for name in names]


class DigitImages(Digits):
    """1,797 images of 8x8 grey values in 10 classes; every fifth image of a class is for testing.

    They come with scikit-learn. Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI
    repository, 1998 (its test part).
    """

    MEAN, STD = (0.3053,), (0.3760,)
    INTERPOLATION = "bilinear"

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (1, 8, 8)

    def load_samples(self) -> Samples:
        from sklearn.datasets import load_digits

        digits = load_digits()
        images = np.rint(digits.images * (255 / 16)).astype(np.uint8)[:, None]
        labels = digits.target.astype(np.int64)
        train, test = every_nth(labels, n=5, offset=4)
        return _samples(images[train], labels[train], images[test], labels[test], [str(digit) for digit in range(10)])


class MNISTImages(Digits):
    """70,000 images of 28x28 grey values in 10 classes (Y. LeCun et al., Proc. IEEE 86(11), 1998), scaled to [0, 1].

    `--data_root DIR` holds the four idx files, compressed or not, or `MNIST/raw/` with them (downloaded there if absent
    and the network allows). The default is BASE_PATH/MNIST.
    """

    # As torchvision rotates by default, and Mammoth with it.
    INTERPOLATION = "nearest"

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (1, 28, 28)

    def load_samples(self) -> Samples:
        root = data_folder(self.args, "MNIST")
        folder = _idx_folder(root)
        if folder is None:
            hint = f"{', '.join(IDX_FILES)} (or the same with .gz)"
            download("MNIST", root, hint, lambda cls: cls(str(root), download=True))
            folder = root / "MNIST" / "raw"
        parts = [read_idx(_idx_path(folder, name)) for name in IDX_FILES]
        for images, labels in (parts[:2], parts[2:]):
            if images.shape != (len(labels), 28, 28) or labels.shape != (len(images),) or not (labels < 10).all():
                raise DataError(
                    f"{folder}: images of shape {images.shape} with labels of shape {labels.shape} are not MNIST's; "
                    "remove these files, or name another place with --data_root"
                )
        images, labels, test_images, test_labels = parts
        return _samples(
            images[:, None],
            labels.astype(np.int64),
            test_images[:, None],
            test_labels.astype(np.int64),
            [str(digit) for digit in range(10)],
        )


def data_folder(args: Namespace, name: str) -> Path:
    """Where a data set lies: `--data_root`, or `name` under `--base_path`."""
    return Path(args.data_root or Path(args.base_path) / name)


def download(name: str, root: Path, expected: str, get: Callable[[Any], Any]) -> Any:
    """What `get` makes of torchvision's class `name`, which downloads what is absent.

    Raises:
        DataError: it is neither there nor to be had; says what was expected under `root`.
    """
    cls = getattr(import_torchvision("datasets"), name)
    try:
        return get(cls)
    except Exception as error:  # whatever the network, the archive or the file system raises
        raise DataError(
            f"no {name} under {root}: it does not hold intact {expected}, and downloading failed ({error}). Put them "
            "there, or name another place with --data_root"
        ) from error


def read_cifar(name: str, folder: str, root: Path, n_classes: int, skip_corrupt: bool) -> Samples:
    """CIFAR10 or CIFAR100 from the official files (downloaded if absent), or from `train/<class>/`, `test/<class>/`.

    Args:
        name: of torchvision's class.
        folder: of the official files below `root`.

    Raises:
        DataError: files are missing, damaged or of other classes.
    """
    if (root / "train").is_dir() or (root / "test").is_dir():
        train, train_labels, names, train_problems = read_image_folder(root / "train", 32, skip_corrupt)
        test, test_labels, test_names, test_problems = read_image_folder(root / "test", 32, skip_corrupt)
        if names != test_names or len(names) != n_classes:
            raise DataError(
                f"{root}: expected the same {n_classes} class folders in train/ and test/, found {names} and "
                f"{test_names}"
            )
        problems = train_problems + test_problems
        return Samples(
            TensorSource(train), TensorSource(test), train_labels, test_labels, names=names, problems=problems
        )
    expected = f"{folder}/, or train/<class>/ and test/<class>/ with one image file a sample"
    official, tested = download(
        name, root, expected, lambda cls: [cls(str(root), train=part, download=True) for part in (True, False)]
    )
    return _samples(
        official.data.transpose(0, 3, 1, 2),
        np.asarray(official.targets, dtype=np.int64),
        tested.data.transpose(0, 3, 1, 2),
        np.asarray(tested.targets, dtype=np.int64),
        list(official.classes),
    )


def read_idx(path: Path) -> np.ndarray:
    """An array of bytes from a file in MNIST's idx format, compressed if its name ends in .gz.

    Raises:
        DataError: the file is truncated, or in another format.
    """
    content = path.read_bytes()
    try:
        if path.suffix == ".gz":
            content = gzip.decompress(content)
        zeros, kind, n_axes = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{n_axes}I", content, 4)
        if (zeros, kind) != (0, 8):
            raise ValueError("it does not begin as files of bytes do")
        return np.frombuffer(content, np.uint8, offset=4 + 4 * n_axes).reshape(shape)
    except (ValueError, struct.error, OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} is no intact idx file ({error}). Remove it so that it is downloaded again, or get a new copy"
        ) from error


def _samples(
    train: np.ndarray, train_labels: np.ndarray, test: np.ndarray, test_labels: np.ndarray, names: list[str]
) -> Samples:
    train_source, test_source = (
        TensorSource(torch.from_numpy(np.array(images, order="C"))) for images in (train, test)
    )
    return Samples(train_source, test_source, train_labels, test_labels, names=names)


def _idx_folder(root: Path) -> Path | None:
    """The folder with all four files, if there is one."""
    for folder in (root, root / "raw", root / "MNIST" / "raw"):
        if all(_idx_path(folder, name).is_file() for name in IDX_FILES):
            return folder
    return None


def _idx_path(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.is_file() else folder / f"{name}.gz"
