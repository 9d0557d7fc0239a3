"""Long-tailed training data: published class sizes, the published draw, and the streams made of it."""

from __future__ import annotations

import argparse
import math
from argparse import Namespace

import numpy as np
import pytest
import torch

from datasets import get_dataset
from datasets.seq_cifar10 import SequentialCIFAR10
from datasets.utils.continual_dataset import Samples
from datasets.utils.long_tail import class_sizes, imbalance, subsample
from datasets.utils.sources import TensorSource
from utils.args import parse_args
from utils.errors import UsageError

# Imbalance -> sizes on CIFAR-10; -> total and smallest class on CIFAR-100, and its classes with many, medium and few.
CIFAR10 = {
    10: [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500],
    20: [5000, 3584, 2569, 1842, 1320, 946, 678, 486, 348, 250],
    50: [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100],
    100: [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50],
    200: [5000, 2775, 1540, 854, 474, 263, 146, 81, 45, 25],
}
TOTALS = {10: 20431, 20: 17023, 50: 13996, 100: 12406, 200: 11203}
CIFAR100 = {
    10: (19573, 50, (69, 31, 0)),
    20: (15907, 25, (53, 47, 0)),
    50: (12608, 10, (41, 41, 18)),
    100: (10847, 5, (35, 35, 30)),
    200: (9502, 2, (30, 31, 39)),
}
STEPS = {10: (27500, 27500), 20: (26250, 26250), 50: (25500, 25500), 100: (25250, 25250), 200: (25125, 25100)}


@pytest.fixture
def stream(monkeypatch):
    """Builds a stream of CIFAR-10 or CIFAR-100 in their sizes, of images of one byte that are their number."""

    def load(self):
        parts = []
        for n in (50_000, 10_000):
            labels = np.random.default_rng(n).permutation(np.arange(n) % self.N_CLASSES)
            parts.append((TensorSource(torch.arange(n).view(n, 1, 1, 1).int()), labels))
        (train, train_labels), (test, test_labels) = parts
        return Samples(train=train, test=test, train_targets=train_labels, test_targets=test_labels)

    monkeypatch.setattr(SequentialCIFAR10, "load_samples", load)
    return lambda name, *words: get_dataset(parse_args(["--model", "sgd", "--dataset", name, *words]))


# Sizes


@pytest.mark.parametrize("factor", CIFAR10)
def test_exponential_sizes_are_the_published_ones(factor):
    assert class_sizes(5000.0, 10, "exp", 1 / factor) == CIFAR10[factor]
    assert sum(CIFAR10[factor]) == TOTALS[factor]
    sizes = np.array(class_sizes(500, 100, "exp", imbalance(str(factor))))
    total, smallest, groups = CIFAR100[factor]
    assert (sizes.sum(), sizes.min(), sizes[0]) == (total, smallest, 500)
    assert ((sizes > 100).sum(), ((sizes >= 20) & (sizes <= 100)).sum(), (sizes < 20).sum()) == groups


def test_sizes_on_cifar_100_begin_and_end_as_published():
    sizes = class_sizes(500, 100, "exp", 0.01)
    assert sizes[:6] == [500, 477, 455, 434, 415, 396]
    assert sizes[-6:] == [6, 6, 5, 5, 5, 5]


