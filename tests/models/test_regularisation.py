"""Online EWC and synaptic intelligence: what is important, and what holding it in place costs."""

from __future__ import annotations

import pytest
import torch
from torch.nn.utils import parameters_to_vector

import backbone
import datasets
import models
from utils.args import parse_args
from utils.conf import set_random_seed


def build(model, *options, dataset="uiprmd"):
    """A model at the beginning of the first task, and its stream."""
    args = parse_args(["--model", model, "--dataset", dataset, "--batch_size", "8", *options])
    stream = datasets.get_dataset(args)
    set_random_seed(0)
    made = models.get_model(args, backbone.get_backbone(args), stream.get_loss(), stream.get_transform(), stream)
    begin(made, stream)
    return made, stream


def begin(model, stream):
    stream.get_data_loaders()
    model.meta_begin_task(stream)
    model.net.train()


def position(model):
    return parameters_to_vector(model.net.parameters()).detach().clone()


def fisher_by_hand(model, stream, of_one):
    """Mean over the task's samples of the squared gradient of `of_one(outputs, label)`, in evaluation mode."""
    raw, labels, *_ = stream.train_loader.dataset[torch.arange(len(stream.train_loader.dataset)).tolist()]
    model.net.eval()
    squares = []
    for x, y in zip(model.normalization_transform(raw).split(1), labels.split(1), strict=True):
        model.net.zero_grad()
        of_one(model.net(x), y).backward()
        squares.append(parameters_to_vector([p.grad for p in model.net.parameters()]).square())
    return torch.stack(squares).mean(0)


def minus_log_likelihood(outputs, label):
    return -torch.log_softmax(outputs, 1)[0, label]


# Online EWC


def test_fisher_information_of_classes_is_that_of_the_labels():
    model, stream = build("ewc-on", "--max_samples_per_class", "12", dataset="seq-digits")
    model.meta_end_task(stream)
    torch.testing.assert_close(model.fisher, fisher_by_hand(model, stream, minus_log_likelihood))
    assert torch.equal(model.anchor, position(model))


def test_fisher_information_of_scores_is_that_of_a_gaussian_around_the_score():
    model, stream = build("ewc-on")
    model.meta_end_task(stream)
    expected = 2 * fisher_by_hand(model, stream, lambda outputs, score: outputs.sum())
    torch.testing.assert_close(model.fisher, expected)
    first, bias = next(iter(model.net.parameters())), model.net.feature_dim
    assert first is model.net.classifier.weight
    assert model.fisher[bias].item() == pytest.approx(2), "the score follows the head's bias one to one"


def test_fisher_information_of_a_distribution_head_is_that_of_the_streams_loss():
    model, stream = build("ewc-on", "--score_head", "usdl")
    model.meta_end_task(stream)
    torch.testing.assert_close(model.fisher, fisher_by_hand(model, stream, model.loss))


def test_fisher_information_is_measured_without_batch_statistics():
    options = ("--max_samples_per_class", "4", "--backbone", "resnet18", "--width", "4")
    model, stream = build("ewc-on", *options, dataset="seq-digits")
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    model.meta_end_task(stream)
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())
    torch.testing.assert_close(model.fisher, fisher_by_hand(model, stream, minus_log_likelihood), rtol=1e-4, atol=1e-7)


def test_fisher_information_of_tasks_adds_up_with_gamma():
    model, stream = build("ewc-on", "--gamma", "0.5")
    model.meta_end_task(stream)
    first = model.fisher.clone()
    begin(model, stream)
    model.meta_end_task(stream)
    expected = 0.5 * first + 2 * fisher_by_hand(model, stream, lambda outputs, score: outputs.sum())
    torch.testing.assert_close(model.fisher, expected)


def test_ewc_penalty_is_half_of_lambda_gamma_fisher_times_the_squared_distance(monkeypatch):
    model, stream = build("ewc-on", "--e_lambda", "6", "--gamma", "0.5")
    inputs, labels, raw = next(iter(stream.train_loader))
    model.meta_observe(inputs, labels, raw, epoch=0)
    assert model.logged == {}, "there is nothing to hold in the first task"
    model.meta_end_task(stream)
    begin(model, stream)
    with torch.no_grad():
        for parameter in model.net.parameters():
            parameter.add_(0.01)
    model.fisher.copy_(torch.arange(len(model.fisher)) / 1e4)
    plain = model.loss(model.net(inputs), labels).item()
    expected = 6 / 2 * 0.5 * (model.fisher.double() * 0.01**2).sum().item()
    assert model.meta_observe(inputs, labels, raw, epoch=0) == pytest.approx(plain + expected, rel=1e-4)
    assert model.logged["penalty"] == pytest.approx(expected, rel=1e-4)


def test_published_weight_of_a_penalty_without_the_half_is_doubled_here():
    args = parse_args(["--model", "ewc-on", "--dataset", "seq-cifar10", "--model_config", "best"])
    assert (args.e_lambda / 2 * args.gamma, args.lr) == (10, 0.03)


# Synaptic intelligence


