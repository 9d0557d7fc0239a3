"""Labels that are wrong or missing in training, and nowhere else."""

from __future__ import annotations

import json
from argparse import Namespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets import get_dataset
from datasets.utils.training_labels import (
    CIFAR10,
    CIFAR100_CONFUSIONS,
    asymmetric_noise,
    check_labels,
    confusions,
    labelled,
    symmetric_noise,
    tasks_by_given_label,
)
from models.er import ER
from utils.args import parse_args
from utils.errors import UsageError

SMALL = "--model sgd --dataset seq-digits --max_samples_per_class 20"
seeds, rates = st.integers(0, 2**63 - 1), st.sampled_from([0, 0.1, 0.25, 0.5, 1])
labels_of_four = st.lists(st.integers(0, 3), max_size=40)


def stream(*words: str, keep_unlabelled: bool = False):
    dataset = get_dataset(parse_args([*SMALL.split(), *words]))
    dataset.gives_unlabelled = keep_unlabelled
    return dataset


def tasks(dataset):
    """(indices, labels as given, true labels) of the training samples of every task."""
    data = [dataset.get_data_loaders()[0].dataset for _ in range(dataset.N_TASKS)]
    return [(part.indices, part.targets, part.true_targets) for part in data]


# Pure functions


@settings(max_examples=200, deadline=None, derandomize=True)
@given(labels_of_four, rates, seeds)
def test_symmetric_noise_changes_exactly_the_share_asked_for_and_every_seed_is_one_draw(labels, rate, seed):
    noisy = symmetric_noise(labels, 4, rate, seed)
    assert (noisy != np.array(labels, dtype=int)).sum() == round(rate * len(labels))
    assert set(noisy.tolist()) <= {0, 1, 2, 3}
    assert np.array_equal(noisy, symmetric_noise(labels, 4, rate, seed))


def test_symmetric_noise_takes_every_other_class_equally_often():
    noisy = symmetric_noise(np.full(30_000, 2), 4, 0.5, seed=3)
    counts = np.bincount(noisy, minlength=4)
    assert counts[2] == 15_000
    assert np.all(np.abs(counts[[0, 1, 3]] - 5_000) < 250)  # 4 standard deviations are 231
    # Where in the data they lie is random too.
    assert 7_200 < (noisy[:15_000] != 2).sum() < 7_800


@settings(max_examples=200, deadline=None, derandomize=True)
@given(labels_of_four, rates, seeds)
def test_asymmetric_noise_changes_the_share_of_each_class_to_the_one_it_is_mistaken_for(labels, rate, seed):
    noisy, labels = asymmetric_noise(labels, {0: 1, 1: 0, 3: 2}, rate, seed), np.array(labels, dtype=int)
    for true, mistaken in ((0, 1), (1, 0), (3, 2)):
        of_class = noisy[labels == true]
        assert (of_class == mistaken).sum() == round(rate * len(of_class))
        assert set(of_class.tolist()) <= {true, mistaken}
    assert np.all(noisy[labels == 2] == 2)


def test_asymmetric_noise_picks_at_random_within_a_class():
    one, other = (asymmetric_noise(np.zeros(100), {0: 1}, 0.5, seed) for seed in (0, 1))
    assert not np.array_equal(one, other)
    assert 0 < one[:50].sum() < 50


def test_confusions_of_cifar10_are_the_published_pairs_in_whatever_order_its_classes_are():
    for names in (CIFAR10, CIFAR10[::-1]):
        pairs = {names[true]: names[given] for true, given in confusions(10, names).items()}
        assert pairs == {
            "truck": "automobile", "bird": "airplane", "deer": "horse", "cat": "dog", "dog": "cat"
        }  # fmt: skip


def test_classes_of_cifar100_are_mistaken_in_circles_within_their_superclasses():
    names = sorted(CIFAR100_CONFUSIONS)
    found = confusions(100, names)
    assert sorted(found) == sorted(found.values()) == list(range(100))
    assert names[found[names.index("beaver")]] == "dolphin"
    assert names[found[names.index("whale")]] == "beaver"
    assert names[found[names.index("tractor")]] == "lawn_mower"
    for start in range(100):
        circle = [start]
        while found[circle[-1]] != start:
            circle.append(found[circle[-1]])
        # Labels are in the order of the names, and so are the members of a superclass.
        assert len(circle) == 5
        assert sum(after < before for before, after in zip(circle, circle[1:] + circle[:1], strict=True)) == 1


@pytest.mark.parametrize("name", ["seq-digits", "rot-digits", "digits-360"])
def test_digits_are_mistaken_as_published_for_mnist(name):
    words = ["--model", "sgd", "--dataset", name, "--label_noise", "asymmetric", "--noise_rate", "0.4"]
    opened = get_dataset(parse_args(words))
    given, true = opened.training_targets, opened.samples.train_targets
    wrong = given != true
    pairs = {(2, 7), (3, 8), (7, 1), (5, 6), (6, 5)}
    assert set(zip(true[wrong].tolist(), given[wrong].tolist(), strict=True)) == pairs
    for label in range(9):
        share = 0.4 if label in (2, 3, 5, 6, 7) else 0
        assert wrong[true == label].mean() == pytest.approx(share, abs=0.01)


