"""Clips: where their frames are (image files or a video), and how they are read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import PIL
import torch
from PIL import features
from torch import Tensor

from datasets.utils.clip_cache import LAYOUT, ClipCache
from datasets.utils.sources import IMAGE_SUFFIXES, UNREADABLE, decode_image, digest, why_unreadable
from datasets.utils.video_files import read_video, video_decoder_version
from utils.errors import DataError

# To be raised when the pixels that are read from the same files change: cached clips are then decoded anew.
DECODING = 1
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
# What is looked at of a file to tell whether it is the one that was cached: so many blocks, evenly spread, so long.
N_BLOCKS, BLOCK = 5, 4096


@dataclass(frozen=True)
class Clip:
    """Where one clip's frames are: in image files, or in a video file.

    Attributes:
        name: unique id of the sample, e.g. "01-13", "diving/003"; used for caches, features, messages.
        frames: image files in order of time, one a frame; the same file may repeat.
        video: a video file.
        numbers: 0-based numbers of the frames to take from it, ascending; repeats allowed.
    """

    name: str
    frames: tuple[Path, ...] = ()
    video: Path | None = None
    numbers: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.frames and (self.video is not None or self.numbers):
            raise ValueError(f"clip {self.name}: its frames are image files or in a video, not both")

    def __len__(self) -> int:
        return len(self.frames) or len(self.numbers)

    @property
    def files(self) -> tuple[Path, ...]:
        return self.frames if self.video is None else (self.video,)


class ClipSource:
    """Clips, decoded when asked for, or once into a cache that runs share (`datasets.utils.sources.Source`).

    Args:
        clips: one a sample.
        size: (height, width) to which every frame is resized.
        skip_corrupt: leave out clips with a missing or damaged frame instead of failing.
        load_truncated: take what a truncated JPEG, or a video frame marked as damaged, still shows; the rest is grey.
        cache: folder for decoded clips.
        n_frames: T, frames of a clip; by default those of the longest. A clip with more or fewer is damaged.

    Raises:
        StorageError: the cache cannot be made or does not fit on the disk.
        DataError: the cache file is damaged.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        size: tuple[int, int],
        skip_corrupt: bool = False,
        load_truncated: bool = False,
        cache: Path | None = None,
        n_frames: int | None = None,
    ) -> None:
        self.clips = clips
        self.size = size
        self.skip_corrupt = skip_corrupt
        self.load_truncated = load_truncated
        n_frames = max(map(len, clips), default=0) if n_frames is None else n_frames
        self.shape = (3, n_frames, *size)
        self.cache: ClipCache | None = None
        if cache is not None and len(clips) and n_frames:
            names = [clip.name for clip in clips]
            self.cache = ClipCache(
                cache, self._key(), (len(clips), *self.shape), names, self._decoder(), self._stamps, load_truncated
            )

    def __len__(self) -> int:
        return len(self.clips)

    def read(self, indices: np.ndarray) -> tuple[Tensor, list[int], list[str]]:
        """As `Source.read`; samples are (3, T, height, width) uint8 RGB."""
        batch = np.empty((len(indices), *self.shape), np.uint8)
        present = np.zeros(len(indices), bool) if self.cache is None else self.cache.read(indices, batch)
        problems = []
        # Threads only where torch may use several: not in a loader's workers, which are many already.
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for position in np.flatnonzero(~present):
                row = int(indices[position])
                # Before decoding: if files change meanwhile, what is decoded must not count as theirs.
                stamps = None if self.cache is None else self._stamps(row)
                try:
                    truncated = self._decode(self.clips[row], batch[position], pool)
                except DataError as error:
                    if not self.skip_corrupt:
                        raise
                    problems.append(str(error))
                    continue
                present[position] = True
                if self.cache is not None and stamps is not None:
                    self.cache.write(row, batch[position], stamps[truncated])
        samples = torch.from_numpy(batch if present.all() else batch[present])
        return samples, np.flatnonzero(present).tolist(), problems

    def fingerprint(self) -> str:
        """Of every clip its name, the names or numbers of its frames, the size of its first and last file in bytes."""
        return digest(
            [
                (*_description(clip), *(_n_bytes(path) for path in clip.files[:1] + clip.files[-1:]))
                for clip in self.clips
            ]
        )

    def _decode(self, clip: Clip, out: np.ndarray, pool: ThreadPoolExecutor) -> bool:
        """Read one clip into `out`; returns whether that took `load_truncated`, or, without a cache, may have."""
        # What is cached is shared with runs that refuse truncated frames: of each clip it must be known.
        if self.load_truncated and self.cache is not None:
            try:
                self._decode_once(clip, out, pool, load_truncated=False)
                return False
            except DataError:
                pass
        self._decode_once(clip, out, pool, self.load_truncated)
        return self.load_truncated

    def _decode_once(self, clip: Clip, out: np.ndarray, pool: ThreadPoolExecutor, load_truncated: bool) -> None:
        """Read one clip into `out` (3, T, height, width); the result does not depend on the number of threads."""
        try:
            if not len(clip) or len(clip) != self.shape[1]:
                raise DataError(
                    f"it has {len(clip)} frames, {self.shape[1]} are needed. "
                    "Complete the data, or leave such samples out with --skip_corrupt 1"
                )
            if clip.video is not None:
                frames = read_video(clip.video, clip.numbers, self.size, load_truncated)
                out[:] = frames.transpose(3, 0, 1, 2)
                return
            first: dict[Path, int] = {}
            for t, path in enumerate(clip.frames):
                first.setdefault(path, t)

            def place(path: Path) -> None:
                out[:, first[path]] = read_frame(path, self.size, load_truncated).transpose(2, 0, 1)

            for _ in pool.map(place, first):
                pass
            for t, path in enumerate(clip.frames):
                if first[path] != t:
                    out[:, t] = out[:, first[path]]
        except DataError as error:
            raise DataError(f"clip {clip.name}: {error}") from error

    def _key(self) -> str:
        """A digest of what decides about all clips: which frames they have, preprocessing. No file is looked at."""
        return digest([_description(clip) for clip in self.clips], self.shape, self._decoder(), LAYOUT)

    def _stamps(self, row: int) -> tuple[int, int]:
        """Of one clip, as of `ClipCache`: two numbers that change with its files, and not with where they lie."""
        content = int(_files_digest(self.clips[row].files), 16)
        n = (1 << 32) - 1
        return 1 + content % n, 1 + (content >> 64) % n

    def _decoder(self) -> str:
        jpeg = features.version("libjpeg_turbo") or features.version("jpg")
        versions = f"decoding {DECODING}, Pillow {PIL.__version__}, libjpeg {jpeg}"
        if any(clip.video is not None for clip in self.clips):
            versions += f", {video_decoder_version()}"
        return versions


