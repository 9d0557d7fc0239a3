"""What method files written for Mammoth do beside learning: counting tasks, taking loaders, changing the data set."""

from __future__ import annotations

import functools
import itertools

import numpy as np
import pytest
import torch

from utils.args import parse_args

DIGITS = "--dataset seq-digits --n_tasks 3 --n_epochs 1 --max_samples_per_class 12 --batch_size 8 --lr 0.1"
LEARN = "self.opt.zero_grad(); loss = self.loss(self.net(inputs), labels); loss.backward(); self.opt.step()"
FILE = """
import numpy as np
import torch
from models.utils.continual_model import ContinualModel
from utils.args import ArgumentParser, add_rehearsal_args, add_experiment_args, add_management_args
from utils.buffer import Buffer
{top}

class Own(ContinualModel):
    NAME = "own"
    COMPATIBILITY = ["class-il", "task-il"]

    {parser}

    def __init__(self, backbone, loss, args, transform, {dataset}):
        super().__init__(backbone, loss, args, transform, dataset)
        {init}

    def begin_task(self, dataset):
        {begin_task}

    def end_task(self, dataset):
        {end_task}

    def observe(self, inputs, labels, not_aug_inputs, {more}epoch=None):
        {observe}
        {learn}
        return loss.item()
"""
PARTS = {
    **{"top": "", "parser": "", "dataset": "dataset=None", "init": "pass", "begin_task": "pass", "end_task": "pass"},
    **{"more": "", "observe": "pass", "learn": LEARN},
}
OPTIONS = "@staticmethod\n    def get_parser(parser):\n        {}\n        return parser"


@pytest.fixture
def written(tmp_path):
    """Command of a run on digits by a method made of the given parts, in a file of its own."""
    numbers = itertools.count()

    def write(**parts):
        path = tmp_path / f"own{next(numbers)}.py"
        path.write_text(FILE.format(**{**PARTS, **parts}))
        return f"--plugin {path} --model own {DIGITS}"

    return write


# Tasks


@pytest.mark.parametrize("when", ["begin_task", "end_task"])
def test_method_that_counts_tasks_itself_has_the_figures_of_one_that_does_not(launch, written, when):
    often = " --n_epochs 2 --eval_epochs 1"
    plain = launch(written() + often)
    counting = launch(written(**{when: "self.current_task += 1"}) + often)
    assert plain.code == counting.code == 0
    assert counting.metrics == plain.metrics


def test_second_stage_of_a_method_that_counts_tasks_itself_predicts(launch, written):
    plain = launch(written() + " --stage2 crt")
    counting = launch(written(end_task="self.current_task += 1") + " --stage2 crt")
    assert plain.code == counting.code == 0
    assert counting.metrics == plain.metrics


@pytest.mark.parametrize("stream", ["self.dataset", "dataset"])
def test_loaders_that_a_constructor_takes_leave_the_stream_where_it_was(launch, written, stream):
    plain = launch(written())
    looking = launch(written(init=f"self.size = {stream}.get_data_loaders()[0].dataset.data.shape[2]"))
    assert plain.code == looking.code == 0
    assert looking.metrics == plain.metrics


# Whose method it is


def test_plugin_that_requires_the_stream_is_taken_for_mammoths(launch, written):
    seen = "assert not_aug_inputs.dtype.is_floating_point; assert recorded.shape == labels.shape"
    record = "dataset.train_loader.dataset.recorded = np.arange(len(dataset.train_loader.dataset.data))"
    record += '; dataset.train_loader.dataset.extra_return_fields += ("recorded",)'
    run = launch(written(dataset="dataset", more="recorded=None, ", begin_task=record, observe=seen))
    assert run.code == 0


@pytest.mark.parametrize("learn", ["loss = self.loss(self.net(inputs), labels); self.step(loss)", LEARN])
def test_plugin_that_requires_the_stream_and_uses_what_only_this_project_offers_is_of_this_project(
    launch, written, learn
):
    dtype = "uint8" if "self.step" in learn else "float32"
    line = written(dataset="dataset", observe=f"assert not_aug_inputs.dtype == torch.{dtype}", learn=learn)
    assert launch(line).code == 0


