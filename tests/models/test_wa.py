"""Weight alignment by hand: the weighted loss, the lengths of the head's weights, their signs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from utils.args import parse_args
from utils.errors import UsageError

DIGITS = ("--dataset", "seq-digits", "--max_samples_per_class", "12", "--batch_size", "8")


@pytest.fixture
def wa(drive):
    return lambda *options: drive("wa", *DIGITS, "--buffer_size", "30", *options)


def test_loss_weighs_distillation_by_the_share_of_past_classes(wa, monkeypatch):
    run = wa("--softmax_temp", "3")
    run.session()
    run.begin()
    with torch.no_grad():
        run.model.net.classifier.weight += torch.rand_like(run.model.net.classifier.weight)
    inputs, labels, raw = run.batch()
    outputs, old = run.model.net(inputs), run.model.old_net(inputs)
    kd = -(F.softmax(old[:, :4] / 3, 1) * F.log_softmax(outputs[:, :4] / 3, 1)).sum(1).mean()
    expected = 3 / 7 * F.cross_entropy(outputs[:, :7], labels) + 4 / 7 * kd
    seen = []
    monkeypatch.setattr(run.model, "step", lambda loss: seen.append(loss) or loss.item())
    run.model.meta_observe(inputs, labels, raw, epoch=0)
    assert seen[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_new_weights_are_brought_to_the_mean_length_of_past_ones(wa):
    run = wa()
    run.session()
    run.begin()
    run.learn()
    before = run.model.net.classifier.weight.detach().clone()
    bias = run.model.net.classifier.bias.detach().clone()
    run.model.meta_end_task(run.dataset)
    after, lengths = run.model.net.classifier.weight.detach(), before.norm(dim=1)
    gamma = lengths[:4].mean() / lengths[4:7].mean()
    torch.testing.assert_close(after[4:7], gamma * before[4:7])
    assert abs(gamma - 1) > 1e-3
    assert torch.equal(after[:4], before[:4])
    assert torch.equal(after[7:], before[7:])
    assert torch.equal(run.model.net.classifier.bias, bias)


def test_first_task_is_not_aligned(wa):
    run = wa()
    run.begin()
    run.learn()
    before = run.model.net.classifier.weight.detach().clone()
    run.model.meta_end_task(run.dataset)
    assert torch.equal(run.model.net.classifier.weight, before)


def test_weights_are_clipped_unless_told_otherwise(wa):
    run, free = wa(), wa("--weight_clip", "False")
    for each in (run, free):
        each.begin()
        each.model.meta_observe(*each.batch(), epoch=0)
    assert run.model.net.classifier.weight.min() == 0
    torch.testing.assert_close(run.model.net.classifier.weight, free.model.net.classifier.weight.clamp(min=0))


@pytest.mark.parametrize(
    "words", [("--cls_head", "cosine"), ("--cls_head", "causal"), ("--cls_loss", "ldam"), ("--stage2", "tde")]
)
def test_heads_that_divide_by_the_lengths_are_refused_before_anything_is_built(words):
    with pytest.raises(UsageError, match=rf"^{' '.join(words)}: wa aligns .* leave it out, or take --cls_loss cb"):
        parse_args(["--model", "wa", "--dataset", "seq-digits", "--buffer_size", "10", *words])


@pytest.mark.parametrize("words", [("--cls_head", "linear"), ("--cls_loss", "balanced-softmax"), ("--stage2", "crt")])
def test_options_that_leave_the_head_linear_are_taken(wa, words):
    run = wa(*words)
    run.session()
    run.session()


def test_tasks_of_one_class_work(launch):
    line = "--model wa --dataset seq-digits --n_tasks 10 --n_epochs 1 --max_samples_per_class 8 --buffer_size 10"
    assert launch(line).code == 0
