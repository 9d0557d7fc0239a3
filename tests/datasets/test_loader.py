"""Batches of a task, and the sources they are read from."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from datasets import get_dataset
from datasets.utils.clips import Clip, ClipSource
from datasets.utils.loader import Readers, StreamLoader, TaskData
from datasets.utils.sources import TensorSource, read_image, read_image_folder
from utils.args import parse_args
from utils.errors import DataError

N, OFFSET = 23, 100


def identity(batch: Tensor) -> Tensor:
    return batch


def make_loader(
    training: bool = True,
    batch_size: int = 5,
    names: tuple = (0, "order", 0),
    num_workers: int = 0,
    transform: Callable[[Tensor], Tensor] = identity,
    data: TaskData | None = None,
    on_problem: Callable[[str], None] | None = None,
) -> StreamLoader:
    if data is None:
        # Sample OFFSET + i of the source shows OFFSET + i and has target i / 2.
        source = TensorSource(torch.arange(256, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous())
        data = TaskData(source, np.arange(OFFSET, OFFSET + N), torch.arange(N) / 2)
    device = torch.device("cpu")
    return StreamLoader(data, batch_size, transform, device, training, names, num_workers, on_problem)


def ids(batches) -> list[int]:
    return [int(value) for batch in batches for value in batch[0][:, 0, 0, 0]]


def assert_same_batches(one, other) -> None:
    one, other = list(one), list(other)
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# What a batch is


def test_a_training_batch_is_transformed_inputs_labels_and_the_raw_batch():
    read = []

    def transform(batch: Tensor) -> Tensor:
        read.append(batch)
        return batch.float() / 255

    batches = list(make_loader(transform=transform))
    assert [len(batch[0]) for batch in batches] == [5, 5, 5, 5, 3]
    for (inputs, labels, not_aug_inputs), raw in zip(batches, read, strict=True):
        assert not_aug_inputs is raw  # the same memory, not a copy
        assert not_aug_inputs.dtype == torch.uint8
        assert torch.equal(inputs, raw.float() / 255)
        assert torch.equal(labels, (raw[:, 0, 0, 0] - OFFSET) / 2)
    assert sorted(ids([batch[2]] for batch in batches)) == list(range(OFFSET, OFFSET + N))


def test_a_test_loader_keeps_the_order_and_yields_inputs_and_labels():
    loader = make_loader(training=False)
    for _ in range(2):
        batches = list(loader)
        assert all(len(batch) == 2 for batch in batches)
        assert ids(batches) == list(range(OFFSET, OFFSET + N))
        assert torch.equal(torch.cat([labels for _, labels in batches]), torch.arange(N) / 2)


@pytest.mark.parametrize(("batch_size", "n_batches"), [(1, 23), (5, 5), (23, 1), (100, 1)])
def test_length_is_the_number_of_batches(batch_size, n_batches):
    loader = make_loader(batch_size=batch_size)
    assert len(loader) == len(list(loader)) == n_batches


def test_a_task_without_samples_has_no_batch():
    data = TaskData(TensorSource(torch.zeros(4, 1)), np.arange(0), torch.zeros(0))
    assert list(make_loader(data=data)) == []
    assert len(make_loader(data=data)) == 0


# Order


def test_the_order_depends_on_seed_task_and_pass_and_on_nothing_else():
    def orders(*names: object, global_seed: int = 0) -> list[list[int]]:
        torch.manual_seed(global_seed)
        loader = make_loader(names=names)
        return [ids(loader) for _ in range(3)]

    reference = orders(0, "order", 0)
    assert reference == orders(0, "order", 0, global_seed=77)
    assert len({tuple(order) for order in reference}) == 3
    assert all(sorted(order) == list(range(OFFSET, OFFSET + N)) for order in reference)
    for other in (orders(1, "order", 0), orders(0, "order", 1)):
        assert not any(a == b for a, b in zip(reference, other, strict=True))


def test_the_order_does_not_depend_on_the_batch_size():
    assert ids(make_loader(batch_size=5)) == ids(make_loader(batch_size=2))


def test_a_pass_leaves_the_global_generators_alone():
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(make_loader())
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)


@pytest.mark.parametrize(("start", "num_workers"), [(0, 0), (2, 0), (4, 0), (5, 0), (9, 0), (2, 2), (5, 2)])
def test_a_pass_can_be_taken_up_in_its_middle(start, num_workers):
    whole = make_loader()
    list(whole)
    second = list(whole.iterate())
    resumed = make_loader(num_workers=num_workers)
    resumed.passes = 1
    tail = list(resumed.iterate(start=start))
    assert [number for number, _ in tail] == list(range(start, 5))
    assert resumed.passes == 2
    assert ids(batch for _, batch in tail) == ids(batch for _, batch in second[start:])


def test_a_pass_can_end_early_and_counts_as_a_pass():
    whole, loader = make_loader(), make_loader()
    assert ids(batch for _, batch in loader.iterate(start=1, stop=3)) == ids(list(whole)[1:3])
    assert loader.passes == 1
    assert ids(loader) == ids(whole)


def test_a_pass_inside_a_pass_does_not_disturb_it():
    loader = make_loader(num_workers=0)
    outer = loader.iterate()
    first = next(outer)[1]
    inner = ids(loader)
    reference = make_loader()
    assert ids([first, *(batch for _, batch in outer)]) == ids(reference)
    assert inner == ids(reference)


@pytest.mark.parametrize(("training", "num_workers"), [(True, 0), (False, 0), (True, 2)])
def test_a_loader_says_which_samples_are_in_the_batch_it_yielded_last(training, num_workers):
    loader = make_loader(training=training, num_workers=num_workers)
    for _ in range(2):
        for batch in loader:
            assert (OFFSET + loader.positions).tolist() == ids([batch])


# Worker processes


def test_workers_give_the_batches_of_one_process_pass_after_pass():
    alone, helped = make_loader(), make_loader(num_workers=2)
    before = torch.get_rng_state()
    for _ in range(3):
        assert_same_batches(alone, helped)
    assert torch.equal(torch.get_rng_state(), before)
    assert_same_batches(make_loader(training=False), make_loader(training=False, num_workers=2))


def test_workers_survive_a_pass_that_was_abandoned_and_one_inside_another():
    alone, helped = make_loader(batch_size=2), make_loader(batch_size=2, num_workers=2)
    for loader in (alone, helped):
        for number, _ in loader.iterate():
            if number == 1:
                break
    assert_same_batches(alone, helped)
    outer = helped.iterate()
    first = next(outer)[1]
    inner = ids(helped)
    reference = [ids(alone), ids(alone)]
    assert [ids([first, *(batch for _, batch in outer)]), inner] == reference


class WhoReads:
    """A source whose samples are the number of the process that reads them; says so in a message too."""

    def __len__(self) -> int:
        return 12

    def read(self, indices: np.ndarray) -> tuple[Tensor, list[int], list[str]]:
        return torch.full((len(indices), 1), os.getpid()), list(range(len(indices))), [str(os.getpid())]


def test_loaders_of_one_source_share_its_readers_from_pass_to_pass():
    source = WhoReads()
    readers = Readers(source.read, num_workers=2, pin_memory=False)
    found = set[int]()
    for first in (0, 6):
        indices = np.arange(first, first + 6)
        loader = StreamLoader(
            TaskData(source, indices, torch.arange(6)), 2, identity, torch.device("cpu"), True, (0,), 2, readers=readers
        )
        for _ in range(2):
            batches = list(loader)
            assert sorted(int(label) for _, labels, _ in batches for label in labels) == list(range(6))
            found |= {int(number) for inputs, *_ in batches for number in inputs}
    assert len(found) == 2
    assert os.getpid() not in found


def test_a_stream_keeps_its_readers_over_tasks_and_evaluations(monkeypatch):
    dataset = get_dataset(parse_args(["--model", "sgd", "--dataset", "uiprmd", "--n_tasks", "3", "--num_workers", "1"]))
    monkeypatch.setattr(dataset.samples.train, "read", WhoReads().read, raising=False)
    monkeypatch.setattr(dataset.samples.test, "read", WhoReads().read, raising=False)
    monkeypatch.setattr(dataset, "get_transform", lambda: identity)
    monkeypatch.setattr(dataset, "get_normalization_transform", lambda: identity)
    for _ in range(3):
        loader, _ = dataset.get_data_loaders()
        list(loader)
        for seen in dataset.test_loaders:
            list(seen)
    sources = {id(source) for source in (dataset.samples.train, dataset.samples.test)}
    assert len(dataset.skipped) == len(sources)
    assert str(os.getpid()) not in dataset.skipped


class OneBroken:
    """A source whose sample 3 cannot be read."""

    def __len__(self) -> int:
        return 8

    def read(self, indices: np.ndarray) -> tuple[Tensor, list[int], list[str]]:
        if 3 in indices:
            raise DataError("sample 3 is broken; restore it")
        return torch.zeros(len(indices), 1), list(range(len(indices))), []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_data_error_arrives_as_it_was_raised(num_workers):
    data = TaskData(OneBroken(), np.arange(8), torch.arange(8))
    loader = make_loader(training=False, batch_size=2, num_workers=num_workers, data=data)
    for _ in range(2):  # the loader can be used again
        batches = iter(loader)
        assert next(batches)[1].tolist() == [0, 1]
        with pytest.raises(DataError) as error:
            next(batches)
        assert str(error.value) == "sample 3 is broken; restore it"


# Images and clips on disk


def colour(i: int) -> tuple[int, int, int]:
    return (10 * i, 255 - 10 * i, 60)


def save_frame(path: Path, i: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), colour(i)).save(path, quality=95)


def truncate(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture
def clips(tmp_path):
    """Six clips of three frames; frame t of clip i has colour(3 * i + t)."""
    paths = [[tmp_path / f"clip{i}" / f"{t}.jpg" for t in range(3)] for i in range(6)]
    for i, frames in enumerate(paths):
        for t, path in enumerate(frames):
            save_frame(path, 3 * i + t)
    return paths


def source_of(clips: list[list[Path]], skip_corrupt: bool = False) -> ClipSource:
    return ClipSource([Clip(f"clip{i}", tuple(frames)) for i, frames in enumerate(clips)], (8, 10), skip_corrupt)


def loader_of(clips: list[list[Path]], skip_corrupt: bool, problems: list[str], num_workers: int = 0) -> StreamLoader:
    data = TaskData(source_of(clips, skip_corrupt), np.arange(len(clips)), torch.arange(len(clips)))
    return make_loader(training=False, batch_size=2, num_workers=num_workers, data=data, on_problem=problems.append)


def test_a_clip_is_its_frames_in_order_as_bytes(clips):
    raw, positions, problems = source_of(clips).read(np.array([4, 1]))
    assert (raw.shape, raw.dtype) == ((2, 3, 3, 8, 10), torch.uint8)
    assert (positions, problems) == ([0, 1], [])
    for sample, i in zip(raw, (4, 1), strict=True):
        for t in range(3):
            wanted = torch.tensor(colour(3 * i + t))[:, None, None]
            assert (sample[:, t].int() - wanted).abs().max() <= 3  # JPEG


@pytest.mark.parametrize("damage", [truncate, Path.unlink], ids=["truncated", "missing"])
def test_a_broken_frame_is_a_data_error_that_names_it(clips, damage):
    damage(clips[3][1])
    with pytest.raises(DataError) as error:
        list(loader_of(clips, False, []))
    assert str(clips[3][1]) in str(error.value)
    assert "--skip_corrupt" in str(error.value)


@pytest.mark.parametrize("damage", [truncate, Path.unlink], ids=["truncated", "missing"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_clip_with_a_broken_frame_can_be_skipped_and_is_reported(clips, damage, num_workers):
    damage(clips[3][1])
    problems: list[str] = []
    batches = list(loader_of(clips, True, problems, num_workers))
    assert [labels.tolist() for _, labels in batches] == [[0, 1], [2], [4, 5]]
    loader = loader_of(clips, True, [], num_workers)
    assert [loader.positions.tolist() for _ in loader] == [[0, 1], [2], [4, 5]]
    assert [len(inputs) for inputs, _ in batches] == [2, 1, 2]
    assert len(problems) == 1
    assert str(clips[3][1]) in problems[0]


def test_a_batch_of_which_nothing_can_be_read_is_left_out_and_keeps_its_number(clips):
    for i in (2, 3):
        clips[i][0].unlink()
    problems: list[str] = []
    batches = list(loader_of(clips, True, problems).iterate())
    assert [(number, labels.tolist()) for number, (_, labels) in batches] == [(0, [0, 1]), (2, [4, 5])]
    assert len(problems) == 2


def test_an_image_is_read_as_rgb_bytes_and_resized(tmp_path):
    grey = Image.new("L", (12, 7), 128)
    grey.save(tmp_path / "grey.png")
    assert read_image(tmp_path / "grey.png").shape == (7, 12, 3)
    resized = read_image(tmp_path / "grey.png", (4, 5))
    assert (resized.shape, resized.dtype) == ((4, 5, 3), np.uint8)
    assert (resized == 128).all()


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\xff\xd8\xff\xe0"], ids=["empty", "text", "header"])
def test_a_file_that_is_no_image_is_a_data_error_that_names_it(tmp_path, content):
    path = tmp_path / "frame.jpg"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"frame\.jpg"):
        read_image(path)


# Image folders


@pytest.fixture
def tree(tmp_path):
    """Classes "cat" and "dog" with two images each and a file that is none."""
    for i, name in enumerate(["dog/0.jpg", "dog/1.png", "cat/b.JPEG", "cat/a.jpg"]):
        save_frame(tmp_path / name, i)
    (tmp_path / "cat" / "notes.txt").write_text("not an image")
    (tmp_path / "readme.txt").write_text("not a class")
    return tmp_path


def test_an_image_folder_is_read_in_alphabetical_order(tree):
    images, labels, names, problems = read_image_folder(tree, 8, skip_corrupt=False)
    assert (images.shape, images.dtype) == ((4, 3, 8, 8), torch.uint8)
    assert labels.tolist() == [0, 0, 1, 1]
    assert names == ["cat", "dog"]
    assert problems == []
    for image, i in zip(images, (3, 2, 0, 1), strict=True):
        assert (image.int() - torch.tensor(colour(i))[:, None, None]).abs().max() <= 3


def test_a_truncated_image_in_a_folder_is_named_or_skipped_and_reported(tree):
    truncate(tree / "dog" / "0.jpg")
    with pytest.raises(DataError, match=r"dog/0\.jpg"):
        read_image_folder(tree, 8, skip_corrupt=False)
    images, labels, names, problems = read_image_folder(tree, 8, skip_corrupt=True)
    assert (len(images), labels.tolist(), names) == (3, [0, 0, 1], ["cat", "dog"])
    assert len(problems) == 1
    assert "dog/0.jpg" in problems[0]


@pytest.mark.parametrize("skip_corrupt", [False, True])
def test_an_empty_class_folder_is_a_data_error_that_names_it(tree, skip_corrupt):
    (tree / "emu").mkdir()
    with pytest.raises(DataError, match=r"emu holds no readable image"):
        read_image_folder(tree, 8, skip_corrupt)


def test_a_class_of_which_nothing_can_be_read_is_a_data_error_even_when_skipping(tree):
    for path in (tree / "dog").iterdir():
        truncate(path)
    with pytest.raises(DataError, match="dog holds no readable image"):
        read_image_folder(tree, 8, skip_corrupt=True)


def test_a_missing_or_empty_root_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="no folder"):
        read_image_folder(tmp_path / "absent", 8, False)
    with pytest.raises(DataError, match="no class folders"):
        read_image_folder(tmp_path, 8, False)
