"""The triplet loss against a triple loop."""

import itertools

import pytest
import torch
import torch.nn.functional as F

from utils.triplets import score_triplet_loss


def draw(n: int, score_range: float = 1.0, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 4, generator=generator), score_range * torch.rand(n, generator=generator)


def by_loops(features, scores, margin) -> float:
    losses = []
    for i, j, k in itertools.permutations(range(len(scores)), 3):
        if abs(scores[i] - scores[j]) < abs(scores[i] - scores[k]):
            near, far = (2 - 2 * F.cosine_similarity(features[i], features[m], dim=0) for m in (j, k))
            losses.append(max(0.0, float(near - far) + margin))
    return sum(losses) / len(losses) if losses else 0.0


@pytest.mark.parametrize("margin", [0.0, 0.1, 5.0])
@pytest.mark.parametrize("n", [3, 4, 8])
def test_the_value_equals_a_triple_loop(n, margin):
    features, scores = draw(n, seed=n)
    assert score_triplet_loss(features, scores, margin).item() == pytest.approx(
        by_loops(features, scores, margin), 1e-5
    )


def test_ties_make_no_triplet():
    features, _ = draw(4)
    scores = torch.tensor([0.0, 1.0, -1.0, 1.0])  # the others are equally far from the first
    assert score_triplet_loss(features, scores, 0.1).item() == pytest.approx(by_loops(features, scores, 0.1), 1e-5)
    assert score_triplet_loss(features, torch.ones(4), 0.1).item() == 0


def test_features_on_an_arc_in_the_order_of_their_scores_cost_nothing_without_a_margin():
    angle = torch.tensor([0.1, 0.4, 0.9, 1.6])
    features = torch.stack([angle.cos(), angle.sin()], 1)
    assert score_triplet_loss(features, 10 * angle, 0.0).item() == pytest.approx(0, abs=1e-7)
    assert score_triplet_loss(features, angle[[2, 0, 3, 1]], 0.0).item() > 0.1


def test_neither_lengths_of_features_nor_the_unit_of_scores_matter():
    features, scores = draw(6)
    value = score_triplet_loss(features, scores, 0.1)
    assert score_triplet_loss(3 * features, 100 * scores + 5, 0.1).item() == pytest.approx(value.item(), 1e-4)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_two_samples_make_no_triplet_and_the_loss_can_still_be_differentiated(n):
    features = draw(n)[0].requires_grad_()
    value = score_triplet_loss(features, torch.arange(float(n)), 0.1)
    value.backward()
    assert value.item() == 0
    assert features.grad.eq(0).all()


@pytest.mark.parametrize("score_range", [0.0, 1e-6, 1.0, 1e3])
@pytest.mark.parametrize("kind", ["drawn", "zero", "equal", "huge"])
def test_value_and_gradient_are_finite(score_range, kind):
    features, scores = draw(7, score_range)
    features = {"drawn": features, "zero": 0 * features, "equal": features[:1].repeat(7, 1), "huge": 1e15 * features}[
        kind
    ].requires_grad_()
    value = score_triplet_loss(features, scores, 0.1)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(features.grad).all()
