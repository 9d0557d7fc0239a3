"""Hindsight anchors by hand: how they are made, and what they hold the network to."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from utils.errors import TrainingError

# Tasks of 4, 3 and 3 classes.
DIGITS = ("--dataset", "seq-digits", "--max_samples_per_class", "20", "--batch_size", "8", "--buffer_size", "20")
SCORES = ("--buffer_size", "6", "--batch_size", "8")
SGD = ("--optimizer", "sgd", "--optim_wd", "0", "--lr", "0.05", "--minibatch_size", "5")


def next_draw(model):
    """What the next step will draw from the memory."""
    state = model.buffer.generator.get_state()
    drawn = model.buffer.get_data(5, transform=model.transform)
    model.buffer.generator.set_state(state)
    return drawn


def second_task(drive, *options):
    """The model, what its next step learns from, and a copy of its network to compute that step with."""
    driven = drive("hal", *options, *SGD, "--hal_lambda", "3")
    driven.session()
    driven.begin()
    return driven.model, driven.batch(), next_draw(driven.model), copy.deepcopy(driven.model.net)


def moved(net, gradients, rate):
    """A copy of a network after a plain step."""
    net = copy.deepcopy(net)
    for p, g in zip(net.parameters(), gradients, strict=True):
        p.data -= rate * g
    return net


@pytest.mark.parametrize("options", [DIGITS, SCORES])
def test_change_at_the_anchors_by_a_plain_step_is_added_to_the_loss(drive, options):
    model, (inputs, labels, raw), (replayed, targets), net = second_task(drive, *options)
    parameters = list(net.parameters())
    loss = model.loss(net(torch.cat([inputs, replayed])), torch.cat([labels, targets]))
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
    anchors, _ = model.anchors.get_all_data()
    target = moved(net, gradients, 0.05)(anchors).detach()
    total = loss + 3 * (net(anchors) - target).square().mean()
    expected = moved(net, torch.autograd.grad(total, parameters), 0.05)
    assert total.item() > loss.item()
    assert model.meta_observe(inputs, labels, raw, epoch=0) == pytest.approx(total.item())
    for found, wanted in zip(model.net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


def test_the_plain_step_has_the_rate_of_every_parameter_group(drive):
    model, (inputs, labels, raw), (replayed, targets), net = second_task(drive, *DIGITS, "--backbone_lr_scale", "0.1")
    head = {id(p) for p in net.head_parameters()}
    loss = model.loss(net(torch.cat([inputs, replayed])), torch.cat([labels, targets]))
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    scaled = [g if id(p) in head else 0.1 * g for p, g in zip(net.parameters(), gradients, strict=True)]
    anchors, _ = model.anchors.get_all_data()
    change = (net(anchors) - moved(net, scaled, 0.05)(anchors)).square().mean()
    assert model.meta_observe(inputs, labels, raw, epoch=0) == pytest.approx((loss + 3 * change).item(), rel=1e-5)


@pytest.mark.parametrize(("epochs", "n_offered"), [("first", [8, 8, 16]), ("every", [8, 16, 24])])
def test_memory_is_offered_the_samples_of_the_epochs_asked_for(drive, epochs, n_offered):
    driven = drive("hal", *DIGITS, *SGD, "--offer_epochs", epochs)
    driven.begin()
    for epoch, n in zip((0, 1, 0), n_offered, strict=True):
        driven.model.meta_observe(*driven.batch(), epoch=epoch)
        assert driven.model.buffer.num_seen_examples == n


def test_first_task_replays_without_anchors(drive):
    driven = drive("hal", *DIGITS, *SGD)
    driven.begin()
    model = driven.model
    model.meta_observe(*driven.batch(), epoch=0)
    inputs, labels, raw = driven.batch()
    replayed, targets = next_draw(model)
    expected = F.cross_entropy(model.net(torch.cat([inputs, replayed])), torch.cat([labels, targets])).item()
    assert model.meta_observe(inputs, labels, raw, epoch=0) == pytest.approx(expected)
    assert "loss_anchors" not in model.logged


def test_mean_embedding_follows_the_batches_and_starts_anew_with_every_task(drive):
    driven = drive("hal", *DIGITS, *SGD, "--beta", "0.25")
    driven.begin()
    model, expected = driven.model, torch.zeros(8)
    for batch in list(driven.dataset.train_loader)[:3]:
        model.meta_observe(*batch, epoch=0)
        expected = 0.25 * expected + 0.75 * model.net(batch[0], returnt="features").mean(0).detach()
    torch.testing.assert_close(model.phi, expected)
    model.meta_end_task(driven.dataset)
    driven.begin()
    assert torch.equal(model.phi, torch.zeros(8))


def test_every_class_leaves_an_anchor_and_a_score_task_one_for_its_mean(drive):
    driven = drive("hal", *DIGITS)
    for n in (4, 7, 10):
        driven.session()
        assert model_labels(driven) == list(range(n))
    driven = drive("hal", *SCORES)
    means = []
    for _ in range(3):
        driven.session()
        means.append(driven.data()[1].mean().item())
    assert model_labels(driven) == pytest.approx(means)


def model_labels(driven):
    return driven.model.anchors.get_all_data()[1].tolist()


def test_anchors_descend_their_objective_each_on_its_own(drive, monkeypatch):
    driven = drive("hal", *DIGITS, *SGD, "--gamma", "0.2")
    driven.begin()
    driven.learn()
    model, forgetful = driven.model, {}
    original = type(model).forgetful
    monkeypatch.setattr(model, "forgetful", lambda: forgetful.setdefault("net", original(model)))
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    made = model.make_anchors(torch.tensor([0, 3]))
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())
    assert all(p.requires_grad for p in model.net.parameters())

    generator = torch.Generator().manual_seed(0)
    monkeypatch.setattr("models.hal.named_generator", lambda *names: generator)
    made = model.make_anchors(torch.tensor([0, 3]))
    generator.manual_seed(0)
    starts = torch.rand(2, 1, 8, 8, generator=generator)
    for label, start, found in zip((0, 3), starts, made, strict=True):
        anchor = start[None].clone().requires_grad_()
        target = torch.tensor([label])
        for _ in range(100):
            now, features = model.net(anchor, returnt="both")
            later = forgetful["net"](anchor)
            objective = F.cross_entropy(now, target) - F.cross_entropy(later, target)
            objective = objective + 0.2 * (features - model.phi).square().sum()
            anchor = (anchor - 0.05 * torch.autograd.grad(objective, anchor)[0]).detach().requires_grad_()
        torch.testing.assert_close(found, anchor[0].detach(), rtol=1e-3, atol=1e-4)


def test_anchors_see_networks_in_evaluation_mode_and_begin_with_other_noise_in_every_task(drive):
    driven = drive("hal", *DIGITS, *SGD)
    shown = []
    # Copies of the network have the hook too.
    driven.model.net.register_forward_pre_hook(lambda net, args: shown.append((net.training, args[0].clone())))
    for _ in range(2):
        driven.session()
    of_anchors = [(training, x) for training, x in shown if x.requires_grad]
    assert len(of_anchors) == 2 * 2 * 100
    assert not any(training for training, _ in of_anchors)
    first, second = of_anchors[0][1], of_anchors[200][1]
    assert not torch.equal(first[:3], second)


def test_forgetful_network_went_over_the_whole_memory_once(drive):
    driven = drive("hal", *DIGITS, *SGD)
    driven.begin()
    driven.learn()
    model = driven.model
    state = model.buffer.generator.get_state()
    order = torch.randperm(20, generator=model.buffer.generator)
    model.buffer.generator.set_state(state)
    net = copy.deepcopy(model.net)
    for slots in order.split(5):
        inputs, labels = model.buffer.get_data_by_index(slots, transform=model.transform)
        net = moved(net, torch.autograd.grad(model.loss(net(inputs), labels), list(net.parameters())), 0.05)
    for found, wanted in zip(model.forgetful().parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_gradient_that_is_not_finite_ends_the_run_and_changes_nothing(drive):
    driven = drive("hal", *DIGITS)
    driven.session()
    driven.begin()
    before = {name: value.clone() for name, value in driven.model.net.state_dict().items()}
    inputs, labels, raw = driven.batch()
    with pytest.raises(TrainingError, match="task 2"):
        driven.model.meta_observe(inputs * float("nan"), labels, raw, epoch=0)
    assert all(torch.equal(value, before[name]) for name, value in driven.model.net.state_dict().items())


def test_without_a_memory_it_is_fine_tuning(launch):
    line = "--dataset seq-digits --n_tasks 2 --n_epochs 1 --max_samples_per_class 20"
    plain, run = launch(f"--model sgd {line}"), launch(f"--model hal --buffer_size 0 {line}")
    net = {name: value for name, value in run.checkpoint["model"].items() if name.startswith("net.")}
    assert net
    assert all(torch.equal(value, plain.checkpoint["model"][name]) for name, value in net.items())
