"""R(2+1)D-18, R3D-18 and MC3-18 are torchvision's, and take its weights."""

from __future__ import annotations

from argparse import Namespace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from backbone import count_parameters, get_backbone
from backbone.r2plus1d_18 import VideoResNet
from backbone.utils.weights import load_weights
from utils.torchvision_import import import_torchvision

NAMES = ["r2plus1d-18", "r3d-18", "mc3-18"]
each_network = pytest.mark.parametrize("name", NAMES)


def build(name: str, num_classes: int = 400, seed: int = 0, **more: object) -> VideoResNet:
    torch.manual_seed(seed)
    args = Namespace(backbone=name, num_classes=num_classes, input_shape=(3, 16, 112, 112), **more)
    return get_backbone(args).eval()


@cache
def torchvisions(name: str) -> nn.Module:
    torch.manual_seed(1)
    network = getattr(import_torchvision("models.video"), name.replace("-", "_"))(weights=None)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm3d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def clip(n_frames: int = 8, size: int = 40, n: int = 2) -> Tensor:
    return torch.randn(n, 3, n_frames, size, size, generator=torch.Generator().manual_seed(n_frames + size))


@pytest.mark.parametrize(("name", "n_parameters"), [*zip(NAMES, [31_505_325, 33_371_472, 11_695_440], strict=True)])
def test_they_have_the_published_number_of_parameters(name: str, n_parameters: int) -> None:
    with torch.device("meta"):
        network = build(name)
    assert count_parameters(network) == n_parameters
    assert network.feature_dim == 512


@each_network
def test_a_file_of_torchvision_gives_the_outputs_of_its_network(tmp_path: Path, name: str) -> None:
    source, network = torchvisions(name), build(name)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    report = load_weights(network, tmp_path / "weights.pth")
    assert report.missing == report.unexpected == report.mismatched == []
    assert len(report.loaded) == len(source.state_dict())
    with torch.no_grad():
        for x in (clip(8, 40, n=2), clip(5, 33)):
            out, features = network(x, returnt="both")
            torch.testing.assert_close(out, source(x), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(source.fc(features), out)
    smaller = build(name, num_classes=7)
    before = smaller.classifier.weight.clone()
    report = load_weights(smaller, tmp_path / "weights.pth")
    assert report.mismatched == ["classifier.bias: (400,), (7,)", "classifier.weight: (400, 512), (7, 512)"]
    assert report.missing == report.unexpected == []
    assert torch.equal(smaller.classifier.weight, before)


@each_network
def test_initial_weights_are_distributed_as_torchvisions(name: str) -> None:
    ours, theirs = build(name).state_dict(), torchvisions(name).state_dict()
    for key in ("stem.0.weight", "layer1.1.conv2.0.weight", "layer4.0.downsample.0.weight"):
        key = key if key in ours else key.replace(".weight", ".3.weight")
        assert abs(ours[key].std() / theirs[key].std() - 1) < 0.1


@each_network
def test_stages_name_the_maps_of_16_frames_of_112_pixels(name: str) -> None:
    with torch.device("meta"):
        network, x = build(name), torch.empty(1, 3, 16, 112, 112)
        _, maps = network(x, returnt="full")
    times = [16, 16, 16, 16, 16] if name == "mc3-18" else [16, 16, 8, 4, 2]
    assert {stage: tuple(each.shape) for stage, each in zip(network.stages, maps, strict=True)} == {
        "stem": (1, 64, times[0], 56, 56),
        "layer1": (1, 64, times[1], 56, 56),
        "layer2": (1, 128, times[2], 28, 28),
        "layer3": (1, 256, times[3], 14, 14),
        "layer4": (1, 512, times[4], 7, 7),
    }


@pytest.mark.parametrize("width", [1, 4, 20])
@each_network
def test_every_width_can_be_built_and_features_grow_with_it(name: str, width: int) -> None:
    network = build(name, width=width)
    with torch.no_grad():
        assert network(clip(), returnt="features").shape == (2, 8 * width) == (2, network.feature_dim)
