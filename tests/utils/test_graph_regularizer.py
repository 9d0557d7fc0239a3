"""MAGR's graph regulariser, against a slow double loop and on inputs that broke the released code."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from utils.graph_regularizer import BLOCKS, DIVERGENCES, SCALES, angular_distances, graph_regularizer

VARIANTS = list(itertools.product(SCALES, DIVERGENCES, BLOCKS))


def draw(n: int, dim: int = 6, seed: int = 0, score_range: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, dim, generator=generator, dtype=torch.float64)
    return features, score_range * torch.rand(n, generator=generator, dtype=torch.float64)


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def js(p: list[float], q: list[float]) -> float:
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    return (kl(p, middle) + kl(q, middle)) / 2


def softmax(row: list[float]) -> list[float]:
    exponentials = [math.exp(value - max(row)) for value in row]
    return [value / sum(exponentials) for value in exponentials]


def by_loops(features, scores, n_old, scale, divergence, tau, blocks) -> float:
    """The definition, one pair at a time."""
    if n_old in (0, len(scores)):
        blocks = "joint"  # the only part is the whole matrix
    n = len(scores)
    everything, old, new = range(n), range(n_old), range(n_old, n)
    parts = [(everything, everything)] if blocks != "parts" else []
    parts += [(old, old), (old, new), (new, old), (new, new)] if blocks != "joint" else []
    total = 0.0
    for rows, columns in parts:
        losses, squares = [], []
        for i in rows:
            compared = [j for j in columns if scale == "raw" or i != j or rows != columns]
            if len(compared) < (2 if scale == "raw" else 3):
                continue
            angles, gaps = [], []
            for j in compared:
                cosine = features[i] @ features[j] / np.linalg.norm(features[i]) / np.linalg.norm(features[j])
                angles.append(math.acos(min(max(cosine, -1 + 1e-6), 1 - 1e-6)))
                gaps.append(abs(scores[i] - scores[j]))
            if scale == "minmax":
                angles = [(v - min(angles)) / max(max(angles) - min(angles), 1e-2) for v in angles]
                gaps = [(v - min(gaps)) / max(max(gaps) - min(gaps), 1e-6) for v in gaps]
            squares += [(a - g) ** 2 for a, g in zip(angles, gaps, strict=True)]
            sign = -1 / tau if scale == "minmax" else 1
            p, q = softmax([sign * a for a in angles]), softmax([sign * g for g in gaps])
            losses.append({"kl": kl(p, q), "js": js(p, q)}.get(divergence, (kl(p, q) + kl(q, p)) / 2))
        if not losses:
            continue
        if divergence == "mse":
            total += sum(squares) / len(squares)
        elif divergence == "released":
            total += sum(losses) / math.log(2)
        else:
            total += sum(losses) / len(losses)
    return total


# The value


@pytest.mark.parametrize(("scale", "divergence", "blocks"), VARIANTS)
def test_the_value_equals_a_double_loop(scale, divergence, blocks):
    for n, n_old in ((7, 3), (6, 0), (5, 5), (5, 1), (5, 4), (4, 2), (3, 1), (2, 1)):
        features, scores = draw(n, seed=n + n_old)
        value = graph_regularizer(features, scores, n_old, scale, divergence, 0.3, blocks)
        wanted = by_loops(features.numpy(), scores.numpy(), n_old, scale, divergence, 0.3, blocks)
        assert value.item() == pytest.approx(wanted, rel=1e-9, abs=1e-12)


def test_the_defaults_are_scaled_divergence_of_all_blocks_at_temperature_one_fifth():
    features, scores = draw(8)
    assert torch.equal(
        graph_regularizer(features, scores, 3), graph_regularizer(features, scores, 3, "minmax", "kl", 0.2, "all")
    )


@pytest.mark.parametrize(("scale", "divergence"), list(itertools.product(SCALES, DIVERGENCES)))
def test_all_blocks_are_the_joint_one_and_its_parts(scale, divergence):
    features, scores = draw(9)
    joint, parts, both = (
        graph_regularizer(features, scores, 4, scale, divergence, blocks=b) for b in ("joint", "parts", "all")
    )
    assert both.item() == pytest.approx(joint.item() + parts.item())


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_angles_that_are_proportional_to_score_gaps_cost_nothing(divergence):
    # On a half circle the angle between two features is the difference of their positions.
    position = torch.tensor([0.1, 0.5, 0.6, 1.7, 2.9], dtype=torch.float64)
    features = torch.stack([position.cos(), position.sin()], dim=1)
    value = graph_regularizer(features, 10 * position + 3, 2, "minmax", divergence)
    assert value.item() == pytest.approx(0, abs=1e-9)
    shuffled = graph_regularizer(features, 10 * position[[3, 0, 4, 1, 2]], 2, "minmax", divergence)
    assert shuffled.item() > 0.1


def test_the_value_does_not_depend_on_the_length_of_features_nor_scaled_on_the_unit_of_scores():
    features, scores = draw(8)
    value = graph_regularizer(features, scores, 3)
    stretched = features * torch.arange(1, 9, dtype=torch.float64)[:, None]
    assert graph_regularizer(stretched, 100 * scores + 7, 3).item() == pytest.approx(value.item())


def test_scores_may_be_a_column():
    features, scores = draw(6)
    assert torch.equal(graph_regularizer(features, scores.view(-1, 1), 2), graph_regularizer(features, scores, 2))


def test_angles_are_in_radians():
    angles = angular_distances(torch.tensor([[2.0, 0.0], [0.0, 3.0], [-1.0, 0.0], [1.0, 1.0]], dtype=torch.float64))
    wanted = torch.tensor([[0, 2, 4, 1], [2, 0, 2, 1], [4, 2, 0, 3], [1, 1, 3, 0]]) * math.pi / 4
    # The clamp keeps angles of 0 and pi about 0.0014 away from the end.
    assert torch.allclose(angles, wanted.double(), atol=0.0015)


# Where nothing can be compared


@pytest.mark.parametrize(("n", "n_old"), [(0, 0), (1, 0), (1, 1), (2, 1)])
def test_the_scaled_value_is_zero_and_differentiable_without_two_comparable_entries(n, n_old):
    features = draw(n)[0].requires_grad_()
    value = graph_regularizer(features, torch.arange(float(n)), n_old)
    assert value.item() == 0
    (value + features.sum()).backward()
    assert features.grad.eq(1).all()


@pytest.mark.parametrize("features", [torch.zeros(4, 1), torch.zeros(4), torch.zeros(4, 2, 3)])
def test_features_between_which_there_is_no_angle_are_refused(features):
    # MAGR's released code takes the angles of one-dimensional outputs: a loss of 60 without any gradient (D2).
    with pytest.raises(ValueError, match=r"features of shape \(N, d >= 2\)"):
        graph_regularizer(features, torch.arange(4.0), 0)
    with pytest.raises(ValueError, match=r"features of shape \(N, d >= 2\)"):
        angular_distances(features)


# Gradients


def value_and_gradient(features: Tensor, scores: Tensor, n_old: int, variant: tuple) -> tuple[Tensor, Tensor]:
    scale, divergence, blocks = variant
    features = features.clone().requires_grad_()
    value = graph_regularizer(features, scores, n_old, scale, divergence, 0.2, blocks)
    value.backward()
    return value.detach(), features.grad


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
@pytest.mark.parametrize("score_range", [0.0, 1e-6, 1.0, 90.0, 100.0, 1e3])
def test_value_and_gradient_are_finite_for_any_gap_between_scores(variant, score_range):
    # The released code is infinite at a gap of 100 (D3); its successor's gradient is NaN in square blocks (E4).
    features, scores = (values.float() for values in draw(8, score_range=score_range))
    scores[0], scores[-1] = 0.0, score_range
    value, gradient = value_and_gradient(features, scores, 3, variant)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().max() > 0


def awkward(name: str) -> tuple[Tensor, Tensor]:
    features, scores = (values.float() for values in draw(7))
    if name == "identical features":
        features = features[:1].expand(7, -1).clone()
    elif name == "two identical features":
        features[1] = features[5] = features[0]
    elif name == "opposite features":
        features[4] = -features[0]
    elif name == "zero features":
        features = torch.zeros_like(features)
    elif name == "one zero feature":
        features[0] = 0
    elif name == "orthogonal features":
        features = torch.eye(7)
    elif name == "huge features":
        features *= 1e15
    elif name == "tiny features":
        features *= 1e-15
    elif name == "equal scores":
        scores[:] = 0.5
    elif name == "ties":
        scores = torch.tensor([0.0, 1, 1, 0, 1, 0, 0])
    return features, scores


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
@pytest.mark.parametrize(
    "name",
    [
        "identical features",
        "two identical features",
        "opposite features",
        "zero features",
        "one zero feature",
        "orthogonal features",
        "huge features",
        "tiny features",
        "equal scores",
        "ties",
    ],
)
def test_value_and_gradient_are_finite_for_awkward_inputs(variant, name):
    for n_old in (0, 1, 3, 6, 7):
        value, gradient = value_and_gradient(*awkward(name), n_old, variant)
        assert torch.isfinite(value)
        assert value >= -1e-5
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("variant", VARIANTS, ids="-".join)
def test_the_gradient_is_that_of_finite_differences(variant):
    features, scores = draw(6, dim=4, seed=3)
    scale, divergence, blocks = variant
    assert torch.autograd.gradcheck(
        lambda x: graph_regularizer(x, scores, 2, scale, divergence, 0.2, blocks), features.requires_grad_()
    )


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_descending_the_gradient_arranges_features_by_their_scores(divergence):
    features, scores = draw(8, seed=5)
    features.requires_grad_()
    optimizer = torch.optim.Adam([features], lr=0.05)
    losses = []
    for _ in range(150):
        loss = graph_regularizer(features, scores, 3, "minmax", divergence)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
