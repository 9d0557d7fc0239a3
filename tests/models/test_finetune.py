"""Fine-tuning: which outputs are in the softmax."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from utils.errors import UsageError

DIGITS = ("--dataset", "seq-digits", "--max_samples_per_class", "12", "--batch_size", "8")


def test_only_outputs_of_the_task_are_trained(drive):
    run = drive("finetune", *DIGITS)
    run.session()
    run.begin()
    before = run.model.net.classifier.weight.detach().clone()
    inputs, labels, raw = run.batch()
    expected = F.cross_entropy(run.model.net(inputs)[:, 4:7], labels - 4).item()
    assert run.model.meta_observe(inputs, labels, raw, epoch=0) == pytest.approx(expected, rel=1e-6)
    changed = (run.model.net.classifier.weight != before).any(1)
    assert changed.nonzero().view(-1).tolist() == [4, 5, 6]
    assert torch.equal(run.model(inputs), run.model.net(inputs))


def test_tasks_of_one_class_are_refused(drive):
    with pytest.raises(UsageError, match="one class"):
        drive("finetune", *DIGITS, "--n_tasks", "10")
