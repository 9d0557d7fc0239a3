"""FineDiving in the official layout, built small."""

import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets import get_dataset
from datasets.utils.dives import DIVE_GROUPS
from datasets.utils.video_dataset import VideoScoreDataset
from tests.datasets import trees
from utils.args import parse_args
from utils.errors import DataError


def stream(root: Path, *words: str) -> VideoScoreDataset:
    return get_dataset(parse_args(["--model", "sgd", *trees.options("finediving", root), "--batch_size", "4", *words]))


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.finediving(tmp_path_factory.mktemp("finediving"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Four training dives and two for testing, to be broken."""
    return trees.finediving(tmp_path / "fd", 4, 2)


def facts(root: Path) -> dict[Any, Any]:
    return pickle.loads((root / "Annotations" / "fine-grained_annotation_aqa.pkl").read_bytes())


def folder(root: Path, event: int, instance: int) -> Path:
    return root / "FINADiving_MTL_256s" / trees.EVENTS[event] / str(instance)


def test_dives_keep_their_scores_difficulties_and_kinds(official: Path) -> None:
    dataset, known = stream(official), facts(official)
    assert len(dataset.performances) == 45
    for each in dataset.performances:
        event, instance = each.name.rsplit("/", 1)
        number, score, difficulty, *_ = known[event, int(instance)]
        assert (each.score, each.difficulty) == (score, difficulty)
        assert each.group == DIVE_GROUPS[[kind[0] for kind in trees.KINDS].index(number)]
    assert dataset.score_range == (22.0, 102.0)  # none is published: that of the training samples
    assert dataset.samples.train_difficulty is not None


def test_groups_are_the_kinds_of_dive(official: Path) -> None:
    dataset = stream(official, "--tasks_by", "group", "--n_tasks", "6")
    assert dataset.names == list(DIVE_GROUPS)
    merged = stream(official, "--tasks_by", "group", "--n_tasks", "4")
    assert merged.N_TASKS == 4
    assert "+".join(merged.names).split("+") == list(DIVE_GROUPS)


def official_numbers(first: int, last: int, n: int) -> list[int]:
    """As MAGR's released code has it: whole numbers of linspace, as positions in the sorted files."""
    return [int(number) - first for number in np.linspace(first, last, n).astype(int)]


def test_frames_are_spread_over_the_dive_and_rounded_down(official: Path) -> None:
    dataset = stream(official)
    names = [each.name for each in dataset.performances if each.part == "train"]
    positions = np.arange(len(names))
    shown, numbers = trees.codes(dataset.samples.train.read(positions)[0])
    assert np.array_equal(numbers, np.tile([0, 2, 5, 8], (len(names), 1)))
    listed = [(event, instance) for event, instance in facts(official)]
    assert shown[:, 0].tolist() == [5 * listed.index((name.split("/")[0], int(name.split("/")[1]))) for name in names]


@pytest.mark.parametrize(("first", "n_frames"), [(1, 103), (37, 45), (5432, 150), (123456, 301), (0, 2), (7, 1)])
@pytest.mark.parametrize("n", [4, 103])
def test_the_frames_are_those_of_the_released_code(tmp_path: Path, first: int, n_frames: int, n: int) -> None:
    root = trees.finediving(tmp_path / "fd", 2, 2, n_frames=1)
    frames = folder(root, 0, 1)
    shutil.rmtree(frames)
    frames.mkdir()
    for number in range(first, first + n_frames):
        (frames / f"{number:05d}.jpg").touch()
    dataset = stream(root, "--clip_frames", str(n))
    clip = next(
        clip
        for clip in [*dataset.samples.train.clips, *dataset.samples.test.clips]
        if clip.name == f"{trees.EVENTS[0]}/1"
    )
    files = sorted(frames.iterdir())
    assert list(clip.frames) == [files[i] for i in official_numbers(first, first + n_frames - 1, n)]


def test_rounding_positions_in_place_of_numbers_would_differ() -> None:
    """Why the numbers of the frames are rounded: it is not the same, if seldom."""
    differ = [
        (first, n)
        for first in (0, 37, 5432)
        for n in range(20, 400)
        if official_numbers(first, first + n - 1, 103) != np.linspace(0, n - 1, 103).astype(int).tolist()
    ]
    assert differ


def test_a_training_clip_that_moves_repeats_its_ends(official: Path) -> None:
    dataset = stream(official, "--temporal_shift", "2")
    loader, test_loader = dataset.get_data_loaders()
    _, _, raw = next(iter(loader))
    assert np.array_equal(trees.codes(raw)[1], np.tile([0, 0, 0, 2, 5, 8, 8, 8], (len(raw), 1)))
    assert test_loader.dataset[[0]][0].shape[2] == 4
    assert stream(official).shift == 0


def test_annotations_may_lie_beside_the_frames(small: Path) -> None:
    for path in (small / "Annotations").iterdir():
        path.rename(small / path.name)
    assert len(stream(small).performances) == 6


@pytest.mark.parametrize("name", ["frames", ""])
def test_frames_may_lie_elsewhere(small: Path, name: str) -> None:
    frames = small / "FINADiving_MTL_256s"
    if name:
        frames.rename(small / name)
    else:
        for event in list(frames.iterdir()):
            event.rename(small / event.name)
        frames.rmdir()
    dataset = stream(small, "--n_tasks", "1")
    assert dataset.frame_root == (small / name if name else small)
    assert len(dataset.samples.train) == 4


# Damage


def test_a_missing_frame_in_the_middle_of_a_clip_is_named(small: Path) -> None:
    path = folder(small, 0, 1) / "01005.jpg"
    path.unlink()
    with pytest.raises(DataError, match=rf"1 of \d samples .* the frame {path} is missing"):
        stream(small, "--n_tasks", "1").describe()
    # One that the clip does not take may be absent.
    shutil.copy(folder(small, 0, 1) / "01004.jpg", path)
    (folder(small, 0, 1) / "01004.jpg").unlink()
    stream(small, "--n_tasks", "1").describe()


@pytest.mark.parametrize("empty", [True, False])
def test_a_missing_or_empty_folder_is_named(small: Path, empty: bool) -> None:
    shutil.rmtree(folder(small, 1, 1))
    if empty:
        folder(small, 1, 1).mkdir()
    with pytest.raises(DataError, match=rf"{trees.EVENTS[1]}/1: no frames in {folder(small, 1, 1)}"):
        stream(small, "--n_tasks", "1").describe()


def test_a_frame_without_number_is_named(small: Path) -> None:
    (folder(small, 0, 1) / "01000.jpg").rename(folder(small, 0, 1) / "cover.jpg")
    with pytest.raises(DataError, match=r"cover\.jpg: the name of a frame must end with its number"):
        stream(small, "--n_tasks", "1").describe()


@pytest.mark.parametrize(
    "content",
    [
        ("107C", "high", 3.2),
        ("107C",),
        ("forward", 80.0, 3.2),
        None,
        7,
        {"score": 80.0},
        ("107C", 80.0, "hard"),
    ],
    ids=str,
)
def test_a_broken_annotation_is_named_by_split_row_and_dive(small: Path, content: Any) -> None:
    known = facts(small)
    broken = next(iter(known))
    trees.write_pickle(small / "Annotations" / "fine-grained_annotation_aqa.pkl", known | {broken: content})
    with pytest.raises(DataError, match=r"finediving: (train|test)_split\.pkl, row \d: the annotation of .* is not"):
        stream(small).describe()


@pytest.mark.parametrize(("score", "difficulty"), [(float("nan"), 3.0), (float("inf"), 3.0), (80.0, 0.0)])
def test_impossible_numbers_are_named_by_split_row_and_dive(small: Path, score: float, difficulty: float) -> None:
    known = facts(small)
    broken = next(iter(known))
    known[broken] = ["107C", score, difficulty]
    trees.write_pickle(small / "Annotations" / "fine-grained_annotation_aqa.pkl", known)
    with pytest.raises(DataError, match=rf"_split\.pkl, row \d: the .* of {broken[0]}/{broken[1]} is"):
        stream(small).describe()


def test_a_dive_without_difficulty_can_be_learnt_but_not_divided(small: Path) -> None:
    known = facts(small)
    known[next(iter(known))][2] = None
    trees.write_pickle(small / "Annotations" / "fine-grained_annotation_aqa.pkl", known)
    assert stream(small, "--n_tasks", "1").samples.train_difficulty is None
    with pytest.raises(DataError, match="--use_difficulty, but not every sample has a degree of difficulty"):
        stream(small, "--n_tasks", "1", "--use_difficulty", "1").describe()


def test_a_split_that_names_a_dive_twice_is_refused(small: Path) -> None:
    keys = list(facts(small))
    trees.write_pickle(small / "test_split.pkl", [keys[1], keys[4], keys[1]])
    trees.write_pickle(small / "train_split.pkl", [keys[0], keys[2]])
    with pytest.raises(DataError, match=r"two samples are called .*test_split\.pkl, row 1 and test_split\.pkl, row 3"):
        stream(small).describe()