def on_a_quadratic(*options, curvature=4.0):
    """SI whose loss is curvature / 2 |theta|^2, learnt by plain gradient descent, and where it begins."""
    model, stream = build("si", "--optimizer", "sgd", "--optim_wd", "0", "--lr", "0.05", *options)
    model.loss = lambda outputs, labels: curvature / 2 * parameters_to_vector(model.net.parameters()).square().sum()
    return model, stream, next(iter(stream.train_loader)), position(model)


def test_importance_on_a_quadratic_is_the_closed_form():
    model, stream, batch, start = on_a_quadratic("--xi", "0.01")
    n, rate, curvature = 5, 0.05, 4.0
    for _ in range(n):
        model.meta_observe(*batch, epoch=0)
    kept = (1 - rate * curvature) ** (2 * n)
    torch.testing.assert_close(position(model), start * kept**0.5)
    # -sum g dtheta = rate curvature^2 sum theta_t^2, a geometric series; a continuous path would give the decrease of
    # the loss, curvature / 2 (theta_0^2 - theta_n^2).
    path = rate * curvature**2 * start.square() * (1 - kept) / (1 - (1 - rate * curvature) ** 2)
    torch.testing.assert_close(model.path, path)
    model.meta_end_task(stream)
    torch.testing.assert_close(model.importance, path / ((start * (1 - kept**0.5)).square() + 0.01))


def test_path_takes_the_full_gradient_times_the_step_that_was_made():
    model, _, batch, start = on_a_quadratic("--clip_grad", "0.1")
    model.meta_observe(*batch, epoch=0)
    step = -0.05 * 0.1 * start / start.norm()
    torch.testing.assert_close(position(model), start + step)
    torch.testing.assert_close(model.path, -4.0 * start * step, rtol=1e-3, atol=1e-9)


def test_path_of_small_steps_adds_up_to_the_decrease_of_the_loss():
    model, stream = build("si", "--optimizer", "sgd", "--optim_wd", "0", "--lr", "0.001", "--batch_size", "64")
    batch = next(iter(stream.train_loader))
    losses = [model.meta_observe(*batch, epoch=0) for _ in range(20)]
    last = model.loss(model.net(batch[0]), batch[1]).item()
    assert model.path.sum().item() == pytest.approx(losses[0] - last, rel=0.1)


def test_si_penalty_pulls_back_and_is_no_part_of_the_path():
    model, stream, batch, _ = on_a_quadratic("--c", "3")
    model.meta_end_task(stream)
    begin(model, stream)
    model.importance.fill_(0.5)
    start = model.anchor.clone()
    model.meta_observe(*batch, epoch=0)
    assert model.logged["penalty"] == 0
    torch.testing.assert_close(position(model), start * 0.8)
    first = model.path.clone()
    value = model.meta_observe(*batch, epoch=0)
    moved = -0.2 * start
    assert model.logged["penalty"] == pytest.approx(3 * 0.5 * moved.square().sum().item(), rel=1e-4)
    assert value == pytest.approx(2 * (0.8 * start).square().sum().item() + model.logged["penalty"], rel=1e-4)
    step = -0.05 * (4 * 0.8 * start + 2 * 3 * 0.5 * moved)
    torch.testing.assert_close(position(model), 0.8 * start + step)
    torch.testing.assert_close(model.path - first, -4 * 0.8 * start * step, rtol=1e-4, atol=1e-7)


def test_importance_adds_up_over_tasks_starts_each_path_anew_and_is_never_negative():
    model, stream = build("si", "--xi", "0.5")
    model.path.fill_(1.0)
    model.meta_end_task(stream)
    assert torch.equal(model.importance, torch.full_like(model.path, 2.0))
    with torch.no_grad():
        model.net.classifier.bias.add_(1.0)
    begin(model, stream)
    assert not model.path.any()
    assert torch.equal(model.anchor, position(model))
    model.path.fill_(0.25)
    model.path[0] = -100.0
    model.meta_end_task(stream)
    assert model.importance[0] == 0
    assert (model.importance[1:] == 2.5).all()


# Both


@pytest.mark.parametrize("options", ["--model ewc-on --e_lambda 0", "--model si --c 0"])
@pytest.mark.parametrize("dataset", ["uiprmd", "seq-digits"])
def test_without_a_weight_both_are_fine_tuning(launch, options, dataset):
    line = f"--dataset {dataset} --n_tasks 2 --n_epochs 2"
    plain, run = launch(f"--model sgd {line}"), launch(f"{options} {line}")
    net = {name: value for name, value in run.checkpoint["model"].items() if name.startswith("net.")}
    assert net
    assert all(torch.equal(value, plain.checkpoint["model"][name]) for name, value in net.items())


def test_both_forget_less_than_fine_tuning_on_scores(launch):
    errors = {
        name: launch(f"--model {name} --dataset uiprmd --n_tasks 3").summary["mae"]
        for name in ("sgd", "ewc-on", "si --c 3 --xi 0.001")
    }
    plain = errors.pop("sgd")
    assert max(errors.values()) < 0.85 * plain, (plain, errors)