def test_name_of_this_project_that_a_plugin_gives_to_its_own_method_tells_nothing(launch, written):
    learn = f"{LEARN}; self.step(loss)\n        return loss.item()\n\n    def step(self, loss):\n        pass\n"
    line = written(
        dataset="dataset", observe="assert not_aug_inputs.dtype == torch.float32", learn=f"{learn}\n        #"
    )
    assert launch(line).code == 0


def test_plugin_that_derives_from_a_method_of_this_project_is_of_this_project(launch, tmp_path):
    path = tmp_path / "own.py"
    path.write_text(
        "import torch\nfrom models.er import ER\n\nclass Own(ER):\n    NAME = 'own'\n\n"
        "    def __init__(self, backbone, loss, args, transform, dataset):\n"
        "        super().__init__(backbone, loss, args, transform, dataset)\n\n"
        "    def observe(self, inputs, labels, not_aug_inputs, epoch=None):\n"
        "        assert not_aug_inputs.dtype == torch.uint8\n"
        "        return super().observe(inputs, labels, not_aug_inputs, epoch)\n"
    )
    assert launch(f"--plugin {path} --model own --buffer_size 10 {DIGITS}").code == 0


# Batches and samples


def test_field_added_to_the_data_set_comes_from_the_loader_and_once_to_observe(launch, written):
    begin = (
        "data = dataset.train_loader.dataset\n"
        "        data.logits = torch.arange(2.0 * len(data)).view(-1, 2)\n"
        '        data.extra_return_fields += ("logits",)\n'
        "        for inputs, labels, raw, logits in dataset.train_loader:\n"
        "            assert torch.equal(logits, data.logits[dataset.train_loader.positions])\n"
        "            for y, row in zip(labels, logits):\n"
        "                assert data.targets[int(row[0]) // 2] == y\n"
        "        from torch.utils.data import DataLoader\n"
        "        assert len(next(iter(DataLoader(data, batch_size=3)))) == 4"
    )
    observe = (
        "data = self.dataset.train_loader.dataset\n"
        "        assert torch.equal(torch.as_tensor(data.targets)[(logits[:, 0] / 2).long()], labels)"
    )
    assert launch(written(begin_task=begin, observe=observe, more="logits=None, ")).code == 0


def stream_of_digits():
    import datasets

    words = "--model sgd --dataset seq-digits --max_samples_per_class 5 --batch_size 4"
    return datasets.get_dataset(parse_args(words.split()))


def test_samples_of_a_loader_can_be_seen_as_an_array_before_a_task_begins():
    stream = stream_of_digits()
    train, test = stream.get_data_loaders()
    assert train.dataset.data.shape == (10, 8, 8)
    assert train.dataset.data.dtype == np.uint8
    shown = torch.cat([raw for _, _, raw in train.dataset and stream.train_loader])
    assert sorted(map(bytes, train.dataset.data)) == sorted(map(bytes, shown[:, 0].contiguous().numpy()))
    data = stream.test_loaders[0].dataset.data
    inputs = torch.cat([inputs for inputs, _ in test])
    torch.testing.assert_close(inputs, stream.get_normalization_transform()(torch.from_numpy(data)[:, None]))


def grey(image):
    """Takes an image of Pillow only."""
    return torch.from_numpy(np.array(image.convert("L"), dtype=np.float32))[None]


def inverted(sample):
    """Takes a tensor only."""
    return 1 - sample


@pytest.mark.parametrize("transform", [grey, inverted, functools.partial(torch.sub, 1)])
def test_transform_given_to_the_data_set_is_that_of_its_batches(transform):
    from datasets.utils.open_data import open_data

    stream = stream_of_digits()
    loader, _ = stream.get_data_loaders()
    data = open_data(loader)
    loader.dataset.transform = transform
    for inputs, _, raw in loader:
        torch.testing.assert_close(inputs, 255 * raw if transform is grey else 1 - raw)
    inputs, _, raw = data[3]
    torch.testing.assert_close(inputs, 255 * raw if transform is grey else 1 - raw)
    loader.dataset.transform = stream.get_normalization_transform()
    inputs, _, raw = next(iter(loader))
    assert torch.equal(inputs, stream.get_normalization_transform()(raw))
    loader.dataset.transform = None
    inputs, _, raw = next(iter(loader))
    assert torch.equal(inputs, raw)


