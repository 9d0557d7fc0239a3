"""Long clips are cut into windows by MAGR's rule, encoded in one batch, and their features averaged."""

from __future__ import annotations

from argparse import Namespace

import pytest
import torch
from torch import Tensor

from backbone import get_backbone
from backbone.utils.windows import WINDOW, WindowedBackbone, require_clips, window_starts
from utils.errors import UsageError

CLIP_BACKBONES = ["c3d", "i3d", "mc3-18", "r2plus1d-18", "r3d-18"]


class Sums(WindowedBackbone):
    """Features that can be followed by hand: sum and number of time steps of a window; counts its calls."""

    stages = ["input"]

    def __init__(self, window: int = WINDOW, window_stride: int = 0) -> None:
        super().__init__(2, 1, window, window_stride)
        self.n_windows: list[int] = []

    def encode(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        assert x.is_contiguous()
        self.n_windows.append(len(x))
        sums = x.sum((1, 2, 3, 4))
        return torch.stack([sums, torch.full_like(sums, x.shape[2])], dim=1), [x]


def clip(n_frames: int, n: int = 1, size: int = 1) -> Tensor:
    """Clips of one channel whose frame t of clip b is 1000 b + t."""
    frames = torch.arange(n_frames).float() + 1000 * torch.arange(n)[:, None]
    return frames[:, None, :, None, None].expand(n, 1, n_frames, size, size).contiguous()


# The rule


def test_windows_of_a_clip_of_103_frames_are_magrs() -> None:
    assert window_starts(103) == [0, 10, 20, 30, 40, 50, 60, 70, 80, 87]


def test_from_160_frames_on_windows_follow_one_another() -> None:
    assert window_starts(159) == [*range(0, 150, 10), 143]
    assert window_starts(160) == [0, 16, 32, 48, 64, 80, 96, 112, 128, 144]
    assert window_starts(161) == [0, 16, 32, 48, 64, 80, 96, 112, 128, 144, 145]


@pytest.mark.parametrize(
    ("n_frames", "starts"),
    [(1, [0]), (15, [0]), (16, [0]), (17, [0, 1]), (26, [0, 10]), (27, [0, 10, 11]), (36, [0, 10, 20])],
)
def test_windows_of_other_clips(n_frames: int, starts: list[int]) -> None:
    assert window_starts(n_frames) == starts


@pytest.mark.parametrize(
    ("n_frames", "window", "stride", "starts"),
    [
        (103, 16, 16, [0, 16, 32, 48, 64, 80, 87]),
        (200, 16, 10, [*range(0, 184, 10), 184]),
        (20, 8, 0, [0, 5, 10, 12]),
        (80, 8, 0, [*range(0, 73, 8)]),
        (103, 103, 0, [0]),
        (103, 64, 0, [0, 39]),
        (6, 2, 3, [0, 3, 4]),
        (4, 1, 0, [0, 1, 2, 3]),
    ],
)
def test_windows_of_another_size_or_stride(n_frames: int, window: int, stride: int, starts: list[int]) -> None:
    assert window_starts(n_frames, window, stride) == starts


@pytest.mark.parametrize("window", [1, 2, 8, 16, 32])
def test_windows_cover_every_frame_and_none_beyond(window: int) -> None:
    for n_frames in range(window, 20 * window + 2):
        starts = window_starts(n_frames, window)
        assert starts == sorted(set(starts))
        assert {frame for start in starts for frame in range(start, start + window)} == set(range(n_frames))


# The cutting


@pytest.mark.parametrize("n_frames", [1, 8, 16, 17, 40, 103, 160])
def test_windows_hold_their_own_frames_and_features_are_their_mean(n_frames: int) -> None:
    network, x = Sums(), clip(n_frames, n=3, size=2)
    starts = window_starts(n_frames)
    each = torch.stack([x[:, :, start : start + 16].sum((1, 2, 3, 4)) for start in starts], dim=1)
    windows = network.window_features(x)
    assert windows.shape == (3, len(starts), 2)
    assert torch.equal(windows[..., 0], each)
    assert (windows[..., 1] == min(n_frames, 16)).all()
    assert torch.equal(network(x, returnt="features"), windows.mean(1))


def test_all_windows_of_all_clips_are_encoded_in_one_batch() -> None:
    network = Sums()
    network(clip(103, n=5))
    assert network.n_windows == [50]


def test_maps_have_the_windows_of_a_clip_side_by_side() -> None:
    _, (cut,) = Sums()(clip(36, n=2), returnt="full")
    assert cut.shape == (6, 1, 16, 1, 1)
    assert cut[:, 0, 0, 0, 0].tolist() == [0, 10, 20, 1000, 1010, 1020]


def test_window_and_stride_are_the_backbones_own() -> None:
    network = Sums(window=4, window_stride=3)
    assert network.window_features(clip(10))[0].tolist() == [[6, 4], [18, 4], [30, 4]]


def test_gradients_reach_every_frame_as_often_as_it_is_seen() -> None:
    x = clip(36).requires_grad_()
    Sums().window_features(x)[..., 0].sum().backward()
    seen = torch.zeros(36)
    for start in (0, 10, 20):
        seen[start : start + 16] += 1
    assert torch.equal(x.grad[0, 0, :, 0, 0], seen)


@pytest.mark.parametrize(("window", "stride"), [(0, 0), (-1, 0), (16, -1)])
def test_impossible_windows_are_refused(window: int, stride: int) -> None:
    with pytest.raises(ValueError, match="window"):
        Sums(window, stride)


def test_what_is_no_clip_is_refused() -> None:
    require_clips((3, 1, 16, 17), 16)
    with pytest.raises(ValueError, match=r"it takes clips \(C, T, H, W\), not samples of shape \(4, 60\)"):
        require_clips((4, 60), 16)
    with pytest.raises(ValueError, match="at least 16x16 pixels, not 64x15"):
        require_clips((3, 16, 64, 15), 16)


# Every backbone for clips


def build(name: str, shape: tuple[int, ...], **options: object) -> WindowedBackbone:
    torch.manual_seed(0)
    return get_backbone(Namespace(backbone=name, num_classes=4, input_shape=shape, **{"width": 4, **options})).eval()


def video(n_frames: int, size: int, n: int = 1) -> Tensor:
    return torch.randn(n, 3, n_frames, size, size, generator=torch.Generator().manual_seed(n_frames + size))


@pytest.mark.parametrize("name", CLIP_BACKBONES)
def test_features_of_a_long_clip_are_the_mean_over_its_windows(name: str) -> None:
    network, x = build(name, (3, 103, 40, 40)), video(103, 40, n=2)
    with torch.no_grad():
        whole, windows = network(x, returnt="features"), network.window_features(x)
        alone = [network(x[:, :, start : start + 16], returnt="features") for start in [*range(0, 81, 10), 87]]
    assert windows.std(1).max() > 0
    torch.testing.assert_close(windows, torch.stack(alone, dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(whole, torch.stack(alone).mean(0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [56, 112, 224])
@pytest.mark.parametrize("n_frames", [8, 16])
@pytest.mark.parametrize("name", CLIP_BACKBONES)
def test_clips_of_8_and_16_frames_of_56_112_and_224_pixels_fit(name: str, n_frames: int, size: int) -> None:
    network, x = build(name, (3, n_frames, size, size), width=2), video(n_frames, size, n=2)
    with torch.no_grad():
        out, features = network(x, returnt="both")
    assert out.shape == (2, 4)
    assert features.shape == (2, network.feature_dim)
    assert torch.isfinite(out).all()
    assert not torch.equal(features[0], features[1])


@pytest.mark.parametrize("name", CLIP_BACKBONES)
def test_every_number_of_frames_below_a_window_fits(name: str) -> None:
    for n_frames in range(1, 16):
        with torch.no_grad():
            assert torch.isfinite(build(name, (3, n_frames, 40, 40), width=2)(video(n_frames, 40))).all()


@pytest.mark.parametrize(("name", "smallest"), [("c3d", 16), *[(name, 17) for name in CLIP_BACKBONES[2:]], ("i3d", 33)])
def test_one_clip_of_the_smallest_frames_can_be_trained_on(name: str, smallest: int) -> None:
    shape = (3, 1, smallest, smallest)
    network = build(name, shape).train()
    network(video(1, smallest)).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in network.parameters())
    with pytest.raises(UsageError, match=f"at least {smallest}x{smallest} pixels, not {smallest}x{smallest - 1}"):
        build(name, (3, 1, smallest, smallest - 1))


@pytest.mark.parametrize("name", CLIP_BACKBONES)
def test_window_options_reach_the_network(name: str) -> None:
    network = build(name, (3, 24, 40, 40), window=8, window_stride=16)
    with torch.no_grad():
        assert network.window_features(video(24, 40)).shape == (1, 2, network.feature_dim)


@pytest.mark.parametrize("name", CLIP_BACKBONES)
def test_impossible_window_options_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match=f"--backbone {name}: window"):
        build(name, (3, 16, 40, 40), window_stride=-1)
