"""MNIST, CIFAR-100, Tiny ImageNet and image folders from small copies in their official formats."""

import gzip
import pickle
import urllib.error
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import get_dataset
from datasets.utils.class_dataset import ClassDataset
from datasets.utils.sources import ImageFiles, TensorSource, open_images, read_square
from tests.datasets import trees
from utils.args import parse_args
from utils.errors import DataError, UsageError
from utils.torchvision_import import import_torchvision

IDX = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def stream(name: str, root: Path, *words: str) -> ClassDataset:
    line = ["--model", "sgd", "--dataset", name, "--data_root", str(root), "--num_workers", "0", *words]
    return get_dataset(parse_args(line))


def no_network(*args: object, **kwargs: object) -> None:
    raise urllib.error.URLError("no route to the server")


# MNIST


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("below", ["", "raw", "MNIST/raw"])
def test_mnist_is_read_from_idx_files_wherever_they_are_put(tmp_path: Path, suffix: str, below: str) -> None:
    trees.mnist(tmp_path / below, 12, 6, suffix)
    dataset = stream("seq-mnist", tmp_path)
    assert [(row["train"], row["test"]) for row in dataset.describe()] == [(24, 12)] * 5
    rng = np.random.default_rng(0)
    pictures = 255 * rng.integers(0, 2, (120, 28, 28), np.uint8)
    assert np.array_equal(dataset.samples.train.data[:, 0].numpy(), pictures)
    assert dataset.samples.train.data.shape == (120, 1, 28, 28)
    assert dataset.samples.train_targets.tolist() == [*range(10)] * 12
    assert dataset.class_names == list("0123456789")


def test_mnist_is_downloaded_by_torchvision_into_the_folder_and_then_read(tmp_path: Path, monkeypatch) -> None:
    def fetch(self: object) -> None:
        trees.mnist(tmp_path / "MNIST" / "raw", suffix="")

    monkeypatch.setattr(import_torchvision("datasets").MNIST, "download", fetch)
    assert len(stream("seq-mnist", tmp_path).samples.train) == 120


