"""LwF.MC by hand: binary targets from the old network and the labels."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from utils.binary_distillation import distilled_binary_cross_entropy

DIGITS = ("--dataset", "seq-digits", "--max_samples_per_class", "12", "--batch_size", "8")


def test_worked_example():
    outputs, old = torch.tensor([[0.0, 2.0, -1.0]]), torch.tensor([[1.0]])
    q = 1 / (1 + math.exp(-1.0))
    softplus = [math.log1p(math.exp(z)) for z in (0.0, 2.0, -1.0)]
    expected = (softplus[0] - q * 0.0 + softplus[1] - 2.0 + softplus[2]) / 3
    value = distilled_binary_cross_entropy(outputs, torch.tensor([1]), old)
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_gradient_is_output_minus_target_and_an_exemplar_gets_no_label():
    outputs, old = torch.randn(2, 4, requires_grad=True), torch.randn(2, 2, requires_grad=True)
    distilled_binary_cross_entropy(outputs, torch.tensor([0, 3]), old).backward()
    targets = torch.cat([old.detach().sigmoid(), torch.tensor([[0.0, 0.0], [0.0, 1.0]])], dim=1)
    torch.testing.assert_close(outputs.grad, (outputs.detach().sigmoid() - targets) / 8)
    assert old.grad is None


def test_loss_is_over_the_classes_seen_of_tasks_of_any_size(drive, monkeypatch):
    run = drive("lwf-mc", *DIGITS)
    seen = []
    for past, end in ((0, 4), (4, 7), (7, 10)):
        run.begin()
        with torch.no_grad():
            run.model.net.classifier.bias += 0.3
        inputs, labels, raw = run.batch()
        old, outputs = run.model.old_net(inputs), run.model.net(inputs)
        targets = F.one_hot(labels, 10).float()
        targets[:, :past] = old[:, :past].sigmoid()
        with monkeypatch.context() as patch:
            patch.setattr(run.model, "step", lambda loss: seen.append(loss.item()) or loss.item())
            run.model.meta_observe(inputs, labels, raw, epoch=0)
        expected = F.binary_cross_entropy(outputs[:, :end].sigmoid(), targets[:, :end])
        assert seen[-1] == pytest.approx(expected.item(), rel=1e-5)
        torch.testing.assert_close(old, outputs - 0.3)
        run.learn()


def test_old_network_is_not_taught(drive):
    run = drive("lwf-mc", *DIGITS)
    run.session()
    run.begin()
    before = {name: value.clone() for name, value in run.model.old_net.state_dict().items()}
    run.learn()
    assert all(torch.equal(value, before[name]) for name, value in run.model.old_net.state_dict().items())
    assert not torch.equal(run.model.net.classifier.weight, run.model.old_net.classifier.weight)


def test_weight_of_the_squared_norm(drive, monkeypatch):
    losses = []
    for weight in ("0", "0.01"):
        run = drive("lwf-mc", *DIGITS, "--wd_reg", weight)
        run.begin()
        losses.append(run.model.meta_observe(*run.batch(), epoch=0))
    fresh = drive("lwf-mc", *DIGITS)
    norm = sum(parameter.square().sum().item() for parameter in fresh.model.net.parameters())
    assert losses[1] - losses[0] == pytest.approx(0.01 * norm, rel=1e-4)


def test_tasks_of_one_class_work(launch):
    assert launch("--model lwf-mc --dataset seq-digits --n_tasks 10 --n_epochs 1 --max_samples_per_class 8").code == 0
