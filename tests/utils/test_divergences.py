"""Divergences against scipy, and where p log p would be 0 times infinity."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy

from utils.divergences import js_divergence, kl_divergence


def rows(seed: int, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_both_equal_scipys():
    p, q = F.log_softmax(rows(0), 1), F.log_softmax(rows(1), 1)
    np.testing.assert_allclose(kl_divergence(p, q), entropy(p.exp(), q.exp(), axis=1), rtol=1e-10)
    np.testing.assert_allclose(js_divergence(p, q), jensenshannon(p.exp(), q.exp(), axis=1) ** 2, rtol=1e-10)


def test_jensen_shannon_is_symmetric_zero_for_equals_and_at_most_log_2():
    p, q = F.log_softmax(rows(0), 1), F.log_softmax(rows(1), 1)
    assert torch.allclose(js_divergence(p, q), js_divergence(q, p), rtol=1e-12)
    assert js_divergence(p, p).abs().max() < 1e-15
    apart = F.log_softmax(torch.tensor([[1e4, 0.0], [0.0, 1e4]]), 1)
    assert js_divergence(apart, apart.flip(0)).tolist() == pytest.approx([math.log(2)] * 2)


@pytest.mark.parametrize("divergence", [kl_divergence, js_divergence])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e3])
def test_value_and_gradient_are_finite_where_probabilities_underflow(divergence, scale):
    logits, others = rows(0, scale).float().requires_grad_(), rows(1, scale).float().requires_grad_()
    value = divergence(F.log_softmax(logits, 1), F.log_softmax(others, 1)).sum()
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()
    assert torch.isfinite(others.grad).all()


def test_the_gradient_of_jensen_shannon_is_that_of_finite_differences():
    q = F.log_softmax(rows(1), 1)
    assert torch.autograd.gradcheck(lambda x: js_divergence(F.log_softmax(x, 1), q), rows(0).requires_grad_())
