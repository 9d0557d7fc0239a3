"""Losses against worked examples and closed forms."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from utils.losses import score_mse, softened_cross_entropy, teacher_bounded_loss

TEACHER = torch.tensor([[2.0, 1.0, 0.0]])
# Worked by hand: outputs, loss at T = 2, its gradient, Kullback-Leibler divergence.
EXAMPLES = [
    ([1.0, 1.0, 1.0], 1.098612, [-0.0866, 0.0131, 0.0735], 0.078421),
    ([0.5, 1.5, 0.2], 1.129804, [-0.1108, 0.0813, 0.0295], 0.109613),
]
ENTROPY = 1.020191


def gradient_of(loss, outputs):
    outputs = outputs.clone().requires_grad_()
    return torch.autograd.grad(loss(outputs), outputs)[0]


# Scores


def test_score_mse_pairs_a_column_with_a_row_and_refuses_sizes_that_do_not_pair_up():
    assert score_mse(torch.tensor([[0.5], [1.0]]), torch.tensor([0.0, 1.0])).item() == 0.125
    with pytest.raises(ValueError, match="pair up"):
        score_mse(torch.zeros(3, 1), torch.zeros(2))


def test_teacher_bounded_loss_counts_only_errors_above_the_teachers():
    scores = torch.tensor([0.8, 0.8, 0.4])
    teacher = torch.tensor([[0.7], [0.7], [0.3]])
    outputs = torch.tensor([[0.74], [0.60], [0.50]])
    # Squared errors 0.0036, 0.04 and 0.01, the teacher's 0.01.
    assert teacher_bounded_loss(outputs, teacher, scores).item() == pytest.approx(0.03 / 3, abs=1e-7)
    with_margin = teacher_bounded_loss(outputs, teacher, scores, margin=0.005)
    assert with_margin.item() == pytest.approx((0.0 + 0.035 + 0.005) / 3, abs=1e-7)
    gradient = gradient_of(lambda g: teacher_bounded_loss(g, teacher, scores), outputs)
    torch.testing.assert_close(gradient[:2], torch.tensor([[0.0], [2 * -0.2 / 3]]))


def test_teacher_bounded_loss_teaches_the_network_and_not_the_teacher():
    teacher = torch.tensor([[0.7]], requires_grad=True)
    outputs = torch.tensor([[0.5]], requires_grad=True)
    teacher_bounded_loss(outputs, teacher, torch.tensor([0.8])).backward()
    assert outputs.grad.item() == pytest.approx(-0.6)
    assert teacher.grad is None


# Distributions


@pytest.mark.parametrize(("outputs", "value", "gradient", "divergence"), EXAMPLES)
def test_softened_cross_entropy_is_that_of_the_worked_examples(outputs, value, gradient, divergence):
    outputs = torch.tensor([outputs])
    loss = softened_cross_entropy(outputs, TEACHER, 2.0)
    assert loss.item() == pytest.approx(value, abs=1e-5)
    assert loss.item() - ENTROPY == pytest.approx(divergence, abs=1e-5)
    found = gradient_of(lambda z: softened_cross_entropy(z, TEACHER, 2.0), outputs)
    torch.testing.assert_close(found, torch.tensor([gradient]), atol=1e-4, rtol=0)


def test_new_and_old_head_of_the_worked_example_add_up():
    new = F.cross_entropy(torch.tensor([[1.2, -0.3]]), torch.tensor([0]))
    assert new.item() == pytest.approx(0.201413, abs=1e-5)
    old = softened_cross_entropy(torch.tensor([EXAMPLES[1][0]]), TEACHER)
    assert (new + old).item() == pytest.approx(1.331217, abs=1e-5)


def test_gradient_is_the_difference_of_the_softened_distributions_over_t_without_t_squared():
    outputs, targets = torch.randn(6, 5, generator=torch.manual_seed(0)), torch.randn(6, 5)
    for temperature in (1.0, 2.0, 4.0):
        found = gradient_of(lambda z, t=temperature: softened_cross_entropy(z, targets, t), outputs)
        expected = (F.softmax(outputs / temperature, 1) - F.softmax(targets / temperature, 1)) / temperature / 6
        torch.testing.assert_close(found, expected)
        assert found.abs().min() > 0


def test_softened_logits_are_the_papers_softened_probabilities():
    outputs, targets = torch.randn(4, 3, generator=torch.manual_seed(1)), torch.randn(4, 3)

    def soften(logits):
        powers = F.softmax(logits, 1) ** (1 / 2)
        return powers / powers.sum(1, keepdim=True)

    torch.testing.assert_close(soften(TEACHER), torch.tensor([[0.5065, 0.3072, 0.1863]]), atol=1e-4, rtol=0)
    expected = -(soften(targets) * soften(outputs).log()).sum(1).mean()
    torch.testing.assert_close(softened_cross_entropy(outputs, targets, 2.0), expected)


def test_saturated_logits_stay_finite():
    saturated = torch.tensor([[200.0, 0.0, -5.0]])
    for outputs, targets in [(saturated, saturated), (TEACHER, saturated), (saturated, TEACHER)]:
        assert softened_cross_entropy(outputs, targets).isfinite()
        assert gradient_of(lambda z, t=targets: softened_cross_entropy(z, t), outputs).isfinite().all()


def test_smallest_value_is_the_entropy_of_the_targets_and_is_where_the_outputs_are_theirs():
    assert softened_cross_entropy(TEACHER, TEACHER).item() == pytest.approx(ENTROPY, abs=1e-5)
    assert gradient_of(lambda z: softened_cross_entropy(z, TEACHER), TEACHER).abs().max() < 1e-7


def test_targets_are_not_taught():
    targets = TEACHER.clone().requires_grad_()
    outputs = torch.zeros(1, 3, requires_grad=True)
    softened_cross_entropy(outputs, targets).backward()
    assert outputs.grad.abs().sum() > 0
    assert targets.grad is None
