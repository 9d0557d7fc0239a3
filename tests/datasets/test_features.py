"""Pre-extracted features in place of videos, and feature files that are none."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets import get_dataset
from datasets.utils.features import check_feature_folder, feature_path, feature_shape, read_features
from datasets.utils.video_dataset import VideoScoreDataset
from tests.datasets import trees
from utils.args import parse_args
from utils.errors import DataError, UsageError


def write(path: Path, *shape: int, dtype: str = "float32", seed: int = 0) -> np.ndarray:
    array = np.random.default_rng(seed).normal(size=shape).astype(dtype)
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, array)
    return array


def read(
    *paths: Path, shape: tuple[int, int] = (5, 3), skip: bool = False
) -> tuple[torch.Tensor, list[int], list[str]]:
    source, kept, problems = read_features(paths, shape, skip, "rg")
    return source.data, kept, problems


# Reading


def test_features_of_windows_become_channels_over_time(tmp_path: Path) -> None:
    arrays = [write(tmp_path / f"{i}.npy", 3, 5, seed=i) for i in range(2)]
    data, kept, problems = read(tmp_path / "1.npy", tmp_path / "0.npy")
    assert (data.shape, data.dtype, kept, problems) == ((2, 5, 3), torch.float32, [0, 1], [])
    assert np.array_equal(data.numpy(), np.stack([arrays[1].T, arrays[0].T]))


@pytest.mark.parametrize(("found", "taken"), [(3, [0, 1, 2]), (5, [0, 2, 4]), (10, [0, 4, 9]), (1, [0, 0, 0])])
def test_of_other_numbers_of_windows_evenly_spread_ones_are_taken(tmp_path: Path, found: int, taken: list[int]) -> None:
    array = write(tmp_path / "a.npy", found, 5)
    assert np.array_equal(read(tmp_path / "a.npy")[0][0].numpy(), array[taken].T)


def test_a_vector_is_one_window_and_other_floats_become_single(tmp_path: Path) -> None:
    array = write(tmp_path / "a.npy", 5, dtype="float64")
    assert np.array_equal(read(tmp_path / "a.npy", shape=(5, 1))[0][0, :, 0].numpy(), array.astype(np.float32))
    half = write(tmp_path / "b.npy", 3, 5, dtype="float16")
    assert np.array_equal(read(tmp_path / "b.npy")[0][0].numpy(), half.T.astype(np.float32))


def test_a_name_with_folders_has_a_file_below_the_folder(tmp_path: Path) -> None:
    assert feature_path(tmp_path, "diving/003") == tmp_path / "diving" / "003.npy"
    assert feature_path(tmp_path, "Final #1/7.5 b") == tmp_path / "Final #1" / "7.5 b.npy"


def test_the_shape_is_that_of_the_first_file(tmp_path: Path) -> None:
    write(tmp_path / "b" / "1.npy", 4, 6)
    write(tmp_path / "c.npy", 9, 6)
    files = [tmp_path / "b" / "1.npy", tmp_path / "c.npy"]
    assert feature_shape(files, None, False, "rg") == (6, 4)
    assert feature_shape(files, 7, False, "rg") == (6, 7)


def test_a_folder_without_features_says_what_writes_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"rg: no \.npy file in --features .*scripts/extract_features\.py writes them"):
        check_feature_folder(tmp_path, "rg")
    with pytest.raises(DataError, match=r"absent is no folder; scripts/extract_features\.py"):
        check_feature_folder(tmp_path / "absent", "rg")


# Damage


def archive(path: Path) -> None:
    with path.open("wb") as file:
        np.savez(file, a=np.zeros((3, 5)))


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, ("executed", "w")


def objects(path: Path) -> None:
    np.save(path, np.array([Evil(), Evil()], dtype=object), allow_pickle=True)


BROKEN: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(missing_ok=True),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("not an array"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-7]),
    "folder": lambda path: (path.unlink(), path.mkdir()),
    "archive": archive,
    "objects": objects,
    "whole numbers": lambda path: np.save(path, np.zeros((3, 5), int)),
    "text array": lambda path: np.save(path, np.array([["a"] * 5])),
    "nan": lambda path: np.save(path, np.where(np.eye(3, 5) > 0, np.nan, 0).astype(np.float32)),
    "infinite": lambda path: np.save(path, np.full((3, 5), np.inf)),
    "too large for single precision": lambda path: np.save(path, np.full((3, 5), 1e300)),
    "three axes": lambda path: np.save(path, np.zeros((3, 5, 1), np.float32)),
    "no axis": lambda path: np.save(path, np.float32(3)),
    "no window": lambda path: np.save(path, np.zeros((0, 5), np.float32)),
    "no feature": lambda path: np.save(path, np.zeros((3, 0), np.float32)),
    "another width": lambda path: np.save(path, np.zeros((3, 6), np.float32)),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_that_holds_no_features_is_named_or_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.chdir(tmp_path)
    good = [write(tmp_path / f"{i}.npy", 3, 5, seed=i) for i in range(3)]
    path = tmp_path / "1.npy"
    BROKEN[how](path)
    files = [tmp_path / f"{i}.npy" for i in range(3)]
    with pytest.raises(DataError, match=rf"rg: .*{path}"):
        read(*files)
    data, kept, problems = read(*files, skip=True)
    assert kept == [0, 2]
    assert np.array_equal(data.numpy(), np.stack([good[0].T, good[2].T]))
    assert len(problems) == 1
    assert str(path) in problems[0]
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("how", [how for how in BROKEN if how not in ("another width", "folder")])
def test_the_shape_comes_from_a_file_that_can_be_read_if_others_are_left_out(tmp_path: Path, how: str) -> None:
    for i in range(2):
        write(tmp_path / f"{i}.npy", 3, 5)
    BROKEN[how](tmp_path / "0.npy")
    paths = [tmp_path / "0.npy", tmp_path / "1.npy"]
    assert feature_shape(paths, None, True, "rg") == (5, 3)
    with pytest.raises(DataError, match=r"0\.npy"):
        feature_shape(paths, None, False, "rg")


def test_features_of_which_none_can_be_read_are_an_error_even_when_skipping(tmp_path: Path) -> None:
    paths = [tmp_path / "0.npy", tmp_path / "1.npy"]
    with pytest.raises(DataError, match=r"0\.npy.*none of the 2 feature files could be read"):
        read(*paths, skip=True)
    with pytest.raises(DataError, match=r"no feature file .*0\.npy"):
        feature_shape(paths, None, True, "rg")


# Streams


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rhythmic gymnastics without frames, and its features of 4 windows of 7."""
    root = trees.rg(tmp_path_factory.mktemp("rg"), n_frames=1)
    for i, folder in enumerate(sorted((root / "frames").iterdir())):
        write(root / "taken" / f"{folder.name}.npy", 4, 7, seed=i)
    shutil.rmtree(root / "frames")
    return root


