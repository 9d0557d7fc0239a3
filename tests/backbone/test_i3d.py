"""I3D is the published network: its sizes, its padding, and the two layouts of its public weights."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone import count_parameters, get_backbone
from backbone.i3d import I3D, SamePool, Unit, same_padding
from backbone.utils.weights import load_weights
from utils.errors import DataError

STAGES = [
    *["conv1a", "maxpool2a", "conv2b", "conv2c", "maxpool3a", "mixed_3b", "mixed_3c", "maxpool4a", "mixed_4b"],
    *["mixed_4c", "mixed_4d", "mixed_4e", "mixed_4f", "maxpool5a", "mixed_5b", "mixed_5c", "pooled"],
]
N_PUBLIC = 9
WIDTH = 8


def build(num_classes: int = N_PUBLIC, width: int = WIDTH, seed: int = 0, **more: object) -> I3D:
    torch.manual_seed(seed)
    args = Namespace(backbone="i3d", num_classes=num_classes, input_shape=(3, 16, 64, 64), width=width, **more)
    return get_backbone(args).eval()


def clip(n_frames: int = 16, size: int = 64, n: int = 2) -> Tensor:
    return torch.randn(n, 3, n_frames, size, size, generator=torch.Generator().manual_seed(n_frames + size))


def randomise_statistics(network: nn.Module) -> nn.Module:
    """Batch norm that does something in evaluation, small variances included, where its epsilon shows."""
    generator = torch.Generator().manual_seed(7)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.01, 0.5, generator=generator)
            module.weight.data.uniform_(0.2, 0.6, generator=generator)
            module.bias.data.normal_(0, 0.2, generator=generator)
    return network.eval()


# Sizes


@pytest.mark.parametrize(("num_classes", "n_parameters"), [(400, 12_697_264), (1, 12_287_264 + 1025)])
def test_it_has_the_published_number_of_parameters(num_classes: int, n_parameters: int) -> None:
    with torch.device("meta"):
        network = build(num_classes, width=64)
    assert count_parameters(network) == n_parameters
    assert sum(parameter.numel() for parameter in network.trunk_parameters()) == 12_287_264
    assert network.feature_dim == 1024
    assert len(network.state_dict()) == 344


def test_maps_of_16_frames_of_224_pixels_are_the_published_ones() -> None:
    with torch.device("meta"):
        network, x = build(width=64), torch.empty(1, 3, 16, 224, 224)
        features, maps = network(x, returnt="features"), network(x, returnt="full")[1]
    assert network.stages == STAGES
    assert {stage: tuple(each.shape[1:]) for stage, each in zip(network.stages, maps, strict=True)} == {
        "conv1a": (64, 8, 112, 112),
        "maxpool2a": (64, 8, 56, 56),
        "conv2b": (64, 8, 56, 56),
        "conv2c": (192, 8, 56, 56),
        "maxpool3a": (192, 8, 28, 28),
        "mixed_3b": (256, 8, 28, 28),
        "mixed_3c": (480, 8, 28, 28),
        "maxpool4a": (480, 4, 14, 14),
        **{f"mixed_4{letter}": (512, 4, 14, 14) for letter in "bcd"},
        "mixed_4e": (528, 4, 14, 14),
        "mixed_4f": (832, 4, 14, 14),
        "maxpool5a": (832, 2, 7, 7),
        "mixed_5b": (832, 2, 7, 7),
        "mixed_5c": (1024, 2, 7, 7),
        "pooled": (1024,),
    }
    assert features.shape == (1, 1024)


@pytest.mark.parametrize(("n_frames", "size"), [(16, 112), (8, 112), (15, 112), (8, 224), (16, 158)])
def test_maps_of_other_sizes_are_an_eighth_of_the_time_and_a_32nd_of_the_place(n_frames: int, size: int) -> None:
    with torch.device("meta"):
        _, maps = build()(torch.empty(1, 3, n_frames, size, size), returnt="full")
    place = math.ceil(size / 32)
    assert tuple(maps[-2].shape[2:]) == (math.ceil(n_frames / 8), place, place)


def test_features_are_the_published_average_pooling_at_16_frames_of_224_pixels() -> None:
    network = build()
    with torch.no_grad():
        features, (_, maps) = network(clip(16, 224, n=1), returnt="features"), network(clip(16, 224, n=1), "full")
    published = F.avg_pool3d(maps[STAGES.index("mixed_5c")], (2, 7, 7), stride=1).flatten(1)
    torch.testing.assert_close(features, published, rtol=1e-5, atol=1e-7)
    assert torch.equal(maps[-1], features)
    assert features.min() >= 0


@pytest.mark.parametrize("width", [1, 4, 8, 20])
def test_every_width_can_be_built_and_features_grow_with_it(width: int) -> None:
    network = build(width=width)
    assert network.conv1a.conv3d.out_channels == width
    with torch.no_grad():
        assert network(clip(8, 40), returnt="features").shape == (2, network.feature_dim)


def test_the_head_drops_features_in_training_only() -> None:
    network, features = build(dropout=0.9), torch.ones(64, 128)
    assert torch.equal(network.classifier(features)[0], network.classifier(features)[1])
    out = network.train().classifier(features)
    assert not torch.equal(out[0], out[1])


# TensorFlow's SAME padding, computed entry by entry


def outputs_of_same(values: list[float], kernel: int, stride: int) -> Iterator[dict[int, float]]:
    """The values that each of ceil(n / stride) outputs sees, by tap of the kernel; what is outside counts as 0."""
    n_outputs = -(-len(values) // stride)
    needed = (n_outputs - 1) * stride + kernel - len(values)
    before = max(needed, 0) // 2
    for i in range(n_outputs):
        places = {tap: i * stride - before + tap for tap in range(kernel)}
        yield {tap: values[place] for tap, place in places.items() if 0 <= place < len(values)}


def along(axis: int, values: Tensor) -> Tensor:
    """A clip (1, 1, T, H, W) that has the values along one axis and one entry along the others."""
    return values.view([len(values) if i == axis else 1 for i in range(5)])


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "expected"),
    [
        *[(224, 7, 2, (2, 3)), (15, 7, 2, (3, 3)), (112, 3, 2, (0, 1)), (79, 3, 2, (1, 1)), (7, 2, 2, (0, 1))],
        *[(14, 2, 2, (0, 0)), (14, 3, 1, (1, 1)), (1, 3, 2, (1, 1)), (1, 1, 2, (0, 0)), (3, 2, 4, (0, 0))],
    ],
)
def test_the_odd_zero_comes_last(size: int, kernel: int, stride: int, expected: tuple[int, int]) -> None:
    assert same_padding(size, kernel, stride) == expected


@pytest.mark.parametrize("kernel_and_stride", [(3, 1), (3, 2), (2, 2), (1, 1), (1, 2)])
@pytest.mark.parametrize("axis", [2, 3, 4])
def test_pooling_is_same_padding_along_every_axis(kernel_and_stride: tuple[int, int], axis: int) -> None:
    kernel, stride = kernel_and_stride
    kernels, strides = [1, 1, 1], [1, 1, 1]
    kernels[axis - 2], strides[axis - 2] = kernel, stride
    pool = SamePool((kernels[0], kernels[1], kernels[2]), (strides[0], strides[1], strides[2]))
    for size in range(1, 12):
        values = torch.rand(size, generator=torch.Generator().manual_seed(size))
        seen = outputs_of_same(values.tolist(), kernel, stride)
        assert pool(along(axis, values)).flatten().tolist() == [max(each.values()) for each in seen]


@pytest.mark.parametrize("kernel_and_stride", [(7, 2), (3, 1), (1, 1)])
@pytest.mark.parametrize("axis", [2, 3, 4])
def test_convolution_is_same_padding_along_every_axis(kernel_and_stride: tuple[int, int], axis: int) -> None:
    kernel, stride = kernel_and_stride
    unit = Unit(1, 1, kernel, stride).eval()
    taps = torch.rand(kernel, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        unit.conv3d.weight.zero_()
        # The other two axes have one entry, which the middle tap meets.
        unit.conv3d.weight.transpose(2, axis)[0, 0, :, kernel // 2, kernel // 2] = taps
    for size in range(1, 12):
        values = torch.rand(size, generator=torch.Generator().manual_seed(size))
        with torch.no_grad():
            out = unit(along(axis, values)).flatten() * math.sqrt(1 + 1e-3)
        seen = outputs_of_same(values.tolist(), kernel, stride)
        expected = [sum(taps[tap].item() * value for tap, value in each.items()) for each in seen]
        torch.testing.assert_close(out, torch.tensor(expected))


# Public layouts: two networks written from their names, in plain operations

CHANNELS = {
    "3b": (192, 64, 96, 128, 16, 32, 32),
    "3c": (256, 128, 128, 192, 32, 96, 64),
    "4b": (480, 192, 96, 208, 16, 48, 64),
    "4c": (512, 160, 112, 224, 24, 64, 64),
    "4d": (512, 128, 128, 256, 24, 64, 64),
    "4e": (512, 112, 144, 288, 32, 64, 64),
    "4f": (528, 256, 160, 320, 32, 128, 128),
    "5b": (832, 256, 160, 320, 32, 128, 128),
    "5c": (832, 384, 192, 384, 48, 128, 128),
}


def zero_padded(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    for axis, (k, s) in enumerate(zip(kernel, stride, strict=True), start=2):
        rest = x.shape[axis] % s
        total = max(k - (rest or s), 0)
        shape = list(x.shape)
        shape[axis] = total // 2
        before = x.new_zeros(shape)
        shape[axis] = total - total // 2
        x = torch.cat([before, x, x.new_zeros(shape)], dim=axis)
    return x


def pool(x: Tensor, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    return F.max_pool3d(zero_padded(x, kernel, stride), kernel, stride)


class PublicUnit(nn.Module):
    def __init__(self, n_in: int, n_out: int, kernel: int = 1, stride: int = 1, norm: str | None = "bn") -> None:
        super().__init__()
        self.kernel, self.stride, self.norm = (kernel,) * 3, (stride,) * 3, norm
        self.conv3d = nn.Conv3d(n_in, n_out, kernel, stride, bias=norm is None)
        if norm:
            self.add_module(norm, nn.BatchNorm3d(n_out, eps=0.001))

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv3d(zero_padded(x, self.kernel, self.stride))
        return F.relu(getattr(self, self.norm)(x)) if self.norm else x


class PiergiajMixed(nn.Module):
    def __init__(self, n_in: int, n0: int, n1a: int, n1b: int, n2a: int, n2b: int, n3: int) -> None:
        super().__init__()
        self.b0 = PublicUnit(n_in, n0)
        self.b1a = PublicUnit(n_in, n1a)
        self.b1b = PublicUnit(n1a, n1b, 3)
        self.b2a = PublicUnit(n_in, n2a)
        self.b2b = PublicUnit(n2a, n2b, 3)
        self.b3b = PublicUnit(n_in, n3)

    def forward(self, x: Tensor) -> Tensor:
        pooled = pool(x, (3, 3, 3), (1, 1, 1))
        return torch.cat([self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)], 1)


class HassonyPool(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return pool(x, (3, 3, 3), (1, 1, 1))


class HassonyMixed(nn.Module):
    def __init__(self, n_in: int, n0: int, n1a: int, n1b: int, n2a: int, n2b: int, n3: int) -> None:
        super().__init__()

        def unit(n_in: int, n_out: int, kernel: int = 1) -> PublicUnit:
            return PublicUnit(n_in, n_out, kernel, norm="batch3d")

        self.branch_0 = unit(n_in, n0)
        self.branch_1 = nn.Sequential(unit(n_in, n1a), unit(n1a, n1b, 3))
        self.branch_2 = nn.Sequential(unit(n_in, n2a), unit(n2a, n2b, 3))
        self.branch_3 = nn.Sequential(HassonyPool(), unit(n_in, n3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.branch_0(x), self.branch_1(x), self.branch_2(x), self.branch_3(x)], 1)


class PublicI3D(nn.Module):
    """The network under the names of one of the layouts; returns (logits averaged over time and place, features)."""

    def __init__(self, layout: str, num_classes: int = N_PUBLIC, width: int = WIDTH) -> None:
        super().__init__()
        piergiaj = layout == "piergiaj"
        self.conv, self.mixed = ("Conv3d", "Mixed") if piergiaj else ("conv3d", "mixed")
        self.logits_name = "logits" if piergiaj else "conv3d_0c_1x1"
        norm, mixed = ("bn", PiergiajMixed) if piergiaj else ("batch3d", HassonyMixed)
        c = {n: n * width // 64 for n in (64, 192, 1024)}
        self.add_module(f"{self.conv}_1a_7x7", PublicUnit(3, c[64], 7, 2, norm=norm))
        self.add_module(f"{self.conv}_2b_1x1", PublicUnit(c[64], c[64], norm=norm))
        self.add_module(f"{self.conv}_2c_3x3", PublicUnit(c[64], c[192], 3, norm=norm))
        for name, channels in CHANNELS.items():
            self.add_module(f"{self.mixed}_{name}", mixed(*[n * width // 64 for n in channels]))
        self.add_module(self.logits_name, PublicUnit(c[1024], num_classes, norm=None))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = pool(getattr(self, f"{self.conv}_1a_7x7")(x), (1, 3, 3), (1, 2, 2))
        x = getattr(self, f"{self.conv}_2c_3x3")(getattr(self, f"{self.conv}_2b_1x1")(x))
        x = pool(x, (1, 3, 3), (1, 2, 2))
        for name in CHANNELS:
            if name == "4b":
                x = pool(x, (3, 3, 3), (2, 2, 2))
            if name == "5b":
                x = pool(x, (2, 2, 2), (2, 2, 2))
            x = getattr(self, f"{self.mixed}_{name}")(x)
        x = F.avg_pool3d(x, x.shape[2:])
        return getattr(self, self.logits_name)(x).flatten(2).mean(2), x.flatten(1)


LAYOUTS = ["piergiaj", "hassony2"]


def public(layout: str, seed: int = 1) -> PublicI3D:
    torch.manual_seed(seed)
    return randomise_statistics(PublicI3D(layout))


@pytest.mark.parametrize("shape", [(16, 64), (8, 64), (15, 70), (5, 41)])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_of_every_public_layout_gives_the_outputs_of_its_network(
    tmp_path: Path, layout: str, shape: tuple[int, int]
) -> None:
    source, network, x = public(layout), build(), clip(*shape)
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    report = load_weights(network, tmp_path / "weights.pt")
    assert report.missing == report.unexpected == report.mismatched == []
    assert len(report.loaded) == len(source.state_dict()) == len(network.state_dict()) == 344
    with torch.no_grad():
        (out, features), (logits, expected) = network(x, returnt="both"), source(x)
    assert expected.std() > 1e-3
    torch.testing.assert_close(features, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(out, logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_public_file_of_full_size_fits_key_by_key(tmp_path: Path, layout: str) -> None:
    with torch.device("meta"):
        state = PublicI3D(layout, num_classes=400, width=64).state_dict()
    # One number for every tensor, repeated by its strides: the shapes of the published file in a few kilobytes.
    state = {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in state.items()}
    torch.save(state, tmp_path / "model_rgb.pth")
    report = load_weights(build(400, width=64), tmp_path / "model_rgb.pth")
    assert len(report.loaded) == 344
    assert report.missing == report.unexpected == report.mismatched == []
    report = load_weights(build(10, width=64), tmp_path / "model_rgb.pth")
    assert report.mismatched == [
        "classifier.1.bias: (400,), (10,)",
        "classifier.1.weight: (400, 1024), (10, 1024)",
    ]
    assert len(report.loaded) == 342


@pytest.mark.parametrize("layout", LAYOUTS)
def test_old_files_without_batch_counters_load(tmp_path: Path, layout: str) -> None:
    source, network = public(layout), build()
    state = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    torch.save(state, tmp_path / "old.pt")
    report = load_weights(network, tmp_path / "old.pt")
    assert len(report.loaded) == 344 - 57
    assert report.missing == report.unexpected == report.mismatched == []
    with torch.no_grad():
        torch.testing.assert_close(network(clip()), source(clip())[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "mlp", "gaussian"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_score_head_takes_the_features_and_reports_the_class_head(tmp_path: Path, layout: str, kind: str) -> None:
    source, network = public(layout), build(num_classes=1, score_head=kind)
    head = {key: value.clone() for key, value in network.classifier.state_dict().items()}
    torch.save(source.state_dict(), tmp_path / "weights.pt")
    report = load_weights(network, tmp_path / "weights.pt")
    assert len(report.loaded) == 342
    assert report.unexpected == ["classifier.1.bias", "classifier.1.weight"]
    assert all(torch.equal(value, head[key]) for key, value in network.classifier.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(network(clip(), "features"), source(clip())[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("part", ["4d", "1a"])
def test_a_public_file_that_lacks_one_layer_is_refused(tmp_path: Path, layout: str, part: str) -> None:
    state = {key: value for key, value in public(layout).state_dict().items() if f"_{part}" not in key}
    torch.save(state, tmp_path / "weights.pt")
    with pytest.raises(DataError, match=rf"missing \(\d+\): .*{part}"):
        load_weights(build(), tmp_path / "weights.pt")


def test_weights_for_optical_flow_are_refused_with_both_shapes(tmp_path: Path) -> None:
    state = public("piergiaj").state_dict()
    state["Conv3d_1a_7x7.conv3d.weight"] = state["Conv3d_1a_7x7.conv3d.weight"][:, :2].clone()
    torch.save(state, tmp_path / "flow_imagenet.pt")
    with pytest.raises(DataError, match=r"number of input channels") as caught:
        load_weights(build(), tmp_path / "flow_imagenet.pt")
    assert "conv1a.conv3d.weight: (8, 2, 7, 7, 7), (8, 3, 7, 7, 7)" in str(caught.value)


def test_its_own_weights_load_back(tmp_path: Path) -> None:
    source, network = randomise_statistics(build(seed=1)), build(seed=2)
    torch.save(source.state_dict(), tmp_path / "ours.pth")
    assert len(load_weights(network, tmp_path / "ours.pth").loaded) == 344
    with torch.no_grad():
        assert torch.equal(network(clip()), source(clip()))
