"""Data sets of images by name, such as `cifar10`, `cifar100:/place`, `folder:/place=flowers`: where, and what."""

from __future__ import annotations

import argparse
import functools
import math
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.utils.sources import IN_MEMORY_BYTES, ImageFiles, Source, TensorSource, class_folders, digest, images_of
from utils.errors import DataError, UsageError
from utils.prompts import prompt_templates

if TYPE_CHECKING:
    from datasets.utils.class_dataset import ClassDataset
    from datasets.utils.continual_dataset import Samples


@dataclass(frozen=True)
class _Known:
    """A data set that has a stream here: its name, its folder below --base_path, and what its official files are in."""

    stream: str
    folder: str = ""
    official: str = ""


KNOWN = {
    "cifar10": _Known("seq-cifar10", "CIFAR10", "cifar-10-batches-py"),
    "cifar100": _Known("seq-cifar100", "CIFAR100", "cifar-100-python"),
    "digits": _Known("seq-digits"),
    "mnist": _Known("seq-mnist", "MNIST", "raw"),
    "tinyimg": _Known("seq-tinyimg", "TINYIMG", "tiny-imagenet-200"),
}
# Of a folder: beside its parts, one prompt a line.
PROMPT_FILE = "prompts.txt"
FORM = f"{', '.join(KNOWN)}, each with :PLACE if you like, or folder:PLACE, or folder:PLACE=NAME"


def set_list(text: str | Sequence[str]) -> list[str]:
    """Names of data sets separated by commas, each once; the type of an option."""
    entries = [part.strip() for part in (text.split(",") if isinstance(text, str) else text) if part.strip()]
    if not entries:
        raise argparse.ArgumentTypeError(f"no data set named; choose of {FORM}")
    names = [parse_set(entry)[0] for entry in entries]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise argparse.ArgumentTypeError(f"two data sets are called {twice[0]}; say folder:PLACE=NAME")
    return entries


def parse_set(entry: str) -> tuple[str, str, Path | None]:
    """(name, "folder" or one of `KNOWN`, place where one is given)."""
    kind, _, place = entry.partition(":")
    kind = kind.strip().lower().removeprefix("seq-")
    if kind == "folder":
        path, _, name = place.rpartition("=") if "=" in place else (place, "", "")
        name = name.strip() or Path(path).name
        if not path or not name:
            raise argparse.ArgumentTypeError(f"'{entry}' names no folder; say folder:PLACE or folder:PLACE=NAME")
        return name, kind, Path(path).expanduser()
    if kind not in KNOWN:
        raise argparse.ArgumentTypeError(f"'{entry}' is no data set that is known here; choose of {FORM}")
    if place and kind == "digits":
        raise argparse.ArgumentTypeError(f"'{entry}': digits come with scikit-learn; leave out the place")
    return kind, kind, Path(place).expanduser() if place else None


class ImageSet:
    """One data set. Constructing it reads no image.

    Attributes:
        name: in tables and files.
        prompts: sentences with {} for the text of a class.
        n_classes: number of classes.

    Args:
        entry: as in `set_list`.
        args: with base_path, skip_corrupt, memory_gib and the device, where given.
        root: folder in which it lies, under its name, where the entry gives no place or a relative one that is not
            there; the default place of its stream otherwise.

    Raises:
        DataError: it is a folder without class folders, or with a file of prompts that are none.
    """

    def __init__(self, entry: str, args: Namespace, root: Path | None = None) -> None:
        from datasets.utils.continual_dataset import ContinualDataset

        self.name, kind, place = parse_set(entry)
        self.prompts = ContinualDataset.PROMPTS
        self.skip_corrupt = bool(getattr(args, "skip_corrupt", False))
        self.limit = int(getattr(args, "memory_gib", IN_MEMORY_BYTES / 1024**3) * 1024**3)
        self.stream: ClassDataset | None = None
        if kind == "folder":
            assert place is not None
            self.root = root / place if root is not None and not place.is_dir() else place
            self.classes = self._class_folders()
            self.n_classes = len(self.classes)
            self.prompts = self._own_prompts()
        else:
            self.stream = _stream(KNOWN[kind], args, place or (_below(root, kind) if root is not None else None))
            self.n_classes, self.prompts = self.stream.N_CLASSES, self.stream.PROMPTS

    @functools.cached_property
    def texts(self) -> list[str]:
        """The text of every class; reads the data of some sets."""
        from datasets.utils.evaluation_sets import label_words

        if self.stream is None:
            return [label_words(name) for name in self.classes]
        return self.stream.texts(self._samples(self.stream).names)

    def open(self, part: str, shape: tuple[int, ...]) -> tuple[Source, np.ndarray, list[str]]:
        """Training or test images in one shape, in memory where they take no more than memory_gib there.

        Args:
            part: "train" or "test".
            shape: (C, size, size) with C of 1 or 3.

        Returns:
            (uint8 images, (n,) labels, messages about samples left out).

        Raises:
            DataError: data is missing or broken.
        """
        source, labels, problems = self.open_lazily(part, shape)
        source, kept, more = in_memory(source, shape, self.limit)
        return source, labels[kept], problems + more

    def open_lazily(self, part: str, shape: tuple[int, ...]) -> tuple[Source, np.ndarray, list[str]]:
        """As `open`, but images are brought to the shape when they are read."""
        if self.stream is not None:
            samples = self._samples(self.stream)
            source, labels = getattr(samples, part), getattr(samples, f"{part}_targets")
            return ShapedSource(source, shape), labels, samples.problems
        folder = self._part(part)
        if class_folders(folder) != self.classes:
            differing = sorted({*class_folders(folder)} ^ {*self.classes})
            raise DataError(f"{self.root}: its parts do not have the same classes; in one only: {differing}")
        files, labels = images_of(folder, self.classes)
        source = ImageFiles(folder, files, shape[1], self.skip_corrupt, Image.Resampling.BICUBIC)
        return ShapedSource(source, shape), labels, []

    def close(self) -> None:
        """Let go of what was read, but for the texts."""
        if self.stream is not None and "texts" in vars(self):
            self.stream = None

    def _own_prompts(self) -> tuple[str, ...]:
        path = self.root / PROMPT_FILE
        if not path.exists():
            return self.prompts
        try:
            lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
            return prompt_templates([line for line in lines if line])
        except (OSError, UnicodeDecodeError, UsageError) as error:
            raise DataError(f"{path}: {error}. It holds one prompt a line, or is not there") from error

    def _samples(self, stream: ClassDataset) -> Samples:
        try:
            return stream.samples
        except DataError as error:
            raise DataError(f"{error}; among several data sets its place is said by {self.name}:PLACE") from error

    def _class_folders(self) -> list[str]:
        try:
            return class_folders(self._part("train" if (self.root / "train").is_dir() else "test"))
        except DataError as error:
            raise DataError(
                f"{error}. The data set {self.name} is read from {self.root}/train/<class>/ and "
                f"{self.root}/test/<class>/ (or val/)"
            ) from error

    def _part(self, part: str) -> Path:
        names = ("train",) if part == "train" else ("test", "val")
        return next((self.root / name for name in names if (self.root / name).is_dir()), self.root / names[0])


