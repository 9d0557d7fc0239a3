"""Where samples are read from. A source decodes, and does nothing else: it yields raw uint8 or float tensors."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from utils.errors import DataError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
# Decoded images of one part of a data set that are kept in memory; larger sets are read from their files each time.
IN_MEMORY_BYTES = 2 * 1024**3
# Images that are handed to a thread together, of large sets: handing over takes as long as decoding a small one.
MOST_AT_ONCE = 64
# What Pillow raises for files that it cannot read.
UNREADABLE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


class Source(Protocol):
    """Samples by position."""

    def __len__(self) -> int: ...

    def read(self, indices: np.ndarray) -> tuple[Tensor, list[int], list[str]]:
        """Read a batch.

        Returns:
            (raw samples (K, ...), their positions within `indices`, messages about those that could not be read).

        Raises:
            DataError: a sample cannot be read, unless the source was told to skip such samples.
        """
        ...

    def fingerprint(self) -> str:
        """A digest that changes with the samples and not with where they lie."""
        ...


class TensorSource:
    """Samples in memory: data (N, ...)."""

    def __init__(self, data: Tensor) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def read(self, indices: np.ndarray) -> tuple[Tensor, list[int], list[str]]:
        return self.data[torch.from_numpy(np.asarray(indices))], list(range(len(indices))), []

    def fingerprint(self) -> str:
        return digest(self.data.numpy())


def digest(*values: object) -> str:
    """32 hexadecimal digits over arrays (shape, type, content) and values with a fixed `repr`."""
    total = hashlib.blake2b(digest_size=16)
    for value in values:
        if isinstance(value, np.ndarray) and value.dtype != object:
            total.update(repr((value.shape, value.dtype.str)).encode())
            total.update(np.ascontiguousarray(value).data)
        else:
            total.update(repr(value.tolist() if isinstance(value, np.ndarray) else value).encode())
    return total.hexdigest()


def read_image(path: Path, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode one image file as `decode_image` does.

    Raises:
        DataError: the file is missing, truncated or no image; it is named.
    """
    try:
        return decode_image(path.read_bytes(), size)
    except UNREADABLE as error:
        raise _unreadable(path, error) from error


