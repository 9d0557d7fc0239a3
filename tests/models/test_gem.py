"""Gradient episodic memory by hand: what is remembered, and which steps are allowed."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import parameters_to_vector

import backbone
import datasets
import models
from utils.args import parse_args
from utils.conf import set_random_seed
from utils.errors import TrainingError
from utils.gradients import project_gradient

SGD = ("--optimizer", "sgd", "--optim_wd", "0", "--lr", "0.01")


def build(*options, tasks=1):
    """A model that has gone through the first batch of some tasks, at the beginning of the next one, and its stream."""
    dataset = () if "--dataset" in options else ("--dataset", "uiprmd")
    args = parse_args(["--model", "gem", *dataset, "--buffer_size", "6", "--batch_size", "8", *options])
    stream = datasets.get_dataset(args)
    set_random_seed(0)
    model = models.get_model(args, backbone.get_backbone(args), stream.get_loss(), stream.get_transform(), stream)
    for _ in range(tasks):
        begin(model, stream)
        model.meta_observe(*next(iter(stream.train_loader)), epoch=0)
        model.meta_end_task(stream)
    begin(model, stream)
    return model, stream


def begin(model, stream):
    stream.get_data_loaders()
    model.meta_begin_task(stream)
    model.net.train()


def gradient(model, inputs, labels):
    model.net.zero_grad()
    model.loss(model.net(inputs), labels).backward()
    return parameters_to_vector([p.grad for p in model.net.parameters()]).clone()


def past_gradients(model, n_tasks):
    examples, labels, tasks = model.buffer.get_all_data(transform=model.normalization_transform)
    return torch.stack([gradient(model, examples[tasks == t], labels[tasks == t]) for t in range(n_tasks)])


def opposed(model):
    """A batch whose gradient raises the loss on what is remembered: nearly the same samples, errors turned round."""
    examples, labels, _ = model.buffer.get_all_data()
    target = 2 * model.net(model.normalization_transform(examples)).detach()[:, 0] - labels
    noise = 0.3 * torch.randn(examples.shape, generator=torch.Generator().manual_seed(0))
    return model.normalization_transform(examples) + noise, target, examples


# The memory


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        (("--buffer_scope", "session"), [6, 6, 6, 6]),
        (("--buffer_scope", "total"), [2, 2, 1, 1]),
        (("--buffer_scope", "total", "--buffer_size", "2"), [1, 1, 0, 0]),
        (("--buffer_scope", "session", "--buffer_size", "100"), [27, 27, 27, 27]),
    ],
)
def test_every_task_but_the_last_remembers_its_share(options, sizes):
    model, stream = build(*options, tasks=4)
    model.meta_observe(*next(iter(stream.train_loader)), epoch=0)
    model.meta_end_task(stream)
    tasks = model.buffer.get_all_data()[2]
    assert tasks.bincount(minlength=4).tolist() == sizes


def test_what_is_remembered_is_raw_samples_of_the_task_each_once_with_its_label():
    model, stream = build()
    examples, labels, _ = model.buffer.get_all_data()
    stream.set_task(0)
    raw, targets, *_ = stream.train_loader.dataset[list(range(27))]
    where = [int((raw == example).flatten(1).all(1).nonzero()) for example in examples]
    assert len(set(where)) == 6
    assert torch.equal(targets[where], labels)


def test_another_seed_remembers_other_samples():
    first, second = (build("--seed", seed)[0].buffer.get_all_data()[0] for seed in ("0", "1"))
    assert not torch.equal(first, second)


# The step


def test_gradient_that_agrees_with_the_past_is_taken_as_it_is():
    model, _ = build(*SGD)
    examples, labels, _ = model.buffer.get_all_data()
    inputs = model.normalization_transform(examples)
    expected = gradient(model, inputs, labels)
    loss = model.loss(model.net(inputs), labels).item()
    assert model.meta_observe(inputs, labels, examples, epoch=0) == pytest.approx(loss)
    torch.testing.assert_close(parameters_to_vector([p.grad for p in model.net.parameters()]), expected)
    assert model.logged["violated"] == 0


@pytest.mark.parametrize("margin", [0.0, 0.5])
def test_gradient_that_would_raise_a_past_loss_is_projected(margin):
    model, _ = build(*SGD, "--gamma", str(margin), tasks=3)
    inputs, labels, raw = opposed(model)
    plain, past = gradient(model, inputs, labels), past_gradients(model, 3)
    violated = (past @ plain < 0).float().mean()
    assert violated > 0
    before = parameters_to_vector(model.net.parameters()).detach().clone()
    model.meta_observe(inputs, labels, raw, epoch=0)
    assert model.logged["violated"] == pytest.approx(violated)
    taken = (before - parameters_to_vector(model.net.parameters())) / 0.01
    expected = project_gradient(plain, past, margin)
    torch.testing.assert_close(taken, expected, rtol=1e-2, atol=1e-3 * float(plain.norm()))
    found = parameters_to_vector([p.grad for p in model.net.parameters()])
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5 * float(plain.norm()))
    assert (past @ found > -1e-6 * past.norm(dim=1) * plain.norm()).all()


def test_steps_against_the_past_hardly_raise_its_loss():
    def rise(remembers):
        model, _ = build(*SGD, "--gamma", "0")
        examples, scores, _ = model.buffer.get_all_data(transform=model.normalization_transform)
        batch = opposed(model)
        before = model.loss(model.net(examples), scores).item()
        if not remembers:
            model.buffer.empty()
        for _ in range(20):
            model.meta_observe(*batch, epoch=0)
        return model.loss(model.net(examples), scores).item() - before

    assert abs(rise(True)) < 0.03 * rise(False)


def test_limit_of_the_gradient_applies_after_the_projection():
    model, _ = build(*SGD, "--clip_grad", "0.001")
    batch = opposed(model)
    before = parameters_to_vector(model.net.parameters()).detach().clone()
    model.meta_observe(*batch, epoch=0)
    moved = (parameters_to_vector(model.net.parameters()) - before).norm().item()
    assert moved == pytest.approx(0.01 * 0.001, rel=1e-2)


def test_gradient_that_is_not_finite_ends_the_run_and_changes_nothing():
    model, stream = build(*SGD)
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    inputs, labels, raw = next(iter(stream.train_loader))
    with pytest.raises(TrainingError, match="task 2"):
        model.meta_observe(inputs * float("nan"), labels, raw, epoch=0)
    model.buffer.examples[0] = float("inf")
    with pytest.raises(TrainingError, match="task 2"):
        model.meta_observe(inputs, labels, raw, epoch=0)
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())


# Whole runs


@pytest.mark.parametrize("dataset", ["uiprmd", "seq-digits"])
def test_without_a_memory_it_is_fine_tuning(launch, dataset):
    line = f"--dataset {dataset} --n_tasks 2 --n_epochs 2"
    plain, run = launch(f"--model sgd {line}"), launch(f"--model gem --buffer_size 0 {line}")
    net = {name: value for name, value in run.checkpoint["model"].items() if name.startswith("net.")}
    assert net
    assert all(torch.equal(value, plain.checkpoint["model"][name]) for name, value in net.items())


def test_it_forgets_less_than_fine_tuning(launch):
    line = "--dataset uiprmd --n_tasks 3"
    plain, run = launch(f"--model sgd {line}"), launch(f"--model gem --buffer_size 10 {line}")
    assert run.summary["mae"] < 0.7 * plain.summary["mae"]
    line = "--dataset seq-digits --n_epochs 5"
    plain, run = launch(f"--model sgd {line}"), launch(f"--model gem --buffer_size 200 {line}")
    assert run.summary["class_il_mean"] > plain.summary["class_il_mean"] + 15