def test_absent_mnist_names_its_files_and_the_option(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(import_torchvision("datasets").MNIST, "download", no_network)
    trees.mnist(tmp_path)
    (tmp_path / f"{IDX[3]}.gz").unlink()
    for name in ("seq-mnist", "perm-mnist", "mnist-360"):
        with pytest.raises(DataError) as caught:
            stream(name, tmp_path).describe()
        for part in (str(tmp_path), *IDX, "--data_root", "no route"):
            assert part in str(caught.value)


@pytest.mark.parametrize("name", IDX)
@pytest.mark.parametrize("how", ["truncated", "compressed and truncated", "empty", "text", "another type"])
def test_a_damaged_idx_file_is_named(tmp_path: Path, name: str, how: str) -> None:
    trees.mnist(tmp_path, suffix="")
    path = tmp_path / name
    content = path.read_bytes()
    if how == "compressed and truncated":
        path.unlink()
        path = path.with_suffix(".gz")
        path.write_bytes(gzip.compress(content)[:-20])
    else:
        damaged = {
            "truncated": content[:-1],
            "empty": b"",
            "text": b"not found",
            "another type": b"\0\0\x0d" + content[3:],
        }
        path.write_bytes(damaged[how])
    with pytest.raises(DataError, match=str(path)):
        stream("seq-mnist", tmp_path).describe()


@pytest.mark.parametrize(
    ("name", "values"),
    [(IDX[1], np.zeros(119, np.uint8)), (IDX[3], np.full(60, 10, np.uint8)), (IDX[0], np.zeros((120, 8, 8), np.uint8))],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path: Path, name: str, values: np.ndarray) -> None:
    trees.mnist(tmp_path, suffix="")
    trees.write_idx(tmp_path / name, values)
    with pytest.raises(DataError, match="not MNIST"):
        stream("seq-mnist", tmp_path).describe()


# CIFAR-100


def test_cifar_100_is_read_from_the_official_files(tmp_path: Path, monkeypatch) -> None:
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    pictures = {part: np.random.default_rng(n).integers(0, 256, (100 * n, 3072), np.uint8) for part, n in PARTS.items()}
    for part, n in PARTS.items():
        content = {"data": pictures[part], "fine_labels": [i % 100 for i in range(100 * n)]}
        (folder / part).write_bytes(pickle.dumps(content))
    names = [f"thing {i}" for i in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": names}))
    monkeypatch.setattr(import_torchvision("datasets").CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr(import_torchvision("datasets.cifar"), "check_integrity", lambda *args: True)
    dataset = stream("seq-cifar100", tmp_path)
    assert [(row["train"], row["test"]) for row in dataset.describe()] == [(20, 10)] * 10
    assert dataset.class_names == names
    assert np.array_equal(dataset.samples.test.data.flatten(1).numpy(), pictures["test"])
    assert dataset.samples.train_targets[:3].tolist() == [0, 1, 2]


PARTS = {"train": 2, "test": 1}


def test_absent_cifar_100_names_both_layouts(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(import_torchvision("datasets.cifar"), "download_and_extract_archive", no_network)
    with pytest.raises(DataError) as caught:
        stream("seq-cifar100", tmp_path).describe()
    for part in (str(tmp_path), "cifar-100-python", "train/<class>/", "--data_root", "no route"):
        assert part in str(caught.value)


# Tiny ImageNet


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return trees.tiny_imagenet(tmp_path) / "tiny-imagenet-200"


@pytest.mark.parametrize("inner", [False, True])
def test_tiny_imagenet_is_read_from_its_official_layout(tiny: Path, inner: bool) -> None:
    dataset = stream("seq-tinyimg", tiny if inner else tiny.parent)
    assert [(row["train"], row["test"]) for row in dataset.describe()] == [(40, 20)] * 10
    samples = dataset.samples
    for source, targets, lower in (
        (samples.train, samples.train_targets, (0, 50)),
        (samples.test, samples.test_targets, (200,)),
    ):
        assert source.data.shape == (len(targets), 3, 64, 64)
        assert np.array_equal(source.data[:, 1, 16, 30].numpy(), targets)
        assert sorted({*source.data[:, 2, 50, 9].tolist()}) == list(lower)
    assert samples.test_targets[:3].tolist() == [0, 7, 14]  # from the annotations, not from an order of files
    assert dataset.class_names[199] == "n00000199"


def test_tiny_imagenet_with_a_class_missing_is_refused(tiny: Path) -> None:
    (tiny / "train" / "n00000007").rename(tiny / "elsewhere")
    with pytest.raises(DataError, match="199 class folders"):
        stream("seq-tinyimg", tiny).describe()


def test_an_annotation_of_an_unknown_class_is_named(tiny: Path) -> None:
    notes = tiny / "val" / "val_annotations.txt"
    notes.write_text(notes.read_text().replace("n00000014", "n9"))
    with pytest.raises(DataError, match=r"val_annotations.txt, line 3"):
        stream("seq-tinyimg", tiny).describe()


# Image folders


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    return trees.image_folders(tmp_path / "set", {"train": 6, "val": 2}, ["dog", "ant", "cat"], (40, 32))


def test_the_number_of_classes_is_found_before_any_image_is_read(folders: Path) -> None:
    for path in folders.rglob("*.png"):
        path.write_bytes(b"broken")
    args = parse_args(
        [
            "--model",
            "sgd",
            "--dataset",
            "image-folder",
            "--data_root",
            str(folders),
            "--image_size",
            "28",
            "--n_tasks",
            "3",
        ]
    )
    dataset = get_dataset(args)
    assert (args.num_classes, args.input_shape) == (3, (3, 28, 28))
    assert (dataset.N_CLASSES, dataset.N_TASKS, dataset.N_CLASSES_PER_TASK) == (3, 3, 1)
    with pytest.raises(DataError, match=r"0000\.png"):
        dataset.describe()


def test_more_tasks_than_folders_are_refused(folders: Path) -> None:
    with pytest.raises(UsageError, match="--n_tasks 10: image-folder has 3 classes"):
        stream("image-folder", folders)


@pytest.mark.parametrize("limit", ["1", "1e-6"])
def test_small_sets_are_decoded_into_memory_and_large_ones_read_from_their_files(folders: Path, limit: str) -> None:
    dataset = stream("image-folder", folders, "--n_tasks", "3", "--image_size", "28", "--memory_gib", limit)
    train, _ = dataset.get_data_loaders()
    assert isinstance(dataset.samples.train, TensorSource if limit == "1" else ImageFiles)
    inputs, labels, raw = next(iter(train))
    assert raw.shape == (6, 3, 32, 32)
    assert inputs.shape == (6, 3, 28, 28)
    assert set(labels.tolist()) == {0}
    files = sorted((folders / "train" / "ant").iterdir())
    for image, position in zip(raw, train.positions, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), read_square(files[position], 32))
    assert dataset.class_names == ["ant", "cat", "dog"]


def test_worker_processes_read_the_same_images(folders: Path) -> None:
    words = ("--n_tasks", "1", "--image_size", "28", "--memory_gib", "1e-6")
    passes = [
        [batch[0] for batch in stream("image-folder", folders, *words, "--num_workers", n).get_data_loaders()[0]]
        for n in ("0", "2")
    ]
    assert all(torch.equal(one, two) for one, two in zip(*passes, strict=True))


def test_test_images_come_from_test_where_there_is_one_and_else_from_val(folders: Path) -> None:
    words = ("--n_tasks", "3", "--image_size", "28")
    assert len(stream("image-folder", folders, *words).samples.test) == 6
    trees.image_folders(folders, {"test": 3}, ["dog", "ant", "cat"], (40, 32))
    assert len(stream("image-folder", folders, *words).samples.test) == 9


def test_classes_that_differ_between_the_parts_are_named(folders: Path) -> None:
    (folders / "val" / "dog").rename(folders / "val" / "dogs")
    with pytest.raises(DataError, match=r"\['dog', 'dogs'\]"):
        stream("image-folder", folders, "--n_tasks", "3").describe()


@pytest.mark.parametrize(("absent", "missed"), [("", "train"), ("train", "train"), ("val", "test")])
def test_absent_folders_are_named_with_the_layout_and_the_option(folders: Path, absent: str, missed: str) -> None:
    (folders / absent).rename(folders.parent / "elsewhere")
    with pytest.raises(DataError) as caught:
        stream("image-folder", folders, "--n_tasks", "3").describe()
    for part in (f"no folder {folders / missed}", "<class>", "val/", "--data_root"):
        assert part in str(caught.value)


@pytest.mark.parametrize("limit", ["1", "1e-6"])
def test_a_damaged_file_is_named_or_left_out_and_counted(folders: Path, limit: str) -> None:
    path = folders / "train" / "cat" / "0002.png"
    path.write_bytes(path.read_bytes()[:200])
    words = ("--n_tasks", "1", "--image_size", "28", "--memory_gib", limit)
    with pytest.raises(DataError, match=str(path)):
        list(stream("image-folder", folders, *words).get_data_loaders()[0])
    dataset = stream("image-folder", folders, *words, "--skip_corrupt", "1")
    loader, _ = dataset.get_data_loaders()
    assert sum(len(batch[1]) for batch in loader) == 17
    assert len(dataset.skipped) == 1
    assert str(path) in dataset.skipped[0]


def test_images_left_out_shift_no_label(folders: Path) -> None:
    names = [f"train/{name}/000{i}.png" for name in ("ant", "cat") for i in range(3)]
    (folders / names[1]).write_bytes(b"")
    opened = open_images(folders, names, np.array([0, 0, 0, 1, 1, 1]), 16, skip_corrupt=True)
    assert opened.labels.tolist() == [0, 0, 1, 1, 1]
    kept = [name for name in names if name != names[1]]
    for image, name in zip(opened.source.data, kept, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), read_square(folders / name, 16))


@pytest.mark.parametrize(
    "save", [lambda image, path: image.save(path), lambda image, path: image.convert("L").save(path)]
)
def test_a_picture_is_scaled_to_its_shorter_side_and_its_middle_cut_out(
    tmp_path: Path, save: Callable[[Image.Image, Path], None]
) -> None:
    pixels = np.zeros((20, 60, 3), np.uint8)
    pixels[:, 20:40] = 200
    for name, turned in (("wide.png", pixels), ("tall.png", pixels.transpose(1, 0, 2))):
        save(Image.fromarray(turned), tmp_path / name)
        square = read_square(tmp_path / name, 10)
        assert square.shape == (10, 10, 3)
        assert (square[1:-1, 1:-1] == 200).all()


def test_the_fingerprint_of_files_changes_with_them_and_not_with_their_place(folders: Path) -> None:
    names = ["train/ant/0000.png", "train/ant/0001.png"]
    reference = ImageFiles(folders, names, 16, False).fingerprint()
    assert ImageFiles(folders, names[::-1], 16, False).fingerprint() != reference
    moved = folders.rename(folders.parent / "moved")
    assert ImageFiles(moved, names, 16, False).fingerprint() == reference
    (moved / names[0]).write_bytes(b"other")
    assert ImageFiles(moved, names, 16, False).fingerprint() != reference
