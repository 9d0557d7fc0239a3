"""Which frames of a recording make a clip, and where they are found."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets.utils.clips import FrameIndex
from datasets.utils.frame_sampling import ending_at, spread, uniform_windows
from datasets.utils.recordings import MissingFramesError, Recording, TooShortError, frame_number, renumbered
from tests.datasets.trees import write_frame, write_video
from utils.errors import DataError

sizes = st.integers(1, 400)


# Pure functions


def test_spread_by_hand() -> None:
    assert spread(103, 4).tolist() == [0, 34, 68, 102]
    assert spread(5, 5).tolist() == [0, 1, 2, 3, 4]
    assert spread(3, 6).tolist() == [0, 0, 1, 1, 2, 2]
    assert spread(9, 1).tolist() == [0]
    assert spread(1, 3).tolist() == [0, 0, 0]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(sizes, st.integers(2, 200))
def test_spread_is_even_ascending_and_has_both_ends(n: int, m: int) -> None:
    positions = spread(n, m)
    assert (len(positions), positions[0], positions[-1]) == (m, 0, n - 1)
    steps = np.diff(positions)
    assert steps.min() >= 0
    assert steps.max() - steps.min() <= 1


def test_ending_at_by_hand() -> None:
    assert ending_at(9, 4).tolist() == [6, 7, 8, 9]
    assert ending_at(2, 4, first=1).tolist() == [1, 1, 1, 2]
    assert ending_at(9, 3, margin=2).tolist() == [5, 6, 7, 8, 9, 10, 11]
    assert ending_at(9, 3, margin=2, end=10).tolist() == [5, 6, 7, 8, 9, 10, 10]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(1, 300), st.integers(1, 120), st.integers(0, 5), st.integers(0, 400))
def test_ending_at_is_neighbouring_frames_within_its_limits(last: int, n: int, margin: int, end: int) -> None:
    numbers = ending_at(last, n, first=1, margin=margin, end=max(end, last))
    assert len(numbers) == n + 2 * margin
    assert numbers[n + margin - 1] == last
    assert np.array_equal(numbers, np.arange(last - n + 1 - margin, last + 1 + margin).clip(1, max(end, last)))


def test_uniform_windows_by_hand() -> None:
    assert uniform_windows(10, 2, 3).tolist() == [0, 1, 2, 7, 8, 9]
    assert uniform_windows(10, 3, 4).tolist() == [0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9]
    assert uniform_windows(2, 2, 4).tolist() == [0, 1, 1, 1] * 2
    assert uniform_windows(9, 1, 4).tolist() == [0, 1, 2, 3]


@settings(max_examples=100, deadline=None, derandomize=True)
@given(sizes, st.integers(2, 12), st.integers(1, 20))
def test_uniform_windows_are_neighbouring_frames_that_reach_both_ends(n: int, n_windows: int, window: int) -> None:
    positions = uniform_windows(n, n_windows, window).reshape(n_windows, window)
    assert positions[0, 0] == 0
    assert positions[-1, -1] == n - 1
    assert np.array_equal(positions, (positions[:, :1] + np.arange(window)).clip(0, n - 1))
    starts = np.diff(positions[:, 0])
    assert starts.min() >= 0
    assert starts.max() - starts.min() <= 1


# Recordings


def recording(root: Path, *names: str, folder: str = "clip") -> Recording:
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / folder / name).touch()
    return Recording(FrameIndex(root), folder, "sample 7")


def numbered(*numbers: int) -> list[str]:
    return [f"img_{number:05d}.jpg" for number in numbers]


def stems(clip: object) -> list[str]:
    return [path.name for path in clip.frames]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("name", "number"), [("00000007.jpg", 7), ("img_00103.png", 103), ("2a-3.jpg", 3), ("0.jpg", 0), ("x12.5.jpg", 5)]
)
def test_the_number_of_a_frame_ends_its_name(name: str, number: int) -> None:
    assert frame_number(Path("dir9") / name) == number


def test_a_frame_without_number_is_named() -> None:
    with pytest.raises(DataError, match=r"a3/cover\.jpg: the name of a frame must end with its number"):
        frame_number(Path("a3/cover.jpg"))


@pytest.mark.parametrize(
    ("name", "other"), [("img_00009.jpg", "img_00012.jpg"), ("9.JPG", "12.JPG"), ("a1-09.png", "a1-12.png")]
)
def test_the_file_of_another_frame_is_named_alike(name: str, other: str) -> None:
    assert renumbered(Path("clip") / name, 12) == Path("clip") / other


def test_frames_by_position(tmp_path: Path) -> None:
    frames = recording(tmp_path, *numbered(5, 6, 9))
    assert len(frames) == 3
    assert stems(frames.clip(np.array([2, 0, 0]))) == numbered(9, 5, 5)
    assert frames.clip(np.array([0])).name == "sample 7"
    with pytest.raises(
        TooShortError, match=rf"sample 7: frame 4 is wanted, but {tmp_path}/clip is too short: it has 3"
    ) as caught:
        frames.clip(np.array([0, 3]))
    assert caught.value.rest is not None
    assert stems(caught.value.rest) == numbered(5)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (numbered(1, 2, 3, 4), [2, 3]),
        (numbered(5, 6, 9, 700), [6, 700]),
        (numbered(0, 1, 2), [0, 0, 2, 2]),
        (["9.jpg", "10.jpg", "11.jpg"], [9, 10, 11]),
        (numbered(3, 4, 5, 6), [6, 3, 5, 4]),
    ],
    ids=["whole", "gaps", "repeats", "unpadded", "backwards"],
)
def test_frames_by_number(tmp_path: Path, names: list[str], wanted: list[int]) -> None:
    clip = recording(tmp_path, *names).clip_of_numbers(np.array(wanted))
    assert [frame_number(path) for path in clip.frames] == wanted


def test_numbers_of_the_ends(tmp_path: Path) -> None:
    frames = recording(tmp_path, *numbered(5, 6, 99))
    assert (frames.first_number, frames.last_number) == (5, 99)


@pytest.mark.parametrize(("wanted", "short"), [([4], False), ([6, 7], False), ([8, 9, 10], True), ([10], True)])
def test_a_missing_frame_is_named_and_told_from_an_early_end(tmp_path: Path, wanted: list[int], short: bool) -> None:
    frames = recording(tmp_path, *numbered(5, 6, 8, 9))
    missing = next(number for number in wanted if number not in (5, 6, 8, 9))
    with pytest.raises(
        DataError, match=rf"sample 7: the frame {tmp_path}/clip/img_0*{missing}\.jpg is missing"
    ) as caught:
        frames.clip_of_numbers(np.array(wanted))
    assert isinstance(caught.value, TooShortError) == short


def test_all_missing_frames_are_listed_beside_a_clip_of_the_others(tmp_path: Path) -> None:
    frames = recording(tmp_path, *numbered(5, 6, 8, 9))
    message = rf"^sample 7: the frame {tmp_path}/clip/img_00004\.jpg is missing, and 2 more$"
    with pytest.raises(MissingFramesError, match=message) as caught:
        frames.clip_of_numbers(np.array([4, 4, 5, 6, 7, 8, 10, 10]))
    assert not isinstance(caught.value, TooShortError)
    assert caught.value.missing == [tmp_path / "clip" / name for name in numbered(4, 7, 10)]
    assert caught.value.rest is not None
    assert stems(caught.value.rest) == numbered(5, 6, 8)


def test_a_broadcast_with_gaps_is_searched_and_not_walked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = recording(tmp_path, *(f"{number}.jpg" for number in range(0, 1000, 2)))
    looked_at = []

    def count(path: Path) -> int:
        looked_at.append(path)
        return int(path.stem)

    monkeypatch.setattr("datasets.utils.recordings.frame_number", count)
    frames.clip_of_numbers(np.arange(600, 700, 2))
    assert len(looked_at) < 150


@pytest.mark.parametrize("name", ["clip.mp4", "clip.MP4", "clip.avi", "clip.webm"])
def test_a_video_file_stands_in_for_a_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    assert Recording(FrameIndex(tmp_path), "clip", "x").video == tmp_path / name
    assert Recording(FrameIndex(tmp_path), name, "x").video == tmp_path / name


def test_frames_come_before_a_video_file_and_an_empty_folder_does_not(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    assert recording(tmp_path, *numbered(1)).video is None
    (tmp_path / "clip" / "img_00001.jpg").unlink()
    assert recording(tmp_path, ".hidden.jpg", "notes.txt").video == tmp_path / "clip.mp4"


@pytest.mark.parametrize("name", ["clip", "a/b/clip.mp4", ".", "/", "picture.jpg"])
def test_neither_frames_nor_video_is_an_error_that_names_the_place(tmp_path: Path, name: str) -> None:
    (tmp_path / "picture.jpg").touch() if name != "." else None
    with pytest.raises(DataError, match=f"x: no frames in {tmp_path / name}"):
        Recording(FrameIndex(tmp_path), name, "x")


def test_frames_of_a_video_count_from_one_by_number_and_from_zero_by_position(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", [(0, 20 * t) for t in range(8)])
    video = Recording(FrameIndex(tmp_path), "clip", "x")
    assert (len(video), video.first_number, video.last_number) == (8, 1, 8)
    assert video.clip(np.array([0, 3, 7])).numbers == (0, 3, 7)
    assert video.clip_of_numbers(np.array([1, 4, 8])).numbers == (0, 3, 7)
    for clip in (lambda: video.clip(np.array([8])), lambda: video.clip_of_numbers(np.array([1, 9]))):
        with pytest.raises(
            TooShortError, match=rf"x: frame 9 is wanted, but {tmp_path}/clip.mp4 is too short: it has 8"
        ):
            clip()


def test_duplicate_frames_do_not_shift_the_others(tmp_path: Path) -> None:
    write_frame(tmp_path / "clip" / "00000002.jpeg", 0, 0)
    frames = recording(tmp_path, *(f"{number:08d}.jpg" for number in range(1, 6)))
    clip = frames.clip_of_numbers(np.arange(1, 6))
    assert [frame_number(path) for path in clip.frames] == [1, 2, 3, 4, 5]
