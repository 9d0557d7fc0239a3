"""Dark experience replay by hand: what is stored, and what the loss is made of."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

import backbone
import datasets
import models
from utils.args import parse_args
from utils.conf import set_random_seed


def build(model, *options, dataset="uiprmd"):
    """A model at the beginning of the first task, and its stream."""
    argv = ["--model", model, "--dataset", dataset, "--buffer_size", "20", "--buffer_scope", "total"]
    args = parse_args([*argv, "--batch_size", "8", "--minibatch_size", "4", *options])
    stream = datasets.get_dataset(args)
    set_random_seed(0)
    made = models.get_model(args, backbone.get_backbone(args), stream.get_loss(), stream.get_transform(), stream)
    stream.get_data_loaders()
    made.meta_begin_task(stream)
    made.net.train()
    return made, stream


def losses(model, monkeypatch):
    """Let steps record their loss instead of changing the network."""
    seen = []
    monkeypatch.setattr(model, "step", lambda loss: seen.append(loss.item()) or loss.item())
    return seen


@pytest.mark.parametrize("dataset", ["uiprmd", "seq-digits"])
@pytest.mark.parametrize("name", ["der", "derpp"])
def test_outputs_of_the_moment_are_stored_with_the_raw_samples(name, dataset):
    model, stream = build(name, dataset=dataset)
    before = copy.deepcopy(model.net)
    inputs, labels, raw = next(iter(stream.train_loader))
    model.meta_observe(inputs, labels, raw, epoch=0)
    stored = model.buffer.get_all_data()
    assert torch.equal(stored[0], raw)
    assert torch.equal(stored[-1], before(inputs))
    assert not torch.equal(stored[-1], model.net(inputs)), "the network has moved on"
    assert torch.equal(stored[1], labels)


def test_der_adds_the_squared_distance_to_the_stored_outputs(monkeypatch):
    model, stream = build("der", "--alpha", "0.7")
    batches = iter(stream.train_loader)
    model.meta_observe(*next(batches), epoch=0)
    inputs, labels, raw = next(batches)
    generator = copy.deepcopy(model.buffer.generator.get_state())
    replayed, _, logits = model.buffer.get_data(4, transform=model.transform)
    model.buffer.generator.set_state(generator)
    seen = losses(model, monkeypatch)
    model.meta_observe(inputs, labels, raw, epoch=0)
    expected = model.loss(model.net(inputs), labels) + 0.7 * F.mse_loss(model.net(replayed), logits)
    assert seen == [pytest.approx(expected.item())]


def test_derpp_adds_the_labels_of_another_draw(monkeypatch):
    model, stream = build("derpp", "--alpha", "0.7", "--beta", "0.3", dataset="seq-digits")
    batches = iter(stream.train_loader)
    model.meta_observe(*next(batches), epoch=0)
    inputs, labels, raw = next(batches)
    generator = copy.deepcopy(model.buffer.generator.get_state())
    first, _, logits = model.buffer.get_data(4, transform=model.transform)
    second, targets, _ = model.buffer.get_data(4, transform=model.transform)
    model.buffer.generator.set_state(generator)
    assert not torch.equal(first, second)
    seen = losses(model, monkeypatch)
    model.meta_observe(inputs, labels, raw, epoch=0)
    net = model.net
    expected = F.cross_entropy(net(inputs), labels) + 0.7 * F.mse_loss(net(first), logits)
    expected = expected + 0.3 * F.cross_entropy(net(second), targets)
    assert seen == [pytest.approx(expected.item())]


def test_without_weights_or_buffer_both_are_fine_tuning(launch):
    line = "--dataset uiprmd --n_tasks 2 --n_epochs 2"
    plain = launch(f"--model sgd {line}")
    for options in (
        "--model der --buffer_size 0",
        "--model der --buffer_size 9 --alpha 0",
        "--model derpp --buffer_size 0",
        "--model derpp --buffer_size 9 --alpha 0 --beta 0",
    ):
        run = launch(f"{options} {line}")
        net = {name: value for name, value in run.checkpoint["model"].items() if name.startswith("net.")}
        assert net
        assert all(torch.equal(value, plain.checkpoint["model"][name]) for name, value in net.items())


def test_both_forget_less_than_fine_tuning_on_digits(launch):
    line = "--dataset seq-digits"
    figures = {
        name: launch(f"--model {name} {line}").summary["class_il_mean"]
        for name in ("sgd", "der --buffer_size 200", "derpp --buffer_size 200")
    }
    plain = figures.pop("sgd")
    assert min(figures.values()) > plain + 15, (plain, figures)
