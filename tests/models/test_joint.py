"""Joint training by heads of tasks: which outputs a sample trains."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from utils.errors import UsageError

# Ten classes in three tasks: 0-3, 4-6, 7-9.
DIGITS = ("--dataset", "seq-digits", "--n_tasks", "3", "--max_samples_per_class", "12", "--batch_size", "8")


@pytest.fixture
def by_heads(drive):
    return lambda *options: drive("joint", *DIGITS, "--task_heads", "True", *options)


@pytest.mark.parametrize("loss", ["ce", "balanced-softmax", "focal", "ldam"])
def test_outputs_of_other_tasks_have_no_gradient(by_heads, loss):
    run = by_heads("--cls_loss", loss)
    run.begin()
    inputs, labels, raw = (torch.cat(part) for part in zip(*run.dataset.train_loader, strict=True))
    of_second = (labels >= 4) & (labels < 7)
    run.model.meta_observe(inputs[of_second], labels[of_second], raw[of_second], epoch=0)
    gradient = run.model.net.classifier.weight.grad
    assert gradient.isfinite().all()
    assert not gradient[:4].any()
    assert not gradient[7:].any()
    assert gradient[4:7].any(1).all()


def test_loss_is_the_mean_of_those_of_the_heads(by_heads):
    run = by_heads()
    run.begin()
    inputs, labels, raw = (torch.cat(part) for part in zip(*run.dataset.train_loader, strict=True))
    outputs, total = run.model.net(inputs), 0.0
    for first, end in ((0, 4), (4, 7), (7, 10)):
        own = (labels >= first) & (labels < end)
        total += F.cross_entropy(outputs[own, first:end], labels[own] - first, reduction="sum").item()
    assert run.model.meta_observe(inputs, labels, raw, epoch=0) == pytest.approx(total / len(labels))


def test_without_the_option_all_outputs_are_one_softmax(drive):
    run = drive("joint", *DIGITS)
    run.begin()
    inputs, labels, raw = run.batch()
    expected = F.cross_entropy(run.model.net(inputs), labels).item()
    assert run.model.meta_observe(inputs, labels, raw, epoch=0) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--dataset", "perm-digits", "--task_heads", "1"), "tasks of perm-digits share their outputs"),
        (("--dataset", "uiprmd", "--task_heads", "1"), "tasks of uiprmd share their outputs"),
        ((*DIGITS, "--n_tasks", "10", "--task_heads", "1"), "a task of one class learns nothing"),
    ],
)
def test_heads_of_tasks_that_have_none_are_refused(drive, options, message):
    with pytest.raises(UsageError, match=message):
        drive("joint", *options)
