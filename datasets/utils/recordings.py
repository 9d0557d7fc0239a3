"""Clips cut out of recordings, which are folders of frames or video files."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path

from datasets.utils.clips import Clip, FrameIndex
from datasets.utils.frame_sampling import Numbers
from datasets.utils.sources import IMAGE_SUFFIXES
from datasets.utils.video_files import n_video_frames
from utils.errors import DataError

_DIGITS = re.compile(r"\d+$")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov", ".webm", ".m4v", ".mpg")


def frame_number(path: Path) -> int:
    """The number at the end of a frame file's name: 7 of img_00007.jpg.

    Raises:
        DataError: there is none.
    """
    digits = _DIGITS.search(path.stem)
    if digits is None:
        raise DataError(f"{path}: the name of a frame must end with its number, as 00000007.jpg does")
    return int(digits.group())


def renumbered(path: Path, number: int) -> Path:
    """The file of another frame beside this one."""
    digits = _DIGITS.search(path.stem)
    width = len(digits.group()) if digits else 0
    return path.with_name(f"{path.stem[: len(path.stem) - width]}{number:0{width}d}{path.suffix}")


class MissingFramesError(DataError):
    """Frames of a clip are missing.

    Attributes:
        missing: their files, where they can be named.
        rest: a clip of the frames that are there, where that is known.
    """

    def __init__(self, message: str, missing: Sequence[Path] = (), rest: Clip | None = None) -> None:
        super().__init__(message)
        self.missing = missing
        self.rest = rest


class TooShortError(MissingFramesError):
    """A recording ends before the frames that are wanted."""


class Recording:
    """A folder of frames, or a video file of the same name where there is no such folder.

    Args:
        index: of the folder that holds the recordings.
        name: of the recording, relative to that folder; a video file may be named with or without its suffix.
        label: of the sample, for messages.

    Raises:
        DataError: there is neither.
    """

    def __init__(self, index: FrameIndex, name: str, label: str) -> None:
        self.label = label
        self.files = index.files(name)
        self.video: Path | None = None
        if not self.files:
            path = index.root / name
            candidates = [] if path.suffix.lower() in IMAGE_SUFFIXES else [path]
            candidates += [Path(f"{path}{suffix}") for lower in VIDEO_SUFFIXES for suffix in (lower, lower.upper())]
            self.video = next((each for each in candidates if each.is_file()), None)
            if self.video is None:
                raise DataError(f"{label}: no frames in {path}, and no video file of that name")

    def __len__(self) -> int:
        """Number of frames."""
        if self.video is None:
            return len(self.files)
        return n_video_frames(self.video)

    def clip(self, positions: Numbers) -> Clip:
        """The frames at these positions, counted from 0 in order of time.

        Raises:
            TooShortError: the recording ends before.
        """
        if len(positions) and int(positions.max()) >= len(self):
            raise TooShortError(
                f"{self.label}: frame {int(positions.max()) + 1} is wanted, but {self.video or self.files[0].parent} "
                f"is too short: it has {len(self)}",
                rest=self.clip(positions[positions < len(self)]),
            )
        if self.video is not None:
            return Clip(self.label, video=self.video, numbers=tuple(int(position) for position in positions))
        return Clip(self.label, frames=tuple(self.files[int(position)] for position in positions))

    def clip_of_numbers(self, numbers: Numbers) -> Clip:
        """The frames with these numbers, as their files are named; of a video file the first frame is number 1.

        Raises:
            MissingFramesError: frames are missing; the file of the first is named. A TooShortError if all of them come
                after the last one there is.
        """
        if self.video is not None:
            return self.clip(numbers - 1)
        frames: list[Path] = []
        missing: dict[Path, int] = {}
        position = -1
        for number in map(int, numbers):
            position += 1
            path = self.files[position] if position < len(self.files) else None
            if path is None or frame_number(path) != number:
                position = bisect_left(self.files, number, key=frame_number)
                path = self.files[position] if position < len(self.files) else None
            if path is None or frame_number(path) != number:
                missing[renumbered(self.files[0], number)] = number
            else:
                frames.append(path)
        clip = Clip(self.label, frames=tuple(frames))
        if missing:
            kind = TooShortError if min(missing.values()) > self.last_number else MissingFramesError
            more = f", and {len(missing) - 1} more" if len(missing) > 1 else ""
            raise kind(f"{self.label}: the frame {next(iter(missing))} is missing{more}", list(missing), clip)
        return clip

    @property
    def first_number(self) -> int:
        """Number of the first frame, as its file is named."""
        return 1 if self.video is not None else frame_number(self.files[0])

    @property
    def last_number(self) -> int:
        """Number of the last frame, as its file is named."""
        return len(self) if self.video is not None else frame_number(self.files[-1])
