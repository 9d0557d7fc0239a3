"""The memory of herded exemplars: what stays in it, and that a task is learnt together with it."""

from __future__ import annotations

from argparse import Namespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from utils.args import complete, parse_args
from utils.config import dump_config
from utils.errors import UsageError
from utils.exemplars import JoinedData, first_of_each_class
from utils.selection import herding

# Ten classes in three tasks: 0-3, 4-6, 7-9.
DIGITS = ("--dataset", "seq-digits", "--max_samples_per_class", "12", "--batch_size", "8")


@pytest.fixture
def replay(drive):
    return lambda size, *options: drive("replay", *DIGITS, "--buffer_size", str(size), *options)


def rows(samples):
    """Samples as a sorted list, to compare sets of them."""
    return sorted(sample.flatten().tolist() for sample in samples)


def test_every_class_keeps_the_first_of_its_herding_order(replay):
    run = replay(22)
    orders = {}
    for task, m in enumerate((5, 3, 2)):
        run.begin()
        raw, labels = (part.clone() for part in run.data())
        if task:
            raw, labels = raw[labels >= run.model.n_past_classes], labels[labels >= run.model.n_past_classes]
        run.learn()
        run.model.meta_end_task(run.dataset)
        for label in labels.unique().tolist():
            of_class = raw[labels == label]
            orders[label] = of_class[herding(F.normalize(run.features(of_class), dim=1), 12)]
        examples, kept = run.model.buffer.get_all_data()
        assert kept.bincount().tolist() == [m] * run.model.n_seen_classes
        for label, order in orders.items():
            assert torch.equal(examples[kept == label], order[:m])
        assert examples.dtype == torch.uint8
        assert len(run.model.buffer.examples) == 22


def test_task_is_learnt_together_with_the_exemplars_of_past_classes(replay):
    run = replay(22)
    run.session()
    stored, stored_labels = run.model.buffer.get_all_data()
    run.begin()
    own, own_labels = run.model.task_data[np.arange(36)][:2]
    assert set(own_labels.tolist()) == {4, 5, 6}
    for _ in range(2):
        _, labels, raw = (torch.cat(part) for part in zip(*run.dataset.train_loader, strict=True))
        assert rows(raw) == rows(torch.cat([own, stored]))
        assert labels.bincount().tolist() == [5, 5, 5, 5, 12, 12, 12]
        for label in range(4):
            assert rows(raw[labels == label]) == rows(stored[stored_labels == label])


def test_loss_is_over_the_classes_seen(replay, monkeypatch):
    run = replay(22)
    run.session()
    run.begin()
    inputs, labels, raw = run.batch()
    seen = []
    monkeypatch.setattr(run.model, "step", lambda loss: seen.append(loss) or loss.item())
    run.model.meta_observe(inputs, labels, raw, epoch=0)
    assert seen[0].item() == pytest.approx(F.cross_entropy(run.model.net(inputs)[:, :7], labels).item(), rel=1e-6)


def test_fewer_places_than_classes_keep_nothing_and_say_so(replay, capsys):
    run = replay(4)
    run.session()
    assert len(run.model.buffer) == 4
    run.session()
    assert run.model.buffer.is_empty()
    assert "fewer places" in capsys.readouterr().out
    run.begin()
    assert len(run.dataset.train_loader.dataset) == 36


def test_class_with_fewer_samples_than_places_keeps_all(replay):
    run = replay(80)
    run.session()
    assert run.model.buffer.get_all_data()[1].bincount().tolist() == [12] * 4


def test_number_for_every_class_lets_the_memory_grow_and_leaves_what_is_in_it(drive):
    run = drive("replay", *DIGITS, "--exemplars_per_class", "3")
    kept = None
    for task in range(3):
        run.session()
        examples, labels = run.model.buffer.get_all_data()
        assert labels.bincount().tolist() == [3] * run.model.n_seen_classes
        if task:
            assert torch.equal(examples[: len(kept)], kept)
        kept = examples.clone()
        assert len(run.model.buffer.examples) == 30


def test_class_of_fewer_samples_than_the_number_for_every_class_keeps_all(drive):
    run = drive("replay", *DIGITS, "--exemplars_per_class", "20")
    for _ in range(3):
        run.session()
    assert run.model.buffer.get_all_data()[1].bincount().tolist() == [12] * 10


def test_run_with_a_number_for_every_class_is_continued_to_the_same_bits(launch, identical, stop_after):
    line = "--model replay --dataset seq-digits --n_tasks 3 --n_epochs 1 --max_samples_per_class 12 --batch_size 8"
    line += " --exemplars_per_class 2"
    straight = launch(line)
    stop_after(10)
    stopped = launch(line)
    assert stopped.code == 143
    assert identical(launch("", resume=stopped.path), straight)