def stream(root: Path, *words: str, features: str = "taken") -> VideoScoreDataset:
    options = ["--dataset", "rg", "--data_root", str(root), "--fewshot", "0", "--batch_size", "5", "--num_workers", "0"]
    return get_dataset(parse_args(["--model", "sgd", *options, "--features", str(root / features), *words]))


def test_a_stream_of_features_keeps_scores_and_features_paired(tree: Path) -> None:
    dataset = stream(tree)
    assert dataset.input_shape == (7, 4)
    assert dataset.N_TASKS == 4
    for part in ("train", "test"):
        names = [each.name for each in dataset.performances if each.part == part]
        wanted = np.stack([np.load(tree / "taken" / f"{name}.npy").T for name in names])
        assert np.array_equal(getattr(dataset.samples, part).data.numpy(), wanted)
    inputs, labels, raw = next(iter(dataset.get_data_loaders()[0]))
    assert torch.equal(inputs, raw)  # neither augmented nor normalised
    scores = dataset.samples.train_targets[dataset.train_loader.dataset.indices[dataset.train_loader.positions]]
    assert np.allclose(labels * 25, scores)


def test_features_choose_their_backbone_unless_one_is_named(tree: Path) -> None:
    dataset = stream(tree)
    assert dataset.get_backbone() == "clip-features"
    assert dataset.args.sources["backbone"] == "features"
    words = ["--model", "sgd", "--dataset", "rg", "--data_root", str(tree), "--features", str(tree / "taken")]
    assert parse_args([*words, "--backbone", "mlp"]).backbone == "mlp"


def test_features_in_a_configuration_file_count_too(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"features: {tree / 'taken'}\n")
    words = ["--model", "sgd", "--dataset", "rg", "--data_root", str(tree), "--config", str(tmp_path / "c.yaml")]
    args = parse_args(words)
    assert args.backbone == "clip-features"
    assert get_dataset(args).input_shape == (7, 4)


def test_fewer_windows_can_be_asked_for(tree: Path) -> None:
    dataset = stream(tree, "--feature_windows", "2")
    assert dataset.input_shape == (7, 2)
    name = next(each.name for each in dataset.performances if each.part == "train")
    assert np.array_equal(dataset.samples.train.data[0].numpy(), np.load(tree / "taken" / f"{name}.npy")[[0, 3]].T)


@pytest.mark.parametrize("name", ["uiprmd", "seq-digits", "aqa7-mini"])
def test_a_stream_without_videos_refuses_features(tree: Path, name: str) -> None:
    args = parse_args(["--model", "sgd", "--dataset", name, "--features", str(tree / "taken")])
    with pytest.raises(UsageError, match=f"--features: {name} is no stream of videos"):
        get_dataset(args)


def test_a_missing_file_is_named_and_can_be_left_out(tree: Path, tmp_path: Path) -> None:
    taken = tmp_path / "taken"
    for path in (tree / "taken").iterdir():
        if path.name != "Clubs_003.npy":
            (taken / path.name).parent.mkdir(exist_ok=True)
            (taken / path.name).symlink_to(path)
    with pytest.raises(DataError, match=rf"no feature file {taken}/Clubs_003\.npy; write it with scripts/extract"):
        stream(tree, features=str(taken)).describe()
    dataset = stream(tree, "--skip_corrupt", "1", features=str(taken))
    assert sum(row["train"] + row["test"] for row in dataset.describe()) == 47
    assert len(dataset.skipped) == 1
    names = [each.name for each in dataset.performances if each.name != "Clubs_003" and each.part == "train"]
    scores = {each.name: each.score for each in dataset.performances}
    assert dataset.samples.train_targets.tolist() == [scores[name] for name in names]
