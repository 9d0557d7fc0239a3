"""Sizes that are printed in papers or fixed by public weight files."""

from argparse import Namespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backbone import ContinualBackbone, count_parameters, get_backbone
from backbone.c3d import C3D


def build(name: str, num_classes: int, shape: tuple[int, ...], **options: object) -> ContinualBackbone:
    torch.manual_seed(0)
    return get_backbone(Namespace(backbone=name, num_classes=num_classes, input_shape=shape, **options))


def small_c3d(n_frames: int = 16, size: int = 56) -> C3D:
    return build("c3d", 4, (3, n_frames, size, size), width=4).eval()


def clip(n_frames: int, size: int, n: int = 1) -> Tensor:
    return torch.randn(n, 3, n_frames, size, size, generator=torch.Generator().manual_seed(n_frames + size))


@pytest.mark.parametrize(("num_classes", "n_parameters"), [(10, 11_173_962), (100, 11_220_132)])
def test_resnet18_has_the_published_number_of_parameters(num_classes: int, n_parameters: int) -> None:
    with torch.device("meta"):
        network = build("resnet18", num_classes, (3, 32, 32))
    assert count_parameters(network) == n_parameters
    assert network.feature_dim == 512


def test_resnet18_keeps_maps_of_4x4_on_images_of_32x32() -> None:
    _, maps = build("resnet18", 10, (3, 32, 32), width=4).eval()(torch.randn(1, 3, 32, 32), returnt="full")
    assert [tuple(each.shape[1:]) for each in maps] == [
        (4, 32, 32),
        (4, 32, 32),
        (8, 16, 16),
        (16, 8, 8),
        (32, 4, 4),
    ]


def test_c3d_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = build("c3d", 487, (3, 16, 112, 112))
    assert count_parameters(network) == 79_991_015
    assert network.feature_dim == 4096
    assert tuple(network.conv1.weight.shape) == (64, 3, 3, 3, 3)
    assert tuple(network.fc6.weight.shape) == (4096, 8192)


def test_c3d_poolings_leave_1x4x4_so_adaptive_pooling_changes_nothing() -> None:
    network = small_c3d(16, 112)
    with torch.no_grad():
        (_, maps), features = network(clip(16, 112), returnt="full"), network(clip(16, 112), returnt="features")
        assert [tuple(each.shape[2:]) for each in maps] == [
            (16, 56, 56),
            (8, 28, 28),
            (4, 14, 14),
            (2, 7, 7),
            (1, 4, 4),
        ]
        assert torch.equal(F.adaptive_avg_pool3d(maps[-1], (1, 4, 4)), maps[-1])
        torch.testing.assert_close(network.fc6(maps[-1].flatten(1)).relu(), features)


def test_c3d_features_are_fc6_after_relu() -> None:
    with torch.no_grad():
        features = small_c3d()(clip(16, 56, n=3), returnt="features")
    assert features.min() == 0
    assert features.max() > 0