class ShapedSource:
    """Images of a source, square, in another number of channels and another size (Pillow's bicubic, antialiased).

    Grey values are repeated; colours become luminances (ITU-R 601-2).
    """

    def __init__(self, base: Source, shape: tuple[int, ...]) -> None:
        self.base, self.shape = base, tuple(shape)

    def __len__(self) -> int:
        return len(self.base)

    def read(self, indices: np.ndarray) -> tuple[Tensor, list[int], list[str]]:
        raw, kept, problems = self.base.read(indices)
        return shaped(raw, self.shape), kept, problems

    def fingerprint(self) -> str:
        return digest(self.base.fingerprint(), self.shape)


class JoinedSource:
    """The samples of several sources, one source after the other."""

    def __init__(self, parts: Sequence[Source]) -> None:
        self.parts = list(parts)
        self._ends = np.cumsum([len(part) for part in self.parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def read(self, indices: np.ndarray) -> tuple[Tensor, list[int], list[str]]:
        indices = np.asarray(indices)
        owner = np.searchsorted(self._ends, indices, side="right")
        read, positions, problems = [], [], []
        for number in np.unique(owner):
            mine = np.flatnonzero(owner == number)
            part = self.parts[number]
            raw, kept, more = part.read(indices[mine] - (self._ends[number] - len(part)))
            read.append(raw)
            positions.append(mine[kept])
            problems += more
        if not read:
            return self.parts[0].read(indices)
        places = np.concatenate(positions)
        order = np.argsort(places)
        return torch.cat(read)[torch.from_numpy(order)], places[order].tolist(), problems

    def fingerprint(self) -> str:
        return digest(*(part.fingerprint() for part in self.parts))


def in_memory(source: Source, shape: tuple[int, ...], limit: int) -> tuple[Source, np.ndarray, list[str]]:
    """A source of uint8 samples, read into memory at once where they take at most `limit` bytes there.

    Returns:
        (source, (n,) which of the samples it holds, messages about the others).
    """
    every = np.arange(len(source))
    if len(every) * math.prod(shape) > limit:
        return source, every, []
    data = torch.empty((len(every), *shape), dtype=torch.uint8)
    held, problems, n = [every[:0]], [], 0
    # In parts: what they are made of would take as much memory again.
    for first in range(0, len(every), 1024):
        indices = every[first : first + 1024]
        raw, kept, more = source.read(indices)
        data[n : n + len(raw)] = raw
        held.append(indices[kept])
        problems += more
        n += len(raw)
    return TensorSource(data[:n]), np.concatenate(held), problems


def shaped(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """uint8 images (B, C, H, H) in the shape (C', size, size) as `ShapedSource` says; the same ones where they fit."""
    channels, size = shape[0], shape[1]
    if tuple(images.shape[1:]) == (channels, size, size):
        return images
    out = np.empty((len(images), channels, size, size), np.uint8)
    for row, image in zip(out, images.numpy(), strict=True):
        picture = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
        if len(image) == 3 and channels == 1:
            picture = picture.convert("L")
        if picture.size != (size, size):
            picture = picture.resize((size, size), Image.Resampling.BICUBIC)
        pixels = np.asarray(picture)
        row[:] = pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels
    return torch.from_numpy(out)


def _stream(known: _Known, args: Namespace, place: Path | None) -> ClassDataset:
    from datasets import get_dataset_class

    own = {name: getattr(args, name, None) for name in ("base_path", "skip_corrupt", "device", "gpus")}
    options = Namespace(**own | {"base_path": own["base_path"] or "data", "data_root": place and str(place)})
    return get_dataset_class(known.stream)(options)  # type: ignore[return-value]


def _below(root: Path, kind: str) -> Path:
    """Where a data set lies in a folder of several: under its name, else where its stream would put it."""
    known = KNOWN[kind]
    named = next((root / name for name in (kind, known.folder) if (root / name).is_dir()), None)
    if named is None and (root / known.official).is_dir():
        return root
    return named or root / known.folder
