"""CIFAR-10 from an image folder and from the official files, built small."""

import hashlib
import pickle
import urllib.error
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets import get_dataset
from datasets.utils.class_dataset import ClassDataset
from utils.args import parse_args
from utils.errors import DataError
from utils.torchvision_import import import_torchvision

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
N_TRAIN, N_TEST = 4, 2  # images of a class
JPEGS = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10_jpeg.zip"


def stream(root: Path, *words: str) -> ClassDataset:
    return get_dataset(parse_args(["--model", "sgd", "--dataset", "seq-cifar10", "--data_root", str(root), *words]))


def images(part: str) -> np.ndarray:
    """(10, n, 32, 32, 3) random pictures."""
    n = {"train": N_TRAIN, "test": N_TEST}[part]
    return np.random.default_rng(n).integers(0, 256, (10, n, 32, 32, 3), dtype=np.uint8)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    root = tmp_path / "folders"
    for part in ("train", "test"):
        for name, pictures in zip(CLASSES, images(part), strict=True):
            (root / part / name).mkdir(parents=True)
            for i, picture in enumerate(pictures):
                Image.fromarray(picture).save(root / part / name / f"{i:04d}.png")
    return root


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no route to the server")

    monkeypatch.setattr(import_torchvision("datasets.cifar"), "download_and_extract_archive", fail)


@pytest.fixture
def pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: None) -> Path:
    """Two training batches in the official format; their sums replace the official ones."""
    root = tmp_path / "pickles"
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)

    def write(name: str, content: dict[str, object]) -> tuple[str, str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return name, hashlib.md5((folder / name).read_bytes()).hexdigest()

    def batch(part: str, chosen: slice) -> dict[str, object]:
        pictures = images(part)[:, chosen]
        flat = pictures.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2).reshape(-1, 3072)
        return {"data": flat, "labels": [label for label in range(10) for _ in range(pictures.shape[1])]}

    train = [write(f"data_batch_{i + 1}", batch("train", slice(2 * i, 2 * i + 2))) for i in range(2)]
    test = [write("test_batch", batch("test", slice(None)))]
    name, digest = write("batches.meta", {"label_names": CLASSES})
    cifar10 = import_torchvision("datasets").CIFAR10
    monkeypatch.setattr(cifar10, "train_list", [list(each) for each in train])
    monkeypatch.setattr(cifar10, "test_list", [list(each) for each in test])
    monkeypatch.setattr(cifar10, "meta", {"filename": name, "key": "label_names", "md5": digest})
    return root


def contents(dataset: ClassDataset) -> list[tuple[set[tuple[bytes, int]], set[tuple[bytes, int]]]]:
    """Images with their labels, of training and test, task by task."""
    tasks = []
    for _ in range(dataset.N_TASKS):
        parts = []
        for loader in dataset.get_data_loaders():
            raw, labels, _, _ = loader.dataset[list(range(len(loader.dataset)))]
            parts.append({(image.numpy().tobytes(), int(label)) for image, label in zip(raw, labels, strict=True)})
        tasks.append((parts[0], parts[1]))
    return tasks


def expected(part: str, task: int) -> set[tuple[bytes, int]]:
    labels = (2 * task, 2 * task + 1)
    return {(picture.transpose(2, 0, 1).tobytes(), label) for label in labels for picture in images(part)[label]}


def test_image_folders_give_five_tasks_of_two_classes(folders: Path) -> None:
    dataset = stream(folders)
    assert contents(dataset) == [(expected("train", task), expected("test", task)) for task in range(5)]
    assert dataset.class_names == CLASSES


def test_official_files_give_the_same_stream_as_image_folders(folders: Path, pickles: Path) -> None:
    official = stream(pickles)
    assert contents(official) == contents(stream(folders))
    assert official.class_names == CLASSES
    assert official.samples.train.data.dtype == torch.uint8


def test_base_path_holds_the_data_in_a_folder_of_its_own(folders: Path, tmp_path: Path) -> None:
    folders.rename(tmp_path / "CIFAR10")
    dataset = get_dataset(parse_args(["--model", "sgd", "--dataset", "seq-cifar10", "--base_path", str(tmp_path)]))
    assert [row["train"] for row in dataset.describe()] == [2 * N_TRAIN] * 5


