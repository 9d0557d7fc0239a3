"""AQA-7 in the official layout, built small, and the rendered stand-in for absent frames."""

import shutil
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat

from datasets import get_dataset, get_dataset_class
from datasets.aqa7 import MEAN, STD
from datasets.utils.recordings import frame_number
from datasets.utils.score_dataset import ScoreDataset
from tests.datasets import trees
from utils.args import parse_args
from utils.errors import DataError, UsageError

SPORTS = list(trees.SPORTS)
RANGES = list(trees.SPORTS.values())
N_TRAIN, N_TEST = 8, 4
FRAMES = trees.AQA7_FRAMES


def scores_of(sport: int, n: int) -> np.ndarray:
    return trees.aqa7_scores(SPORTS[sport], n)


@pytest.fixture(scope="module")
def official(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.aqa7(tmp_path_factory.mktemp("official"))


@pytest.fixture
def diving(tmp_path: Path) -> Path:
    """A tree of diving alone, to be broken."""
    return trees.aqa7(tmp_path / "AQA-7", ["diving"])


def configured(*words: str) -> Namespace:
    return parse_args(["--model", "sgd", "--dataset", "aqa7", "--num_workers", "0", *words])


def stream(root: Path, *words: str) -> ScoreDataset:
    options = ["--data_root", str(root), "--clip_frames", "4", "--fewshot", "0", "--batch_size", "3"]
    options += ["--backbone", "c3d"]
    if "group" not in words:
        options += ["--n_tasks", "2"]
    dataset = get_dataset(configured(*options, *words))
    assert dataset.NAME == "aqa7"
    return dataset


def read_all(dataset: ScoreDataset) -> None:
    for _ in range(dataset.N_TASKS):
        for loader in dataset.get_data_loaders():
            list(loader)


# The official layout


@pytest.mark.parametrize("sport", range(6))
def test_a_sport_keeps_its_clips_and_its_own_scale(official: Path, sport: int) -> None:
    dataset = stream(official, "--sport", SPORTS[sport])
    assert np.allclose(np.sort(dataset.samples.train_targets), scores_of(sport, N_TRAIN), rtol=0, atol=1e-12)
    assert np.allclose(np.sort(dataset.samples.test_targets), scores_of(sport, N_TEST), rtol=0, atol=1e-12)
    assert [(row["train"], row["test"]) for row in dataset.describe()] == [(4, 2), (4, 2)]
    assert tuple(dataset.SCORE_RANGE) == RANGES[sport]
    labels = dataset.convert_targets(dataset.samples.train_targets)
    assert np.allclose(np.sort(labels.numpy()), np.linspace(0, 1, N_TRAIN), atol=1e-6)
    assert np.allclose(dataset.to_scores(labels.numpy()), dataset.samples.train_targets, atol=1e-4)


def test_raw_score_scale_gives_scores_as_judged(official: Path) -> None:
    dataset = stream(official, "--score_scale", "raw")
    assert torch.equal(
        dataset.convert_targets(dataset.samples.train_targets), torch.from_numpy(dataset.samples.train_targets).float()
    )


@pytest.mark.parametrize("sport", ["gym_vault", "all"])
def test_published_scale_goes_from_0_to_100_by_the_range(official: Path, sport: str) -> None:
    dataset = stream(official, "--sport", sport, "--score_scale", "published", "--n_tasks", "1")
    loader, _ = dataset.get_data_loaders()
    low, high = dataset.SCORE_RANGE
    labels, scores = loader.dataset.targets.numpy(), loader.dataset.scores
    assert np.allclose(labels, 100 * (scores - low) / (high - low), atol=1e-3)
    assert np.allclose(dataset.to_scores(labels), scores, atol=1e-4)
    assert dataset.network_range == (0, 100)


def test_scores_as_judged_of_all_sports_together_are_refused(official: Path) -> None:
    with pytest.raises(UsageError, match="no common unit"):
        stream(official, "--sport", "all", "--score_scale", "raw")


def test_magr_of_the_paper_is_i3d_on_scores_up_to_100() -> None:
    line = "--model magr --dataset aqa7 --data_source full --buffer_size 10 --config configs/magr-paper.yaml"
    args = parse_args(line.split(), data_is_here=False)
    assert (args.dataset, args.backbone, args.crop, args.score_scale) == ("aqa7", "i3d", 224, "published")


def test_all_sports_are_scaled_to_100_by_their_published_ranges(official: Path) -> None:
    dataset = stream(official, "--sport", "all")
    assert len(dataset.samples.train_targets) == 6 * N_TRAIN
    assert len(dataset.samples.test_targets) == 6 * N_TEST
    for sport in SPORTS:
        of_sport = np.sort(dataset.samples.train_targets[dataset.samples.train_groups == sport])
        assert np.allclose(of_sport, np.linspace(0, 100, N_TRAIN), atol=1e-9)
    assert tuple(dataset.SCORE_RANGE) == (0.0, 100.0)


def test_group_incremental_brings_one_sport_after_the_other(official: Path) -> None:
    dataset = stream(official, "--sport", "all", "--tasks_by", "group")
    assert dataset.SETTING == "group-il"
    assert dataset.N_TASKS == 6
    assert dataset.names == SPORTS
    for task, sport in enumerate(SPORTS):
        assert set(dataset.samples.train_groups[dataset.split.train[task]]) == {sport}
        assert set(dataset.samples.test_groups[dataset.split.test[task]]) == {sport}
        assert (len(dataset.split.train[task]), len(dataset.split.test[task])) == (N_TRAIN, N_TEST)


@pytest.mark.parametrize(("n_clips", "shots"), [(30, 4), (31, 7)])
def test_official_protocol_uses_the_exact_stride_and_edges_of_all_scores(
    tmp_path: Path, n_clips: int, shots: int
) -> None:
    rng = np.random.default_rng(1)
    scores = {"train": rng.uniform(25, 100, n_clips), "test": rng.uniform(25, 100, 20)}
    first = 1
    for part, values in scores.items():
        trees.write_aqa7_split(tmp_path, part, [[1, first + i, value] for i, value in enumerate(values)])
        for i in range(len(values)):
            trees.write_aqa7_clip(tmp_path / "diving-out" / f"{first + i:03d}")
        first += len(values)
    words = ["--fewshot", "1", "--protocol", "official", "--num_samples_per_task", str(shots), "--test_shots", "3"]
    dataset = stream(tmp_path, *words)
    middle = np.percentile(np.concatenate([scores["train"], scores["test"]]), 50)
    for part, n in (("train", shots), ("test", 3)):
        sessions = getattr(dataset.split, part)
        expected = []
        for members in (np.flatnonzero(scores[part] < middle), np.flatnonzero(scores[part] >= middle)):
            ordered = members[np.argsort(scores[part][members])]
            expected.append([ordered[int(i * len(ordered) / n)] for i in range(n)])
        assert [session.tolist() for session in sessions[1:]] == expected
        rest = set(range(len(scores[part]))) - {*expected[0], *expected[1]}
        assert set(sessions[0].tolist()) == rest
    assert dataset.names == ["base", "grade 1", "grade 2"]


def test_frames_arrive_in_order_at_128x171(official: Path) -> None:
    train_loader, test_loader = stream(official).get_data_loaders()
    inputs, _, raw = next(iter(train_loader))
    assert raw.shape == (3, 3, 4, 128, 171)
    assert raw.dtype == torch.uint8
    corner = raw[:, :, :, 10, 10].int()
    offsets = corner - torch.tensor(FRAMES)
    assert (offsets - offsets[:, :1, :1]).abs().max() <= 2  # one brightness a clip, as in every channel and frame
    assert offsets.min() >= -1
    assert offsets.max() <= 2 * N_TRAIN
    assert raw[:, :, :, 120, 160].min() > 250  # lower right
    assert raw[:, :, :, 120, 10].max() < 150  # lower left
    assert raw[:, :, :, 10, 160].max() < 150  # upper right
    assert inputs.shape == (3, 3, 4, 112, 112)
    assert next(iter(test_loader))[0].shape == (2, 3, 4, 112, 112)


def test_clips_and_scores_stay_paired(official: Path) -> None:
    dataset = stream(official)
    seen = {}
    for _ in range(2):
        for _, labels, raw in dataset.get_data_loaders()[0]:
            ranks = (labels * (N_TRAIN - 1)).round().int().tolist()
            seen |= dict(zip(ranks, raw[:, 0, 0, 10, 10].tolist(), strict=True))
    assert sorted(seen) == list(range(N_TRAIN))
    assert all(abs(seen[i] - (FRAMES[0] + 2 * i)) <= 1 for i in range(N_TRAIN))


def test_test_clips_are_the_normalised_centre(official: Path) -> None:
    dataset = stream(official)
    loader = dataset.get_data_loaders()[1]
    inputs, labels = next(iter(loader))
    raw = loader.dataset[list(range(len(labels)))][0]
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))
    expected = (raw[..., 8:120, 29:141].float() / 255 - mean) / std
    assert torch.equal(inputs, expected)


