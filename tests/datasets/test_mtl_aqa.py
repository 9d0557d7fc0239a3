"""MTL-AQA and UNLV-Dive: the official annotations, and frames in small broadcasts."""

import pickle
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import get_dataset
from datasets.mtl_aqa import MTLAQA
from datasets.utils.annotations import Performance
from datasets.utils.dives import DIVE_GROUPS
from datasets.utils.scenarios import Split, grade_boundaries
from datasets.utils.sources import TensorSource
from datasets.utils.video_dataset import VideoScoreDataset
from tests.datasets import trees
from utils.args import parse_args
from utils.errors import DataError, UsageError

MTL_FILES = {
    "mtl_aqa_final_annotations_dict_with_dive_number.pkl": "final_annotations_dict_with_dive_number.pkl",
    "mtl_aqa_train_split_0.pkl": "train_split_0.pkl",
    "mtl_aqa_test_split_0.pkl": "test_split_0.pkl",
}
UNLV_FILES = {
    "unlv_dive_final_annotations_dict.pkl": "final_annotations_dict.pkl",
    "unlv_dive_train_split_370_4.pkl": "train_split_370_4.pkl",
    "unlv_dive_test_split_370_4.pkl": "test_split_370_4.pkl",
}


def configured(name: str, root: Path, *words: str) -> Namespace:
    return parse_args(["--model", "sgd", *trees.options(name, root), "--batch_size", "3", *words])


def stream(name: str, root: Path, *words: str) -> VideoScoreDataset:
    dataset = get_dataset(configured(name, root, *words))
    assert isinstance(dataset, VideoScoreDataset)
    return dataset


@pytest.fixture(scope="module")
def mtl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.mtl_aqa(tmp_path_factory.mktemp("mtl"))


