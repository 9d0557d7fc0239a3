"""The trunk for pre-extracted features starts with the features as they are, and moves them as it learns."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch
from torch import Tensor

from backbone import count_parameters, get_backbone
from backbone.clip_features import ClipFeatures
from utils.errors import UsageError


def build(shape: tuple[int, ...], seed: int = 0, **options: object) -> ClipFeatures:
    torch.manual_seed(seed)
    return get_backbone(Namespace(backbone="clip-features", num_classes=3, input_shape=shape, **options))


def windows(n: int, dim: int, n_windows: int) -> Tensor:
    return torch.randn(n, dim, n_windows, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("n_windows", [1, 2, 10])
def test_at_depth_0_features_are_the_mean_over_windows(n_windows: int) -> None:
    network, x = build((6, n_windows), depth=0), windows(4, 6, n_windows)
    assert torch.equal(network(x, returnt="features"), x.mean(2))
    assert network.trunk_parameters() == []
    assert network.stages == ["mean"]


def test_every_layer_adds_a_small_step_to_what_came_before() -> None:
    network, x = build((64, 10), depth=2), windows(32, 64, 10)
    with torch.no_grad():
        features, (_, maps) = network(x, returnt="features"), network(x, returnt="full")
        assert network.stages == ["mean", "layer1", "layer2"]
        assert torch.equal(maps[0], x.mean(2))
        for layer, before, after in zip(network.layers, maps[:-1], maps[1:], strict=True):
            first, last = layer.residual[0], layer.residual[2]
            hidden = (before @ first.weight.T + first.bias).relu()
            torch.testing.assert_close(after, before + hidden @ last.weight.T + last.bias)
            step = (after - before).norm() / before.norm()
            assert 0.001 < step < 0.1
    assert torch.equal(features, maps[-1])


def test_features_keep_their_width_and_hidden_units_are_an_option() -> None:
    network = build((1024, 10))
    assert network.feature_dim == 1024
    assert count_parameters(network) - count_parameters(network.classifier) == 525_568
    assert tuple(build((20, 4), width=7).layers[0].residual[0].weight.shape) == (7, 20)


def test_one_step_moves_the_features() -> None:
    network, x = build((8, 3)), windows(16, 8, 3)
    before = network(x, returnt="features").detach()
    network(x).square().sum().backward()
    torch.optim.SGD(network.trunk_parameters(), lr=0.1).step()
    assert not torch.equal(network(x, returnt="features"), before)


def test_a_sequence_of_another_length_has_features_of_the_same_width() -> None:
    network = build((8, 3))
    assert network(windows(2, 8, 1), returnt="features").shape == network(windows(2, 8, 9), "features").shape == (2, 8)


@pytest.mark.parametrize("shape", [(7,), (3, 32, 32), (3, 16, 56, 56)])
def test_other_shapes_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"it takes features of the windows of clips \(D, T\), not samples of shape"):
        build(shape)


def test_a_negative_depth_is_refused() -> None:
    with pytest.raises(UsageError, match="depth must not be negative, not -1"):
        build((8, 3), depth=-1)