def _description(clip: Clip) -> tuple[Any, ...]:
    return clip.name, *(path.name for path in clip.files), *map(int, clip.numbers)


def _n_bytes(path: Path) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _files_digest(paths: Sequence[Path]) -> str:
    """Of the sizes of all files, and of blocks of the first, the middle and the last one.

    Files that are all of one size, as uncompressed images are, are told by their blocks: every one is looked into.
    """
    paths = list(dict.fromkeys(paths))
    sizes = [_n_bytes(path) for path in paths]
    few = {0, len(paths) // 2, len(paths) - 1}
    chosen = range(len(paths)) if len(set(sizes)) == 1 else sorted(few)
    blocks = b"".join(_blocks(paths[i], sizes[i]) for i in chosen)
    return digest(sizes, np.frombuffer(blocks, np.uint8))


def _blocks(path: Path, n_bytes: int) -> bytes:
    """N_BLOCKS of a file, from its start to its end; empty if it cannot be read."""
    places = dict.fromkeys(max(n_bytes - BLOCK, 0) * i // (N_BLOCKS - 1) for i in range(N_BLOCKS))
    try:
        with open(path, "rb", buffering=0) as file:
            return b"".join(os.pread(file.fileno(), BLOCK, place) for place in places)
    except OSError:
        return b""


# Image files


class FrameFiles(Sequence[Path]):
    """The image files of one folder. Paths are made when they are asked for: a broadcast may have 100,000 frames."""

    def __init__(self, folder: Path, names: list[str]) -> None:
        self.folder = folder
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Path: ...

    @overload
    def __getitem__(self, index: slice) -> list[Path]: ...

    def __getitem__(self, index: int | slice) -> Path | list[Path]:
        if isinstance(index, slice):
            return [self.folder / name for name in self.names[index]]
        return self.folder / self.names[index]


class FrameIndex:
    """The image files below a folder. A folder is listed when it is first asked for, and once.

    Args:
        root: the folder.

    Raises:
        DataError: there is no such folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DataError(f"no folder {self.root}")
        self._names: dict[str, list[str]] = {}
        self._folders: list[str] | None = None

    def files(self, folder: str | Path) -> FrameFiles:
        """The image files of one folder below the root, in order of the numbers that end their names.

        None if there is no such folder. Hidden files do not count.
        """
        name = os.path.normpath(folder)
        if name not in self._names:
            self._list(name)
        return FrameFiles(self.root / name, self._names[name])

    def folders(self) -> list[str]:
        """Names, relative to the root, of all folders that hold image files, in order; this walks the whole tree."""
        if self._folders is None:
            waiting, seen = ["."], set()
            while waiting:
                name = waiting.pop()
                # A link may lead back up.
                status = os.stat(self.root / name)
                if (status.st_dev, status.st_ino) in seen:
                    continue
                seen.add((status.st_dev, status.st_ino))
                waiting += [os.path.normpath(os.path.join(name, below)) for below in self._list(name)]
            self._folders = sorted(name for name, files in self._names.items() if files)
        return list(self._folders)

    def _list(self, name: str) -> list[str]:
        """Note the image files of a folder; returns the names of the folders in it. Files are not looked at (stat)."""
        files, folders = [], []
        try:
            with os.scandir(self.root / name) as entries:
                for entry in entries:
                    if entry.name[0] == ".":
                        continue
                    if os.path.splitext(entry.name)[1].lower() in IMAGE_SUFFIXES:
                        files.append(entry.name)
                    elif entry.is_dir():
                        folders.append(entry.name)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            raise DataError(f"cannot list the folder {self.root / name}: {error}") from error
        self._names[name] = _in_order(files)
        return folders


def _in_order(names: list[str]) -> list[str]:
    """By the text before the number that ends a name, then by that number, padded with zeros or not."""

    def key(name: str) -> tuple[str, int, str]:
        stem = os.path.splitext(name)[0]
        text = stem.rstrip("0123456789")
        return text, int(stem[len(text) :] or -1), name

    return sorted(names, key=key)


def read_frame(path: Path, size: tuple[int, int], load_truncated: bool = False) -> np.ndarray:
    """Decode one frame to (height, width, 3) uint8 RGB, resized (bilinear) to `size` = (height, width).

    Args:
        load_truncated: take what a truncated JPEG still shows; the rest is grey.

    Raises:
        DataError: the file is missing, damaged or no image; it is named.
    """
    content = b""
    try:
        content = path.read_bytes()
        try:
            return decode_image(content, size)
        except UNREADABLE:
            if not (load_truncated and content.startswith(JPEG_START)):
                raise
            # Pillow's switch for this is global; it does the same.
            return decode_image(content + JPEG_END, size)
    except UNREADABLE as error:
        may_help = content.startswith(JPEG_START) and not load_truncated
        advice = ", take what it still shows with --load_truncated 1," if may_help else ","
        raise DataError(
            f"cannot read the frame {path}: {why_unreadable(error)}. "
            f"Restore the file{advice} or leave such samples out with --skip_corrupt 1"
        ) from error