@pytest.fixture(scope="module")
def unlv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trees.unlv_dive(tmp_path_factory.mktemp("unlv"))


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Four training dives and two for testing, of one broadcast of 121 frames: to be broken."""
    return trees.mtl_aqa(tmp_path / "mtl", 4, 2, videos=(1,))


# The official annotations: everything but the frames


def real_stream(name: str, shared: Path, root: Path, files: dict[str, str], *words: str) -> VideoScoreDataset:
    """The stream on the official files; its frames are not read, only where they would be."""
    for source, target in files.items():
        if not (shared / source).exists():
            pytest.skip(f"no {source} in {shared}")
        if not (root / target).exists():
            shutil.copy(shared / source, root / target)
    dataset = stream(name, root, "--clip_frames", "103", *words)

    def located(performances: list[Performance], *where: object) -> tuple[list[Performance], list[int], list[str]]:
        return performances, list(range(len(performances))), []

    dataset.locate_all = located  # type: ignore[assignment,method-assign]
    dataset._open_clips = lambda clips, margin: TensorSource(torch.zeros(len(clips), 1))  # type: ignore[method-assign]
    return dataset


@pytest.fixture
def real_mtl(shared_data: Path, tmp_path: Path) -> Callable[..., VideoScoreDataset]:
    return lambda *words: real_stream("mtl-aqa", shared_data, tmp_path, MTL_FILES, *words)


@pytest.fixture
def real_unlv(shared_data: Path, tmp_path: Path) -> Callable[..., VideoScoreDataset]:
    return lambda *words: real_stream("unlv-dive", shared_data, tmp_path, UNLV_FILES, *words)


def sizes(parts: list[np.ndarray]) -> list[int]:
    return [len(part) for part in parts]


def ranges(targets: np.ndarray, parts: list[np.ndarray]) -> list[tuple[float, float]]:
    return [(float(targets[part].min()), float(targets[part].max())) for part in parts]


@pytest.mark.data
def test_the_official_full_protocol_on_mtl_aqa_is_the_published_one(real_mtl: Callable[..., VideoScoreDataset]) -> None:
    dataset = real_mtl("--protocol", "official", "--fewshot", "False")
    assert dataset.N_TASKS == 5
    assert sizes(dataset.split.train) == [203, 205, 216, 211, 224]
    assert sizes(dataset.split.test) == [78, 74, 69, 53, 79]
    scores = np.concatenate([dataset.samples.train_targets, dataset.samples.test_targets])
    assert len(scores) == 1412
    np.testing.assert_allclose(grade_boundaries(scores, 5), [0, 52.5, 65.1, 72.6, 81.6, 104.5], atol=1e-9)
    edges = [0, 52.5, 65.1, 72.6, 81.6, 104.5]
    for task, (low, high) in enumerate(ranges(dataset.samples.train_targets, dataset.split.train)):
        assert edges[task] <= low <= high
        assert high < edges[task + 1] or task == 4
    assert dataset.score_range == (0.0, 104.5)


@pytest.mark.data
def test_the_official_fewshot_protocol_on_mtl_aqa_is_the_published_one(
    real_mtl: Callable[..., VideoScoreDataset],
) -> None:
    dataset = real_mtl("--protocol", "official", "--fewshot", "True")
    assert dataset.names == ["base", *(f"grade {k}" for k in range(1, 6))]
    assert sizes(dataset.split.train) == [959, 20, 20, 20, 20, 20]
    assert sizes(dataset.split.test) == [253, 20, 20, 20, 20, 20]
    assert ranges(dataset.samples.train_targets, dataset.split.train[1:]) == [
        *[(0.0, 51.15), (52.5, 64.35), (65.1, 72.0), (72.6, 80.0)],
        (81.6, pytest.approx(97.2)),
    ]
    assert ranges(dataset.samples.test_targets, dataset.split.test[1:]) == [
        *[(0.0, 46.0), (52.5, 63.0), (65.6, 72.0), (72.6, 78.0), (81.6, 90.75)]
    ]


@pytest.mark.data
def test_the_configuration_of_mtl_aqa_asks_for_the_published_protocol(
    real_mtl: Callable[..., VideoScoreDataset], tmp_path: Path
) -> None:
    real_mtl()
    args = parse_args(["--model", "sgd", "--dataset", "mtl-aqa", "--data_root", str(tmp_path)])
    assert (args.fewshot, args.num_samples_per_task, args.batch_size, args.n_epochs) == (True, 20, 5, 50)
    assert (args.optimizer, args.lr, args.optim_wd, args.freeze_bn) == ("adam", 1e-4, 1e-5, True)
    dataset = get_dataset(args)
    assert dataset.input_shape == (3, 103, 224, 224)
    assert dataset.frame_size == (256, 455)
    assert dataset.shift == 3
    assert dataset.N_TASKS == 6


@pytest.mark.data
def test_both_rules_for_the_kind_of_dive_agree_on_every_dive_of_mtl_aqa(
    real_mtl: Callable[..., VideoScoreDataset], tmp_path: Path
) -> None:
    by_number = {each.name: each for each in real_mtl().performances}
    path = tmp_path / "final_annotations_dict_with_dive_number.pkl"
    known = pickle.loads(path.read_bytes())
    assert all(facts.pop("dive_number") for facts in known.values())
    trees.write_pickle(path, known)
    by_description = {each.name: each for each in real_mtl().performances}
    assert len(by_number) == len(by_description) == 1412
    assert by_number == by_description
    counts = {name: sum(each.group == name for each in by_number.values()) for name in DIVE_GROUPS}
    assert counts == {"forward": 260, "back": 235, "reverse": 187, "inward": 266, "twisting": 298, "armstand": 166}


@pytest.mark.data
def test_groups_of_mtl_aqa_are_the_six_kinds_of_dive(real_mtl: Callable[..., VideoScoreDataset]) -> None:
    dataset = real_mtl("--tasks_by", "group", "--n_tasks", "6")
    assert dataset.SETTING == "group-il"
    assert dataset.names == list(DIVE_GROUPS)
    assert [row["train"] + row["test"] for row in dataset.describe()] == [260, 235, 187, 266, 298, 166]
    assert sum(sizes(dataset.split.train)) == 1059
    few = real_mtl("--tasks_by", "group", "--n_tasks", "6", "--fewshot", "1")
    assert sizes(few.split.train) == [1059 - 120, *[20] * 6]
    shots = [min(20, (n + 1) // 2) for n in sizes(dataset.split.test)]
    assert sizes(few.split.test) == [353 - sum(shots), *shots]
    assert get_dataset(configured("mtl-aqa", dataset.root, "--tasks_by", "group", "--n_tasks", "3")).N_TASKS == 3


@pytest.mark.data
def test_every_clip_of_mtl_aqa_begins_after_the_recording_does(real_mtl: Callable[..., VideoScoreDataset]) -> None:
    performances = real_mtl().performances
    assert min(each.place["end"] for each in performances) - 102 - 3 >= 1
    assert {each.place["video"] for each in performances} == {1, 2, 3, 4, 5, 6, 7, 9, 10, 13, 14, 17, 18, 22, 26}
    assert {len(each.name) for each in performances} == {6}


@pytest.mark.data
def test_execution_scores_of_mtl_aqa_lie_in_their_published_range(real_mtl: Callable[..., VideoScoreDataset]) -> None:
    dataset = real_mtl("--use_difficulty", "1")
    labels = [
        dataset.convert_targets(dataset.samples.train_targets, dataset.samples.train_difficulty),
        dataset.convert_targets(dataset.samples.test_targets, dataset.samples.test_difficulty),
    ]
    assert min(float(part.min()) for part in labels) == 0
    # 29 of 30: the sum of three judges' marks of at most 10.
    assert max(float(part.max()) for part in labels) == pytest.approx(29 / 30, abs=1e-6)


@pytest.mark.data
def test_unlv_dive_lacks_the_one_clip_without_annotation(real_unlv: Callable[..., VideoScoreDataset]) -> None:
    dataset = real_unlv()
    listed = [pickle.loads((dataset.root / f"{part}_split_370_4.pkl").read_bytes()) for part in ("train", "test")]
    assert [len(keys) for keys in listed] == [300, 70]
    names = {f"{int(video):02d}-{int(clip):03d}" for keys in listed for video, clip in keys}
    assert names - {each.name for each in dataset.performances} == {"01-064"}
    assert [sum(each.part == part for each in dataset.performances) for part in ("train", "test")] == [299, 70]
    assert dataset.score_range == (21.6, 102.6)
    scores = np.array([each.score for each in dataset.performances])
    # One dive lies below the range that is published for the same dives in AQA-7.
    assert np.sort(scores)[[0, 1, -1]].tolist() == pytest.approx([18.15, 21.6, 102.6])


@pytest.mark.data
@pytest.mark.parametrize("protocol", ["official", "default"])
def test_fewshot_sessions_of_unlv_dive(real_unlv: Callable[..., VideoScoreDataset], protocol: str) -> None:
    dataset = real_unlv("--fewshot", "1", "--protocol", protocol)
    assert sizes(dataset.split.train) == [199, 20, 20, 20, 20, 20]
    full = real_unlv("--fewshot", "0", "--protocol", protocol)
    grades = sizes(full.split.test)
    assert sum(grades) == 70
    shots = [min(10, n - 1) if protocol == "official" else min(10, (n + 1) // 2) for n in grades]
    assert sizes(dataset.split.test) == [70 - sum(shots), *shots]


@pytest.mark.data
def test_the_published_test_sessions_of_unlv_dive(real_unlv: Callable[..., VideoScoreDataset]) -> None:
    assert sizes(real_unlv("--fewshot", "1", "--protocol", "official").split.test) == [20, 10, 10, 10, 10, 10]


@pytest.mark.data
@pytest.mark.parametrize(("name", "shots"), [("unlv-dive", 10), ("mtl-aqa", 20)])
def test_published_sessions_take_dives_at_the_stride_of_their_data_set(
    request: pytest.FixtureRequest, name: str, shots: int
) -> None:
    """In MAGR's released code int(i * n / m) on the dives of AQA-7, i * floor(n / m) on MTL-AQA."""
    real = request.getfixturevalue("real_unlv" if name == "unlv-dive" else "real_mtl")
    full, few = (real("--protocol", "official", "--fewshot", fewshot) for fewshot in "01")
    for part, m in (("train", 20), ("test", shots)):
        scores = getattr(few.samples, f"{part}_targets")
        for grade, session in zip(getattr(full.split, part), getattr(few.split, part)[1:], strict=True):
            ordered, n = np.sort(scores[grade]), len(grade)
            assert n > m
            picks = [int(i * n / m) if name == "unlv-dive" else i * (n // m) for i in range(m)]
            assert scores[session].tolist() == ordered[picks].tolist()


@pytest.mark.data
def test_kinds_of_dive_in_unlv_dive_are_those_that_mtl_aqa_gives_the_same_dives(
    real_unlv: Callable[..., VideoScoreDataset], real_mtl: Callable[..., VideoScoreDataset]
) -> None:
    unlv = {each.name: each for each in real_unlv().performances}
    # Without the preferred file, the annotations of MTL-AQA serve.
    mtl = {each.name: each for each in real_mtl().performances}
    both = unlv.keys() & mtl.keys()
    assert len(both) == 369
    for name in both:
        assert (unlv[name].group, unlv[name].score, unlv[name].difficulty, unlv[name].place) == (
            *(mtl[name].group, mtl[name].score, mtl[name].difficulty, mtl[name].place),
        )


# Which frames are read


def test_a_clip_is_the_103_frames_up_to_the_annotated_last_one(mtl: Path) -> None:
    dataset = stream("mtl-aqa", mtl, "--clip_frames", "103", "--temporal_shift", "0")
    known = pickle.loads((mtl / "final_annotations_dict_with_dive_number.pkl").read_bytes())
    for part in ("train", "test"):
        wanted = [each for each in dataset.performances if each.part == part]
        source = getattr(dataset.samples, part)
        for i, performance in enumerate(wanted):
            video, clip = (int(number) for number in performance.name.split("-"))
            end = known[video, clip]["end_frame"]
            names = [str(path.relative_to(mtl)) for path in source.clips[i].frames]
            assert names == [f"{video:02d}/{number:08d}.jpg" for number in range(end - 102, end + 1)]
            assert getattr(dataset.samples, f"{part}_targets")[i] == known[video, clip]["final_score"]
    raw, _, _ = dataset.samples.test.read(np.array([4]))
    videos, numbers = trees.codes(raw)
    video, clip = map(int, [each for each in dataset.performances if each.part == "test"][4].name.split("-"))
    assert set(videos.ravel().tolist()) == {20 * video}
    assert numbers[0].tolist() == list(
        range(known[video, clip]["end_frame"] - 102, known[video, clip]["end_frame"] + 1)
    )


def test_fewer_frames_are_spread_over_the_103(mtl: Path) -> None:
    dataset = stream("mtl-aqa", mtl, "--clip_frames", "4")
    ends = [each.place["end"] for each in dataset.performances if each.part == "train"]
    _, numbers = trees.codes(dataset.samples.train.read(np.arange(len(ends)))[0])
    assert np.array_equal(numbers, np.array(ends)[:, None] + [-102, -68, -34, 0])


def test_training_moves_all_frames_of_a_clip_alike_and_testing_takes_the_middle(mtl: Path) -> None:
    dataset = stream("mtl-aqa", mtl, "--clip_frames", "103", "--frame_height", "32", "--frame_width", "43")
    assert dataset.shift == 3
    last = 148  # of the recordings

    def ends(part: str, indices: np.ndarray) -> np.ndarray:
        return np.array([each.place["end"] for each in dataset.performances if each.part == part])[indices][:, None]

    def shown(inputs: torch.Tensor) -> np.ndarray:
        return trees.codes(dataset.get_denormalization_transform()(inputs).mul(255).round())[1]

    loader, test_loader = dataset.get_data_loaders()
    inputs, _, raw = next(iter(loader))
    wanted = ends("train", loader.dataset.indices[loader.positions])
    assert np.array_equal(trees.codes(raw)[1], (wanted + np.arange(-105, 4)).clip(1, last))
    moves = set()
    for moved in (inputs, *(dataset.get_transform()(raw) for _ in range(12))):
        assert moved.shape == (3, 3, 103, 32, 32)
        move = np.median(shown(moved) - wanted - np.arange(-102, 1), axis=1, keepdims=True).astype(int)
        assert np.array_equal(shown(moved), (wanted + np.arange(-102, 1) + move).clip(1, last))
        moves |= set(move.ravel().tolist())
    assert moves == {-3, -2, -1, 0, 1, 2, 3}
    # What a method keeps for replay is the raw batch, of which testing shows the middle.
    assert np.array_equal(shown(dataset.get_normalization_transform()(raw)), wanted + np.arange(-102, 1))
    inputs, _ = next(iter(test_loader))
    assert test_loader.dataset[[0]][0].shape == (1, 3, 103, 32, 43)
    wanted = ends("test", test_loader.dataset.indices[test_loader.positions])
    assert np.array_equal(shown(inputs), wanted + np.arange(-102, 1))


def test_a_clip_of_fewer_frames_does_not_move_by_itself_and_not_by_single_frames(mtl: Path) -> None:
    dataset = stream("mtl-aqa", mtl, "--clip_frames", "16")
    assert dataset.shift == 0
    assert dataset.samples.train.shape[1] == 16
    with pytest.raises(UsageError, match="--temporal_shift 2: a clip of 16 of 103 frames"):
        stream("mtl-aqa", mtl, "--clip_frames", "16", "--temporal_shift", "2").describe()


def test_a_clip_at_the_end_of_the_recording_repeats_its_last_frame_in_the_margin_only(small: Path) -> None:
    for number in range(119, 122):
        (small / "01" / f"{number:08d}.jpg").unlink()
    dataset = stream("mtl-aqa", small, "--clip_frames", "103", "--n_tasks", "2")
    clips = {clip.name: [int(path.stem) for path in clip.frames] for clip in dataset.samples.train.clips}
    assert clips["01-006"][-6:] == [116, 117, 118, 118, 118, 118]
    assert clips["01-001"][:6] == [1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize("folder", MTLAQA.FRAME_FOLDERS)
def test_frames_are_found_in_the_folders_of_the_releases(small: Path, folder: str) -> None:
    if folder:
        (small / folder).mkdir(parents=True)
        (small / "01").rename(small / folder / "01")
    dataset = stream("mtl-aqa", small, "--n_tasks", "2")
    assert dataset.frame_root == small / folder
    assert dataset.samples.train.clips[0].frames[0].is_file()


def test_a_recording_of_another_dive_tells_where_frames_are(tmp_path: Path) -> None:
    root = trees.mtl_aqa(tmp_path / "mtl", 4, 2, videos=(1, 7))
    (root / "frames").mkdir()
    (root / "07").rename(root / "frames" / "07")
    shutil.rmtree(root / "01")
    dataset = stream("mtl-aqa", root, "--n_tasks", "1", "--skip_corrupt", "1")
    assert dataset.frame_root == root / "frames"
    assert {clip.name[:2] for clip in dataset.samples.train.clips} == {"07"}
    assert len(dataset.skipped) == 3
    assert all(f"no frames in {root}/frames/01" in problem for problem in dataset.skipped)


def rename_frames(folder: Path, name: Callable[[int], str]) -> None:
    for path in sorted(folder.iterdir()):
        path.rename(folder / name(int(path.stem)))


@pytest.mark.parametrize(
    "name",
    [
        lambda number: f"{number}.jpg",
        lambda number: f"{number:06d}.JPG",
        lambda number: f"image_{number:05d}.jpeg",
        lambda number: f"02-{number:04d}.Jpg",
    ],
    ids=["unpadded", "upper-case", "prefix", "number in the prefix"],
)
def test_frames_are_found_by_number_however_files_are_named(small: Path, name: Callable[[int], str]) -> None:
    rename_frames(small / "01", name)
    (small / "01" / "._00000001.jpg").write_bytes(b"hidden")
    (small / "01" / "Thumbs.db").write_bytes(b"no frame")
    (small / "01" / "more").mkdir()
    dataset = stream("mtl-aqa", small, "--n_tasks", "2")
    ends = [each.place["end"] for each in dataset.performances if each.part == "train"]
    _, numbers = trees.codes(dataset.samples.train.read(np.arange(4))[0])
    assert np.array_equal(numbers, np.array(ends)[:, None] + [-102, -68, -34, 0])


def test_recordings_may_begin_at_any_number_and_have_gaps_between_dives(small: Path) -> None:
    """Where only the dives were extracted, most of a broadcast is absent; numbers count, not positions."""
    known = {(1, i): trees.dive_facts(i, 6, end) for i, end in enumerate([1300, 1302, 5000, 7000, 7100, 9999], 1)}
    trees.write_pickle(small / "final_annotations_dict_with_dive_number.pkl", known)
    trees.write_pickle(small / "train_split_0.pkl", list(known)[:4])
    trees.write_pickle(small / "test_split_0.pkl", list(known)[4:])
    shutil.rmtree(small / "01")
    for facts in known.values():
        for number in range(facts["end_frame"] - 102, facts["end_frame"] + 1):
            trees.write_frame(small / "01" / f"{number:08d}.jpg", 0, number % 251)
    dataset = stream("mtl-aqa", small, "--n_tasks", "2", "--temporal_shift", "0", "--clip_frames", "103")
    for part in ("train", "test"):
        for clip in getattr(dataset.samples, part).clips:
            end = known[1, int(clip.name[3:])]["end_frame"]
            assert [int(path.stem) for path in clip.frames] == list(range(end - 102, end + 1))


# Several videos


def test_unlv_dive_reads_the_frames_of_its_three_videos(unlv: Path) -> None:
    dataset = stream("unlv-dive", unlv)
    assert (len(dataset.samples.train), len(dataset.samples.test)) == (30, 15)
    assert dataset.shift == 0
    names = [each.name for each in dataset.performances if each.part == "test"]
    videos, numbers = trees.codes(dataset.samples.test.read(np.arange(15))[0])
    ends = [each.place["end"] for each in dataset.performances if each.part == "test"]
    assert videos[:, 0].tolist() == [20 * int(name[:2]) for name in names]
    assert numbers[:, -1].tolist() == ends
    assert stream("unlv-dive", unlv, "--clip_frames", "103").shift == 0


def test_only_the_one_clip_may_lack_an_annotation(unlv: Path, tmp_path: Path) -> None:
    root = shutil.copytree(unlv, tmp_path / "unlv")
    keys = pickle.loads((root / "test_split_370_4.pkl").read_bytes())
    trees.write_pickle(root / "test_split_370_4.pkl", [*keys, (np.uint8(1), np.uint8(65))])
    with pytest.raises(DataError, match=r"test_split_370_4\.pkl, row 16: .* knows no clip \(1, 65\)"):
        stream("unlv-dive", root).describe()


# Damage


def broken(root: Path, *words: str) -> str:
    with pytest.raises(DataError) as caught:
        read_all(stream("mtl-aqa", root, "--n_tasks", "2", *words))
    return str(caught.value)


def read_all(dataset: VideoScoreDataset) -> None:
    for _ in range(dataset.N_TASKS):
        for loader in dataset.get_data_loaders():
            list(loader)


def test_a_missing_frame_in_the_middle_of_a_clip_is_named(small: Path) -> None:
    (small / "01" / "00000051.jpg").unlink()
    message = broken(small, "--clip_frames", "103")
    assert "mtl-aqa: 6 of 6 samples are not complete" in message
    assert f"the frame {small / '01' / '00000051.jpg'} is missing" in message
    assert f"scripts/check_data.py --dataset mtl-aqa --data_root {small}" in message
    assert "--skip_corrupt 1" in message
    # The frames that four of 103 take are all there.
    stream("mtl-aqa", small, "--n_tasks", "2").describe()


def test_a_recording_that_ends_too_early_is_named_with_the_frame(small: Path) -> None:
    for number in range(110, 122):
        (small / "01" / f"{number:08d}.jpg").unlink()
    message = broken(small)
    assert f"the first is 01-004: the frame {small / '01' / '00000112.jpg'} is missing" in message


def test_a_recording_that_is_not_there_is_named(small: Path) -> None:
    shutil.rmtree(small / "01")
    assert f"no frames in {small / '01'}, and no video file of that name" in broken(small)


@pytest.mark.parametrize("damage", [trees.truncate, lambda path: path.write_bytes(b"")], ids=["truncated", "empty"])
def test_a_damaged_frame_is_named_when_it_is_read(small: Path, damage: Callable[[Path], object]) -> None:
    path = small / "01" / "00000106.jpg"
    damage(path)
    message = broken(small)
    assert str(path) in message
    assert "clip 01-002" in message
    assert "--skip_corrupt 1" in message


def test_skip_corrupt_leaves_out_missing_and_damaged_clips_and_counts_them(small: Path) -> None:
    trees.truncate(small / "01" / "00000106.jpg")  # the end of 01-002
    (small / "01" / "00000118.jpg").unlink()  # the end of 01-006
    names = [each.name for each in stream("mtl-aqa", small).performances if each.part == "train"]
    assert {"01-001", "01-006"} < set(names)
    dataset = stream("mtl-aqa", small, "--n_tasks", "1", "--skip_corrupt", "1")
    train_loader, test_loader = dataset.get_data_loaders()
    kept = [each for each in dataset.performances if each.name not in ("01-002", "01-006")]
    for loader, part in ((train_loader, "train"), (test_loader, "test")):
        for _ in range(2):
            labels = torch.cat([batch[1] for batch in loader])
            scores = np.sort(dataset.to_scores(labels.numpy()))
            assert np.allclose(scores, sorted(each.score for each in kept if each.part == part), atol=1e-4)
    assert len(dataset.skipped) == 2
    assert any("00000118.jpg is missing" in problem for problem in dataset.skipped)
    assert any("00000106.jpg" in problem for problem in dataset.skipped)


def test_a_truncated_frame_can_be_taken_as_far_as_it_goes(small: Path) -> None:
    trees.truncate(small / "01" / "00000106.jpg")
    dataset = stream("mtl-aqa", small, "--n_tasks", "1", "--load_truncated", "1")
    assert sum(len(labels) for loader in dataset.get_data_loaders() for _, labels, *_ in loader) == 6
    assert dataset.skipped == []


def test_absent_annotations_say_how_to_get_them(small: Path) -> None:
    (small / "test_split_0.pkl").unlink()
    assert f"no test_split_0.pkl in {small}. Get annotations and split 0" in broken(small)


# Video files in place of frames


def test_a_video_file_of_the_broadcast_serves_as_well_as_its_frames(small: Path) -> None:
    shutil.rmtree(small / "01")
    # Frame 1 of a video is its first.
    trees.write_video(small / "01.mp4", [(60, number) for number in range(1, 122)])
    dataset = stream("mtl-aqa", small, "--n_tasks", "2", "--clip_frames", "103")
    assert dataset.shift == 3
    clips = {clip.name: clip for clip in dataset.samples.train.clips}
    assert clips["01-001"].numbers == (0, 0, 0, *range(103), 103, 104, 105)
    assert clips["01-006"].numbers == (*range(12, 121),)
    _, numbers = trees.codes(dataset.samples.test.read(np.array([0]))[0])
    end = next(each.place["end"] for each in dataset.performances if each.part == "test")
    assert np.abs(numbers[0] - np.arange(end - 102, end + 1)).max() <= 2  # the codec is not exact


def test_a_video_file_that_ends_too_early_is_named(small: Path) -> None:
    shutil.rmtree(small / "01")
    trees.write_video(small / "01.mp4", [(60, number) for number in range(1, 111)])
    assert f"{small / '01.mp4'} is too short: it has 110" in broken(small)


def test_split_arrays_are_those_of_the_paths(mtl: Path) -> None:
    """The same tasks whatever the folder is called."""
    moved = stream("mtl-aqa", mtl / "." / ".." / mtl.name)
    assert isinstance(moved.split, Split)
    assert moved.fingerprint() == stream("mtl-aqa", mtl).fingerprint()
