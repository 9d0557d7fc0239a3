"""Where samples are read from. A source decodes, and does nothing else: it yields raw uint8 or float tensors."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from utils.errors import DataError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
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
        raise DataError(
            f"cannot read the image {path}: {why_unreadable(error)}. "
            "Restore the file, or leave such samples out with --skip_corrupt 1"
        ) from error


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


def resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Bilinear, to (height, width); the image itself where it has that size."""
    wanted = (size[1], size[0])
    return image if image.size == wanted else image.resize(wanted, Image.Resampling.BILINEAR)


def why_unreadable(error: Exception) -> str:
    """What is wrong with a file, in words that are the same each time."""
    if isinstance(error, FileNotFoundError):
        return "it does not exist"
    return "it is no image" if isinstance(error, UnidentifiedImageError) else str(error)


def read_image_folder(root: Path, size: int, skip_corrupt: bool) -> tuple[Tensor, np.ndarray, list[str], list[str]]:
    """Read a whole tree `root/<class>/<image>` of small images into memory.

    Returns:
        (images (N, 3, size, size) uint8, labels (N,) int64 in alphabetical order of the class folders, class names,
        messages about files that were left out).

    Raises:
        DataError: no such folder, a class without images, or an unreadable file (unless `skip_corrupt`).
    """
    if not root.is_dir():
        raise DataError(f"no folder {root}")
    names = sorted(folder.name for folder in root.iterdir() if folder.is_dir())
    if not names:
        raise DataError(f"{root} holds no class folders; expected {root}/<class>/<image>")
    images: list[np.ndarray] = []
    labels, problems = [], []
    for label, name in enumerate(names):
        n_before = len(images)
        for path in sorted((root / name).iterdir()):
            if path.suffix.lower() not in IMAGE_SUFFIXES:
                continue
            try:
                images.append(read_image(path, (size, size)))
            except DataError as error:
                if not skip_corrupt:
                    raise
                problems.append(str(error))
                continue
            labels.append(label)
        if len(images) == n_before:
            raise DataError(f"the class folder {root / name} holds no readable image; remove it or complete the data")
    data = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return data, np.asarray(labels, dtype=np.int64), names, problems
