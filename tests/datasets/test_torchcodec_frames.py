"""Videos where torchcodec alone is installed: with a stand-in for its decoder, and with itself where it is here."""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datasets.utils import torchcodec_frames
from datasets.utils.clips import Clip, ClipSource
from datasets.utils.video_files import n_video_frames, read_video
from tests.datasets import trees
from utils.errors import DataError, UsageError

N = 12


class Decoder:
    """Frames of one grey each, 20 times their number; what is asked of it is noted."""

    begin = 0.5
    shown = [0.5 + 0.04 * number for number in range(N)]
    n_readable = N
    asked: list[int] = []

    def __init__(self, source: str, dimension_order: str) -> None:
        assert dimension_order == "NHWC"
        if b"no video" in Path(source).read_bytes():
            raise RuntimeError("SingleStreamDecoder")
        self.metadata = SimpleNamespace(begin_stream_seconds_from_content=self.begin)

    def __len__(self) -> int:
        return N

    def get_frame_at(self, number: int) -> SimpleNamespace:
        self.asked.append(number)
        if number >= self.n_readable:
            raise RuntimeError("Requested next frame while there are no more frames left to decode.")
        pixels = torch.full((16, 20, 3), 20 * number, dtype=torch.uint8)
        return SimpleNamespace(data=pixels, pts_seconds=self.shown[number])


@pytest.fixture
def decoder(monkeypatch: pytest.MonkeyPatch) -> type[Decoder]:
    """In place of torchcodec's, and PyAV is absent."""
    made = type("Decoder", (Decoder,), {"asked": []})
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr(torchcodec_frames, "video_decoder", lambda: made)
    return made


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "x.mp4"
    path.write_bytes(b"a video")
    return path


def greys(frames: np.ndarray) -> list[int]:
    return [int(frame.max()) // 20 for frame in frames]


def test_frames_are_those_with_the_numbers_asked_for(decoder: type[Decoder], video: Path) -> None:
    assert n_video_frames(video) == N
    frames = read_video(video, [3, 3, 7], (8, 10))
    assert (frames.shape, frames.dtype) == ((3, 8, 10, 3), np.uint8)
    assert greys(frames) == [3, 3, 7]
    assert decoder.asked == list(range(8))  # in order, and no more than needed


def test_a_clip_of_a_video_is_a_sample(decoder: type[Decoder], video: Path) -> None:
    samples = ClipSource([Clip("v", video=video, numbers=(0, 4, 4))], (8, 10)).read(np.arange(1))[0]
    assert samples[0, 0, :, 0, 0].tolist() == [0, 80, 80]


def test_clips_of_videos_are_cached_without_pyav(
    decoder: type[Decoder], video: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace(__version__="1.2", ffmpeg_major_version=5))

    def key() -> str:
        source = ClipSource([Clip("v", video=video, numbers=(0, 4))], (8, 10), cache=tmp_path / "cache")
        first, again = (source.read(np.arange(1))[0] for _ in range(2))
        assert torch.equal(first, again)
        return source._key()

    first = key()
    assert decoder.asked == list(range(5))  # once
    monkeypatch.setitem(sys.modules, "torchcodec", SimpleNamespace(__version__="1.3", ffmpeg_major_version=5))
    assert key() != first


def test_what_cannot_be_decoded_is_named(decoder: type[Decoder], video: Path, tmp_path: Path) -> None:
    decoder.n_readable = 5
    assert greys(read_video(video, [4], (8, 10))) == [4]
    with pytest.raises(DataError, match=r"x\.mp4 has no readable frame 6, the last is 4\. .*--skip_corrupt 1"):
        read_video(video, [2, 6, 8], (8, 10))
    video.write_bytes(b"no video, and longer")
    for read in (n_video_frames, lambda path: read_video(path, [0], (8, 10))):
        with pytest.raises(DataError, match=r"cannot read the video .*x\.mp4: torchcodec cannot decode it"):
            read(video)
        with pytest.raises(DataError, match=r"absent\.mp4: it does not exist"):
            read(tmp_path / "absent.mp4")


@pytest.mark.parametrize("change", ["begins late", "repeats"])
def test_a_video_of_which_frames_are_left_out_is_refused(decoder: type[Decoder], video: Path, change: str) -> None:
    if change == "begins late":
        decoder.begin = 0.0
    else:
        decoder.shown = [*Decoder.shown[:4], Decoder.shown[3], *Decoder.shown[5:]]
    with pytest.raises(DataError, match=rf"leaves out frames of {video} before frame .\. Install PyAV"):
        read_video(video, [6], (8, 10))


def test_pyav_is_taken_where_both_are_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = trees.write_video(tmp_path / "0.mp4", [(0, 20 * t) for t in range(N)])
    monkeypatch.setattr(torchcodec_frames, "video_decoder", lambda: pytest.fail("torchcodec was asked for"))
    assert n_video_frames(path) == N
    assert read_video(path, [3], (8, 10)).shape == (1, 8, 10, 3)


@pytest.mark.parametrize("error", [ImportError, RuntimeError, OSError])
def test_without_either_the_one_to_install_is_named(
    video: Path, monkeypatch: pytest.MonkeyPatch, error: type[Exception]
) -> None:
    class Broken:
        def find_spec(self, name: str, *more: object) -> None:
            if name.startswith("torchcodec"):
                raise error("no FFmpeg")

    monkeypatch.setitem(sys.modules, "av", None)
    for name in [name for name in sys.modules if name.startswith("torchcodec")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(UsageError, match=r"PyAV \(or torchcodec\).*requirements-video\.txt"):
        read_video(video, [0], (8, 10))


def test_torchcodec_gives_the_frames_of_pyav(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if torchcodec_frames.video_decoder() is None:
        pytest.skip("torchcodec is not installed")
    path = trees.write_video(tmp_path / "0.mp4", [(40, 20 * t) for t in range(N)])
    wanted = read_video(path, [0, 5, 5, 11], (64, 80))
    monkeypatch.setitem(sys.modules, "av", None)
    assert n_video_frames(path) == N
    assert np.array_equal(read_video(path, [0, 5, 5, 11], (64, 80)), wanted)
