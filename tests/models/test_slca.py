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