@pytest.mark.parametrize("factor", STEPS)
def test_steps_make_the_second_half_of_the_classes_small(factor):
    totals = [sum(class_sizes(n_max, n, "step", 1 / factor)) for n_max, n in ((5000, 10), (500, 100))]
    assert tuple(totals) == STEPS[factor]
    assert class_sizes(5000, 4, "step", 1 / factor) == [5000, 5000, 5000 // factor, 5000 // factor]


def test_half_of_the_classes_with_half_of_the_samples():
    assert sum(class_sizes(500, 100, "step", 0.5, 0.5)) == 37500
    assert sum(class_sizes(500, 80, "step", 0.5, 0.5)) == 30000


@pytest.mark.parametrize(("part", "n_small"), [(0.0, 0), (0.29, 29), (0.3, 30), (1.0, 100)])
def test_the_share_of_small_classes_is_exact(part, n_small):
    sizes = class_sizes(500, 100, "step", 0.1, part)
    assert sizes == [500] * (100 - n_small) + [50] * n_small


def test_no_class_is_emptied_and_one_class_stays_whole():
    assert class_sizes(20, 3, "exp", 0.01) == [20, 2, 1]
    assert class_sizes(20, 3, "step", 0.01, 0.3) == [20, 20, 1]
    assert class_sizes(20, 1, "exp", 0.01) == [20]


@pytest.mark.parametrize(("text", "ratio"), [("0.01", 0.01), ("100", 0.01), ("0.5", 0.5), ("1", 1.0), ("200", 0.005)])
def test_imbalance_is_a_ratio_in_either_direction(text, ratio):
    assert imbalance(text) == ratio


@pytest.mark.parametrize(("read", "text"), [(imbalance, "0"), (imbalance, "-1"), (imbalance, "nan")])
def test_numbers_that_are_no_ratio_are_refused(read, text):
    with pytest.raises(argparse.ArgumentTypeError):
        read(text)


# The draw


def test_the_draw_is_that_of_the_published_code_to_the_sample():
    labels = np.random.default_rng(1).permutation(np.arange(3000) % 10)
    sizes = class_sizes(300, 10, "exp", 0.02)
    state = np.random.get_state()
    np.random.seed(0)
    expected = []
    for label, size in zip(np.unique(labels), sizes, strict=True):
        positions = np.where(labels == label)[0]
        np.random.shuffle(positions)
        expected.extend(positions[:size])
    np.random.set_state(state)
    assert subsample(labels, sizes).tolist() == sorted(expected)


def test_the_draw_leaves_the_global_generator_alone():
    before = np.random.get_state()[1].copy()
    subsample(np.arange(100) % 2, [3, 4])
    assert np.array_equal(np.random.get_state()[1], before)


def test_a_class_with_fewer_samples_than_asked_for_keeps_them():
    assert subsample([0, 1, 0, 1, 1], [5, 2]).size == 4
    assert subsample([], [5, 2]).size == 0


# Streams


def test_streams_in_one_task_have_the_published_totals_and_whole_test_sets(stream):
    ten, hundred = stream("cifar10-lt"), stream("cifar100-lt")
    assert ten.cls_num_list == CIFAR10[100]
    assert sum(hundred.cls_num_list) == 10847
    for dataset, n in ((ten, 1000), (hundred, 100)):
        assert dataset.N_TASKS == 1
        assert dataset.is_long_tailed
        assert np.bincount(dataset.samples.test_targets[dataset.split.test[0]]).tolist() == [n] * dataset.N_CLASSES


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("cifar10-lt", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("cifar100-lt", (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
        ("seq-cifar100-lt", (0.5071, 0.4866, 0.4409), (0.2009, 0.1984, 0.2023)),
    ],
)
def test_network_and_normalisation_are_the_published_ones(stream, name, mean, std):
    dataset = stream(name)
    assert dataset.args.backbone == "resnet32"
    raw = torch.tensor([[0, 51, 255]] * 2).view(2, 3, 1, 1).to(torch.uint8)
    expected = (torch.tensor([0, 0.2, 1]) - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(dataset.get_normalization_transform()(raw), expected.expand(2, 3).view(2, 3, 1, 1))


@pytest.mark.parametrize("factor", CIFAR100)
def test_the_imbalance_can_be_chosen(stream, factor):
    assert sum(stream("cifar100-lt", "--imb_factor", str(factor)).cls_num_list) == CIFAR100[factor][0]
    assert sum(stream("cifar10-lt", "--imb_factor", str(1 / factor)).cls_num_list) == TOTALS[factor]
    step = stream("cifar100-lt", "--imb_factor", str(factor), "--imb_type", "step")
    assert sum(step.cls_num_list) == STEPS[factor][1]


def test_the_same_images_stay_with_every_seed(stream):
    kept = [stream("cifar10-lt", "--seed", seed).split.train[0] for seed in "01"]
    assert np.array_equal(*kept)
    assert np.array_equal(kept[0], subsample(stream("cifar10-lt").samples.train_targets, CIFAR10[100]))


def test_ordered_tasks_get_smaller_and_shuffled_ones_hold_the_same_classes(stream):
    ordered, shuffled = stream("seq-cifar100-lt"), stream("seq-cifar100-lt", "--lt_order", "shuffled")
    assert ordered.classes_per_task == shuffled.classes_per_task == ordered.N_CLASSES_PER_TASK == [50] + [10] * 5
    totals = [row["train"] for row in ordered.describe()]
    assert sum(totals) == 10847
    assert all(a > b for a, b in zip(totals, totals[1:], strict=False))
    assert ordered.cls_num_list == sorted(ordered.cls_num_list, reverse=True)
    assert sorted(shuffled.cls_num_list, reverse=True) == ordered.cls_num_list
    kept = [np.sort(np.concatenate(dataset.split.train)) for dataset in (ordered, shuffled)]
    assert np.array_equal(*kept)


def test_the_shuffled_order_is_the_conventional_one(stream):
    shuffled = stream("seq-cifar100-lt", "--lt_order", "shuffled", "--seed", "5")
    first = [68, 56, 78, 8, 23, 84, 90, 65, 74, 76, 40, 89, 3, 92, 55, 9, 26, 80, 43, 38]
    assert shuffled.class_order[:20].tolist() == first
    assert sorted(shuffled.class_order) == list(range(100))
    sizes = class_sizes(500, 100, "exp", 0.01)
    assert shuffled.cls_num_list == [sizes[label] for label in shuffled.class_order]


def test_a_seeded_order_depends_on_the_seed_and_an_explicit_one_wins(stream):
    def order(*words):
        return stream("seq-cifar100-lt", *words).class_order.tolist()

    seeded = ("--lt_order", "seeded", "--seed")
    assert order(*seeded, "1") == order(*seeded, "1") != order(*seeded, "2")
    back = ",".join(map(str, range(99, -1, -1)))
    assert order("--lt_order", "shuffled", "--custom_class_order", back) == list(range(99, -1, -1))


def test_eleven_tasks_and_tasks_without_a_base(stream):
    assert stream("seq-cifar100-lt", "--n_tasks", "10").classes_per_task == [50] + [5] * 10
    assert stream("seq-cifar100-lt", "--base_classes", "0").classes_per_task == [20] * 5


def test_counts_follow_the_classes_in_their_order_of_arrival(stream):
    dataset = stream("seq-cifar10", "--imb_factor", "0.01", "--custom_class_order", "9,8,7,6,5,4,3,2,1,0")
    assert dataset.cls_num_list == CIFAR10[100][::-1]
    assert [row["class_counts"] for row in dataset.describe()] == [
        [50, 83],
        [139, 232],
        [387, 645],
        *[[1077, 1796]],
        [
            2997,
            5000,
        ],
    ]


def test_a_limit_on_the_samples_of_a_class_makes_the_head_that_much_shorter(stream):
    dataset = stream("seq-cifar10", "--imb_factor", "0.1", "--max_samples_per_class", "100")
    assert dataset.cls_num_list == class_sizes(100, 10, "exp", 0.1)
    first = [np.flatnonzero(dataset.samples.train_targets == label)[:100] for label in range(10)]
    assert np.isin(np.concatenate(dataset.split.train), np.concatenate(first)).all()


def test_without_imbalance_every_sample_stays(stream):
    plain = stream("seq-cifar10")
    assert not plain.is_long_tailed
    assert plain.cls_num_list == [5000] * 10
    assert stream("cifar10-lt", "--imb_factor", "1").cls_num_list == [5000] * 10


def test_classes_of_unequal_size_keep_at_most_what_they_have():
    dataset = get_dataset(parse_args(["--model", "sgd", "--dataset", "seq-digits", "--imb_factor", "10"]))
    have = np.bincount(dataset.samples.train_targets)
    sizes = class_sizes(have.max(), 10, "exp", 0.1)
    assert dataset.cls_num_list == np.minimum(have, sizes).tolist()


def test_validation_holds_out_every_class(stream):
    dataset = stream("cifar10-lt", "--imb_factor", "200", "--validation", "1")
    held = np.bincount(dataset.samples.train_targets[dataset.split.test[0]], minlength=10)
    assert held.tolist() == [max(round(size / 100), 1) for size in CIFAR10[200]]


# Learning rate


@pytest.mark.parametrize("name", ["cifar10-lt", "cifar100-lt"])
def test_the_rate_of_the_streams_of_one_task_is_the_published_one(name):
    dataset = get_dataset(parse_args(["--model", "sgd", "--dataset", name]))
    model = Namespace(opt=torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=dataset.args.lr))
    scheduler, rates = dataset.get_scheduler(model, dataset.args), []
    for _ in range(dataset.args.n_epochs):
        rates.append(model.opt.param_groups[0]["lr"])
        model.opt.step()
        scheduler.step()
    drops = [0.1] * 155 + [0.001] * 20 + [0.00001] * 20
    assert rates == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.1, *drops])


