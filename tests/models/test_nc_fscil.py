"""NC-FSCIL for scores: directions, targets, the score that is read off, and what is trained when."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from utils.errors import UsageError

BUFFER = ("--buffer_size", "4")


def test_directions_are_orthonormal_fixed_by_the_seed_and_not_trained(drive):
    model = drive("nc-fscil", *BUFFER).model
    assert model.directions.shape == (10, 16)
    assert torch.allclose(model.directions @ model.directions.T, torch.eye(10), atol=1e-6)
    assert torch.equal(model.directions, drive("nc-fscil", *BUFFER).model.directions)
    assert not torch.allclose(model.directions, drive("nc-fscil", *BUFFER, "--seed", "1").model.directions)
    assert "directions" in model.state_dict()
    assert "directions" not in dict(model.named_parameters())


def test_more_nodes_than_features_still_have_orthonormal_directions(drive):
    driven = drive("nc-fscil", *BUFFER, "--n_bins", "20")
    assert torch.allclose(driven.model.directions @ driven.model.directions.T, torch.eye(20), atol=1e-6)
    assert all(map(np.isfinite, driven.session()))


def test_targets_are_unit_vectors_between_the_directions_of_two_nodes(drive):
    model = drive("nc-fscil", *BUFFER, "--n_bins", "5").model
    assert model.nodes.tolist() == [0, 0.25, 0.5, 0.75, 1]
    targets = model.targets(torch.tensor([0.0, 0.25, 0.3, 0.375, 1.0]))
    assert torch.allclose(targets.norm(dim=1), torch.ones(5), atol=1e-6)
    assert torch.allclose(targets[[0, 1, 4]], model.directions[[0, 1, 4]], atol=1e-6)
    shares = (targets @ model.directions.T).square()
    assert torch.allclose(shares[2], torch.tensor([0, 0.8, 0.2, 0, 0]), atol=1e-5)
    assert torch.allclose(shares[3], torch.tensor([0, 0.5, 0.5, 0, 0]), atol=1e-5)


def test_hard_targets_are_the_directions_of_the_nearest_nodes(drive):
    model = drive("nc-fscil", *BUFFER, "--n_bins", "5", "--binning", "hard").model
    targets = model.targets(torch.tensor([0.1, 0.2, 0.6, 0.99]))
    assert torch.equal(targets, model.directions[[0, 1, 2, 4]])


def test_scores_outside_the_range_have_the_targets_of_its_ends(drive):
    model = drive("nc-fscil", *BUFFER).model
    targets = model.targets(torch.tensor([-1e3, -0.1, 1.1, 1e3]))
    assert torch.allclose(targets, model.directions[[0, 0, -1, -1]], atol=1e-6)


@pytest.mark.parametrize("scale", ["unit", "raw"])
def test_a_feature_at_its_target_has_exactly_its_score(drive, scale):
    model = drive("nc-fscil", *BUFFER, "--score_scale", scale).model
    low, high = (0.5, 1.0) if scale == "raw" else (0.0, 1.0)
    assert (model.nodes[0].item(), model.nodes[-1].item()) == (low, high)
    model.projection = nn.Identity()
    scores = torch.linspace(low, high, 37)
    predicted = model.score(7 * model.targets(scores))
    assert predicted.shape == (37, 1)
    assert torch.allclose(predicted[:, 0], scores, atol=1e-5)
    assert model.dot_regression(7 * model.targets(scores), scores).item() == pytest.approx(0, abs=1e-10)


def test_features_that_point_nowhere_have_the_score_in_the_middle(drive):
    model = drive("nc-fscil", *BUFFER).model
    model.projection = nn.Identity()
    away = torch.stack([torch.zeros(16), -model.directions.sum(0), -model.directions[0]])
    assert model.score(away)[:, 0].tolist() == pytest.approx([0.5] * 3, abs=1e-3)


def test_the_loss_is_half_the_squared_distance_of_the_cosine_from_one(drive):
    model = drive("nc-fscil", *BUFFER).model
    features, scores = torch.randn(6, 16, generator=torch.Generator().manual_seed(0)), torch.linspace(0, 1, 6)
    cosine = F.cosine_similarity(model.projection(features), model.targets(scores))
    assert model.dot_regression(features, scores).item() == pytest.approx(((cosine - 1) ** 2).mean().item() / 2)


@pytest.mark.parametrize("score_range", [0.0, 1e-6, 1.0, 1e3])
@pytest.mark.parametrize("kind", ["drawn", "zero", "huge"])
@pytest.mark.parametrize("n", [1, 5])
def test_loss_and_gradients_are_finite(drive, score_range, kind, n):
    model = drive("nc-fscil", *BUFFER).model
    factor = {"drawn": 1.0, "zero": 0.0, "huge": 1e12}[kind]
    features = (factor * torch.randn(n, 16, generator=torch.Generator().manual_seed(0))).requires_grad_()
    loss = model.dot_regression(features, score_range * torch.linspace(0, 1, n))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(features.grad).all()
    assert all(torch.isfinite(p.grad).all() for p in model.projection.parameters())


def with_batch_norm(net):
    net.layers[0][1] = nn.BatchNorm1d(8)


def test_features_learn_in_the_first_session_only_and_their_statistics_rest_with_them(drive):
    driven = drive("nc-fscil", *BUFFER, "--optim_wd", "0.1", change=with_batch_norm)
    for session in range(3):
        before = {name: value.clone() for name, value in driven.model.state_dict().items() if hasattr(value, "clone")}
        driven.session()
        after = driven.model.state_dict()
        moved = {name for name, value in before.items() if not torch.equal(value, after[name])}
        trunk = {name for name in before if name.startswith("net.layers.")}
        assert (trunk <= moved) if session == 0 else not trunk & moved
        assert {name for name in before if name.startswith("projection.")} <= moved
        assert not moved & {"directions", "nodes", "net.classifier.weight", "net.classifier.bias"}


def test_stored_features_stay_those_of_their_samples(drive):
    driven = drive("nc-fscil", *BUFFER, "--selection", "first")
    driven.session()
    raw, _ = driven.data()
    for _ in range(2):
        driven.session()
    assert torch.allclose(driven.model.buffer.get_all_data()[0][:4], driven.features(raw[:4]), atol=1e-6)


def test_replayed_features_are_learnt_with_the_batch(drive):
    driven = drive("nc-fscil", *BUFFER)
    driven.session()
    driven.begin()
    model, (inputs, labels, raw) = driven.model, driven.batch()
    stored, stored_labels, _ = model.buffer.get_all_data()
    features = torch.cat([driven.features(raw), stored])
    wanted = model.dot_regression(features, torch.cat([labels, stored_labels])).item()
    assert model.meta_observe(inputs, labels, raw, epoch=0) == pytest.approx(wanted, rel=1e-5)


def test_predictions_come_from_the_directions_not_from_the_head(drive):
    driven = drive("nc-fscil", *BUFFER)
    driven.session()
    raw, _ = driven.data()
    inputs = driven.dataset.get_normalization_transform()(raw)
    driven.model.eval()
    with torch.no_grad():
        before = driven.model(inputs)
        driven.model.net.classifier.weight.add_(1)
        assert torch.equal(driven.model(inputs), before)
        assert torch.allclose(before, driven.model.score(driven.features(raw)), atol=1e-6)
    assert before.min() >= 0
    assert before.max() <= 1


@pytest.mark.parametrize(("options", "said"), [(["--n_bins", "1"], "at least 2"), (["--score_head", "usdl"], "head")])
def test_what_it_cannot_do_is_refused(drive, options, said):
    with pytest.raises(UsageError, match=said):
        drive("nc-fscil", *BUFFER, *options)
