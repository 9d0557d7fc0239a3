"""What a task brings: classes, a part of the data of all classes, or the whole data set."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from datasets import get_dataset, get_dataset_class
from datasets.utils.class_dataset import ClassDataset
from datasets.utils.scenarios import DATA_SHARES, data_incremental
from main import main
from models import check_compatibility
from utils.args import parse_args
from utils.errors import DataError, UsageError


def stream(*words: str, name: str = "seq-digits") -> ClassDataset:
    return get_dataset(parse_args(["--model", "sgd", "--dataset", name, *words]))


def labels_of(*counts: int) -> NDArray[np.int64]:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))


# Which samples


def test_seven_tasks_bring_the_published_shares_of_every_class() -> None:
    assert sum(DATA_SHARES) == 100
    labels = labels_of(100, 100, 100)
    parts = data_incremental(labels)
    assert [len(part) for part in parts] == [6, 6, 12, 24, 48, 96, 108]
    for part, share in zip(parts, DATA_SHARES, strict=True):
        assert np.bincount(labels[part]).tolist() == [share] * 3
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(300))
    assert all(np.array_equal(part, np.sort(part)) for part in parts)


@pytest.mark.parametrize(("n_tasks", "sizes"), [(1, [30]), (3, [10, 10, 10]), (4, [8, 7, 7, 8])])
def test_any_other_number_of_tasks_brings_equal_parts(n_tasks: int, sizes: list[int]) -> None:
    assert [len(part) for part in data_incremental(labels_of(15, 15), n_tasks)] == sizes


def test_every_class_is_in_the_first_task_however_small() -> None:
    labels = labels_of(1000, 1, 3, 500)
    parts = data_incremental(labels, seed=4)
    assert {*labels[parts[0]]} == {0, 1, 2, 3}
    assert [len(part) for part in parts[:3]] == [30, 30, 60]
    # So far a class has its share of the samples, a part of one sample more or less.
    for t in range(7):
        so_far = np.bincount(labels[np.concatenate(parts[: t + 1])], minlength=4)
        share = so_far.sum() / len(labels)
        assert (np.abs(so_far - share * np.array([1000, 1, 3, 500])) <= 2).all()


def test_tasks_of_few_samples_have_at_least_one() -> None:
    parts = data_incremental(labels_of(*[2] * 10))
    assert [len(part) for part in parts] == [10, 1, 1, 1, 1, 1, 5]
    assert [len(part) for part in data_incremental(labels_of(5, 5), 9)] == [2, 1, 1, 1, 1, 1, 1, 1, 1]


def test_the_parts_are_random_and_follow_from_the_seed() -> None:
    labels = labels_of(100, 100)
    first, again, other = (data_incremental(labels, seed=seed) for seed in (1, 1, 2))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    assert not np.array_equal(first[0], [*np.flatnonzero(labels == 0)[:2], *np.flatnonzero(labels == 1)[:2]])


def test_the_last_sample_of_a_share_comes_of_a_random_class() -> None:
    # 2 percent of 350 samples are 7 of 5 classes: two classes give a second one.
    labels = labels_of(*[70] * 5)
    generous = [tuple(np.flatnonzero(np.bincount(labels[data_incremental(labels, seed=s)[0]]) == 2)) for s in range(9)]
    assert {len(classes) for classes in generous} == {2}
    assert len({*generous}) > 2


def test_too_few_samples_for_the_tasks_are_refused() -> None:
    assert len(data_incremental(labels_of(5, 3), 7)) == 7
    with pytest.raises(DataError, match="8 training samples of 2 classes are too few for 8 tasks"):
        data_incremental(labels_of(5, 3), 8)


# Streams


def test_every_task_of_a_data_increment_has_all_classes_and_is_tested_on_all_test_data() -> None:
    dataset = stream("--increment", "data")
    assert dataset.SETTING == "domain-il"
    assert (dataset.N_TASKS, dataset.N_CLASSES_PER_TASK) == (7, 10)
    trained = []
    for task in range(7):
        train_loader, test_loader = dataset.get_data_loaders()
        assert dataset.get_offsets() == dataset.get_offsets(task) == dataset.evaluation_offsets(task) == (0, 10)
        assert {*train_loader.dataset.targets.tolist()} == {*range(10)}
        assert np.array_equal(test_loader.dataset.indices, np.arange(len(dataset.samples.test)))
        trained.extend(train_loader.dataset.indices.tolist())
    assert sorted(trained) == list(range(len(dataset.samples.train)))
    assert [row["train"] for row in dataset.describe()] == [29, 29, 57, 115, 230, 460, 518]


def test_data_increments_differ_with_the_seed_and_not_otherwise() -> None:
    first, again, other = (stream("--increment", "data", "--seed", seed).split.train[0] for seed in "112")
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_parts_of_the_data_can_arrive_in_another_order() -> None:
    plain, turned = stream("--increment", "data"), stream("--increment", "data", "--task_order", "descending")
    assert turned.names == plain.names[::-1]
    assert all(np.array_equal(a, b) for a, b in zip(turned.split.train, plain.split.train[::-1], strict=True))


def test_parts_are_taken_of_what_other_options_leave_of_the_data() -> None:
    dataset = stream("--increment", "data", "--n_tasks", "4", "--max_samples_per_class", "8")
    assert [len(part) for part in dataset.split.train] == [20] * 4
    labels = dataset.samples.train_targets
    kept = np.concatenate(dataset.split.train)
    assert all({*kept[labels[kept] == c]} == {*np.flatnonzero(labels == c)[:8]} for c in range(10))


def test_another_order_of_the_classes_relabels_the_same_parts() -> None:
    plain, permuted = stream("--increment", "data"), stream("--increment", "data", "--permute_classes", "1")
    assert all(np.array_equal(a, b) for a, b in zip(plain.split.train, permuted.split.train, strict=True))
    labels = [dataset.set_task(2)[0].dataset.targets for dataset in (plain, permuted)]
    assert torch.equal(torch.from_numpy(permuted.class_order)[labels[1]], labels[0])
    assert not torch.equal(*labels)


def test_validation_is_held_out_of_every_part() -> None:
    dataset = stream("--increment", "data", "--validation", "20", "--n_tasks", "3")
    whole = stream("--increment", "data", "--n_tasks", "3")
    for train, test, both in zip(dataset.split.train, dataset.split.test, whole.split.train, strict=True):
        assert np.array_equal(np.sort(np.concatenate([train, test])), both)


def test_the_whole_data_set_is_one_task() -> None:
    dataset = stream("--increment", "task")
    assert (dataset.SETTING, dataset.N_TASKS, dataset.N_CLASSES_PER_TASK) == ("class-il", 1, 10)
    assert len(dataset.split.train[0]) == len(dataset.samples.train)
    assert dataset.get_offsets(0) == (0, 10)
    assert stream("--increment", "task", "--n_tasks", "1").N_TASKS == 1


def test_increments_of_classes_are_the_default_and_as_they_were() -> None:
    plain, named = stream(), stream("--increment", "class")
    assert plain.increment == "class"
    assert (named.SETTING, named.N_TASKS, named.classes_per_task) == ("class-il", 5, [2] * 5)
    assert all(np.array_equal(a, b) for a, b in zip(plain.split.train, named.split.train, strict=True))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--increment", "data", "--base_classes", "4"], "--base_classes 4 makes a larger first task of classes"),
        (["--increment", "task", "--base_classes", "4"], "--base_classes 4 makes a larger first task of classes"),
        (["--increment", "task", "--n_tasks", "2"], "--n_tasks 2: with --increment task there are as many tasks"),
        (["--increment", "data", "--custom_task_order", "1,2"], r"each of the tasks 1\.\.7 once"),
        (["--increment", "samples"], "invalid choice"),
    ],
)
def test_options_that_contradict_the_increment_are_refused(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        stream(*words)


def test_a_long_tailed_stream_takes_other_increments_without_its_larger_first_task() -> None:
    with pytest.raises(UsageError, match="--base_classes 50"):
        parse_args(["--model", "sgd", "--dataset", "seq-cifar100-lt", "--increment", "task"])
    words = ["--increment", "task", "--base_classes", "0", "--n_tasks", "1"]
    assert stream(*words, name="seq-cifar100-lt").N_TASKS == 1


def test_a_method_for_new_classes_only_is_refused_on_a_data_increment_before_data_is_read() -> None:
    args = parse_args(["--model", "icarl", "--buffer_size", "10", "--dataset", "seq-digits", "--increment", "data"])
    setting = get_dataset_class(args).resolve_setting(args)
    assert setting == "domain-il"
    with pytest.raises(UsageError, match="domain-il"):
        check_compatibility("icarl", setting, "seq-digits")


def test_a_run_on_a_data_increment_reports_one_accuracy(tmp_path: Path) -> None:
    words = ["--increment", "data", "--n_tasks", "2", "--n_epochs", "1", "--non_verbose", "1"]
    place = ["--base_path", str(tmp_path), "--run_dir", f"{tmp_path}/run"]
    assert main(["--model", "sgd", "--dataset", "seq-digits", *words, *place]) == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["setting"] == "domain-il"
    assert len(summary["class_il"]) == 2
    assert summary["class_il"][0] == summary["class_il"][1]
    assert not [name for name in summary if name.startswith("task_il")]
