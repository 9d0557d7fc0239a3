"""Where samples are read from. A source decodes, and does nothing else: it yields raw uint8 or float tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from utils.errors import DataError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


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


class ClipSource:
    """Clips as folders of frames, decoded when asked for.

    Args:
        clips: for each sample the frame files, in order.
        size: (height, width) to which every frame is resized.
        skip_corrupt: leave out clips with a missing or truncated frame instead of failing.
    """

    def __init__(self, clips: Sequence[Sequence[Path]], size: tuple[int, int], skip_corrupt: bool = False) -> None:
        self.clips = clips
        self.size = size
        self.skip_corrupt = skip_corrupt

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, indices: np.ndarray) -> tuple[Tensor, list[int], list[str]]:
        """As `Source.read`; samples are (3, T, height, width) uint8 RGB."""
        height, width = self.size
        clips, positions, problems = [], [], []
        for position, index in enumerate(indices):
            try:
                frames = [read_image(path, (height, width)) for path in self.clips[index]]
            except DataError as error:
                if not self.skip_corrupt:
                    raise
                problems.append(str(error))
                continue
            clips.append(torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2).contiguous())
            positions.append(position)
        return (torch.stack(clips) if clips else torch.empty(0)), positions, problems

    def fingerprint(self) -> str:
        """Of every clip the folder's name, the number of frames, the size of the first and the last in bytes."""
        facts = []
        for frames in self.clips:
            sizes = [path.stat().st_size if path.exists() else -1 for path in (frames[0], frames[-1])] if frames else []
            facts.append((frames[0].parent.name if frames else "", len(frames), *sizes))
        return digest(facts)


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
    """Decode one image to (height, width, 3) uint8 RGB, resized (bilinear) to `size` = (height, width) if given.

    Raises:
        DataError: the file is missing, truncated or no image; it is named.
    """
    try:
        with Image.open(path) as image:
            if size is not None:
                # Lets the JPEG decoder skip detail that the resize would throw away.
                image.draft("RGB", (size[1], size[0]))
            rgb = image.convert("RGB")
            if size is not None and rgb.size != (size[1], size[0]):
                rgb = rgb.resize((size[1], size[0]), Image.Resampling.BILINEAR)
            return np.array(rgb)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "it does not exist" if isinstance(error, FileNotFoundError) else str(error)
        raise DataError(
            f"cannot read the image {path}: {reason}. Restore the file, or leave such samples out with --skip_corrupt 1"
        ) from error


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