def decode_image(content: bytes, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode an image to (height, width, 3) uint8 RGB, resized (bilinear) to `size` = (height, width) if given.

    Raises:
        One of UNREADABLE.
    """
    with Image.open(io.BytesIO(content)) as image:
        if size is not None:
            # Lets the JPEG decoder skip detail that the resize would throw away.
            image.draft("RGB", (size[1], size[0]))
        rgb = image.convert("RGB")
        return np.array(rgb if size is None else resized(rgb, size))


def resized(
    image: Image.Image, size: tuple[int, int], resample: Image.Resampling = Image.Resampling.BILINEAR
) -> Image.Image:
    """To (height, width); the image itself where it has that size."""
    wanted = (size[1], size[0])
    return image if image.size == wanted else image.resize(wanted, resample)


def why_unreadable(error: Exception) -> str:
    """What is wrong with a file, in words that are the same each time."""
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    return "it is no image" if isinstance(error, UnidentifiedImageError) else str(error)


def read_square(path: Path, size: int, resample: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
    """Decode an image file to (size, size, 3) uint8 RGB: its shorter side is scaled to `size`, the middle cut out.

    Raises:
        DataError: the file is missing, truncated or no image; it is named.
    """
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            scale = size / min(image.size)
            width, height = (max(size, round(length * scale)) for length in image.size)
            # Lets the JPEG decoder skip detail that the resize would throw away.
            image.draft("RGB", (width, height))
            pixels = np.asarray(resized(image.convert("RGB"), (height, width), resample))
    except UNREADABLE as error:
        raise _unreadable(path, error) from error
    top, left = (height - size) // 2, (width - size) // 2
    return pixels[top : top + size, left : left + size]


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"cannot read the image {path}: {why_unreadable(error)}. "
        "Restore the file, or leave such samples out with --skip_corrupt 1"
    )


class ImageFiles:
    """Square images read from their files when they are asked for.

    Args:
        root: folder of the data set.
        names: of the files, relative to `root`.
        size: pixels of a side; see `read_square`.
        skip_corrupt: leave out what cannot be read.
        resample: how images are scaled.
    """

    def __init__(
        self,
        root: Path,
        names: Sequence[str],
        size: int,
        skip_corrupt: bool,
        resample: Image.Resampling = Image.Resampling.BILINEAR,
    ) -> None:
        self.root, self.names, self.size, self.skip_corrupt = root, list(names), size, skip_corrupt
        self.resample = resample

    def __len__(self) -> int:
        return len(self.names)

    def read(self, indices: np.ndarray) -> tuple[Tensor, list[int], list[str]]:
        out = np.empty((len(indices), 3, self.size, self.size), np.uint8)

        def decode(position: int) -> str | None:
            try:
                image = read_square(self.root / self.names[indices[position]], self.size, self.resample)
            except DataError as error:
                if not self.skip_corrupt:
                    raise
                return str(error)
            out[position] = image.transpose(2, 0, 1)
            return None

        # Threads only where torch may use several: not in a loader's workers, which are many already.
        n_threads = torch.get_num_threads()
        n_parts = max(min(4 * n_threads, len(indices)), len(indices) // MOST_AT_ONCE, 1)
        parts = np.array_split(np.arange(len(indices)), n_parts)
        with ThreadPoolExecutor(n_threads) as pool:
            done = pool.map(lambda positions: [decode(position) for position in positions], parts)
            outcomes = [outcome for part in done for outcome in part]
        kept = [position for position, problem in enumerate(outcomes) if problem is None]
        problems = [problem for problem in outcomes if problem is not None]
        return torch.from_numpy(out if len(kept) == len(out) else out[kept]), kept, problems

    def fingerprint(self) -> str:
        """Of every file its name below `root` and its size in bytes."""
        sizes = [path.stat().st_size if path.exists() else -1 for path in map(self.root.joinpath, self.names)]
        return digest(self.names, sizes)


@dataclass
class Images:
    """What `open_images` makes of files: a source, the labels of its samples, and messages about files left out."""

    source: TensorSource | ImageFiles
    labels: np.ndarray
    problems: list[str]


def open_images(
    root: Path, names: Sequence[str], labels: np.ndarray, size: int, skip_corrupt: bool, limit: int = IN_MEMORY_BYTES
) -> Images:
    """Square images in memory where they take at most `limit` bytes there, else read from their files each time.

    Args:
        root, names, size, skip_corrupt: as of `ImageFiles`.
        labels: (n,) of the files.

    Raises:
        DataError: a file cannot be read now; on larger sets, when it is asked for.
    """
    files = ImageFiles(root, names, size, skip_corrupt)
    if len(files) * 3 * size * size > limit:
        return Images(files, labels, [])
    data, kept, problems = files.read(np.arange(len(files)))
    return Images(TensorSource(data), labels[kept], problems)


def class_folders(root: Path) -> list[str]:
    """Names of the folders in `root`, in alphabetical order.

    Raises:
        DataError: no such folder, or nothing in it.
    """
    if not root.is_dir():
        raise DataError(f"no folder {root}")
    names = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    if not names:
        raise DataError(f"{root} holds no class folders; expected {root}/<class>/<image>")
    return names


def images_of(root: Path, classes: Sequence[str], below: str = "") -> tuple[list[str], np.ndarray]:
    """Image files of class folders, `root/<class>/<below>/<image>`, class by class, each in alphabetical order.

    Returns:
        (names relative to `root`, (n,) int64 positions in `classes`).

    Raises:
        DataError: a class without images.
    """
    names: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        folder = root / name / below
        files = os.listdir(folder) if folder.is_dir() else []
        found = sorted(file for file in files if file.lower().endswith(IMAGE_SUFFIXES))
        if not found:
            raise _nothing_in(folder)
        names += [str(Path(name, below, file)) for file in found]
        labels += [label] * len(found)
    return names, np.asarray(labels, dtype=np.int64)


def read_image_folder(root: Path, size: int, skip_corrupt: bool) -> tuple[Tensor, np.ndarray, list[str], list[str]]:
    """Read a whole tree `root/<class>/<image>` of small images into memory.

    Returns:
        (images (N, 3, size, size) uint8, labels (N,) int64 in alphabetical order of the class folders, class names,
        messages about files that were left out).

    Raises:
        DataError: no such folder, a class without images, or an unreadable file (unless `skip_corrupt`).
    """
    names = class_folders(root)
    files, labels = images_of(root, names)
    data, kept, problems = ImageFiles(root, files, size, skip_corrupt).read(np.arange(len(files)))
    lost = np.setdiff1d(labels, labels[kept])
    if len(lost):
        raise _nothing_in(root / names[lost[0]])
    return data, labels[kept], names, problems


def _nothing_in(folder: Path) -> DataError:
    return DataError(f"the class folder {folder} holds no readable image; remove it or complete the data")
