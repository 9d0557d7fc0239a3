"""Logistic regression without a rate, beside scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from utils.softmax_regression import improved

RIDGE = 0.05
PULL = 0.08


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    centres = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    features = centres[labels] + torch.randn(60, 5, generator=generator, dtype=torch.float64)
    # So that a ridge of 0.05 is a pull of 0.08.
    return features * (1.6 / features.var(0, correction=0).mean()).sqrt(), labels


def loss(weights, towards, features, labels):
    pull = PULL / 2 * (weights - towards).square().sum()
    return (F.cross_entropy(features @ weights.T, labels) + pull).item()


def test_many_steps_find_the_solution_of_scikit_learn(data):
    features, labels = data
    none = torch.zeros(3, 5, dtype=torch.float64)
    found, _ = improved(none, none, features, labels, RIDGE, steps=500)
    reference = LogisticRegression(C=1 / (PULL * 60), fit_intercept=False, tol=1e-12, max_iter=10_000)
    np.testing.assert_allclose(found, reference.fit(features.numpy(), labels.numpy()).coef_, atol=1e-6)


def test_no_step_raises_the_loss_from_wherever_it_begins(data):
    features, labels = data
    generator = torch.Generator().manual_seed(1)
    towards, weights = 10 * torch.randn(2, 3, 5, generator=generator, dtype=torch.float64)
    values = [loss(weights, towards, features, labels)]
    for _ in range(20):
        weights, _ = improved(weights, towards, features, labels, RIDGE)
        values.append(loss(weights, towards, features, labels))
    assert values == sorted(values, reverse=True)
    assert values[-1] < 0.5 * values[0]
    before = loss(towards, towards, features, labels)
    assert improved(towards, towards, features, labels, RIDGE, steps=3)[1] == pytest.approx(before)


def test_no_step_goes_too_far_where_the_curvature_is_what_bounds_it(data):
    features, _ = data
    generator = torch.Generator().manual_seed(2)
    labels = torch.randint(2, (60,), generator=generator)
    weights = towards = torch.randn(2, 5, generator=generator, dtype=torch.float64) / 100
    values = [F.cross_entropy(features @ weights.T, labels).item()]
    for _ in range(4):
        weights, _ = improved(weights, towards, features, labels, 1e-6)
        values.append(F.cross_entropy(features @ weights.T, labels).item())
    assert values == sorted(values, reverse=True)


def test_without_samples_to_speak_of_the_pull_alone_decides(data):
    features, labels = data
    towards = torch.ones(3, 5, dtype=torch.float64)
    found, _ = improved(torch.zeros_like(towards), towards, features, labels, 1e6, steps=2)
    torch.testing.assert_close(found, towards, atol=1e-5, rtol=0)


def test_one_sample_and_many_that_are_the_same_are_learnt_in_single_precision():
    features = torch.ones(1, 64) / 8
    for n in (1, 40):
        labels = torch.full((n,), 2)
        weights, before = improved(
            torch.zeros(3, 64), torch.zeros(3, 64), features.expand(n, 64), labels, 0.01, steps=50
        )
        assert before == pytest.approx(np.log(3))
        assert (features @ weights.T).softmax(1)[0, 2] > 0.9
