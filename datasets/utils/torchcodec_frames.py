"""Reading frames of video files with torchcodec, for where PyAV is not installed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from utils.errors import DataError


def video_decoder() -> Any:
    """torchcodec's VideoDecoder; None if it is not installed, or finds no FFmpeg."""
    try:
        from torchcodec.decoders import VideoDecoder
    except (ImportError, OSError, RuntimeError):
        return None
    return VideoDecoder


def version() -> str:
    """Versions of torchcodec and of the FFmpeg that it has found."""
    import torchcodec

    return f"torchcodec {torchcodec.__version__}, FFmpeg {getattr(torchcodec, 'ffmpeg_major_version', 'unknown')}"


def n_frames(path: Path) -> int:
    """Number of frames of a video, counted.

    Raises:
        DataError: the file is no video.
    """
    return len(_opened(path))


def frames_in_order(path: Path) -> Iterator[np.ndarray]:
    """Decode a video from its first frame on, up to where decoding fails: (height, width, 3) uint8 RGB, upright.

    It never seeks: torchcodec answers with another frame, and no error, where a stream has no frame that is whole on
    its own.

    Raises:
        DataError: the file is no video, or torchcodec leaves out frames of it.
    """
    decoder = _opened(path)
    begin = decoder.metadata.begin_stream_seconds_from_content
    shown = -math.inf
    for number in range(len(decoder)):
        try:
            frame = decoder.get_frame_at(number)
        except RuntimeError:
            return
        # It leaves out the first frames of some transport streams, and gives the next one in place of a lost one.
        if frame.pts_seconds <= shown or (not number and begin is not None and frame.pts_seconds > begin):
            raise DataError(
                f"torchcodec leaves out frames of {path} before frame {number}. Install PyAV, which reads them: "
                "pip install -r requirements-video.txt; or extract the frames to image files"
            )
        shown = frame.pts_seconds
        yield frame.data.numpy()


def _opened(path: Path) -> Any:
    try:
        return video_decoder()(str(path), dimension_order="NHWC")
    except (RuntimeError, ValueError) as error:
        raise DataError(
            f"cannot read the video {path}: torchcodec cannot decode it. Restore the file, or leave such samples out "
            "with --skip_corrupt 1"
        ) from error
