"""Heads that normalise, against worked examples and closed forms."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

import pytest
import torch
import torch.nn.functional as F

from utils.class_heads import CausalHead, NormalisedLinear, add_class_head_args, class_head
from utils.class_losses import ClassLoss, add_class_loss_args
from utils.errors import UsageError
from utils.second_stage import add_second_stage_args

NET = Namespace(feature_dim=4, num_outputs=3)
X = torch.tensor([[1.0, 2.0, 0.0, 1.0]])
WEIGHT = torch.tensor([[0.5, 0.5, 0.2, 0.1], [0.1, -0.2, 0.9, 0.4]])


def options(*words):
    parser = ArgumentParser()
    for add in (add_class_loss_args, add_class_head_args, add_second_stage_args):
        add(parser)
    return parser.parse_args(words)


@pytest.fixture
def causal():
    head = CausalHead(4, 2, n_heads=2, tau=16.0, gamma=1 / 32, mu=0.9)
    head.weight.data = WEIGHT.clone()
    head.drift.fill_(1.0)
    return head


def test_outputs_in_training_and_without_the_drift_are_those_of_the_worked_example(causal):
    causal.eval()
    torch.testing.assert_close(causal(X), torch.tensor([[10.4073, -1.0622]]), atol=6e-5, rtol=0)
    torch.testing.assert_close(causal.effect(X, 1.5), torch.tensor([[-7.5579, -5.5798]]), atol=6e-5, rtol=0)
    cosines = F.cosine_similarity(X.view(2, 2), torch.ones(2, 2))
    assert cosines.tolist() == pytest.approx([0.948683, 0.707107], abs=1e-6)


def test_without_strength_or_drift_the_effect_is_the_output(causal):
    causal.eval()
    torch.testing.assert_close(causal.effect(X, 0.0), causal(X))
    causal.drift.zero_()
    torch.testing.assert_close(causal.effect(X, 1.5), causal(X))


def test_only_the_directions_of_features_and_drift_matter(causal):
    causal.eval()
    expected = causal.effect(X, 1.5)
    causal.drift.mul_(7)
    torch.testing.assert_close(causal.effect(3 * X, 1.5), expected)


def test_the_drift_follows_training_batches_alone(causal):
    causal.drift.zero_()
    first, second = torch.rand(5, 4), torch.rand(3, 4)
    causal.train()
    causal(first)
    causal(second)
    expected = 0.9 * first.mean(0) + second.mean(0)
    torch.testing.assert_close(causal.drift, expected)
    with torch.no_grad():
        causal(first)
    causal.eval()
    causal(first)
    torch.testing.assert_close(causal.drift, expected)
    assert "drift" in causal.state_dict()


def test_cosines_do_not_see_lengths():
    head = NormalisedLinear(4, 2, 7.0)
    expected = 7 * F.cosine_similarity(X[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(head(5 * X), expected)
    head.weight.data *= 3
    torch.testing.assert_close(head(X), expected)


@pytest.mark.parametrize("words", ["--cls_loss ldam", "--cls_head cosine"])
def test_outputs_of_a_cosine_head_have_the_scale_of_logits(words):
    head = class_head(options(*words.split(), "--ldam_scale", "12"), NET)
    x = torch.randn(5, 4)
    torch.testing.assert_close(head(x), 12 * F.cosine_similarity(x[:, None], head.weight[None], dim=2))


def test_ldam_on_its_head_is_the_published_loss():
    words = options("--cls_loss", "ldam")
    head, loss = class_head(words, NET), ClassLoss(words, 3, lambda: (0, 3), "cpu")
    loss.begin_epoch(0, torch.tensor([160_000, 10_000, 10_000]))
    x, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 2, 1, 0])
    margins = F.one_hot(labels, 3) * torch.tensor([0.25, 0.5, 0.5])
    cosines = F.cosine_similarity(x[:, None], head.weight[None], dim=2)
    torch.testing.assert_close(loss(head(x), labels), F.cross_entropy(30 * (cosines - margins), labels))


@pytest.mark.parametrize("head", [NormalisedLinear(4, 2, 30.0), CausalHead(4, 2, 2, 16.0, 1 / 32, 0.9)])
def test_features_of_nothing_but_zeros_give_finite_outputs_and_gradients(head):
    x = torch.zeros(2, 4, requires_grad=True)
    head(x).sum().backward()
    assert torch.isfinite(head(x)).all()
    assert torch.isfinite(x.grad).all()
    assert torch.isfinite(head.weight.grad).all()


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        ("", None),
        ("--cls_head linear", None),
        ("--cls_head cosine", NormalisedLinear),
        ("--cls_head causal", CausalHead),
        ("--cls_loss ldam", NormalisedLinear),
        ("--stage2 tde", CausalHead),
        ("--stage2 crt", None),
    ],
)
def test_loss_and_second_stage_bring_the_head_they_need(words, kind):
    head = class_head(options(*words.split()), NET)
    assert head is None if kind is None else isinstance(head, kind)


@pytest.mark.parametrize(
    "words",
    [
        "--cls_loss ldam --cls_head linear",
        "--cls_loss ldam --stage2 tde",
        "--cls_loss ldam --stage2 crt",
        "--stage2 lws --cls_head cosine",
        "--stage2 tde --cls_head linear",
        "--cls_head causal --tde_heads 3",
    ],
)
def test_heads_that_exclude_each_other_are_refused(words):
    with pytest.raises(UsageError) as caught:
        class_head(options(*words.split()), NET)
    for word in words.split()[::2]:
        assert word in str(caught.value) or words == "--cls_head causal --tde_heads 3"
