"""Losses for classes of unequal size against worked examples, closed forms and one another."""

from __future__ import annotations

from argparse import ArgumentParser

import pytest
import torch
import torch.nn.functional as F

from utils.class_losses import (
    LOSSES,
    ClassLoss,
    add_class_loss_args,
    class_balanced_weights,
    counts_of,
    focal_terms,
    ldam_margins,
    log_prior,
)
from utils.errors import UsageError

COUNTS = torch.tensor([5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50])
WEIGHTS = [0.0506, 0.0769, 0.1211, 0.195, 0.3188, 0.5246, 0.8683, 1.4426, 2.4092, 3.9927]
MARGINS = [0.1581, 0.1797, 0.2042, 0.2321, 0.2638, 0.2998, 0.3407, 0.3872, 0.4405, 0.5]


def make(kind, *words, counts=COUNTS, epoch=0, offsets=None):
    parser = ArgumentParser()
    add_class_loss_args(parser)
    args = parser.parse_args(["--cls_loss", kind, *words])
    loss = ClassLoss(args, len(counts), lambda: offsets or (0, len(counts)), "cpu")
    loss.begin_epoch(epoch, counts)
    return loss


def batch(n=32, n_classes=10, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(n, n_classes, generator=draw), torch.randint(0, n_classes, (n,), generator=draw)


# Worked examples


def test_class_balanced_weights_of_long_tailed_cifar_10():
    weights = class_balanced_weights(COUNTS, 0.9999)
    torch.testing.assert_close(weights, torch.tensor(WEIGHTS, dtype=torch.float64), atol=6e-5, rtol=0)
    assert weights.sum().item() == pytest.approx(10)
    assert class_balanced_weights(COUNTS, 0.0).tolist() == pytest.approx([1.0] * 10)


def test_ldam_margins_of_long_tailed_cifar_10():
    margins = ldam_margins(COUNTS, 0.5)
    torch.testing.assert_close(margins, torch.tensor(MARGINS, dtype=torch.float64), atol=6e-5, rtol=0)


@pytest.mark.parametrize("kind", ["balanced-softmax", "logit-adjust"])
def test_prior_corrected_cross_entropy_of_equal_outputs(kind):
    loss = make(kind, counts=torch.tensor([5000, 500, 50]))
    values = loss(torch.ones(3, 3), torch.arange(3), reduction="none")
    assert values.tolist() == pytest.approx([0.1044, 2.4069, 4.7095], abs=6e-5)


# Closed forms


def test_equal_classes_make_every_loss_cross_entropy():
    outputs, labels = batch()
    expected = F.cross_entropy(outputs, labels)
    even = torch.full((10,), 7)
    for words in (["cb"], ["balanced-softmax"], ["logit-adjust"], ["focal", "--focal_gamma", "0"], ["ce"]):
        torch.testing.assert_close(make(*words, counts=even)(outputs, labels), expected)
    for reduction in ("sum", "none"):
        found = make("cb", counts=even)(outputs, labels, reduction=reduction)
        torch.testing.assert_close(found, F.cross_entropy(outputs, labels, reduction=reduction))


def test_before_counts_are_set_all_classes_count_alike():
    parser = ArgumentParser()
    add_class_loss_args(parser)
    loss = ClassLoss(parser.parse_args(["--cls_loss", "balanced-softmax"]), 10, lambda: (0, 2), "cpu")
    outputs, labels = batch()
    torch.testing.assert_close(loss(outputs, labels), F.cross_entropy(outputs, labels))


def test_logit_adjustment_with_tau_one_is_balanced_softmax_and_with_tau_zero_cross_entropy():
    outputs, labels = batch()
    torch.testing.assert_close(make("logit-adjust")(outputs, labels), make("balanced-softmax")(outputs, labels))
    torch.testing.assert_close(make("logit-adjust", "--la_tau", "0")(outputs, labels), F.cross_entropy(outputs, labels))
    shifted = F.cross_entropy(outputs + 0.5 * COUNTS.log(), labels)
    torch.testing.assert_close(make("logit-adjust", "--la_tau", "0.5")(outputs, labels), shifted)


def test_class_balanced_cross_entropy_is_the_weighted_mean():
    outputs, labels = batch()
    weights = class_balanced_weights(COUNTS, 0.99).float()
    expected = F.cross_entropy(outputs, labels, weight=weights)
    torch.testing.assert_close(make("cb", "--cb_beta", "0.99")(outputs, labels), expected)


def test_focal_takes_the_probability_before_it_weights():
    outputs, labels = batch()
    p = outputs.softmax(1)[torch.arange(32), labels]
    torch.testing.assert_close(focal_terms(outputs, labels, 2.0), -((1 - p) ** 2) * p.log())
    weights = class_balanced_weights(COUNTS, 0.9999).float()[labels]
    expected = (-(weights * (1 - p) * p.log())).mean()
    torch.testing.assert_close(make("cb-focal")(outputs, labels), expected)
    torch.testing.assert_close(make("focal")(outputs, labels), (-(1 - p) * p.log()).mean())


def test_ldam_takes_the_margin_from_the_true_class_alone():
    cosines = torch.tensor([[0.5, 0.2], [0.1, 0.3]])
    loss = make("ldam", counts=torch.tensor([160_000, 10_000]))
    # Margins 0.25 and 0.5.
    expected = F.cross_entropy(30 * torch.tensor([[0.25, 0.2], [0.1, -0.2]]), torch.tensor([0, 1]))
    torch.testing.assert_close(loss(30 * cosines, torch.tensor([0, 1])), expected)


# Deferred weights


@pytest.mark.parametrize("kind", ["ce", "cb", "ldam", "focal", "cb-focal"])
def test_weights_are_deferred_until_their_epoch(kind):
    outputs, labels = batch()
    plain = {"cb": "ce", "cb-focal": "focal"}.get(kind, kind)
    without = make(plain)(outputs, labels)
    with_weights = {"ce": "cb", "focal": "cb-focal"}.get(kind, kind)
    for epoch, weighted in ((0, False), (4, False), (5, True), (9, True)):
        found = make(kind, "--drw_epoch", "5", epoch=epoch)(outputs, labels)
        if not weighted:
            torch.testing.assert_close(found, without)
        elif with_weights != "ldam":
            torch.testing.assert_close(found, make(with_weights)(outputs, labels))
        else:
            assert abs(float(found - without)) > 1e-3


@pytest.mark.parametrize("words", [["logit-adjust", "--drw_epoch", "3"], ["cb", "--cb_beta", "1"]])
def test_options_that_make_no_sense_are_refused(words):
    with pytest.raises(UsageError, match="--"):
        make(*words)


# The log prior of a class that is not there is minus infinity; a negative factor would make it the loss.
@pytest.mark.parametrize(
    ("kind", "option"),
    [("logit-adjust", "--la_tau=-1"), ("logit-adjust", "--la_tau=nan"), ("focal", "--focal_gamma=-1")],
)
def test_negative_factors_and_exponents_are_refused(kind, option, capsys):
    with pytest.raises(SystemExit):
        make(kind, option)
    assert option.split("=")[0] in capsys.readouterr().err


# Gradients and extreme outputs


@pytest.mark.parametrize("kind", LOSSES)
def test_gradients_are_not_zero(kind):
    outputs, labels = batch()
    outputs = (outputs / 10).requires_grad_()
    make(kind)(outputs, labels).backward()
    assert (outputs.grad.abs().sum(1) > 0).all()
    assert (outputs.grad.gather(1, labels[:, None]) < 0).all()


@pytest.mark.parametrize("kind", LOSSES)
@pytest.mark.parametrize("gamma", ["0.5", "2"])
def test_losses_and_gradients_are_finite_at_extreme_outputs(kind, gamma):
    for signs in ([200.0, 0, -5], [-200.0, 200, 200]):
        for counts in ([5000, 50, 5], [5000, 50, 0], [0, 0, 0]):
            outputs = torch.tensor([signs] * 3, requires_grad=True)
            loss = make(kind, "--focal_gamma", gamma, counts=torch.tensor(counts))(outputs, torch.arange(3))
            loss.backward()
            assert torch.isfinite(loss)
            assert torch.isfinite(outputs.grad).all()


@pytest.mark.parametrize("kind", LOSSES)
def test_classes_that_are_not_there_change_no_value_of_the_others(kind):
    outputs, labels = batch(n_classes=4)
    extended = torch.cat([outputs, torch.full((32, 2), -1e4)], dim=1)
    counts = torch.tensor([900, 90, 30, 9])
    found = make(kind, counts=torch.cat([counts, torch.tensor([0, 0])]))(extended, labels)
    torch.testing.assert_close(found, make(kind, counts=counts)(outputs, labels))


def test_a_prior_of_zero_leaves_a_class_out_of_the_softmax():
    outputs, labels = batch(n_classes=4)
    outputs.requires_grad_()
    labels = labels % 3
    make("balanced-softmax", counts=torch.tensor([90, 9, 3, 0]))(outputs, labels).backward()
    assert (outputs.grad[:, 3] == 0).all()
    assert (outputs.grad[:, :3] != 0).all()
    assert torch.isfinite(log_prior(torch.tensor([90, 0]), torch.tensor([1]))).all()


# Parts of the outputs


def test_parts_of_the_outputs_have_the_counts_of_their_classes():
    loss = make("balanced-softmax", offsets=(4, 7))
    outputs, _ = batch()
    assert loss.counts_of(outputs).tolist() == COUNTS.tolist()
    assert loss.counts_of(outputs[:, :7]).tolist() == COUNTS[:7].tolist()
    assert loss.counts_of(outputs[:, 4:7]).tolist() == COUNTS[4:7].tolist()
    labels = torch.arange(32) % 3
    expected = F.cross_entropy(outputs[:, 4:7] + COUNTS[4:7].log(), labels)
    torch.testing.assert_close(loss(outputs[:, 4:7], labels), expected)
    with pytest.raises(ValueError, match="not behind 5"):
        loss(outputs[:, :5], labels)


def test_a_phase_on_other_samples_has_counts_of_its_own():
    loss = make("cb")
    before = loss.counts.clone()
    with counts_of(loss, torch.tensor([0, 2, 2])):
        assert loss.counts.tolist() == [1, 0, 2, *[0] * 7]
    assert torch.equal(loss.counts, before)
    with counts_of(F.cross_entropy, torch.tensor([0])):
        pass  # it has no counts


def test_counts_and_epoch_are_in_the_state():
    loss, other = make("cb", epoch=3), make("cb", counts=torch.ones(10))
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other.counts, loss.counts)
    assert other.epoch == 3