def test_chain_of_torchvision_given_to_the_data_set_is_called_image_by_image():
    from utils.torchvision_import import import_torchvision

    transforms = import_torchvision("transforms")
    from datasets.utils.open_data import open_data

    stream = stream_of_digits()
    loader, _ = stream.get_data_loaders()
    flip = [transforms.RandomHorizontalFlip(0.5), transforms.ToTensor()]
    torch.manual_seed(0)
    open_data(loader).transform = transforms.Compose(flip)
    assert torch.initial_seed() == 0
    assert torch.equal(torch.get_rng_state(), torch.Generator().manual_seed(0).get_state())
    flipped = [
        torch.equal(one, plain.flip(-1)) for inputs, _, raw in loader for one, plain in zip(inputs, raw, strict=True)
    ]
    assert 0 < sum(flipped) < len(flipped)


def test_transform_given_to_the_data_set_is_noted_as_lost(launch, written, capsys):
    line = written(begin_task="dataset.train_loader.dataset.transform = lambda sample: 1 - sample")
    assert launch(line).code == 0
    assert "transform of samples" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["seq-cifar10", "seq-digits", "uiprmd"])
def test_inverse_of_the_normalisation_tells_mean_and_deviation(name):
    import datasets

    stream = datasets.get_dataset(parse_args(["--model", "sgd", "--dataset", name]))
    inverse = stream.get_denormalization_transform()
    assert inverse.mean.shape == inverse.std.shape == (stream.input_shape[0],)
    x = torch.rand(2, *stream.input_shape)
    shape = (1, -1, *[1] * (x.ndim - 2))
    torch.testing.assert_close(inverse(x), x * inverse.std.view(shape) + inverse.mean.view(shape))


# Shares of a ring


HINDSIGHT = {
    "top": "from datasets import get_dataset\nfrom utils.ring_buffer import RingBuffer",
    "parser": OPTIONS.format("add_rehearsal_args(parser)"),
    "init": (
        "self.task_number = 0\n"
        "        self.buffer = RingBuffer(self.args.buffer_size, self.device, get_dataset(args).N_TASKS)"
    ),
    "begin_task": (
        "if self.task_number > self.buffer.task_number:\n"
        "            self.buffer.num_seen_examples = 0\n"
        "            self.buffer.task_number = self.task_number"
    ),
    "observe": "self.buffer.add_data(examples=not_aug_inputs, labels=labels)",
    "end_task": "self.task_number += 1",
}


def test_ring_of_a_method_that_numbers_its_tasks_keeps_a_share_for_each(launch, written):
    run = launch(written(**HINDSIGHT) + " --buffer_size 14")
    assert run.code == 0
    labels = run.checkpoint["model"]["buffer.labels"]
    # 14 // 3 places for each of (0..3), (4..6), (7..9); two are left over.
    edges = [0, 4, 7, 10]
    tasks = torch.bucketize(labels[:12], torch.tensor(edges[1:-1]), right=True)
    assert tasks.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert run.checkpoint["model"]["buffer._extra_state"]["n_stored"] == 12


def offer(buffer, *ids):
    slots = buffer.add_data(torch.tensor(ids).view(-1, 1), labels=torch.tensor(ids))
    return slots.tolist(), buffer.labels[: len(buffer)].tolist()


