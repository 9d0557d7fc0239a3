"""SLCA: the Gaussians of the sessions, and a head that is aligned with all of them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from utils.conf import named_generator


def with_dropout(net):
    net.layers[1].append(nn.Dropout(0.5))


def test_a_session_leaves_the_mean_and_covariance_of_its_clean_features_and_scores(drive):
    driven = drive("slca", "--n_epochs", "3", change=with_dropout)
    driven.model.transform = lambda raw: raw + 5
    for session in range(2):
        driven.session()
        raw, scores = driven.data()
        features = driven.features(raw).double()
        gaussians = driven.model.gaussians
        np.testing.assert_allclose(gaussians.means[session], features.mean(0), atol=1e-5)
        directions, deviations = gaussians.directions[session].double(), gaussians.deviations[session].double()
        covariance = features.T.cov()
        stored = directions.T * deviations.square() @ directions
        assert torch.allclose(stored, covariance, atol=1e-5 * float(covariance.max()))
        assert gaussians.score_means[session].item() == pytest.approx(scores.mean().item(), rel=1e-5)
        variance = gaussians.score_slopes[session].square().sum() + gaussians.score_residuals[session].square()
        assert variance.item() == pytest.approx(scores.var().item(), rel=1e-4)


def test_alignment_trains_the_head_and_nothing_else(drive):
    driven = drive("slca")
    driven.session()
    driven.begin()
    driven.learn()
    model = driven.model
    before, optimizer, moments = copy.deepcopy(model.net), model.opt, copy.deepcopy(model.opt.state_dict())
    model.meta_end_task(driven.dataset)
    for (name, p), old in zip(model.net.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(p, old) != name.startswith("classifier."), name
    assert model.opt is optimizer
    assert str(model.opt.state_dict()) == str(moments)


def test_the_first_session_has_nothing_to_align_with(drive):
    driven = drive("slca")
    driven.begin()
    driven.learn()
    before = copy.deepcopy(driven.model.net)
    driven.model.meta_end_task(driven.dataset)
    pairs = zip(driven.model.net.parameters(), before.parameters(), strict=True)
    assert all(torch.equal(p, old) for p, old in pairs)


def test_alignment_brings_back_what_the_head_forgot(drive):
    errors = []
    for steps in ("0", "300"):
        driven = drive("slca", "--align_steps", steps, "--n_epochs", "10")
        driven.session()
        raw, scores = driven.data()
        driven.session()
        driven.session()
        driven.model.eval()
        with torch.no_grad():
            errors.append(F.mse_loss(driven.model(raw).view(-1), scores).item())
    assert errors[1] < 0.5 * errors[0]


def test_a_step_takes_equally_many_draws_of_every_session_so_far_and_the_streams_loss(drive, monkeypatch):
    driven = drive("slca", "--align_steps", "2", "--pseudo_samples", "5")
    driven.session()
    driven.begin()
    model, seen = driven.model, []
    stream_loss = model.loss
    model.loss = lambda outputs, scores: seen.append((len(outputs), scores)) or stream_loss(outputs, scores)
    model.meta_end_task(driven.dataset)
    generator = named_generator(0, "slca", 1)
    wanted = [model.gaussians.sample([0, 1], 5, generator)[1] for _ in range(2)]
    assert [n for n, _ in seen] == [10, 10]
    assert all(torch.equal(scores, w) for (_, scores), w in zip(seen, wanted, strict=True))


def test_the_rate_of_alignment_is_that_of_the_run_unless_given(drive):
    for options, rate in (([], 0.02), (["--align_lr", "0.5"], 0.5)):
        driven = drive("slca", "--lr", "0.02", "--align_steps", "1", *options)
        driven.session()
        driven.begin()
        model, rates = driven.model, []
        step = model.step
        model.step = lambda loss, m=model, s=step, r=rates: r.append(m.opt.param_groups[0]["lr"]) or s(loss)
        model.meta_end_task(driven.dataset)
        assert rates == [rate]


def test_features_learn_slowly_after_the_first_session(drive):
    driven = drive("slca", "--lr", "0.1", "--backbone_lr_scale", "0.01")
    driven.session()
    driven.begin()
    assert [group["lr"] for group in driven.model.opt.param_groups] == pytest.approx([0.001, 0.1])


def test_the_memory_has_one_gaussian_for_each_session_from_the_start(drive):
    driven = drive("slca", "--covariance_rank", "3")
    shapes = {name: value.shape for name, value in driven.model.gaussians.state_dict().items()}
    assert shapes["directions"] == (3, 3, 16)
    for _ in range(3):
        driven.session()
    assert {name: value.shape for name, value in driven.model.gaussians.state_dict().items()} == shapes


def test_a_rank_above_the_number_of_features_is_the_full_covariance(drive):
    assert drive("slca", "--covariance_rank", "999").model.gaussians.directions.shape == (3, 16, 16)


# Classes

DIGITS = ("--dataset", "seq-digits", "--max_samples_per_class", "30", "--width", "50", "--batch_size", "8")


def test_a_class_leaves_the_mean_and_covariance_of_its_clean_features(drive):
    driven = drive("slca", *DIGITS)
    for first, end in ((0, 4), (4, 7)):
        driven.session()
        raw, labels = driven.data()
        features, gaussians = driven.features(raw).double(), driven.model.gaussians
        # At the end of a session its features are what the head was aligned with.
        for label in range(first, end):
            own = features[labels == label].numpy()
            np.testing.assert_allclose(gaussians.means[label], own.mean(0), atol=1e-5)
            directions, deviations = gaussians.directions[label].double(), gaussians.deviations[label].double()
            stored = (directions.T * deviations.square() @ directions).numpy()
            np.testing.assert_allclose(stored, np.cov(own.T), atol=1e-5 * np.cov(own.T).max())
    assert driven.model.seen == list(range(7))


def test_draws_of_a_class_carry_its_label(drive):
    driven = drive("slca", *DIGITS)
    driven.session()
    _, targets = driven.model.gaussians.sample(driven.model.seen, 3, named_generator(0, "draws"))
    assert targets.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3


def test_a_session_learns_among_its_own_classes_and_alignment_among_all_so_far(drive, monkeypatch):
    driven = drive("slca", *DIGITS, "--align_steps", "1", "--pseudo_samples", "2", "--logit_temperature", "0.5")
    driven.session()
    driven.begin()
    model, seen = driven.model, []
    monkeypatch.setattr(model, "step", lambda loss: seen.append(loss.item()) or loss.item())
    inputs, labels, raw = driven.batch()
    model.meta_observe(inputs, labels, raw)
    expected = F.cross_entropy(model.net(inputs)[:, 4:7], labels - 4)
    assert seen.pop() == pytest.approx(expected.item(), rel=1e-5)
    model.meta_end_task(driven.dataset)
    features, targets = model.gaussians.sample(range(7), 2, named_generator(0, "slca", 1))
    logits = model.net.classifier(features)[:, :7]
    expected = F.cross_entropy(logits / logits.norm(dim=1, keepdim=True) / 0.5, targets.long())
    assert seen == [pytest.approx(expected.item(), rel=1e-5)]
    model.args.logit_temperature = 0
    expected = F.cross_entropy(logits, targets.long()).item()
    assert model.alignment_loss(model.net.classifier(features), targets).item() == pytest.approx(expected, rel=1e-5)


def test_a_class_without_samples_is_never_drawn(drive):
    driven = drive("slca", *DIGITS)
    driven.begin()
    data = driven.dataset.train_loader.dataset
    data.targets[data.targets == 2] = 1
    driven.learn()
    driven.model.meta_end_task(driven.dataset)
    assert driven.model.seen == [0, 1, 3]


@pytest.mark.parametrize("seed", ["0", "1", "2"])
def test_all_classes_are_known_at_the_end_where_fine_tuning_knows_the_last(drive, seed):
    accuracies = {}
    for name in ("slca", "sgd"):
        driven = drive(name, *DIGITS, "--n_epochs", "4", "--lr", "0.05", "--seed", seed)
        raw, labels = [], []
        for _ in range(3):
            driven.session()
            for values, part in zip((raw, labels), driven.data(), strict=True):
                values.append(part)
        driven.model.eval()
        with torch.no_grad():
            outputs = driven.model(driven.dataset.get_normalization_transform()(torch.cat(raw)))
        accuracies[name] = (outputs.argmax(1) == torch.cat(labels)).float().mean().item()
    assert accuracies["slca"] > accuracies["sgd"] + 0.2