def test_other_classes_are_mistaken_for_the_next_and_the_last_for_the_first():
    assert confusions(3, ["a", "b", "c"]) == confusions(3) == {0: 1, 1: 2, 2: 0}


def test_noise_needs_another_class():
    with pytest.raises(UsageError, match="single class"):
        symmetric_noise([0, 0], 1, 0.5, 0)


def test_samples_move_to_the_task_of_the_label_they_were_given_by_hand():
    given_labels = [0, 2, 1, 2, 3, 0]  # of samples 0 to 5; truly 0, 0, 1, 2, 3, 3
    moved = tasks_by_given_label([np.array([2, 0, 1]), np.array([3, 4, 5])], [[0, 1], [2, 3]], given_labels)
    assert [part.tolist() for part in moved] == [[2, 0, 5], [3, 4, 1]]


def test_samples_stay_where_their_task_has_the_class_they_were_given():
    parts = [np.array([0, 1]), np.array([2, 3])]
    moved = tasks_by_given_label(parts, [[0, 1], [0, 1]], [1, 0, 1, 0])
    assert all(np.array_equal(a, b) for a, b in zip(moved, parts, strict=True))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=40), st.sampled_from([0.01, 0.1, 0.5, 1]), seeds)
def test_the_share_that_keeps_its_label_is_exact_at_least_one_and_grows_by_addition(labels, share, seed):
    kept = labelled(labels, share, seed)
    assert kept.sum() == max(round(share * len(labels)), 1)
    assert np.all(kept <= labelled(labels, min(2 * share, 1), seed))
    by_class = labelled(labels, share, seed, by_class=True)
    for label in set(labels):
        mine = by_class[np.array(labels) == label]
        assert mine.sum() == max(round(share * len(mine)), 1)


# In a stream


def test_labels_change_in_training_alone_and_tasks_hold_the_classes_they_were_given():
    clean, noisy = stream(), stream("--noise_rate", "0.3", "--label_noise", "symmetric")
    original = {
        int(i): int(label) for indices, labels, _ in tasks(clean) for i, label in zip(indices, labels, strict=True)
    }
    seen, n_changed = [], 0
    for task, (indices, labels, true) in enumerate(tasks(noisy)):
        first, end = noisy.get_offsets(task)
        assert labels.min() >= first
        assert labels.max() < end
        assert true.tolist() == [original[int(i)] for i in indices]
        n_changed += int((labels != true).sum())
        seen.extend(indices.tolist())
        for a, b in zip(clean.test_loaders, noisy.test_loaders, strict=False):
            assert torch.equal(a.dataset.targets, b.dataset.targets)
    assert sorted(seen) == sorted(original)
    assert n_changed == round(0.3 * 200) == sum(row["wrong_labels"] for row in noisy.describe())
    assert noisy.fingerprint() == clean.fingerprint()


def test_true_labels_of_a_batch_are_found_by_its_positions():
    noisy = stream("--noise_rate", "0.5")
    loader, _ = noisy.get_data_loaders()
    images = noisy.samples.train.read(np.arange(len(noisy.samples.train)))[0]
    for _, labels, raw in loader:
        for label, true, image in zip(labels, loader.dataset.true_targets[loader.positions], raw, strict=True):
            index = next(i for i in loader.dataset.indices if torch.equal(images[i], image))
            assert true == noisy.samples.train_targets[index]
            assert label == noisy.training_targets[index]


def test_the_same_labels_are_wrong_whatever_the_order_of_classes_and_tasks():
    one = stream("--noise_rate", "0.2")
    others = [["--permute_classes", "1"], ["--n_tasks", "2"], ["--joint", "1"], ["--task_order", "descending"]]
    for words in others:
        assert np.array_equal(stream("--noise_rate", "0.2", *words).training_targets, one.training_targets)
    assert not np.array_equal(stream("--noise_rate", "0.2", "--seed", "1").training_targets, one.training_targets)


def test_held_out_samples_keep_their_true_label_and_their_task():
    clean, noisy = stream("--validation", "25"), stream("--validation", "25", "--noise_rate", "0.5")
    for task in range(5):
        assert np.array_equal(clean.split.test[task], noisy.split.test[task])
        assert torch.equal(clean.test_loader(task).dataset.targets, noisy.test_loader(task).dataset.targets)
    assert sum(row["wrong_labels"] for row in noisy.describe()) == 75