@pytest.mark.parametrize("words", [["--lr_warmup", "3"], ["--lr_warmup", "1", "--lr_scheduler", "cosine"]])
def test_warm_up_goes_with_any_schedule_and_with_none(words):
    line = ["--model", "sgd", "--dataset", "seq-digits", "--n_epochs", "4", "--lr", "0.3"]
    dataset = get_dataset(parse_args([*line, *words]))
    model = Namespace(opt=torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=dataset.args.lr))
    scheduler, rates = dataset.get_scheduler(model, dataset.args), []
    for _ in range(4):
        rates.append(model.opt.param_groups[0]["lr"])
        model.opt.step()
        scheduler.step()
    cosine = [0.15 * (1 + math.cos(math.pi * epoch / 4)) for epoch in range(4)]
    assert rates == pytest.approx(cosine if "cosine" in words else [0.1, 0.2, 0.3, 0.3])


def test_a_warm_up_goes_on_after_a_stop(launch, stop_after, identical):
    line = "--model sgd --dataset seq-digits --n_tasks 2 --n_epochs 3 --max_samples_per_class 40 --batch_size 20"
    line += " --lr_warmup 2 --lr_scheduler multistep --lr_milestones 1"
    whole = launch(line)
    stop_after(15)  # of 10 batches an epoch
    cut = launch(line)
    assert cut.code == 143
    assert identical(whole, launch("", resume=cut.path))