def test_batches_are_normalised_and_training_images_augmented(folders: Path) -> None:
    dataset = stream(folders)
    train_loader, test_loader = dataset.get_data_loaders()
    inputs, labels, raw = next(iter(train_loader))
    assert inputs.shape == raw.shape == (2 * N_TRAIN, 3, 32, 32)
    assert raw.dtype == torch.uint8
    assert labels.dtype == torch.int64
    assert not torch.equal(inputs, dataset.get_normalization_transform()(raw))
    shown, _ = next(iter(test_loader))
    test_raw = test_loader.dataset[list(range(2 * N_TEST))][0]
    assert torch.equal(shown, dataset.get_normalization_transform()(test_raw))
    torch.testing.assert_close(dataset.get_denormalization_transform()(shown), test_raw / 255)


# Broken copies


@pytest.mark.parametrize("how", ["truncated", "empty", "text"])
def test_a_corrupt_image_is_named_with_the_remedy(folders: Path, how: str) -> None:
    path = folders / "train" / "cat" / "0001.png"
    content = path.read_bytes()
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b"", "text": b"no picture"}[how])
    with pytest.raises(DataError) as caught:
        stream(folders).get_data_loaders()
    assert str(path) in str(caught.value)
    assert "--skip_corrupt 1" in str(caught.value)


def test_skip_corrupt_leaves_out_the_image_and_reports_it(folders: Path) -> None:
    path = folders / "train" / "cat" / "0001.png"
    path.write_bytes(b"no picture")
    dataset = stream(folders, "--skip_corrupt", "1")
    assert [row["train"] for row in dataset.describe()] == [8, 7, 8, 8, 8]
    lost = (images("train")[3, 1].transpose(2, 0, 1).tobytes(), 3)
    assert contents(dataset)[1][0] == expected("train", 1) - {lost}
    assert len(dataset.skipped) == 1
    assert str(path) in dataset.skipped[0]


def remove(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


@pytest.mark.parametrize("parts", [("train",), ("test",), ("train", "test")])
def test_a_missing_class_is_refused(folders: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        remove(folders / part / "dog")
    with pytest.raises(DataError, match=rf"{folders}: expected the same 10 class folders"):
        stream(folders).get_data_loaders()


def test_a_class_without_images_is_named(folders: Path) -> None:
    for path in (folders / "train" / "dog").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=str(folders / "train" / "dog")):
        stream(folders).get_data_loaders()


def test_a_missing_half_is_named(folders: Path) -> None:
    (folders / "test").rename(folders / "elsewhere")
    with pytest.raises(DataError, match=str(folders / "test")):
        stream(folders).get_data_loaders()


def test_absent_data_names_both_layouts_and_the_option(tmp_path: Path, no_network: None) -> None:
    with pytest.raises(DataError) as caught:
        stream(tmp_path / "nowhere").get_data_loaders()
    for part in (str(tmp_path / "nowhere"), "no route", "train/<class>/", "cifar-10-batches-py", "--data_root"):
        assert part in str(caught.value)


@pytest.mark.parametrize("name", ["data_batch_2", "test_batch", "batches.meta"])
def test_a_damaged_official_file_is_not_used(pickles: Path, name: str) -> None:
    path = pickles / "cifar-10-batches-py" / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(DataError, match=str(pickles)):
        stream(pickles).get_data_loaders()


def test_constructing_the_stream_reads_nothing(tmp_path: Path) -> None:
    dataset = stream(tmp_path / "nowhere")
    assert dataset.input_shape == (3, 32, 32)
    assert (dataset.N_TASKS, dataset.N_CLASSES, dataset.N_CLASSES_PER_TASK) == (5, 10, 2)


# Real images


@pytest.mark.data
@pytest.mark.skipif(not JPEGS.exists(), reason=f"{JPEGS} is not there")
def test_real_images_in_the_folder_layout_are_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(JPEGS) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        for part, n in (("train", 5000), ("test", 1000)):
            for class_name in CLASSES:
                of_class = [name for name in names if name.startswith(f"{part}/{class_name}/")]
                assert len(of_class) == n
                for name in of_class[:3]:
                    archive.extract(name, tmp_path)
    dataset = stream(tmp_path)
    assert [(row["train"], row["test"]) for row in dataset.describe()] == [(6, 6)] * 5
    assert dataset.class_names == CLASSES
    assert dataset.samples.train.data.float().std(dim=(1, 2, 3)).min() > 5