def test_training_crops_move_and_flip_and_are_shared_by_the_frames_of_a_clip(diving: Path) -> None:
    for folder in (diving / "diving-out").iterdir():
        for number in FRAMES[1:]:
            shutil.copy(folder / f"img_{FRAMES[0]:05d}.jpg", folder / f"img_{number:05d}.jpg")
    loader = stream(diving).get_data_loaders()[0]
    clips = torch.cat([inputs for _ in range(8) for inputs, _, _ in loader])
    assert torch.equal(clips, clips[:, :, :1].expand_as(clips))
    white = clips[:, 0, 0] > clips.max() - 0.5
    assert len({mask.numpy().tobytes() for mask in white}) > 8
    on_the_right = white[:, -1, -1]
    assert on_the_right.any()
    assert not on_the_right.all()


def test_input_shape_follows_the_number_of_frames(official: Path) -> None:
    assert stream(official).input_shape == (3, 4, 112, 112)
    assert stream(official, "--clip_frames", "103").input_shape == (3, 103, 112, 112)


def test_all_103_frames_are_the_default_and_each_is_used_once(diving: Path) -> None:
    for folder in (diving / "diving-out").iterdir():
        for number in range(1, 104):
            (folder / f"img_{number:05d}.jpg").touch()
    dataset = stream(diving, "--clip_frames", "103")
    names = [path.name for path in dataset.samples.train.clips[0].frames]
    assert names == [f"img_{number:05d}.jpg" for number in range(1, 104)]
    assert get_dataset(configured("--data_root", str(diving))).n_clip_frames == 103


