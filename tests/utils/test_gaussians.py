"""Gaussians of features and scores: what is stored is the sample covariance, what is drawn has it."""

import numpy as np
import pytest
import torch
from torch import Tensor

from utils.gaussians import JointGaussians


def session(n: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, dim, generator=generator) @ torch.randn(dim, dim, generator=generator) + 3
    return features, features @ torch.randn(dim, generator=generator) + torch.randn(n, generator=generator)


def fitted(features: Tensor, scores: Tensor, rank: int | None = None, shrinkage: float = 0.0) -> JointGaussians:
    gaussians = JointGaussians(2, features.shape[1], rank or features.shape[1], shrinkage)
    gaussians.fit(1, features, scores)
    return gaussians


def stored_covariance(gaussians: JointGaussians) -> np.ndarray:
    """Of [h; y], as the docstring says."""
    directions, deviations, slopes = (
        getattr(gaussians, name)[1].double().numpy() for name in ("directions", "deviations", "score_slopes")
    )
    dim = directions.shape[1]
    factor = np.zeros((dim + 1, len(deviations)))
    factor[:dim], factor[dim] = directions.T * deviations, slopes
    covariance = factor @ factor.T
    around = np.eye(dim) - directions.T @ directions
    covariance[:dim, :dim] += gaussians.left_out[1].item() ** 2 * around + gaussians.shrinkage * np.eye(dim)
    covariance[dim, dim] += gaussians.score_residuals[1].item() ** 2
    return covariance


@pytest.mark.parametrize(("n", "dim"), [(50, 4), (5, 8), (9, 8), (8, 8), (2, 6)])
def test_mean_and_covariance_are_those_of_the_samples(n, dim):
    features, scores = session(n, dim)
    gaussians = fitted(features, scores)
    joint = torch.cat([features, scores[:, None]], 1).double().numpy()
    np.testing.assert_allclose(gaussians.means[1], joint[:, :dim].mean(0), rtol=1e-5)
    assert gaussians.score_means[1].item() == pytest.approx(joint[:, dim].mean(), rel=1e-5)
    wanted = np.cov(joint.T)
    np.testing.assert_allclose(stored_covariance(gaussians), wanted, atol=1e-5 * wanted.max())


def test_draws_have_the_mean_and_covariance_of_the_samples():
    features, scores = session(40, 3)
    features_drawn, scores_drawn = fitted(features, scores).sample([1], 200_000, torch.Generator().manual_seed(0))
    joint, drawn = (
        torch.cat([f, s[:, None]], 1).double() for f, s in ((features, scores), (features_drawn, scores_drawn))
    )
    spread = joint.std(0)
    assert ((drawn.mean(0) - joint.mean(0)) / spread).abs().max() < 0.01
    assert ((drawn.T.cov() - joint.T.cov()) / torch.outer(spread, spread)).abs().max() < 0.015


def test_the_score_of_a_draw_is_its_regression_on_the_features_plus_the_residual():
    features, scores = session(30, 3)
    h, y = features.double() - features.double().mean(0), scores.double() - scores.double().mean()
    slope = torch.linalg.lstsq(h, y[:, None]).solution[:, 0]
    residual = (y - h @ slope).square().sum() / 29
    gaussians = fitted(features, scores)
    assert gaussians.score_residuals[1].item() ** 2 == pytest.approx(residual.item(), rel=1e-4)
    drawn, drawn_scores = gaussians.sample([1], 100_000, torch.Generator().manual_seed(0))
    left = drawn_scores - scores.mean() - (drawn - features.mean(0)) @ slope.float()
    assert left.var().item() == pytest.approx(residual.item(), rel=0.03)
    assert abs(left.mean().item()) < 0.02 * residual**0.5


def test_with_fewer_samples_than_features_draws_stay_in_their_span_and_scores_follow_exactly():
    features, scores = session(5, 8)
    h = features - features.mean(0)
    slope = torch.linalg.pinv(h.double(), rtol=1e-5) @ (scores - scores.mean()).double()
    drawn, drawn_scores = fitted(features, scores).sample([1], 50, torch.Generator().manual_seed(0))
    around = (drawn - features.mean(0)).double()
    projected = around @ torch.linalg.pinv(h.double(), rtol=1e-5) @ h.double()
    assert torch.allclose(projected, around, atol=1e-4 * h.abs().max())
    wanted = scores.mean() + around @ slope
    assert torch.allclose(drawn_scores.double(), wanted, atol=1e-4 * float(scores.std()))