def test_share_of_a_ring_goes_round_within_itself():
    from utils.ring_buffer import RingBuffer

    buffer = RingBuffer(8, "cpu", 2)
    assert offer(buffer, 1, 2, 3) == ([0, 1, 2], [1, 2, 3])
    assert offer(buffer, 4, 5) == ([3, 0], [5, 2, 3, 4])
    buffer.num_seen_examples, buffer.task_number = 0, 1
    assert offer(buffer, 10, 11, 12, 13, 14, 15) == ([-1, -1, 6, 7, 4, 5], [5, 2, 3, 4, 14, 15, 12, 13])
    assert buffer.num_seen_examples == 6
    other = RingBuffer(8, "cpu", 2)
    other.load_state_dict(buffer.state_dict())
    assert offer(other, 16) == offer(buffer, 16) == ([6], [5, 2, 3, 4, 14, 15, 16, 13])


def test_share_of_a_ring_that_was_not_filled_leaves_no_places_without_samples():
    from utils.ring_buffer import RingBuffer

    buffer = RingBuffer(8, "cpu", 2)
    offer(buffer, 1)
    buffer.num_seen_examples, buffer.task_number = 0, 1
    assert offer(buffer, 10, 11, 12, 13, 14)[1] == [1, 14, 11, 12, 13]


def test_share_of_a_ring_whose_samples_are_not_counted_anew_leaves_no_places_without_samples():
    from utils.ring_buffer import RingBuffer

    buffer = RingBuffer(8, "cpu", 2)
    offer(buffer, 1, 2, 3, 4, 5)
    buffer.task_number = 1
    assert offer(buffer, 10)[1] == [5, 2, 3, 4, 10]
    assert offer(buffer, 11, 12, 13, 14)[1] == [5, 2, 3, 4, 14, 11, 12, 13]


def test_ring_without_tasks_is_one_share():
    from utils.ring_buffer import RingBuffer

    buffer = RingBuffer(4)
    assert buffer.buffer_portion_size == 4
    assert offer(buffer, 1, 2, 3, 4, 5) == ([-1, 1, 2, 3, 0], [5, 2, 3, 4])


def test_ring_with_fewer_places_than_tasks_is_refused(launch, written, capsys):
    assert launch(written(**HINDSIGHT) + " --buffer_size 2").code == 2
    assert "--buffer_size 3" in capsys.readouterr().err


# Defaults


DEFAULTS = OPTIONS.format(
    "parser.set_defaults(lr=.123, optimizer='adam', n_epochs=2, lr_milestones=(3, 5), label_perc=None, of_no_option=7)"
)


def without(line, *names):
    words = line.split()
    for name in names:
        place = words.index(f"--{name}")
        del words[place : place + 2]
    return words


@pytest.mark.parametrize(
    "parser",
    [
        DEFAULTS,
        "@staticmethod\n    def get_parser():\n        parser = ArgumentParser(); add_management_args(parser); "
        "add_experiment_args(parser)\n        parser.set_defaults(lr=.123, optimizer='adam', n_epochs=2, "
        "lr_milestones=[3, 5])\n        return parser",
    ],
)
def test_defaults_that_a_plugin_sets_come_before_those_of_the_stream(written, parser, tmp_path):
    words = without(written(parser=parser), "lr", "n_epochs")
    args = parse_args(words)
    assert (args.lr, args.optimizer, args.n_epochs, args.lr_milestones) == (0.123, "adam", 2, [3, 5])
    assert {args.sources[name] for name in ("lr", "optimizer", "n_epochs", "lr_milestones")} == {"plugin"}
    assert args.sources["seed"] == args.sources["num_workers"] == "default"
    assert (args.label_perc, args.backbone, args.sources["backbone"]) == (
        1.0,
        "mlp",
        "configs/datasets/seq-digits.yaml",
    )
    config = tmp_path / "values.yaml"
    config.write_text("lr: 0.5\n")
    args = parse_args([*words, "--config", str(config), "--n_epochs", "7"])
    assert (args.lr, args.n_epochs, args.optimizer) == (0.5, 7, "adam")


def test_default_that_a_plugin_sets_and_does_not_fit_is_refused(written, tmp_path):
    from utils.errors import UsageError

    parser = OPTIONS.format("parser.set_defaults(optimizer='lion')")
    with pytest.raises(UsageError, match="plugin: optimizer: 'lion' is not one of"):
        parse_args(written(parser=parser).split())
