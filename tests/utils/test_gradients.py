"""Gradients as vectors, against closed forms and a search over all active sets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parameters_to_vector

from utils import gradients
from utils.gradients import flat_gradient, mean_squared_gradient, project_gradient, trained_parameters, with_gradient


def two_layers():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


# Vectors


def test_flat_gradient_follows_the_order_of_the_parameters_with_zeros_where_nothing_depends_on_them():
    net = two_layers()
    inputs, labels = torch.randn(5, 3), torch.tensor([0, 1, 1, 0, 1])
    flat = flat_gradient(F.cross_entropy(net(inputs), labels), trained_parameters(net))
    F.cross_entropy(net(inputs), labels).backward()
    assert torch.equal(flat, parameters_to_vector([p.grad for p in net.parameters()]))
    of_first_layer = flat_gradient(net[0](inputs).sum(), trained_parameters(net))
    assert of_first_layer[:16].abs().min() > 0
    assert not of_first_layer[16:].any()


def test_flat_gradient_is_in_the_parameters_order_whatever_the_layout_of_inputs():
    torch.manual_seed(0)
    net, x = nn.Conv3d(16, 16, 3, padding=1), torch.randn(2, 16, 4, 6, 6)
    parameters = trained_parameters(net)
    plain, other = (
        flat_gradient(net(x.contiguous(memory_format=layout)).square().sum(), parameters)
        for layout in (torch.contiguous_format, torch.channels_last_3d)
    )
    torch.testing.assert_close(other, plain, rtol=1e-4, atol=1e-3)


def test_frozen_parameters_are_in_no_vector():
    net = two_layers()
    net[0].requires_grad_(False)
    assert [id(p) for p in trained_parameters(net)] == [id(p) for p in net[2].parameters()]


def test_with_gradient_has_exactly_the_value_and_the_gradient_it_is_given():
    net = two_layers()
    loss = F.cross_entropy(net(torch.randn(5, 3)), torch.tensor([0, 1, 1, 0, 1]))
    wanted = torch.randn(sum(p.numel() for p in net.parameters()))
    surrogate = with_gradient(loss, trained_parameters(net), wanted)
    assert surrogate.item() == loss.item()
    surrogate.backward()
    assert torch.equal(parameters_to_vector([p.grad for p in net.parameters()]), wanted)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_gradient_that_is_not_finite_makes_a_loss_that_is_not_finite(bad):
    net = nn.Linear(1, 1)
    assert not with_gradient(torch.tensor(1.0), trained_parameters(net), torch.tensor([0.0, bad])).isfinite()


# Squared gradients of samples


def test_squared_gradients_of_a_linear_regression_are_the_closed_form():
    net = nn.Linear(3, 1)
    inputs, scores = torch.randn(20, 3), torch.randn(20)
    found = mean_squared_gradient(net, lambda g, s: F.mse_loss(g[:, 0], s), [(inputs, scores)])
    residual = (net(inputs)[:, 0] - scores).detach()
    extended = torch.cat([inputs, torch.ones(20, 1)], 1)
    torch.testing.assert_close(found, (2 * residual[:, None] * extended).square().mean(0))


def test_squared_gradients_of_a_linear_classifier_are_the_closed_form():
    net = nn.Linear(3, 4)
    inputs, labels = torch.randn(20, 3), torch.randint(4, (20,))
    found = mean_squared_gradient(net, F.cross_entropy, [(inputs, labels)])
    error = (F.softmax(net(inputs), 1) - F.one_hot(labels, 4)).detach()
    weight = (error[:, :, None] * inputs[:, None, :]).square().mean(0)
    torch.testing.assert_close(found, torch.cat([weight.flatten(), error.square().mean(0)]))


def test_squared_gradients_do_not_depend_on_how_samples_are_batched_and_are_no_squared_mean():
    net = two_layers()
    inputs, labels = torch.randn(7, 3), torch.tensor([0, 1, 1, 0, 1, 0, 1])
    whole = mean_squared_gradient(net, F.cross_entropy, [(inputs, labels)])
    parts = mean_squared_gradient(net, F.cross_entropy, zip(inputs.split(3), labels.split(3), strict=True))
    torch.testing.assert_close(whole, parts)
    squared_mean = flat_gradient(F.cross_entropy(net(inputs), labels), trained_parameters(net)).square()
    assert (whole > 1.5 * squared_mean).any()
    assert not whole.requires_grad


# Projection


def objective(v, g, rows):
    return 0.5 * v @ rows @ rows.T @ v + v @ rows @ g


def nearest_by_enumeration(g, rows, margin):
    """The weights of the quadratic program by trying every set of constraints that sit at the margin."""
    best, best_value = None, np.inf
    for active in itertools.product([True, False], repeat=len(rows)):
        free = ~np.array(active)
        v = np.full(len(rows), float(margin))
        if free.any():
            right = -rows[free] @ g - rows[free] @ rows[~free].T @ v[~free]
            v[free] = np.linalg.lstsq(rows[free] @ rows[free].T, right, rcond=None)[0]
        if (v >= margin - 1e-12).all() and objective(v, g, rows) < best_value - 1e-12:
            best, best_value = v, objective(v, g, rows)
    return g + rows.T @ best


@pytest.mark.parametrize("margin", [0.0, 0.5])
@pytest.mark.parametrize("seed", range(30))
def test_projection_is_the_best_of_all_active_sets(seed, margin):
    generator = np.random.default_rng(seed)
    n_constraints, size = int(generator.integers(1, 6)), int(generator.integers(3, 12))
    g = generator.normal(size=size)
    rows = generator.normal(size=(n_constraints, size)) * generator.choice([1e-3, 1.0, 1e3], size=(n_constraints, 1))
    if seed % 3 == 0:
        rows = rows - 2 * g  # all of them opposed
    found = project_gradient(torch.from_numpy(g), torch.from_numpy(rows), margin).numpy()
    np.testing.assert_allclose(found, nearest_by_enumeration(g, rows, margin), rtol=1e-6, atol=1e-6 * abs(g).max())


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_projection_meets_the_optimality_conditions(margin):
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(8, 40, generator=generator, dtype=torch.float64)
    g = -rows.sum(0) + torch.randn(40, generator=generator, dtype=torch.float64)
    found = project_gradient(g, rows, margin)
    weights = torch.linalg.lstsq(rows.T, (found - g)[:, None]).solution[:, 0]
    slope = rows @ found
    assert (weights >= margin - 1e-9).all()
    assert (slope >= -1e-9).all()
    assert ((weights - margin) * slope).abs().max() < 1e-8
    if margin == 0:
        assert (weights > 1e-6).any()


def test_one_opposed_constraint_is_projected_onto_its_plane():
    found = project_gradient(torch.tensor([1.0, -1.0]), torch.tensor([[0.0, 2.0]]))
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0]))


def test_gradient_that_violates_nothing_stays_without_a_margin_and_is_biased_with_one():
    g, rows = torch.tensor([1.0, 1.0]), torch.tensor([[0.0, 2.0]])
    assert torch.equal(project_gradient(g, rows), g)
    assert torch.equal(project_gradient(g, rows, 0.5), torch.tensor([1.0, 2.0]))


def test_opposite_constraints_leave_nothing_along_them():
    rows = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    torch.testing.assert_close(project_gradient(torch.tensor([-3.0, 5.0]), rows), torch.tensor([0.0, 5.0]))


def test_zero_and_repeated_constraints_do_no_harm():
    g = torch.tensor([1.0, -1.0, 0.5])
    rows = torch.tensor([[0.0, 2.0, 0.1]])
    expected = project_gradient(g, rows)
    torch.testing.assert_close(project_gradient(g, torch.cat([rows, torch.zeros(1, 3), rows, 3 * rows])), expected)
    assert torch.equal(project_gradient(g, torch.zeros(2, 3), 0.5), g)
    assert torch.equal(project_gradient(torch.zeros(3), rows), torch.zeros(3))


@pytest.mark.parametrize("scale", [1e-12, 1e8])
def test_projection_of_tiny_and_huge_gradients_is_that_of_others(scale):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(4, 30, generator=generator)
    g = -rows.sum(0)
    expected = project_gradient(g, rows, 0.1) * scale
    torch.testing.assert_close(project_gradient(g * scale, rows * scale, 0.1), expected, rtol=1e-4, atol=1e-5 * scale)


def test_long_gradients_are_multiplied_in_pieces(monkeypatch):
    rows, g = torch.randn(3, 50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    expected = project_gradient(g, rows, 0.1)
    monkeypatch.setattr(gradients, "PIECE", 7)
    torch.testing.assert_close(project_gradient(g, rows, 0.1), expected)
