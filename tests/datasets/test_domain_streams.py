"""Streams whose tasks share all classes: permuted and rotated images, and the stream without tasks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from datasets import get_dataset
from datasets.utils.continual_dataset import ContinualDataset
from datasets.utils.image_changes import rotate
from datasets.utils.long_tail import class_sizes
from tests.datasets import trees
from utils.args import parse_args
from utils.errors import UsageError

DOMAINS = ["perm-digits", "rot-digits"]


def stream(name: str, *words: str) -> ContinualDataset:
    return get_dataset(parse_args(["--model", "sgd", "--dataset", name, *words]))


def images(dataset: ContinualDataset, task: int, part: str = "train") -> Tensor:
    source = getattr(dataset.samples, part)
    return source.read(getattr(dataset.split, part)[task])[0]


@pytest.mark.parametrize("name", DOMAINS)
def test_every_task_has_all_classes_and_all_samples(name: str) -> None:
    dataset = stream(name)
    assert dataset.N_TASKS == 20
    assert dataset.SETTING == "domain-il"
    labels = [dataset.samples.train_targets[part] for part in dataset.split.train]
    assert all(np.array_equal(each, labels[0]) for each in labels)
    assert len(labels[0]) == 1438
    assert dataset.N_CLASSES_PER_TASK == dataset.N_CLASSES == 10
    for task in (0, 7, 19):
        assert dataset.get_offsets(task) == dataset.evaluation_offsets(task) == (0, 10)


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_task_permutes_the_pixels_of_training_and_test_images_alike(part: str) -> None:
    dataset = stream("perm-digits", "--n_tasks", "3")
    plain = getattr(stream("seq-digits").samples, part).data.flatten(1)
    orders = []
    for task in range(3):
        order = dataset.change(task)[1].order
        assert sorted(order.tolist()) == list(range(64))
        assert torch.equal(images(dataset, task, part).flatten(1), plain[:, order])
        orders.append(order.tolist())
    assert len({*map(tuple, orders), tuple(range(64))}) == 4  # the first task is permuted too


def test_a_task_turns_images_by_an_angle_between_0_and_180_degrees() -> None:
    dataset = stream("rot-digits")
    plain = stream("seq-digits").samples.train.data
    angles = [dataset.change(task)[1].degrees for task in range(20)]
    assert len({*angles}) == 20
    assert 0 <= min(angles) < 30
    assert 150 < max(angles) < 180
    for task in (0, 13):
        assert torch.equal(images(dataset, task), rotate(plain, torch.full((len(plain),), angles[task])))
    assert dataset.names[13] == f"{angles[13]:.1f} degrees"


@pytest.mark.parametrize("name", DOMAINS)
def test_changes_depend_on_the_seed_and_their_number_alone(name: str) -> None:
    first, again, other, longer = (
        images(stream(name, "--seed", seed, "--n_tasks", n), 1) for seed, n in ("13", "13", "23", "15")
    )
    assert torch.equal(first, again)
    assert torch.equal(first, longer)
    assert not torch.equal(first, other)


def test_another_order_of_tasks_brings_the_same_changes_in_that_order() -> None:
    plain = stream("rot-digits", "--n_tasks", "3")
    moved = stream("rot-digits", "--n_tasks", "3", "--custom_task_order", "3,1,2")
    assert moved.names == [plain.names[i] for i in (2, 0, 1)]
    for task, position in enumerate((2, 0, 1)):
        assert torch.equal(images(moved, task), images(plain, position))


def test_what_a_buffer_stores_is_the_changed_image() -> None:
    dataset = stream("perm-digits", "--n_tasks", "2")
    dataset.get_data_loaders()
    loader, _ = dataset.get_data_loaders()
    inputs, labels, raw = next(iter(loader))
    plain, order = stream("seq-digits").samples.train.data.flatten(1), dataset.change(1)[1].order
    chosen = plain[torch.from_numpy(loader.dataset.indices)[loader.positions] - 1438]
    assert torch.equal(raw.flatten(1), chosen[:, order])
    assert torch.equal(inputs, dataset.get_normalization_transform()(raw))
    assert labels.dtype == torch.int64


def test_training_is_limited_to_the_first_samples_of_a_class_in_every_task() -> None:
    dataset = stream("perm-digits", "--n_tasks", "2", "--max_samples_per_class", "7")
    first, second = dataset.split.train
    assert len(first) == 70
    assert np.array_equal(second, first + 1438)
    assert np.bincount(dataset.samples.train_targets[first]).tolist() == [7] * 10


def test_validation_holds_the_same_images_out_of_every_task() -> None:
    dataset = stream("rot-digits", "--n_tasks", "3", "--validation", "20")
    held = [part - 1438 * task for task, part in enumerate(dataset.split.test)]
    assert all(np.array_equal(each, held[0]) for each in held)


def test_runs_of_other_seeds_have_the_same_data() -> None:
    assert stream("perm-digits").fingerprint() == stream("perm-digits", "--seed", "1").fingerprint()


@pytest.mark.parametrize("name", ["perm-mnist", "rot-mnist", "mnist-360"])
def test_streams_of_mnist_read_its_files(name: str, tmp_path: Path) -> None:
    trees.mnist(tmp_path)
    dataset = stream(name, "--data_root", str(tmp_path))
    train_loader, _ = dataset.get_data_loaders()
    inputs, _, raw = next(iter(train_loader))
    assert inputs.shape[1:] == (1, 28, 28)
    torch.testing.assert_close(inputs, raw / 255)


@pytest.mark.parametrize("name", [*DOMAINS, "digits-360"])
def test_one_accuracy_is_reported_where_tasks_share_their_classes(launch, name: str) -> None:
    words = "--n_tasks 2" if name in DOMAINS else ""
    run = launch(f"--model sgd --dataset {name} --n_epochs 1 --max_samples_per_class 6 {words}")
    assert run.code == 0
    assert "class_il_mean" in run.summary
    assert not any("task_il" in figure for figure in run.summary)
    results = run.path.parent / "data" / "results"
    assert [path.name for path in results.iterdir()] == [run.summary["setting"]]


# Long tails


@pytest.mark.parametrize("name", DOMAINS)
def test_every_task_has_the_same_long_tail_of_the_same_images(name: str) -> None:
    words = ["--n_tasks", "3", "--max_samples_per_class", "40", "--imb_factor", "0.1"]
    dataset, plain = stream(name, *words), stream("seq-digits", "--n_tasks", "1", *words[2:])
    n_images = len(dataset.samples.train) // 3
    assert len(plain.samples.train) == n_images
    for task, part in enumerate(dataset.split.train):
        assert np.array_equal(part - task * n_images, np.sort(plain.split.train[0]))
    assert dataset.is_long_tailed
    assert (
        dataset.cls_num_list == [3 * n for n in plain.cls_num_list] == [3 * n for n in class_sizes(40, 10, "exp", 0.1)]
    )


@pytest.mark.parametrize("name", DOMAINS)
def test_losses_of_a_long_tail_go_by_the_counts_of_all_classes(launch, name: str) -> None:
    line = f"--model er --dataset {name} --n_tasks 2 --max_samples_per_class 40 --imb_factor 0.1 --buffer_size 10"
    plain = launch(f"{line} --n_epochs 1")
    run = launch(f"{line} --n_epochs 1 --cls_loss balanced-softmax --stage2 lws")
    assert plain.code == run.code == 0
    state = run.checkpoint["model"]
    assert (state["loss.counts"] >= torch.tensor(class_sizes(40, 10, "exp", 0.1))).all()
    assert (state["second_stage.scale"] != 1).all()
    weight = "net.classifier.weight"
    assert not torch.equal(state[weight], plain.checkpoint["model"][weight])
    assert {"acc_many", "acc_med", "acc_few"} <= run.summary.keys()


# Without tasks


def test_turning_digits_take_a_long_tail_and_its_losses(launch) -> None:
    sizes = class_sizes(60, 9, "exp", 0.1)
    words = "--max_samples_per_class 60 --imb_factor 0.1"
    dataset = stream("digits-360", *words.split())
    assert dataset.cls_num_list == np.bincount(dataset.samples.train_targets).tolist() == list(sizes)
    run = launch(f"--model er --dataset digits-360 --buffer_size 10 {words} --cls_loss balanced-softmax --stage2 lws")
    assert run.code == 0
    assert (run.checkpoint["model"]["loss.counts"] >= torch.tensor(sizes)).all()
    assert (run.checkpoint["model"]["second_stage.scale"] != 1).all()
    assert {"acc_many", "acc_med", "acc_few"} <= run.summary.keys()


def test_pairs_of_turning_digits_come_in_the_order_of_the_stream_in_every_pass() -> None:
    dataset = stream("digits-360", "--batch_size", "8")
    loader, _ = dataset.get_data_loaders()
    passes = [list(loader) for _ in range(2)]
    labels = torch.cat([batch[1] for batch in passes[0]])
    assert torch.equal(labels, torch.from_numpy(dataset.samples.train_targets))
    assert all(torch.equal(a, b) for one, two in zip(*passes, strict=True) for a, b in zip(one, two, strict=True))
    for batch in passes[0]:
        assert len(batch[1].unique()) <= 3  # two digits, three where one pair gives way to the next
    assert sorted(labels.unique().tolist()) == list(range(9))
    assert (dataset.N_TASKS, dataset.N_CLASSES, dataset.get_offsets()) == (1, 9, (0, 9))


def test_joint_training_takes_the_same_images_in_random_order() -> None:
    apart, joint = stream("digits-360"), stream("digits-360", "--joint", "1")
    order = [torch.cat([batch[1] for batch in each.get_data_loaders()[0]]) for each in (apart, joint)]
    assert not torch.equal(*order)
    assert torch.equal(order[0].sort().values, order[1].sort().values)


def test_images_are_turned_by_their_angle_and_test_images_by_evenly_spread_ones() -> None:
    dataset, plain = stream("digits-360"), stream("seq-digits").samples
    for source, base in ((dataset.samples.train, plain.train), (dataset.samples.test, plain.test)):
        chosen = torch.from_numpy(source.order)
        expected = rotate(base.data[chosen], torch.from_numpy(source.degrees))
        assert torch.equal(source.read(np.arange(len(source)))[0], expected)
    for label in range(9):
        degrees = dataset.samples.test.degrees[dataset.samples.test_targets == label]
        assert np.allclose(degrees, np.arange(len(degrees)) * 360 / len(degrees))
        of_class = dataset.samples.train_targets == label
        assert np.array_equal(
            plain.train_targets[dataset.samples.train.order[of_class]], np.full(of_class.sum(), label)
        )
    assert set(plain.test_targets[dataset.samples.test.order]) == set(range(9))


def test_the_number_of_rounds_can_be_chosen() -> None:
    once = stream("digits-360", "--rounds", "1").samples.train_targets
    assert set(once[: len(once) // 20]) == {0, 1}
    assert set(once[-len(once) // 20 :]) == {8, 0}
    thrice = stream("digits-360").samples.train_targets
    third = len(thrice) // 3
    # Near a third, not at it: classes differ a little in size.
    assert set(thrice[:20]) == set(thrice[third + 10 : third + 30]) == {0, 1}


@pytest.mark.parametrize("words", [["--n_tasks", "2"], ["--custom_task_order", "2,1"]])
def test_a_stream_without_tasks_refuses_to_be_cut_into_tasks(words: list[str]) -> None:
    with pytest.raises(UsageError, match=words[0]):
        stream("digits-360", *words).describe()
    assert stream("digits-360", "--n_tasks", "1").N_TASKS == 1