REPLAY = ["--model", "lucir", "--dataset", "seq-digits"]


def sizes(args):
    return args.buffer_size, args.exemplars_per_class


def test_size_of_the_memory_is_given_in_one_of_two_ways(tmp_path):
    with pytest.raises(UsageError, match="lucir on seq-digits needs --buffer_size or --exemplars_per_class"):
        parse_args(REPLAY)
    with pytest.raises(UsageError, match="command line: buffer_size and exemplars_per_class both"):
        parse_args([*REPLAY, "--buffer_size", "40", "--exemplars_per_class", "2"])
    (tmp_path / "both.yaml").write_text("buffer_size: 40\nexemplars_per_class: 2\n")
    with pytest.raises(UsageError, match=r"both.yaml: buffer_size and exemplars_per_class both"):
        parse_args([*REPLAY, "--config", str(tmp_path / "both.yaml")])


def test_size_of_a_stronger_layer_takes_the_place_of_the_other_one(tmp_path):
    preset = [*REPLAY, "--model_config", "paper"]
    assert sizes(parse_args(preset)) == (None, 20)
    given = parse_args([*preset, "--buffer_size", "40"])
    assert sizes(given) == (40, None)
    assert given.sources["exemplars_per_class"] == "command line"
    (tmp_path / "mine.yaml").write_text(dump_config(given))
    mine = ["--config", str(tmp_path / "mine.yaml")]
    assert sizes(parse_args(mine)) == (40, None)
    assert sizes(parse_args([*mine, "--exemplars_per_class", "5"])) == (None, 5)


def test_namespace_made_by_hand_may_give_a_size_beside_a_preset():
    args = Namespace(model="lucir", dataset="seq-digits", model_config="paper", buffer_size=40)
    complete(args)
    assert sizes(args) == (40, None)


def test_tasks_of_one_class_work(launch):
    run = launch(
        "--model replay --dataset seq-digits --n_tasks 10 --n_epochs 1 --max_samples_per_class 8 --buffer_size 10"
    )
    assert run.code == 0
    assert run.checkpoint["model"]["buffer.labels"].tolist() == list(range(10))


def test_head_alone_is_fitted_and_the_optimiser_of_the_task_stays(drive):
    def normalise(net):
        net.layers[0] = nn.Sequential(net.layers[0], nn.BatchNorm1d(8))

    run = drive("replay", *DIGITS, "--buffer_size", "22", change=normalise)
    run.session()
    run.model.net.train()
    before = {name: value.clone() for name, value in run.model.net.state_dict().items()}
    of_task, shown = run.model.opt, []

    def loss(outputs, labels):
        shown.append(labels)
        return F.cross_entropy(outputs, labels)

    run.model.fit_head(2, 0.1, loss)
    changed = {name for name, value in run.model.net.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert run.model.opt is of_task
    assert torch.cat(shown).bincount().tolist() == [10] * 4


def test_joined_data_reads_any_mixture(replay):
    run = replay(0)
    run.begin()
    own = run.model.task_data
    examples, labels = torch.arange(3 * 64, dtype=torch.uint8).view(3, 1, 8, 8), torch.tensor([7, 8, 9])
    data = JoinedData(own, examples, labels)
    n = len(own)
    assert len(data) == n + 3
    raw, targets, positions, _ = data[[n + 2, 1, n]]
    assert positions.tolist() == [1, n + 2, n]
    assert targets.tolist() == [own.targets[1].item(), 9, 7]
    assert torch.equal(raw, torch.cat([own[[1]][0], examples[[2, 0]]]))
    assert torch.equal(data[[n + 1]][0], examples[[1]])
    assert torch.equal(data[[0]][0], own[[0]][0])


def test_joined_data_leaves_out_what_cannot_be_read(replay):
    run = replay(0)
    run.begin()
    own = run.model.task_data
    source = own.source

    class Broken:
        def read(self, indices):
            raw, _, _ = source.read(indices)
            return raw[1:], list(range(1, len(indices))), ["broken"]

    own.source = Broken()
    data = JoinedData(own, torch.zeros(1, 1, 8, 8, dtype=torch.uint8), torch.tensor([9]))
    raw, targets, positions, problems = data[[0, 1, len(own)]]
    assert (positions.tolist(), problems, len(raw)) == ([1, len(own)], ["broken"], 2)
    assert targets.tolist() == [own.targets[1].item(), 9]
    assert data[[0, len(own)]][1].tolist() == [9]


def test_first_of_each_class_keeps_their_order():
    assert first_of_each_class(torch.tensor([2, 0, 2, 0, 2, 1]), 2).tolist() == [1, 3, 5, 0, 2]
