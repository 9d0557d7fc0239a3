"""Sizes and window rules that are printed in papers or fixed by public weight files."""

from argparse import Namespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from backbone import ContinualBackbone, count_parameters, get_backbone
from backbone.c3d import C3D, WINDOW, window_starts


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


def test_windows_of_a_clip_of_103_frames_are_magrs() -> None:
    assert window_starts(103) == [0, 10, 20, 30, 40, 50, 60, 70, 80, 87]


@pytest.mark.parametrize(
    ("n_frames", "starts"),
    [(1, [0]), (15, [0]), (16, [0]), (17, [0, 1]), (26, [0, 10]), (27, [0, 10, 11]), (36, [0, 10, 20])],
)
def test_windows_of_other_clips(n_frames: int, starts: list[int]) -> None:
    assert window_starts(n_frames) == starts


@pytest.mark.parametrize("n_frames", range(16, 140))
def test_windows_cover_every_frame_and_none_beyond(n_frames: int) -> None:
    covered = {frame for start in window_starts(n_frames) for frame in range(start, start + WINDOW)}
    assert covered == set(range(n_frames))
    assert len(set(window_starts(n_frames))) == len(window_starts(n_frames))


def test_c3d_averages_the_features_of_the_windows_of_a_long_clip() -> None:
    network, x = small_c3d(103), clip(103, 56, n=2)
    with torch.no_grad():
        whole = network(x, returnt="features")
        windows = [network(x[:, :, start : start + 16], returnt="features") for start in [*range(0, 81, 10), 87]]
    assert torch.stack(windows).std(0).max() > 0
    torch.testing.assert_close(whole, torch.stack(windows).mean(0), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n_frames", [8, 16])
@pytest.mark.parametrize("size", [112, 56])
def test_c3d_accepts_short_and_small_clips(n_frames: int, size: int) -> None:
    network = small_c3d(n_frames, size)
    with torch.no_grad():
        out, features = network(clip(n_frames, size, n=2), returnt="both")
    assert out.shape == (2, 4)
    assert features.shape == (2, 256)
    assert not torch.equal(features[0], features[1])


@pytest.mark.parametrize("n_frames", range(1, 16))
def test_c3d_accepts_every_number_of_frames_below_a_window(n_frames: int) -> None:
    with torch.no_grad():
        assert torch.isfinite(small_c3d(n_frames)(clip(n_frames, 56))).all()


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
