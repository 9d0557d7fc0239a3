"""Samples of the user's own, from a CSV file: frames, videos or features."""

import csv
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets import get_dataset
from datasets.utils.video_dataset import VideoScoreDataset
from tests.datasets import trees
from utils.args import parse_args
from utils.errors import DataError, RunError, UsageError


def stream(root: Path, *words: str) -> VideoScoreDataset:
    options = ["--model", "sgd", *trees.options("aqa-manifest", root), "--batch_size", "4", "--n_tasks", "1"]
    return get_dataset(parse_args([*options, *words]))


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Frames numbered 0 to 8, of which performances are 2 to 7; frame t shows 20 * t."""
    return trees.manifest(tmp_path_factory.mktemp("manifest"), 4, 2)


def rows_of(root: Path) -> list[dict[str, Any]]:
    with (root / "manifest.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def rows(tree: Path) -> list[dict[str, Any]]:
    return rows_of(tree)


def manifest(tree: Path, tmp_path: Path, rows: list[dict[str, Any]], **how: Any) -> Path:
    """Another manifest on the same clips."""
    if not (tmp_path / "clips").exists():
        (tmp_path / "clips").symlink_to(tree / "clips")
    return trees.write_manifest(tmp_path / "other.csv", rows, **how)


def shown(dataset: VideoScoreDataset) -> list[list[int]]:
    """The frames that each training clip shows."""
    return (trees.codes(dataset.samples.train.read(np.arange(len(dataset.samples.train)))[0])[1] // 20).tolist()


def described(dataset: VideoScoreDataset) -> list[tuple[object, ...]]:
    return [
        (each.name, each.score, each.part, each.group, each.difficulty, each.place) for each in dataset.performances
    ]


# What a row says


def test_rows_become_samples(tree: Path) -> None:
    dataset = stream(tree)
    assert described(dataset) == [
        ("ann/000", 10.0, "train", "ann", 1.0, {"frames": "clips/0", "start": 2, "end": 7}),
        ("ann/001", 11.0, "test", "ann", 2.0, {"frames": "clips/1", "start": 2, "end": 7}),
        ("ann/002", 12.0, "train", "ann", 3.0, {"frames": "clips/2", "start": 2, "end": 7}),
        ("bob/003", 13.0, "train", "bob", 1.0, {"frames": "clips/3", "start": 2, "end": 7}),
        ("bob/004", 14.0, "test", "bob", 2.0, {"frames": "clips/4", "start": 2, "end": 7}),
        ("bob/005", 15.0, "train", "bob", 3.0, {"frames": "clips/5", "start": 2, "end": 7}),
    ]
    assert dataset.score_range == (10.0, 15.0)
    clips, _ = trees.codes(dataset.samples.train.read(np.arange(4))[0])
    assert clips[:, 0].tolist() == [0, 10, 15, 25]


@pytest.mark.parametrize(
    ("words", "frames"),
    [
        ([], [2, 4, 5, 7]),
        (["--clip_sampling", "end"], [4, 5, 6, 7]),
        (["--clip_sampling", "windows"], [2, 3, 4, 5]),
        (["--clip_frames", "6"], [2, 3, 4, 5, 6, 7]),
        (["--clip_frames", "8", "--clip_sampling", "end"], [2, 2, 2, 3, 4, 5, 6, 7]),
        (["--clip_frames", "1"], [2]),
    ],
)
def test_frames_of_the_performance_are_taken(tree: Path, words: list[str], frames: list[int]) -> None:
    assert shown(stream(tree, *words)) == [frames] * 4


def test_windows_of_16_are_spread_over_the_performance(tmp_path: Path) -> None:
    root = trees.manifest(tmp_path, 2, 1, n_frames=50)
    dataset = stream(root, "--clip_sampling", "windows", "--clip_frames", "32")
    wanted = [*range(2, 18), *range(33, 49)]
    assert [int(path.stem[5:]) for path in dataset.samples.train.clips[0].frames] == wanted
    with pytest.raises(UsageError, match="--clip_frames 20: --clip_sampling windows takes multiples of 16"):
        stream(root, "--clip_sampling", "windows", "--clip_frames", "20").describe()


def test_training_may_move_the_last_frames_in_time(tree: Path) -> None:
    dataset = stream(tree, "--clip_sampling", "end", "--temporal_shift", "2")
    assert shown(dataset) == [[2, 3, 4, 5, 6, 7, 8, 8]] * 4
    assert dataset.test_loader(0).dataset[[0]][0].shape[2] == 4


@pytest.mark.parametrize("how", ["spread", "windows"])
def test_what_covers_the_whole_performance_cannot_move(tree: Path, how: str) -> None:
    with pytest.raises(UsageError, match=f"--temporal_shift 2: --clip_sampling {how} covers the whole performance"):
        stream(tree, "--clip_sampling", how, "--temporal_shift", "2").describe()


def test_without_limits_the_performance_is_the_whole_recording(tree: Path, tmp_path: Path, rows: Any) -> None:
    for row in rows:
        del row["start"], row["end"]
    path = manifest(tree, tmp_path, rows)
    assert shown(stream(tmp_path, "--manifest", str(path))) == [[0, 3, 5, 8]] * 4
    rows[0]["start"], rows[2]["start"] = "3", ""
    for row in rows:
        row.setdefault("start", "")
    path = manifest(tree, tmp_path, rows)
    assert shown(stream(tmp_path, "--manifest", str(path)))[:2] == [[3, 5, 6, 8], [0, 3, 5, 8]]


@pytest.mark.parametrize(
    "how",
    [
        {"encoding": "utf-8-sig"},
        {"end": "\r\n"},
        {"encoding": "utf-8-sig", "end": "\r\n", "pad": "  "},
        {"pad": " "},
        {"quote": csv.QUOTE_ALL},
        {"blank": True},
        {"upper": True},
        {"trailing": ",,"},
    ],
    ids=str,
)
def test_what_spreadsheets_write_is_read_alike(tree: Path, tmp_path: Path, rows: Any, how: dict[str, Any]) -> None:
    pad = how.get("pad", "")
    lines = [list(rows[0]), *(list(row.values()) for row in rows)]
    if how.get("upper"):
        lines[0] = [name.upper() for name in lines[0]]
    if "quote" in how:
        text = "\n".join(",".join(f'"{cell}"' for cell in line) for line in lines)
    else:
        text = how.get("end", "\n").join(f"{pad},{pad}".join(line) + how.get("trailing", "") for line in lines)
    if how.get("blank"):
        text = text.replace("\n", "\n\n") + "\n\n"
    (tmp_path / "clips").symlink_to(tree / "clips")
    (tmp_path / "manifest.csv").write_bytes(text.encode(how.get("encoding", "utf-8")))
    assert described(stream(tmp_path)) == described(stream(tree))


SPELT = {
    "id": ("sample_id", "sample id", "Sample ID", "SAMPLE-ID"),
    "frames": ("frame_folder", "frame folder", "frame_dir", "frame dir", "Frame-Folder", "frame  folder"),
    "start": ("start_frame",),
    "end": ("End Frame",),
}


@pytest.mark.parametrize(("old", "new"), [(old, new) for old, names in SPELT.items() for new in names])
def test_other_spellings_of_columns_are_understood(tree: Path, tmp_path: Path, rows: Any, old: str, new: str) -> None:
    path = manifest(tree, tmp_path, [{new if key == old else key: cell for key, cell in row.items()} for row in rows])
    assert described(stream(tmp_path, "--manifest", str(path))) == described(stream(tree))


@pytest.mark.parametrize("new", ["video_file", "video file", "video_path", "Video Path", "video-file"])
def test_other_spellings_of_the_column_of_videos_are_understood(tmp_path: Path, new: str) -> None:
    rows = [{"id": part, "score": 3, "split": part, new: f"{part}.mp4"} for part in ("train", "test")]
    path = trees.write_manifest(tmp_path / "m.csv", rows)
    dataset = stream(tmp_path, "--manifest", str(path))
    assert [each.place for each in dataset.performances] == [{"video": "train.mp4"}, {"video": "test.mp4"}]


@pytest.mark.parametrize("new", ["feature_file", "feature file", "feature_path", "feature path", "Feature-Path"])
def test_other_spellings_of_the_column_of_features_are_understood(tmp_path: Path, new: str) -> None:
    root = trees.manifest_of_features(tmp_path)
    path = root / "manifest.csv"
    path.write_text(path.read_text().replace("features", new, 1))
    dataset = stream(root, "--backbone", "clip-features")
    assert dataset.feature_file(dataset.performances[0]) == root / "taken" / "0.npy"


def test_columns_of_the_users_own_are_left_alone(tree: Path, tmp_path: Path, rows: Any) -> None:
    own = {"remark": "a, b", "hospital": 3, "body mass": 60, "body-mass": 61}
    path = manifest(tree, tmp_path, [{**row, **own} for row in rows])
    assert described(stream(tmp_path, "--manifest", str(path))) == described(stream(tree))


def test_paths_are_relative_to_the_manifest_or_absolute(tree: Path, tmp_path: Path, rows: Any) -> None:
    for row in rows[::2]:
        row["frames"] = str(tree / row["frames"])
    for row in rows[1::2]:
        row["frames"] = f"../{tree.name}/{row['frames']}"
    (tree.parent / "elsewhere").mkdir(exist_ok=True)
    path = trees.write_manifest(tree.parent / "elsewhere" / "m.csv", rows)
    assert shown(stream(tmp_path, "--manifest", str(path))) == [[2, 4, 5, 7]] * 4


def test_groups_are_tasks_and_can_be_united(tmp_path: Path) -> None:
    root = trees.manifest(tmp_path, 30, 15, n_frames=8)
    dataset = stream(root, "--tasks_by", "group", "--n_tasks", "2")
    assert dataset.N_TASKS == 2
    assert "+".join(dataset.names) == "ann+bob+cem"


# Errors


def refused(tree: Path, tmp_path: Path, rows: list[dict[str, Any]], *words: str) -> str:
    path = manifest(tree, tmp_path, rows)
    with pytest.raises(RunError) as caught:
        stream(tmp_path, "--manifest", str(path), *words).describe()
    assert isinstance(caught.value, DataError)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"score": "good"}, "score is 'good', not a number"),
        ({"score": ""}, "score is '', not a number"),
        ({"score": "7,5"}, "score is '7,5', not a number"),
        ({"score": "inf"}, "the score of ann/002 is inf, not a finite number"),
        ({"score": "nan"}, "the score of ann/002 is nan, not a finite number"),
        ({"difficulty": "0"}, "the degree of difficulty of ann/002 is 0.0, not above 0"),
        ({"difficulty": "-1"}, "the degree of difficulty of ann/002 is -1.0, not above 0"),
        ({"difficulty": "hard"}, "difficulty is 'hard', not a number"),
        ({"split": "validation"}, "split is 'validation', neither train nor test"),
        ({"split": ""}, "split is '', neither train nor test"),
        ({"id": ""}, "the id is empty"),
        ({"id": "../../outside"}, "'../../outside' cannot name files"),
        ({"id": "/etc/outside"}, "'/etc/outside' cannot name files"),
        ({"frames": ""}, "give one of frames, video, features, not none"),
        ({"start": "x"}, "start is 'x', not a number"),
        ({"end": "6.5"}, "end is '6.5', not a frame number"),
        ({"end": "nan"}, "end is 'nan', not a frame number"),
        ({"start": "inf"}, "start is 'inf', not a frame number"),
        ({"start": "8"}, "ann/002 ends at frame 7 and starts at 8"),
        ({"end": "9"}, "frames 2 to 9 of ann/002, whose recording has 9 frames (0 to 8)"),
        ({"start": "-1"}, "frames -1 to 7 of ann/002"),
    ],
    ids=str,
)
def test_a_wrong_cell_is_named_by_file_and_row(
    tree: Path, tmp_path: Path, rows: Any, change: dict[str, str], words: str
) -> None:
    rows[2] |= change
    message = refused(tree, tmp_path, rows)
    assert f"other.csv, row 4: {words}" in message


def test_two_samples_of_one_id_are_named_with_both_rows(tree: Path, tmp_path: Path, rows: Any) -> None:
    rows[4]["id"] = rows[1]["id"]
    assert "two samples are called ann/001: other.csv, row 3 and other.csv, row 6" in refused(tree, tmp_path, rows)


def test_a_row_with_two_places_is_refused(tree: Path, tmp_path: Path, rows: Any) -> None:
    for i, row in enumerate(rows):
        row["video"] = "a.mp4" if i == 2 else ""
    assert "row 4: give one of frames, video, features, not frames, video" in refused(tree, tmp_path, rows)


def test_features_and_videos_are_not_mixed(tree: Path, tmp_path: Path, rows: Any) -> None:
    for i, row in enumerate(rows):
        row["features"] = "a.npy" if i == 2 else ""
        row["frames"] = "" if i == 2 else row["frames"]
    assert "names features in some rows and videos in others" in refused(tree, tmp_path, rows)


def test_frames_and_videos_may_be_mixed(tree: Path, tmp_path: Path, rows: Any) -> None:
    for i, row in enumerate(rows):
        row["video"] = str(trees.write_video(tmp_path / "2.mkv", [(0, 20 * t) for t in range(9)])) if i == 2 else ""
        row["frames"] = "" if i == 2 else row["frames"]
    path = manifest(tree, tmp_path, rows)
    dataset = stream(tmp_path, "--manifest", str(path))
    assert dataset.samples.train.clips[1].numbers == (2, 4, 5, 7)
    assert np.abs(trees.codes(dataset.samples.train.read(np.array([1]))[0])[1] - [40, 80, 100, 140]).max() <= 3


@pytest.mark.parametrize("column", ["id", "score", "split", "frames"])
def test_a_missing_column_is_named_with_those_there_are(tree: Path, tmp_path: Path, rows: Any, column: str) -> None:
    message = refused(tree, tmp_path, [{key: cell for key, cell in row.items() if key != column} for row in rows])
    assert f"lacks {'one of frames, video, features' if column == 'frames' else column};" in message
    assert "'difficulty'" in message


@pytest.mark.parametrize(("wrong", "right"), [("grop", "group"), ("dificulty", "difficulty"), ("strat", "start")])
def test_a_misspelt_column_is_named_with_the_right_one(
    tree: Path, tmp_path: Path, rows: Any, wrong: str, right: str
) -> None:
    message = refused(
        tree, tmp_path, [{wrong if key == right else key: cell for key, cell in row.items()} for row in rows]
    )
    assert f"unknown column '{wrong}'; did you mean {right}?" in message


def test_columns_of_the_table_itself_are_no_misspellings(tree: Path, tmp_path: Path, rows: Any) -> None:
    path = manifest(tree, tmp_path, [{**row, "heart rate": "80", "age": "31", "rater": "B"} for row in rows])
    assert len(stream(tmp_path, "--manifest", str(path)).samples.train) > 0


@pytest.mark.parametrize(
    ("name", "other"), [("id", "sample_id"), ("frames", "frame folder"), ("score", "Score"), ("group", " group")]
)
def test_two_spellings_of_one_column_are_refused_with_both(
    tree: Path, tmp_path: Path, rows: Any, name: str, other: str
) -> None:
    message = refused(tree, tmp_path, [{**row, other: 0} for row in rows])
    assert f"names a column twice: '{name}', '{other.strip()}' are all '{name}'" in message


def test_a_row_with_more_cells_than_columns_is_refused(tree: Path, tmp_path: Path, rows: Any) -> None:
    path = manifest(tree, tmp_path, rows)
    lines = path.read_text().splitlines()
    lines[3] = lines[3].replace("clips/2", "clips, 2")
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"other\.csv, row 4 has more cells than there are columns; quote"):
        stream(tmp_path, "--manifest", str(path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "lacks id, score, split, one of frames, video, features"),
        (b"\n\n", "lacks id"),
        (b"id;score;split;frames\na;1;train;x\n", "it has: ['id;score;split;frames']"),
        (b"id,score,split,frames\n", "no row of"),
        (b"id,score,split,frames\na,1,train,x\n", "manifest.csv has the split test"),
        ("id,score,split,frames\nä,1,train,x\n".encode("latin-1"), "cannot read"),
        ("id,score,split,frames\n".encode("utf-16"), "cannot read"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "cannot read"),
    ],
    ids=range(8),
)
def test_a_file_that_is_no_manifest_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "manifest.csv").write_bytes(content)
    with pytest.raises(DataError) as caught:
        stream(tmp_path)
    assert words in str(caught.value)


def test_an_absent_manifest_and_a_folder_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"no file {tmp_path}/manifest\.csv\. Write a CSV file"):
        stream(tmp_path)
    with pytest.raises(DataError, match=rf"cannot read {tmp_path}"):
        stream(tmp_path, "--manifest", str(tmp_path))


def test_groups_are_asked_for_only_where_tasks_are_made_of_them(tree: Path, tmp_path: Path, rows: Any) -> None:
    rows[3]["group"] = ""
    path = manifest(tree, tmp_path, rows)
    stream(tmp_path, "--manifest", str(path)).describe()
    with pytest.raises(DataError, match=r"--tasks_by group, but other\.csv, row 5 has no group"):
        stream(tmp_path, "--manifest", str(path), "--tasks_by", "group").describe()


def test_difficulties_are_asked_for_only_where_scores_are_divided(tree: Path, tmp_path: Path, rows: Any) -> None:
    rows[3]["difficulty"] = ""
    path = manifest(tree, tmp_path, rows)
    assert stream(tmp_path, "--manifest", str(path)).samples.train_difficulty is None
    with pytest.raises(DataError, match="--use_difficulty, but not every sample has a degree of difficulty"):
        stream(tmp_path, "--manifest", str(path), "--use_difficulty", "1").describe()


@pytest.mark.parametrize("how", ["missing", "empty", "truncated"])
def test_clips_that_cannot_be_read_are_named_and_can_be_left_out(tmp_path: Path, how: str) -> None:
    root = trees.manifest(tmp_path, 4, 2)
    folder = root / "clips" / "2"
    if how == "truncated":
        trees.truncate(folder / "frame0004.jpg")
    else:
        shutil.rmtree(folder)
    if how == "empty":
        folder.mkdir()
    with pytest.raises(DataError, match=str(folder)):
        list(stream(root).get_data_loaders()[0])
    dataset = stream(root, "--skip_corrupt", "1")
    labels = sorted(float(label) for _, labels, _ in dataset.get_data_loaders()[0] for label in labels)
    assert labels == pytest.approx([0, 0.6, 1])  # 10, 13 and 15 of 10-15
    assert len(dataset.skipped) == 1
    assert str(folder) in dataset.skipped[0]


# Videos and features


def test_videos_are_read(tmp_path: Path) -> None:
    root = trees.manifest_of_videos(tmp_path)
    dataset = stream(root, "--clip_frames", "12")
    raw = dataset.samples.train.read(np.arange(4))[0]
    clips, frames = trees.codes(raw)
    wanted = [int(row["id"][-3:]) for row in rows_of(root) if row["split"] == "train"]
    assert np.abs(clips - 40 * np.array(wanted)[:, None]).max() <= 3
    assert np.abs(frames - 20 * np.arange(12)).max() <= 3


@pytest.mark.parametrize("how", ["missing", "text", "empty", "cut"])
def test_a_broken_video_is_named_and_can_be_left_out(tmp_path: Path, how: str) -> None:
    root = trees.manifest_of_videos(tmp_path)
    path = root / "videos" / "2.mp4"
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes({"text": b"no video" * 50, "empty": b"", "cut": content[: len(content) // 2]}[how])
    with pytest.raises(DataError, match=str(path)):
        list(stream(root).get_data_loaders()[0])
    dataset = stream(root, "--skip_corrupt", "1")
    assert sum(len(labels) for _, labels, _ in dataset.get_data_loaders()[0]) == 3
    assert len(dataset.skipped) == 1


def test_features_are_read_and_need_no_option(tmp_path: Path) -> None:
    root = trees.manifest_of_features(tmp_path, 4, 2)
    dataset = stream(root, "--backbone", "clip-features")
    assert dataset.uses_features
    assert dataset.input_shape == (6, 3)
    wanted = [i for i, row in enumerate(rows_of(root)) if row["split"] == "train"]
    for data, i in zip(dataset.samples.train.data, wanted, strict=True):
        array = np.load(root / "taken" / f"{i}.npy")
        assert np.array_equal(data.numpy(), array[[0, 1, 2] if len(array) == 3 else [0, 2, 3]].T)


def test_a_video_backbone_refuses_features_in_words(tmp_path: Path) -> None:
    from backbone import get_backbone

    words = ["--model", "sgd", *trees.options("aqa-manifest", trees.manifest_of_features(tmp_path, 4, 2))]
    with pytest.raises(UsageError, match=r"manifest\.csv names features, .*; add --backbone clip-features"):
        get_dataset(parse_args(words))
    args = parse_args([*words, "--backbone", "i3d"])
    get_dataset(args)
    with pytest.raises(UsageError, match=r"--backbone i3d: it takes clips \(C, T, H, W\), not .* shape \(6, 3\)"):
        get_backbone(args)


@pytest.mark.parametrize("first", [True, False])
def test_a_missing_feature_file_is_named_and_can_be_left_out(tmp_path: Path, first: bool) -> None:
    root = trees.manifest_of_features(tmp_path, 4, 2)
    path = root / "taken" / ("0.npy" if first else "3.npy")
    path.unlink()
    with pytest.raises(DataError, match=rf"no feature file {path}"):
        stream(root, "--backbone", "clip-features").describe()
    dataset = stream(root, "--backbone", "clip-features", "--skip_corrupt", "1")
    assert [row["train"] for row in dataset.describe()] == [3]
    assert len(dataset.skipped) == 1