@pytest.mark.parametrize(
    ("n_frames", "why"), [("0", "0 is not at least 1"), ("-3", "-3 is not"), ("104", "clips have 103 frames")]
)
def test_an_impossible_number_of_frames_is_refused(official: Path, n_frames: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        stream(official, "--clip_frames", n_frames)


def test_a_training_clip_that_moves_in_time_repeats_its_first_or_last_frame(tmp_path: Path) -> None:
    folder = trees.aqa7(tmp_path, ["diving"]) / "diving-out" / "001"
    for number in range(1, 104):
        (folder / f"img_{number:05d}.jpg").touch()
    dataset = get_dataset(configured("--data_root", str(tmp_path), "--temporal_shift", "2"))
    performance = next(each for each in dataset.performances if each.name == "diving/001")
    clip = dataset.locate(performance, dataset.frame_index(), margin=2)
    assert [frame_number(path) for path in clip.frames] == [1, 1, *range(1, 104), 103, 103]


def test_a_clip_of_fewer_frames_cannot_move_in_time(official: Path) -> None:
    with pytest.raises(UsageError, match="--temporal_shift 2: a clip of 4 of 103 frames"):
        stream(official, "--temporal_shift", "2").describe()


def test_two_readings_of_the_same_files_are_identical(official: Path) -> None:
    first, second = (list(stream(official).get_data_loaders()[0]) for _ in range(2))
    assert all(torch.equal(a, b) for one, two in zip(first, second, strict=True) for a, b in zip(one, two, strict=True))


# Broken copies


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_missing_split_is_named_with_the_way_to_get_it(diving: Path, part: str) -> None:
    path = diving / "Split_4" / f"split_4_{part}_list.mat"
    path.unlink()
    with pytest.raises(DataError) as caught:
        read_all(stream(diving))
    assert str(path) in str(caught.value)
    assert "--data_root DIR" in str(caught.value)


@pytest.mark.parametrize("content", [b"no matrix here" * 40, b"MATLAB 5.0 MAT-file", bytes(128)])
def test_a_split_file_that_is_no_matrix_is_named(diving: Path, content: bytes) -> None:
    path = diving / "Split_4" / "split_4_test_list.mat"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"split_4_test_list\.mat"):
        read_all(stream(diving))