def test_methods_that_need_labels_get_labelled_samples_only():
    whole, dataset = stream(), stream("--label_perc", "0.3")
    for (all_indices, _, _), (indices, labels, _) in zip(tasks(whole), tasks(dataset), strict=True):
        assert len(indices) == 12
        assert set(indices) < set(all_indices)
        assert labels.min() >= 0
    assert [row["labelled"] for row in dataset.describe()] == [12] * 5
    assert [row["train"] for row in dataset.describe()] == [40] * 5


def test_methods_that_cope_get_the_others_with_label_minus_one():
    whole, dataset = stream(), stream("--label_perc_by_class", "0.1", keep_unlabelled=True)
    for (all_indices, all_labels, _), (indices, labels, true) in zip(tasks(whole), tasks(dataset), strict=True):
        assert np.array_equal(indices, all_indices)
        assert torch.equal(true, all_labels)
        kept = labels != -1
        assert torch.equal(labels[kept], true[kept])
        assert torch.unique(labels[kept], return_counts=True)[1].tolist() == [2, 2]


def test_joint_training_and_noise_and_missing_labels_go_together():
    dataset = stream("--joint", "1", "--label_perc", "0.5", "--noise_rate", "0.2", "--validation", "20")
    data = dataset.get_data_loaders()[0].dataset
    rows = dataset.describe()
    assert sum(row["train"] for row in rows) == 160
    assert sum(row["wrong_labels"] for row in rows) == 32
    assert len(data) == sum(row["labelled"] for row in rows) == sum(round(row["train"] / 2) for row in rows)
    assert data.targets.min() >= 0


def test_missing_scores_are_no_number_or_left_out():
    args = parse_args(["--model", "sgd", "--dataset", "uiprmd", "--label_perc", "0.5"])
    few, all_of_them = get_dataset(args), get_dataset(args)
    all_of_them.gives_unlabelled = True
    data, whole = few.get_data_loaders()[0].dataset, all_of_them.get_data_loaders()[0].dataset
    assert torch.isfinite(data.targets).all()
    assert len(data) == round(len(whole) / 2) == torch.isfinite(whole.targets).sum()
    assert torch.isfinite(whole.true_targets).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--dataset uiprmd --label_noise symmetric --noise_rate 0.1", "scores have no classes"),
        ("--dataset uiprmd --noise_rate 0.1", "scores have no classes"),
        ("--dataset uiprmd --label_perc_by_class 0.5", "use --label_perc"),
        ("--dataset seq-digits --label_noise asymmetric", "needs --noise_rate"),
        ("--dataset seq-digits --label_perc 0.5 --label_perc_by_class 0.5", "give one of them"),
        ("--dataset seq-digits --label_perc 0", "would leave nothing"),
        ("--dataset seq-digits --noise_rate 1.1", "not between 0 and 1"),
    ],
)
def test_options_that_mean_nothing_are_refused_when_they_are_parsed(words, message):
    with pytest.raises(UsageError, match=message):
        parse_args(["--model", "sgd", *words.split()])


def test_options_of_a_namespace_made_by_hand_are_checked_too():
    with pytest.raises(UsageError, match="needs --noise_rate"):
        check_labels(Namespace(label_noise="symmetric"), is_score=False)


def test_the_record_of_a_run_has_the_numbers_and_methods_see_no_sample_without_label(launch, monkeypatch):
    observe, seen = ER.observe, []

    def noting(self, inputs, labels, *args, **kwargs):
        seen.append(labels)
        return observe(self, inputs, labels, *args, **kwargs)

    monkeypatch.setattr(ER, "observe", noting)
    line = SMALL.replace("sgd", "er --buffer_size 5 --n_tasks 2 --n_epochs 1 --noise_rate 0.1 --label_perc 0.5")
    run = launch(line)
    assert run.code == 0
    split = json.loads(run.metrics.splitlines()[0])["tasks"]
    assert sum(row["wrong_labels"] for row in split) == 20
    assert [row["labelled"] for row in split] == [round(row["train"] / 2) for row in split]
    assert len(torch.cat(seen)) == sum(row["labelled"] for row in split)
    assert torch.cat(seen).min() >= 0


def test_methods_that_declare_it_get_samples_without_label(launch, monkeypatch):
    observe, seen = ER.observe, []

    def noting(self, inputs, labels, not_aug_inputs, epoch=None):
        seen.append(labels)
        kept = labels >= 0
        return observe(self, inputs[kept], labels[kept], not_aug_inputs[kept], epoch) if kept.any() else 0.0

    monkeypatch.setattr(ER, "observe", noting)
    monkeypatch.setattr(ER, "COMPATIBILITY", [*ER.COMPATIBILITY, "cssl"])
    run = launch(SMALL.replace("sgd", "er --buffer_size 5 --n_tasks 2 --n_epochs 1 --label_perc 0.5"))
    assert run.code == 0
    assert (torch.cat(seen) == -1).sum() == 100
    assert len(torch.cat(seen)) == 200
