"""The loss with "other", by worked examples and against its definition."""

import math

import pytest
import torch

from utils.open_losses import loss_with_other

EXAMPLES = [
    ([0.30, 0.28, 0.25], 0, 0.0, 0.132845, 28.048587, 2.937704),
    ([0.30, 0.28, 0.25], 0, 24.0, 0.135013, 4.065884, 0.541602),
    ([0.30, 0.28, 0.25], 1, 0.0, 2.132845, 30.006715, 5.133517),
    ([0.02, 0.01, -0.01], 0, 0.0, 0.440190, 1.407606, 0.580950),
    ([0.02, 0.01, -0.01], 0, 0.5, 0.495182, 1.054957, 0.600678),
]


def parts(cosines, labels, b):
    """(main, aux, total with a weight of 0.1)."""
    logits = 100 * torch.tensor(cosines, dtype=torch.float64)
    main, both, total = (
        float(loss_with_other(logits, torch.tensor(labels), torch.tensor(b, dtype=torch.float64), beta))
        for beta in (0.0, 1.0, 0.1)
    )
    return main, both - main, total


@pytest.mark.parametrize(("cosines", "label", "b", "main", "aux", "total"), EXAMPLES)
def test_worked_examples_of_one_sample(cosines, label, b, main, aux, total):
    assert parts([cosines], [label], b) == pytest.approx((main, aux, total), abs=2e-6)


def test_worked_example_of_a_batch_is_the_mean_over_samples():
    found = parts([[0.30, 0.25, 0.10], [0.05, 0.20, 0.22]], [0, 2], 20.0)
    assert found == pytest.approx((0.1231526, 2.8499315, 0.4081458), abs=2e-7)


def test_gradient_of_the_second_term_raises_other_and_lowers_the_wrong_labels_only():
    logits = torch.tensor([[2.0, 1.0, -1.0]], dtype=torch.float64, requires_grad=True)
    other = torch.zeros((), dtype=torch.float64, requires_grad=True)
    label = torch.tensor([0])
    aux = loss_with_other(logits, label, other, 1.0) - loss_with_other(logits, label, other, 0.0)
    of_logits, of_other = torch.autograd.grad(aux, [logits, other])
    torch.testing.assert_close(
        of_logits, torch.tensor([[0.0, 0.665241, 0.090031]], dtype=torch.float64), atol=1e-6, rtol=0
    )
    assert float(of_other) == pytest.approx(-0.755272, abs=1e-6)


def test_a_single_label_leaves_only_other_so_the_second_term_is_nothing():
    logits, other = torch.tensor([[3.0]], requires_grad=True), torch.tensor(1.0, requires_grad=True)
    loss = loss_with_other(logits, torch.tensor([0]), other, 0.1)
    assert float(loss.detach()) == pytest.approx(math.log1p(math.exp(-2)))
    gradients = torch.autograd.grad(loss, [logits, other])
    assert all(bool(part.isfinite().all()) for part in gradients)


def test_loss_does_not_depend_on_the_order_of_samples_nor_of_labels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    labels, other = torch.tensor([0, 1, 2, 3, 4, 0, 0]), torch.tensor(0.3, dtype=torch.float64)
    samples, columns = torch.randperm(7, generator=generator), torch.randperm(5, generator=generator)
    renamed = columns.argsort()[labels]
    expected = loss_with_other(logits, labels, other, 0.1)
    torch.testing.assert_close(loss_with_other(logits[samples], labels[samples], other, 0.1), expected)
    torch.testing.assert_close(loss_with_other(logits[:, columns], renamed, other, 0.1), expected)