def test_an_empty_split_file_is_named(diving: Path) -> None:
    (diving / "Split_4" / "split_4_test_list.mat").write_bytes(b"")
    with pytest.raises(DataError, match=r"split_4_test_list\.mat"):
        read_all(stream(diving))


def test_a_damaged_compressed_split_file_is_named(diving: Path) -> None:
    path = diving / "Split_4" / "split_4_train_list.mat"
    savemat(path, {"consolidated_train_list": np.random.default_rng(0).random((50, 3))}, do_compression=True)
    content = bytearray(path.read_bytes())
    content[160:170] = bytes(byte ^ 255 for byte in content[160:170])
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match=r"split_4_train_list\.mat"):
        read_all(stream(diving))


def test_a_split_matrix_of_another_width_is_named(diving: Path) -> None:
    path = trees.write_aqa7_split(diving, "train", [[1, 1], [1, 2]])
    with pytest.raises(DataError, match=rf"{path}.*\(2, 2\)"):
        read_all(stream(diving))


def test_a_split_with_a_video_number_that_is_none_is_refused(diving: Path) -> None:
    path = trees.write_aqa7_split(diving, "train", [[1, np.nan, 30.0], [1, 1, 40.0]])
    with pytest.raises(DataError, match=str(path)):
        read_all(stream(diving))


def test_a_split_without_the_sport_is_refused(diving: Path) -> None:
    with pytest.raises(DataError, match="lists no clip of gym_vault"):
        read_all(stream(diving, "--sport", "gym_vault"))


def test_a_missing_clip_folder_is_named(diving: Path) -> None:
    shutil.rmtree(diving / "diving-out" / "005")
    with pytest.raises(DataError, match=rf"1 of 12 .* diving/005: no frames in {diving / 'diving-out' / '005'}"):
        read_all(stream(diving))


def break_frame(root: Path, how: str) -> Path:
    path = root / "diving-out" / "003" / "img_00069.jpg"
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_bytes(b"" if how == "empty" else b"not a picture")
    return path


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "text"])
def test_a_broken_frame_is_named(diving: Path, how: str) -> None:
    path = break_frame(diving, how)
    with pytest.raises(DataError) as caught:
        read_all(stream(diving))
    assert str(path) in str(caught.value)
    assert "--skip_corrupt" in str(caught.value)