def test_the_file_of_causal_tde_resolves_on_both_streams():
    for name in ("cifar10-lt", "cifar100-lt"):
        args = parse_args(["--model", "sgd", "--dataset", name, "--config", "configs/long-tail-tde.yaml"])
        assert (args.stage2, args.lr, args.lr_milestones, args.tde_alpha) == (
            "tde",
            0.2,
            [120, 160],
            1.0 if name == "cifar10-lt" else 1.5,
        )


# A larger first task


@pytest.mark.parametrize(
    ("words", "sizes"),
    [
        ("--base_classes 4 --n_tasks 3", [4, 2, 2, 2]),
        ("--base_classes 5 --n_tasks 2", [5, 3, 2]),
        ("--base_classes 0 --n_tasks 5", [2] * 5),
        ("--base_classes 9 --n_tasks 1", [9, 1]),
    ],
)
def test_base_classes_come_first_and_the_rest_is_divided(stream, words, sizes):
    dataset = stream("seq-cifar10", *words.split())
    assert dataset.classes_per_task == sizes
    assert dataset.N_TASKS == len(dataset.describe()) == len(sizes)
    assert [dataset.get_offsets(task)[1] for task in range(len(sizes))] == np.cumsum(sizes).tolist()


def test_the_base_stays_first_in_any_order_of_tasks(stream):
    dataset = stream("seq-cifar10", "--base_classes", "4", "--n_tasks", "3", "--task_order", "descending")
    assert dataset.class_order.tolist() == [0, 1, 2, 3, 8, 9, 6, 7, 4, 5]


@pytest.mark.parametrize("words", ["--base_classes 10 --n_tasks 1", "--base_classes 8 --n_tasks 3"])
def test_a_base_that_leaves_too_few_classes_is_refused(stream, words):
    with pytest.raises(UsageError, match=r"--base_classes \d+ leaves [02] for the tasks"):
        stream("seq-cifar10", *words.split())
