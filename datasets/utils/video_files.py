"""Reading frames of video files by their number, with PyAV, or with torchcodec where that alone is installed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets.utils import torchcodec_frames
from datasets.utils.sources import resized, why_unreadable
from utils.errors import DataError, UsageError

# Codecs of which one packet is one frame. Not so VP8 (packets that show nothing) and MPEG-4 (several frames in one).
FRAME_PER_PACKET = {"h264", "hevc", "vp9", "av1", "libdav1d", "mjpeg"}


class _NotExactError(Exception):
    """Frames after a seek cannot be numbered with certainty."""


@dataclass
class _Packets:
    """What a video holds, in order of time.

    Attributes:
        shown: (n,) when each frame is shown, in the video's own unit of time.
        place: (n,) where to seek to for its packet: when it is decoded, or shown if that is not told.
        is_key: (n,) whether decoding can start there.
    """

    shown: np.ndarray
    place: np.ndarray
    is_key: np.ndarray

    def key_before(self, number: int) -> int:
        """The last frame up to `number` that decoding can start at, 0 if there is none."""
        keys = np.flatnonzero(self.is_key[: number + 1])
        return int(keys[-1]) if len(keys) else 0


def n_video_frames(path: Path) -> int:
    """Number of frames of a video, counted; what its header says is often wrong.

    Raises:
        DataError: the file is missing or no video.
        UsageError: neither PyAV nor torchcodec is installed.
    """
    version = _version(path)
    if _uses_torchcodec():
        return _count_with_torchcodec(path, *version)
    packets = _packets(path)
    return len(packets.shown) if packets else _count_decoded(path, *version)


def read_video(path: Path, numbers: Sequence[int], size: tuple[int, int], load_truncated: bool = False) -> np.ndarray:
    """Decode frames of a video, upright (as its rotation flag says), resized (bilinear).

    The n-th frame is the n-th (from 0) that decoding the whole file gives, for any codec and any spacing in time. PyAV
    begins at the key frame before the first one; torchcodec decodes from the start of the file, and does not tell
    damaged frames.

    Args:
        path: the video.
        numbers: (T,) of the frames, ascending; repeats allowed.
        size: (height, width).
        load_truncated: take frames that the decoder marks as damaged.

    Returns:
        (T, height, width, 3) uint8 RGB.

    Raises:
        DataError: the file is missing, no video, damaged, or has fewer frames.
        UsageError: neither PyAV nor torchcodec is installed.
    """
    wanted = np.asarray(numbers, dtype=np.int64)
    if (np.diff(wanted, prepend=0) < 0).any():
        raise ValueError(f"frame numbers must ascend from 0 on, these do not: {list(numbers)}")
    if not len(wanted):
        return np.empty((0, *size, 3), np.uint8)
    if _uses_torchcodec():
        return _read_with_torchcodec(path, wanted, size)
    try:
        return _read_frames(path, wanted, size, load_truncated, seek=True)
    except _NotExactError:
        return _read_frames(path, wanted, size, load_truncated, seek=False)


def _read_frames(path: Path, wanted: np.ndarray, size: tuple[int, int], load_truncated: bool, seek: bool) -> np.ndarray:
    frames = np.empty((len(wanted), *size, 3), np.uint8)
    n_read = 0
    number = -1
    for number, frame in _numbered_frames(path, int(wanted[0]), seek):
        if frame.is_corrupt and not load_truncated:
            raise DataError(
                f"{path} is damaged at frame {number}. Restore the file, take what it still shows with "
                "--load_truncated 1, or leave such samples out with --skip_corrupt 1"
            )
        n_same = int(np.searchsorted(wanted, number, side="right")) - n_read
        if n_same:
            # ffmpeg's degrees are counter-clockwise, as are NumPy's quarter turns.
            upright = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            image = Image.fromarray(np.ascontiguousarray(upright))
            frames[n_read : n_read + n_same] = np.asarray(resized(image, size))
            n_read += n_same
        if n_read == len(wanted):
            return frames
    raise _no_frame(path, wanted[n_read], last=number)


def _read_with_torchcodec(path: Path, wanted: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    _version(path)
    chosen: dict[int, np.ndarray] = {}
    number = -1
    for number, frame in enumerate(torchcodec_frames.frames_in_order(path)):
        if number in wanted:
            chosen[number] = np.asarray(resized(Image.fromarray(frame), size))
        if number == wanted[-1]:
            return np.stack([chosen[each] for each in wanted.tolist()])
    raise _no_frame(path, int(wanted[wanted > number][0]), last=number)


def _no_frame(path: Path, number: int, last: int) -> DataError:
    return DataError(
        f"{path} has no readable frame {number}, the last is {last}. "
        "Restore the file, or leave such samples out with --skip_corrupt 1"
    )


def _numbered_frames(path: Path, first: int, seek: bool) -> Iterator[tuple[int, Any]]:
    """Decode (number, frame) in order, beginning at frame `first` or before.

    Raises:
        _NotExactError: only with `seek`.
    """
    packets = _packets(path) if seek and first else None
    start = packets.key_before(first) if packets else 0
    with _opened(path) as (container, stream):
        if not packets or not start:
            yield from enumerate(_decoded(container, stream))
            return
        container.seek(int(packets.place[start]), stream=stream)
        number = start - 1
        for frame in _decoded(container, stream):
            # Frames shown before the key frame may lean on what was not decoded.
            if number < start and frame.pts is not None and frame.pts < packets.shown[start]:
                continue
            number += 1
            if number == len(packets.shown) or frame.pts != packets.shown[number]:
                raise _NotExactError
            # A stream can be refreshed bit by bit, with no frame that is whole on its own.
            if number == start and frame.pict_type != import_av().video.frame.PictureType.I:
                raise _NotExactError
            yield number, frame


def _decoded(container: Any, stream: Any) -> Iterator[Any]:
    """Frames in order of time, up to where decoding fails."""
    failed = False
    for packet in container.demux(stream):
        # The empty packet at the end brings what the decoder still holds.
        if failed and packet.size:
            continue
        try:
            yield from packet.decode()
        except import_av().FFmpegError:
            failed = True


def _packets(path: Path) -> _Packets | None:
    """The packets of a video, if each is one frame and says when it is shown."""
    return _scan_packets(path, *_version(path))


def _version(path: Path) -> tuple[int, int]:
    """Size and time of change: what was found out about a file holds while they do."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise _unreadable_video(path, error) from error
    return status.st_size, status.st_mtime_ns