@pytest.mark.parametrize("how", ["missing", "truncated", "empty", "text"])
def test_skip_corrupt_leaves_out_the_clip_and_reports_it_once(
    diving: Path, how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = break_frame(diving, how)
    dataset = stream(diving, "--skip_corrupt", "1")
    loader = dataset.get_data_loaders()[0]
    for _ in range(2):
        labels = torch.cat([labels for _, labels, _ in loader])
        assert torch.allclose(labels.sort().values, torch.tensor([0, 1, 3]) / (N_TRAIN - 1))  # without clip 003
    printed = capsys.readouterr().err
    assert len(dataset.skipped) == 1
    assert str(path) in dataset.skipped[0]
    assert printed.count("skipped: ") == 1
    assert str(path) in printed


def test_skip_corrupt_leaves_out_a_missing_clip_folder(diving: Path) -> None:
    shutil.rmtree(diving / "diving-out" / "003")
    dataset = stream(diving, "--skip_corrupt", "1")
    read_all(dataset)
    assert len(dataset.skipped) == 1
    assert str(diving / "diving-out" / "003") in dataset.skipped[0]


# Which stream runs


def resolve(**options: object) -> str:
    return get_dataset_class("aqa7").resolve_name(options)


def test_auto_takes_the_real_data_where_it_is(diving: Path) -> None:
    assert resolve(data_root=str(diving)) == "aqa7"
    assert resolve(base_path=str(diving.parent)) == "aqa7"
    assert resolve(base_path=str(diving.parent), data_source="full") == "aqa7"


def test_auto_takes_the_stand_in_where_there_is_no_data(tmp_path: Path) -> None:
    assert resolve(base_path=str(tmp_path)) == "aqa7-mini"
    (tmp_path / "AQA-7").mkdir()
    assert resolve(base_path=str(tmp_path)) == "aqa7-mini"


def test_full_refuses_and_mini_asks_for_the_stand_in(diving: Path, tmp_path: Path) -> None:
    assert resolve(base_path=str(diving.parent), data_source="mini") == "aqa7-mini"
    with pytest.raises(DataError, match=r"nowhere.*--data_root DIR"):
        resolve(base_path=str(tmp_path / "nowhere"), data_source="full")


@pytest.mark.parametrize("part", ["Split_4", "diving-out", "sync_diving_10m-out"])
def test_a_broken_copy_is_reported_and_not_replaced(tmp_path: Path, part: str) -> None:
    (tmp_path / "AQA-7" / part).mkdir(parents=True)
    args = configured("--base_path", str(tmp_path))
    assert args.dataset == "aqa7"
    with pytest.raises(DataError, match=str(tmp_path / "AQA-7")):
        read_all(get_dataset(args))


# The stand-in


@pytest.fixture(scope="module")
def mini(tmp_path_factory: pytest.TempPathFactory) -> ScoreDataset:
    dataset = get_dataset(configured("--base_path", str(tmp_path_factory.mktemp("empty"))))
    assert len(dataset.samples.train) == 300
    return dataset


def test_the_resolved_configuration_names_the_stand_in(tmp_path: Path) -> None:
    args = configured("--base_path", str(tmp_path))
    assert args.dataset == "aqa7-mini"
    assert args.sources["dataset"] == "stand-in for absent data"
    assert get_dataset(args).NAME == "aqa7-mini"
    assert "not AQA-7's" in get_dataset(args).NOTICE


@pytest.mark.parametrize("name", ["aqa7", "aqa7-mini"])
def test_full_is_a_data_error_without_the_frames(tmp_path: Path, name: str) -> None:
    words = ["--model", "sgd", "--dataset", name, "--base_path", str(tmp_path), "--data_source", "full"]
    with pytest.raises(DataError, match="AQA-7"):
        read_all(get_dataset(parse_args(words)))


def test_the_stand_in_has_the_counts_of_aqa7_diving(mini: ScoreDataset) -> None:
    assert (len(mini.samples.train), len(mini.samples.test)) == (300, 70)
    assert mini.input_shape == (3, 16, 56, 56)
    raw, _, _ = mini.samples.train.read(np.arange(2))
    assert raw.shape == (2, *mini.input_shape)
    assert raw.dtype == torch.uint8


def test_few_shot_sessions_of_the_stand_in(mini: ScoreDataset) -> None:
    """A grade with fewer than 20 test clips gives half of them, so that the base session keeps the other half."""
    assert mini.names == ["base", *(f"grade {k}" for k in range(1, 6))]
    assert [len(part) for part in mini.split.train] == [200, 20, 20, 20, 20, 20]
    edges = np.percentile(mini.samples.train_targets, [20, 40, 60, 80])
    sizes = np.bincount(np.searchsorted(edges, mini.samples.test_targets, side="right"), minlength=5)
    sessions = [min(10, (int(size) + 1) // 2) for size in sizes]
    assert [len(part) for part in mini.split.test] == [70 - sum(sessions), *sessions]
    for parts, n in ((mini.split.train, 300), (mini.split.test, 70)):
        assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(n))


def test_scores_of_the_stand_in_lie_in_the_range_of_diving(mini: ScoreDataset) -> None:
    for targets in (mini.samples.train_targets, mini.samples.test_targets):
        labels = mini.convert_targets(targets)
        assert labels.dtype == torch.float32
        assert labels.min() >= 0
        assert labels.max() <= 1
        assert targets.min() >= np.float32(21.6)
        assert targets.max() <= np.float32(102.6)
        assert targets.std() > 10


def test_two_constructions_of_the_stand_in_are_bit_identical(mini: ScoreDataset) -> None:
    again = get_dataset(mini.args)
    assert torch.equal(again.samples.train.data, mini.samples.train.data)
    assert torch.equal(again.samples.test.data, mini.samples.test.data)
    assert np.array_equal(again.samples.train_targets, mini.samples.train_targets)
    assert np.array_equal(again.samples.test_targets, mini.samples.test_targets)
    for part in ("train", "test"):
        pairs = zip(getattr(again.split, part), getattr(mini.split, part), strict=True)
        assert all(np.array_equal(first, second) for first, second in pairs)


def test_training_and_test_clips_of_the_stand_in_differ(mini: ScoreDataset) -> None:
    train = {clip.numpy().tobytes() for clip in mini.samples.train.data}
    test = {clip.numpy().tobytes() for clip in mini.samples.test.data}
    assert (len(train), len(test)) == (300, 70)
    assert not train & test
