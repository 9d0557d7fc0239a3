"""TOPIC for scores: triplets of batch and replay, old outputs on what is older than the session."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from utils.triplets import score_triplet_loss

BUFFER = ("--buffer_size", "8")


def drawn(model):
    """What the next draw from the buffer gives, without drawing."""
    state = model.buffer.generator.get_state()
    draw = model.buffer.get_data(model.minibatch_size, transform=model.transform)
    model.buffer.generator.set_state(state)
    return draw


def moved(driven):
    with torch.no_grad():
        for parameter in driven.model.net.parameters():
            parameter.add_(0.05 * torch.sin(torch.arange(parameter.numel()).float()).view_as(parameter))
    return driven


def test_the_loss_is_that_of_the_batch_and_triplets_and_old_outputs(drive):
    driven = drive("topic", *BUFFER, "--lambda_t", "0.3", "--lambda_o", "2", "--triplet_margin", "0.7")
    driven.session()
    driven.begin()
    model, (inputs, labels, raw) = moved(driven).model, driven.batch()
    replayed, scores, sessions = drawn(model)
    assert sessions.eq(0).all()
    outputs, features = model.net(inputs, returnt="both")
    new_outputs, new_features = model.net(replayed, returnt="both")
    triplets = score_triplet_loss(torch.cat([features, new_features]), torch.cat([labels, scores]), 0.7)
    old = F.mse_loss(new_outputs, model.old_net(replayed))
    assert min(triplets.item(), old.item()) > 0
    wanted = F.mse_loss(outputs.view(-1), labels) + 2 * old + 0.3 * triplets
    assert model.meta_observe(inputs, labels, raw, epoch=0) == pytest.approx(wanted.item(), rel=1e-5)
    assert model.logged["loss_triplet"] == pytest.approx(triplets.item(), rel=1e-5)
    assert model.logged["loss_distillation"] == pytest.approx(old.item(), rel=1e-5)


def test_samples_of_the_session_itself_have_no_old_outputs(drive):
    driven = drive("topic", *BUFFER)
    driven.begin()
    driven.learn()
    assert not driven.model.buffer.is_empty()
    assert "loss_distillation" not in driven.model.logged
    driven.model.meta_end_task(driven.dataset)
    driven.begin()
    driven.learn()
    model, (inputs, labels, raw) = moved(driven).model, driven.batch()
    replayed, _, sessions = drawn(model)
    earlier = sessions == 0
    assert 0 < earlier.sum() < len(earlier)
    wanted = F.mse_loss(model.net(replayed[earlier]), model.old_net(replayed[earlier])).item()
    model.meta_observe(inputs, labels, raw, epoch=1)
    assert model.logged["loss_distillation"] == pytest.approx(wanted, rel=1e-4)


def test_triplets_teach_the_features_and_not_the_head(drive):
    driven = drive("topic", *BUFFER, "--lambda_o", "0", "--lambda_t", "1")
    driven.session()
    driven.begin()
    driven.model.loss = lambda outputs, labels: 0 * outputs.sum()
    driven.model.meta_observe(*driven.batch(), epoch=0)
    assert all(p.grad.abs().max() > 0 for p in driven.model.net.trunk_parameters())
    assert all(p.grad.abs().max() == 0 for p in driven.model.net.head_parameters())


def test_the_old_network_rests_within_a_session_and_is_the_network_after_it(drive):
    driven = drive("topic", *BUFFER)
    for _ in range(2):
        before = copy.deepcopy(driven.model.old_net.state_dict())
        driven.begin()
        driven.learn()
        now = driven.model.old_net.state_dict()
        assert all(torch.equal(value, now[name]) for name, value in before.items())
        driven.model.meta_end_task(driven.dataset)
        now = driven.model.old_net.state_dict()
        assert all(torch.equal(value, now[name]) for name, value in driven.model.net.state_dict().items())
        assert not any(p.requires_grad for p in driven.model.old_net.parameters())


def test_raw_samples_are_stored_once_with_their_session(drive):
    driven = drive("topic", "--buffer_size", "200", "--n_epochs", "3")
    for session in range(2):
        driven.session()
        stored = driven.model.buffer.get_all_data()
        assert torch.bincount(stored[2]).tolist() == [45] * (session + 1)
    raw, scores = driven.data()
    order = scores.argsort(stable=True)
    stored_order = stored[1][45:].argsort(stable=True)
    assert torch.equal(stored[1][45:][stored_order], scores[order])
    assert sorted(stored[0][45:].flatten(1).sum(1).tolist()) == pytest.approx(sorted(raw.flatten(1).sum(1).tolist()))