@lru_cache(maxsize=64)
def _count_decoded(path: Path, n_bytes: int, changed: int) -> int:
    """Kept, as the whole file is decoded for it and a broadcast holds a hundred clips."""
    return sum(1 for _ in _numbered_frames(path, 0, seek=False))


@lru_cache(maxsize=64)
def _scan_packets(path: Path, n_bytes: int, changed: int) -> _Packets | None:
    times, progressive = [], None
    with _opened(path) as (container, stream):
        if stream.codec_context.name not in FRAME_PER_PACKET:
            return None
        for packet in container.demux(stream):
            if packet.size and not packet.is_discard:
                times.append((packet.pts, packet.pts if packet.dts is None else packet.dts, packet.is_keyframe))
            if progressive is None:
                for frame in packet.decode():
                    progressive = not frame.interlaced_frame
    # Of interlaced video a packet may be half a frame.
    if not progressive or len({shown for shown, _, _ in times} - {None}) < len(times):
        return None
    return _Packets(*map(np.asarray, zip(*sorted(times), strict=True)))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    av = import_av()
    try:
        with av.open(str(path), metadata_errors="replace") as container:
            if not container.streams.video:
                raise DataError(f"{path} holds no video")
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        raise _unreadable_video(path, error) from error


def _unreadable_video(path: Path, error: Exception) -> DataError:
    return DataError(
        f"cannot read the video {path}: {why_unreadable(error)}. "
        "Restore the file, or leave such samples out with --skip_corrupt 1"
    )


@lru_cache(maxsize=64)
def _count_with_torchcodec(path: Path, n_bytes: int, changed: int) -> int:
    return torchcodec_frames.n_frames(path)


def video_decoder_version() -> str:
    """What decodes video files here, in words that change with its pixels.

    Raises:
        UsageError: neither PyAV nor torchcodec is installed.
    """
    if _uses_torchcodec():
        return torchcodec_frames.version()
    av = import_av()
    return f"PyAV {av.__version__}, libavcodec {'.'.join(map(str, av.library_versions['libavcodec']))}"


def _uses_torchcodec() -> bool:
    try:
        import_av()
    except UsageError:
        if torchcodec_frames.video_decoder() is None:
            raise
        return True
    return False


def import_av() -> Any:
    try:
        import av
    except ImportError as error:
        raise UsageError(
            "video files are read with PyAV (or torchcodec), which is not installed: pip install -r "
            "requirements-video.txt, or extract the frames to image files"
        ) from error
    return av