@pytest.mark.parametrize("n", [6, 60])
def test_a_lower_rank_keeps_the_largest_variances_the_total_and_the_variance_of_the_score(n):
    features, scores = session(n, 8)
    full, low = stored_covariance(fitted(features, scores)), stored_covariance(fitted(features, scores, rank=3))
    values, reduced = (np.linalg.eigvalsh(covariance[:8, :8])[::-1] for covariance in (full, low))
    np.testing.assert_allclose(reduced[:3], values[:3], rtol=1e-4)
    np.testing.assert_allclose(reduced[3:], values[3:].mean(), rtol=1e-4)
    assert low[8, 8] == pytest.approx(full[8, 8], rel=1e-5)
    drawn, _ = fitted(features, scores, rank=3).sample([1], 100_000, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(drawn.T.cov(), low[:8, :8], atol=0.03 * values[0])


def test_shrinkage_adds_to_the_variance_of_every_feature():
    features, scores = session(30, 3)
    assert fitted(features, scores, shrinkage=0.5).shrinkage == 0.5
    drawn, _ = fitted(0 * features, scores, shrinkage=0.5).sample([1], 100_000, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(drawn.T.cov(), 0.5 * np.eye(3), atol=0.02)


@pytest.mark.parametrize("case", ["one sample", "equal features", "equal scores", "all equal", "twins", "huge", "tiny"])
def test_degenerate_sessions_give_finite_draws_of_the_right_spread(case):
    features, scores = session(6, 4)
    if case == "one sample":
        features, scores = features[:1], scores[:1]
    if case in ("equal features", "all equal"):
        features = features[:1].repeat(6, 1)
    if case in ("equal scores", "all equal"):
        scores = scores[:1].repeat(6)
    if case == "twins":
        features, scores = features[[0, 0, 1, 1, 2, 2]], scores[[0, 0, 1, 1, 2, 2]]
    features = features * {"huge": 1e8, "tiny": 1e-8}.get(case, 1.0)
    drawn, drawn_scores = fitted(features, scores, shrinkage=0.0).sample([1], 2000, torch.Generator().manual_seed(0))
    for values, source in ((drawn, features), (drawn_scores[:, None], scores[:, None])):
        assert torch.isfinite(values).all()
        spread = source.std(0) if len(source) > 1 else torch.zeros(source.shape[1])
        assert torch.allclose(values.std(0), spread, rtol=0.1, atol=1e-5 * float(source.abs().max()))


def test_scores_that_have_nothing_to_do_with_equal_features_keep_their_variance():
    features, scores = session(6, 4)
    gaussians = fitted(features[:1].repeat(6, 1), scores)
    assert gaussians.score_slopes[1].abs().max() < 1e-5
    assert gaussians.score_residuals[1].item() == pytest.approx(scores.std().item(), rel=1e-5)


def test_draws_come_session_by_session_and_from_the_generator_alone():
    gaussians = JointGaussians(3, 2, 2)
    for i in range(3):
        gaussians.fit(i, torch.full((4, 2), float(i)), torch.full((4,), 10.0 * i))
    features, scores = gaussians.sample([2, 0], 3, torch.Generator().manual_seed(0))
    assert features.tolist() == [[2.0, 2.0]] * 3 + [[0.0, 0.0]] * 3
    assert scores.tolist() == [20.0] * 3 + [0.0] * 3
    first, second = (fitted(*session(9, 3)).sample([1], 4, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


def test_fitting_again_replaces_all_of_the_former():
    gaussians = fitted(*session(30, 4))
    gaussians.fit(1, *session(2, 4, seed=1))
    assert all(
        torch.equal(value, fitted(*session(2, 4, seed=1)).state_dict()[name])
        for name, value in gaussians.state_dict().items()
    )


def test_the_state_has_its_final_shapes_before_anything_is_fitted():
    gaussians = fitted(*session(30, 4), rank=2)
    fresh = JointGaussians(2, 4, 2)
    fresh.load_state_dict(gaussians.state_dict())
    assert torch.equal(fresh.directions, gaussians.directions)
