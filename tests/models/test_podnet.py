"""PODNet by hand: pooled maps, proxies, and the loss between classes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from backbone.utils.cosine_head import CosineHead
from models.podnet import pooled_distance
from utils.errors import UsageError

DIGITS = ("--dataset", "seq-digits", "--max_samples_per_class", "12", "--batch_size", "8")


@pytest.fixture
def podnet(drive):
    options = ("--buffer_size", "40", "--nb_proxy", "3", "--fitting_epochs", "1")
    return lambda *more: drive("podnet", *DIGITS, *options, *more)


def test_maps_are_compared_by_their_sums_along_each_axis():
    maps = torch.tensor([[[[1.0, 2.0], [3.0, 0.0]]]])
    old = torch.tensor([[[[0.0, 1.0], [0.0, 0.0]]]])
    # Squares 1 4 / 9 0: columns 10 4, rows 5 9; of the old map: columns 0 1, rows 1 0.
    new_vector = torch.tensor([10.0, 4.0, 5.0, 9.0]) / math.sqrt(222)
    old_vector = torch.tensor([0.0, 1.0, 1.0, 0.0]) / math.sqrt(2)
    assert pooled_distance(maps, old).item() == pytest.approx((new_vector - old_vector).norm().item(), rel=1e-5)
    # A change of scale is no change.
    assert pooled_distance(3 * maps, maps).item() == pytest.approx(0, abs=1e-6)


def test_maps_may_have_no_axis_or_three_and_equal_ones_give_no_gradient():
    flat = torch.rand(4, 6)
    expected = (F.normalize(flat.square(), dim=1) - F.normalize(torch.ones(4, 6), dim=1)).norm(dim=1).mean()
    torch.testing.assert_close(pooled_distance(flat, torch.ones(4, 6)), expected)
    maps = torch.rand(2, 3, 4, 5, 6, requires_grad=True)
    pooled_distance(maps, maps.detach()).backward()
    assert maps.grad.abs().max() == 0


def test_similarity_is_the_mean_of_the_proxies_cosines_weighted_by_their_softmax():
    head = CosineHead(5, 2, 3)
    features = torch.randn(4, 5)
    for label in range(2):
        cosines = F.cosine_similarity(features[:, None], head.weight[label], dim=2)
        expected = (cosines.exp() / cosines.exp().sum(1, keepdim=True) * cosines).sum(1)
        torch.testing.assert_close(head.similarity(features)[:, label], expected)


def test_nca_is_a_hinge_on_the_margin_to_all_other_classes(podnet):
    run = podnet()
    with torch.no_grad():
        run.model.net.classifier.scale.fill_(2.0)
    outputs = torch.tensor([[1.5, 0.2, -0.4], [9.0, 0.0, 0.0]])
    first = math.log(math.exp(1.5) + math.exp(-0.4)) - (0.2 - 2 * 0.6)
    value = run.model.nca(outputs, torch.tensor([1, 0]))
    assert value.item() == pytest.approx((first + 0) / 2, rel=1e-5)
    # The margin itself does not move the scale.
    assert not value.requires_grad


def test_few_classes_do_not_turn_the_scale_around(launch):
    run = launch("--model podnet --dataset seq-digits --n_epochs 5 --buffer_size 50 --stop_after 2")
    assert run.checkpoint["model"]["net.classifier.scale"] > 0.5
    assert run.summary["class_il_mean"] > 60


def test_loss_is_the_weighted_sum_of_three(podnet, monkeypatch):
    run = podnet("--lambda_c", "2", "--lambda_f", "0.7")
    run.session()
    run.begin()
    run.model.meta_observe(*run.batch(), epoch=0)
    inputs, labels, raw = run.batch()
    outputs, maps = run.model.net(inputs, returnt="full")
    old_maps = run.model.old_net(inputs, returnt="full")[1]
    spatial = sum(pooled_distance(a, b) for a, b in zip(maps, old_maps, strict=True)) / len(maps)
    flat = (1 - F.cosine_similarity(maps[-1], old_maps[-1])).mean()
    expected = run.model.nca(outputs[:, :7], labels) + math.sqrt(7 / 3) * (2 * spatial + 0.7 * flat)
    assert spatial > 0
    assert flat > 0
    seen = []
    monkeypatch.setattr(run.model, "step", lambda loss: seen.append(loss) or loss.item())
    run.model.meta_observe(inputs, labels, raw, epoch=0)
    assert seen[0].item() == pytest.approx(expected.item(), rel=1e-5)


def test_proxies_of_a_new_class_start_at_samples_of_it(podnet):
    run = podnet()
    run.session()
    before = run.model.net.classifier.weight.detach().clone()
    run.begin()
    weight = run.model.net.classifier.weight.detach()
    for label in (4, 5, 6):
        features = run.features(run.model.samples_of(label))
        cosines = F.normalize(weight[label], dim=1) @ F.normalize(features, dim=1).T
        torch.testing.assert_close(cosines.max(1).values, torch.ones(3))
        torch.testing.assert_close(weight[label].norm(dim=1), before[:4].norm(dim=2).mean().expand(3))
    assert torch.equal(weight[:4], before[:4])
    assert torch.equal(weight[7:], before[7:])


def test_first_task_of_one_class_is_refused_and_a_later_one_works(podnet, launch):
    with pytest.raises(UsageError, match="at least two classes"):
        podnet("--n_tasks", "10")
    # Ten classes in seven tasks: 2, 2, 2, 1, 1, 1, 1.
    line = "--model podnet --dataset seq-digits --n_tasks 7 --n_epochs 1 --max_samples_per_class 8 --buffer_size 20"
    assert launch(line).code == 0
