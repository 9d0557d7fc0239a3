"""LOGO and Rhythmic Gymnastics: windows of neighbouring frames spread over recordings that last minutes."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from backbone import get_backbone
from backbone.utils.windows import WindowedBackbone, window_starts
from datasets import get_dataset
from datasets.utils.video_dataset import VideoScoreDataset
from tests.datasets import trees
from utils.args import parse_args
from utils.errors import DataError, UsageError


def stream(name: str, root: Path, *words: str) -> VideoScoreDataset:
    return get_dataset(parse_args(["--model", "sgd", *trees.options(name, root), "--batch_size", "4", *words]))


@pytest.fixture(scope="module")
def gymnastics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.rg(tmp_path_factory.mktemp("rg"))


@pytest.fixture(scope="module")
def swimming(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.logo(tmp_path_factory.mktemp("logo"))


@pytest.fixture(scope="module")
def sixty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two training routines and one for testing with each apparatus, of 60 frames."""
    return trees.rg(tmp_path_factory.mktemp("sixty"), 2, 1, n_frames=60)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two training routines and one for testing with each apparatus, of three frames: to be broken."""
    return trees.rg(tmp_path / "rg", 2, 1, n_frames=3)


# Windows


def numbers_of(dataset: VideoScoreDataset, part: str = "train") -> list[list[int]]:
    return [[int(path.stem) for path in clip.frames] for clip in getattr(dataset.samples, part).clips]


def test_windows_of_16_neighbouring_frames_are_spread_evenly_over_the_recording(sixty: Path) -> None:
    dataset = stream("rg", sixty, "--n_tasks", "1", "--clip_frames", "48")
    # Starts 0, 22, 44 of 60 frames.
    wanted = [*range(1, 17), *range(23, 39), *range(45, 61)]
    assert all(numbers == wanted for part in ("train", "test") for numbers in numbers_of(dataset, part))
    assert np.array_equal(trees.codes(dataset.samples.train.read(np.array([3]))[0])[1][0], wanted)


def test_ten_windows_are_the_default(sixty: Path) -> None:
    dataset = stream("rg", sixty, "--n_tasks", "1", "--clip_frames", "160")
    assert type(dataset).N_FRAMES == 160
    assert numbers_of(dataset)[0] == [
        start + 1 + i for start in np.rint(np.linspace(0, 44, 10)).astype(int) for i in range(16)
    ]


@pytest.mark.parametrize("n_frames", [16, 32, 48, 80, 160])
@pytest.mark.parametrize("backbone", ["c3d", "i3d", "r2plus1d-18", "r3d-18", "mc3-18"])
@pytest.mark.parametrize("name", ["rg", "logo"])
def test_the_backbone_cuts_where_the_windows_are_joined(
    gymnastics: Path, swimming: Path, name: str, backbone: str, n_frames: int
) -> None:
    """By the configuration of these streams; a window of two places of the recording would show neither."""
    root = gymnastics if name == "rg" else swimming
    words = ["--dataset", name, "--data_root", str(root), "--backbone", backbone, "--clip_frames", str(n_frames)]
    args = parse_args(["--model", "sgd", *words])
    starts = window_starts(n_frames, args.window, args.window_stride)
    assert starts == list(range(0, n_frames, 16))
    dataset = get_dataset(args)
    assert isinstance(dataset, VideoScoreDataset)
    positions = dataset.windows(1000).reshape(-1, 16)
    assert len(positions) == len(starts)
    assert np.array_equal(np.diff(positions, axis=1), np.ones((len(starts), 15)))


def test_features_are_those_of_the_places_in_the_recording(sixty: Path) -> None:
    """The network's features of a joined clip are the mean over what it says of each window alone."""
    words = ["--n_tasks", "1", "--clip_frames", "32", "--backbone", "c3d", "--width", "2"]
    args = parse_args(["--model", "sgd", *trees.options("rg", sixty), *words])
    dataset = get_dataset(args)
    assert args.window_stride == 16
    network = get_backbone(args).eval()
    assert isinstance(network, WindowedBackbone)
    inputs = dataset.get_normalization_transform()(dataset.samples.train.read(np.array([0]))[0])
    with torch.no_grad():
        alone = [network(inputs[:, :, start : start + 16], returnt="features") for start in (0, 16)]
        torch.testing.assert_close(network(inputs, returnt="features"), (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize("n_frames", ["17", "40", "100"])
def test_frames_that_are_no_multiple_of_a_window_are_refused(sixty: Path, n_frames: str) -> None:
    with pytest.raises(UsageError, match=f"--clip_frames {n_frames}: rg takes multiples of 16"):
        stream("rg", sixty, "--clip_frames", n_frames).describe()


def test_fewer_frames_than_a_window_are_one_short_window(gymnastics: Path) -> None:
    assert numbers_of(stream("rg", gymnastics, "--clip_frames", "5"))[0] == [1, 2, 3, 4, 5]


def test_a_recording_shorter_than_a_window_repeats_its_last_frame(gymnastics: Path) -> None:
    assert numbers_of(stream("rg", gymnastics, "--clip_frames", "32"))[0] == [*range(1, 10), *[9] * 7] * 2


@pytest.mark.parametrize("name", ["rg", "logo"])
def test_a_temporal_shift_is_refused(gymnastics: Path, swimming: Path, name: str) -> None:
    root = gymnastics if name == "rg" else swimming
    with pytest.raises(UsageError, match=f"--temporal_shift 2: {name} spreads its windows over the whole recording"):
        stream(name, root, "--temporal_shift", "2").describe()


def test_video_files_serve_as_well_as_frames(small: Path) -> None:
    shutil.rmtree(small / "frames")
    for i in range(1, 4):
        for apparatus in trees.APPARATUS:
            suffix = ".MP4" if i == 1 else ".mp4"
            trees.write_video(small / "videos" / f"{apparatus}_{i:03d}{suffix}", [(0, 5 * t) for t in range(40)])
    dataset = stream("rg", small, "--n_tasks", "1", "--clip_frames", "32")
    assert dataset.frame_root == small / "videos"
    assert {clip.numbers for clip in dataset.samples.train.clips} == {(*range(16), *range(24, 40))}
    shown = trees.codes(dataset.samples.train.read(np.array([1]))[0])[1][0]
    assert np.abs(shown - 5 * np.array([*range(16), *range(24, 40)])).max() <= 3


# Rhythmic Gymnastics


@pytest.mark.parametrize(("judged", "column"), [("difficulty", 1), ("execution", 2), ("total", 3)])
def test_each_of_the_three_scores_can_be_learnt(gymnastics: Path, judged: str, column: int) -> None:
    dataset = stream("rg", gymnastics, "--judged", judged, "--n_tasks", "2")
    for part in ("train", "test"):
        rows = [line.split() for line in (gymnastics / f"{part}.txt").read_text().splitlines()[1:]]
        assert [each.name for each in dataset.performances if each.part == part] == [row[0] for row in rows]
        assert getattr(dataset.samples, f"{part}_targets").tolist() == [float(row[column]) for row in rows]
    train = dataset.samples.train_targets
    assert dataset.score_range == ((0.0, 25.0) if judged == "total" else (train.min(), train.max()))


def test_scores_are_scaled_by_25(gymnastics: Path) -> None:
    dataset = stream("rg", gymnastics)
    targets = dataset.samples.train_targets
    torch.testing.assert_close(dataset.convert_targets(targets), torch.from_numpy(targets / 25).float())
    assert get_dataset(parse_args(["--model", "sgd", "--dataset", "rg", "--data_root", "x"])).SCORE_RANGE == (0.0, 25.0)


def test_groups_are_the_four_apparatus(gymnastics: Path) -> None:
    dataset = stream("rg", gymnastics, "--tasks_by", "group", "--n_tasks", "4")
    assert dataset.names == ["ball", "clubs", "hoop", "ribbon"]
    assert [(row["train"], row["test"]) for row in dataset.describe()] == [(8, 4)] * 4
    for task, name in enumerate(dataset.names):
        assert set(dataset.samples.train_groups[dataset.split.train[task]]) == {name}
    assert get_dataset(parse_args(["--model", "sgd", "--dataset", "rg", "--tasks_by", "group", "--data_root", "x"]))


def test_one_apparatus_alone(gymnastics: Path) -> None:
    dataset = stream("rg", gymnastics, "--apparatus", "hoop", "--n_tasks", "2")
    assert {each.name.split("_")[0] for each in dataset.performances} == {"Hoop"}
    assert (len(dataset.samples.train), len(dataset.samples.test)) == (8, 4)
    grouped = stream("rg", gymnastics, "--apparatus", "hoop", "--tasks_by", "group", "--n_tasks", "1")
    assert grouped.names == ["hoop"]


def rewrite(root: Path, part: str, lines: list[str], **how: str) -> Path:
    path = root / f"{part}.txt"
    path.write_text("\n".join(lines) + "\n", **how)
    return path


@pytest.mark.parametrize(
    "line", ["Ball_001 5.0 8.0", "Ball_001 5.0 8.0 x", "Rope_001 5 8 13", "Ball_001", "Ball_001,5,8,13"]
)
def test_a_broken_row_is_named_by_file_and_row(small: Path, line: str) -> None:
    lines = (small / "test.txt").read_text().splitlines()
    path = rewrite(small, "test", [*lines[:2], "", line, *lines[2:]])
    with pytest.raises(
        DataError, match=rf"rg: {path}, row 4: expected 'Ball_001 difficulty execution total', not '{line}'"
    ):
        stream("rg", small).describe()


@pytest.mark.parametrize("score", ["nan", "inf", "-inf"])
def test_an_impossible_score_is_named_by_file_and_row(small: Path, score: str) -> None:
    lines = (small / "train.txt").read_text().splitlines()
    rewrite(small, "train", [*lines[:3], f"Ribbon_099 5 8 {score}"])
    with pytest.raises(DataError, match=r"rg: train\.txt, row 4: the score of Ribbon_099 is .*not a finite number"):
        stream("rg", small).describe()


@pytest.mark.parametrize(
    ("header", "encoding", "end"),
    [
        ("Video_ID Difficulty_Score Execution_Score Total_Score", "utf-8", "\n"),
        ("video score1 score2 score3", "utf-8", "\n"),
        ("Name\tD\tE\tT", "utf-8-sig", "\r\n"),
        (None, "utf-8", "\n"),
        (None, "utf-8-sig", "\r\n"),
    ],
)
def test_the_line_of_names_is_left_out_if_there_is_one(
    small: Path, header: str | None, encoding: str, end: str
) -> None:
    wanted = [each.name for each in stream("rg", small).performances]
    for part in ("train", "test"):
        lines = (small / f"{part}.txt").read_text().splitlines()[1:]
        text = end.join([*([header] if header else []), *lines, "", ""])
        (small / f"{part}.txt").write_bytes(text.encode(encoding))
    assert [each.name for each in stream("rg", small).performances] == wanted


@pytest.mark.parametrize("content", [b"", b"\n\n", b"Video D E T\n"])
def test_an_empty_list_is_refused(small: Path, content: bytes) -> None:
    (small / "test.txt").write_bytes(content)
    with pytest.raises(DataError, match="rg: the annotations list no sample for testing"):
        stream("rg", small).describe()


def test_a_list_that_is_no_text_is_named(small: Path) -> None:
    (small / "train.txt").write_bytes(b"\xff\xfeB\x00a\x00")
    with pytest.raises(DataError, match=rf"rg: cannot read {small / 'train.txt'}"):
        stream("rg", small).describe()


def test_a_routine_without_frames_is_named_and_can_be_left_out(small: Path) -> None:
    shutil.rmtree(small / "frames" / "Hoop_001")
    with pytest.raises(DataError, match=r"1 of 12 samples are not complete, the first is Hoop_001: no frames in"):
        stream("rg", small, "--n_tasks", "1").describe()
    dataset = stream("rg", small, "--n_tasks", "1", "--skip_corrupt", "1")
    assert len(dataset.samples.train) + len(dataset.samples.test) == 11
    assert len(dataset.skipped) == 1


def test_all_routines_of_a_group_left_out_are_reported_as_an_empty_task(small: Path) -> None:
    for folder in (small / "frames").glob("Hoop_*"):
        shutil.rmtree(folder)
    with pytest.raises(DataError, match="rg: no training sample in hoop; choose fewer tasks"):
        stream("rg", small, "--tasks_by", "group", "--n_tasks", "4", "--skip_corrupt", "1").describe()


# LOGO


def test_groups_of_logo_are_its_events_whatever_they_are_called(swimming: Path) -> None:
    dataset = stream("logo", swimming, "--tasks_by", "group")
    assert dataset.names == sorted(trees.EVENTS)
    assert dataset.N_TASKS == 5
    for task, event in enumerate(dataset.names):
        assert set(dataset.samples.test_groups[dataset.split.test[task]]) == {event}


def test_frames_and_scores_of_logo_stay_paired(swimming: Path) -> None:
    dataset = stream("logo", swimming)
    shown, numbers = trees.codes(dataset.samples.train.read(np.arange(30))[0])
    assert np.array_equal(numbers, np.tile([0, 1, 2, 3], (30, 1)))
    # Sample i has score 60 + i and shows 5 * i.
    assert np.array_equal(shown[:, 0], 5 * (dataset.samples.train_targets - 60))
    assert dataset.score_range == (60.0, 104.0)


@pytest.mark.parametrize("folder", ["LOGO Video_result", "Video_result", "videos", ""])
def test_frames_of_logo_may_lie_elsewhere(tmp_path: Path, folder: str) -> None:
    root = trees.logo(tmp_path / "logo", 4, 2)
    if folder:
        (root / "frames").rename(root / folder)
    else:
        for event in list((root / "frames").iterdir()):
            event.rename(root / event.name)
        (root / "frames").rmdir()
    dataset = stream("logo", root, "--n_tasks", "1")
    assert dataset.frame_root == (root / folder if folder else root)
    assert len(dataset.samples.train) == 4


@pytest.mark.parametrize("facts", [None, 7, ["Free"], ["Free", "high"], {}, ["Free", None]], ids=str)
def test_a_broken_annotation_of_logo_is_named(tmp_path: Path, facts: object) -> None:
    root = trees.logo(tmp_path / "logo", 4, 2)
    known = {(trees.EVENTS[i % 5], i // 5): ["Free", 60.0 + i] for i in range(6)}
    trees.write_pickle(root / "anno_dict.pkl", known | {(trees.EVENTS[3], 0): facts})
    with pytest.raises(DataError, match=rf"logo: .*anno_dict\.pkl: the annotation of {trees.EVENTS[3]}/0 is not"):
        stream("logo", root).describe()


def test_a_group_with_one_sample_of_each_kind_is_a_task(tmp_path: Path) -> None:
    root = trees.logo(tmp_path / "logo", 4, 2)
    trees.write_pickle(root / "train_split3.pkl", [(trees.EVENTS[0], 0), (trees.EVENTS[1], 0)])
    trees.write_pickle(root / "test_split3.pkl", [(trees.EVENTS[0], 1), (trees.EVENTS[1], 0)])
    with pytest.raises(DataError, match=r"two samples are called Final #1/0"):
        stream("logo", root).describe()
    trees.write_pickle(root / "train_split3.pkl", [(trees.EVENTS[0], 0), (trees.EVENTS[2], 0)])
    trees.write_pickle(root / "test_split3.pkl", [(trees.EVENTS[0], 1), (trees.EVENTS[1], 0)])
    with pytest.raises(DataError, match=r"logo: no training sample in Final #1"):
        stream("logo", root, "--tasks_by", "group", "--n_tasks", "3").describe()
    dataset = stream("logo", root, "--tasks_by", "group", "--n_tasks", "2")
    assert [(row["train"], row["test"]) for row in dataset.describe()] == [(1, 1), (1, 1)]
