"""Networks for images against torchvision's: sizes, outputs with the same weights, files that do not fit."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from backbone import ContinualBackbone, count_parameters, get_backbone
from backbone.resnet18 import PaddedShortcut
from backbone.utils.weights import load_weights
from utils.args import parse_args
from utils.errors import DataError, UsageError
from utils.torchvision_import import import_torchvision


def build(name: str, num_classes: int, shape: tuple[int, ...], **options: object) -> ContinualBackbone:
    torch.manual_seed(0)
    return get_backbone(Namespace(backbone=name, num_classes=num_classes, input_shape=shape, **options))


def pictures(n: int, size: int) -> Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(size))


@pytest.mark.parametrize(
    ("name", "num_classes", "size", "options", "n_parameters", "feature_dim"),
    [
        ("resnet18", 1000, 224, {"stem": "imagenet"}, 11_689_512, 512),
        ("resnet34", 1000, 224, {"stem": "imagenet"}, 21_797_672, 512),
        ("resnet50", 1000, 224, {"stem": "imagenet"}, 25_557_032, 2048),
        ("resnet32", 10, 32, {}, 464_154, 64),
        ("efficientnet-b0", 1000, 224, {"stem": "imagenet"}, 5_288_548, 1280),
        ("efficientnet-b0", 100, 32, {}, 4_135_648, 1280),
        ("swin-t", 1000, 224, {}, 28_288_354, 768),
        ("swin-t", 100, 32, {}, 27_596_254, 768),
        ("vit-b16", 1000, 224, {}, 86_567_656, 768),
    ],
)
def test_networks_have_the_published_number_of_parameters(
    name: str, num_classes: int, size: int, options: dict[str, object], n_parameters: int, feature_dim: int
) -> None:
    with torch.device("meta"):
        network = build(name, num_classes, (3, size, size), **options)
    assert count_parameters(network) == n_parameters
    assert network.feature_dim == feature_dim


def sides(network: ContinualBackbone, size: int) -> list[int]:
    with torch.no_grad():
        return [each.shape[-1] for each in network.eval()(pictures(1, size), returnt="full")[1]]


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("resnet34", {"width": 4}, [32, 32, 16, 8, 4]),
        ("resnet50", {"width": 4, "stem": "imagenet"}, [16, 8, 4, 2, 1]),
        ("resnet32", {}, [32, 32, 16, 8]),
        ("efficientnet-b0", {"width": 8}, [32, 32, 16, 8, 4, 4, 2, 2, 2]),
        ("efficientnet-b0", {"width": 8, "stem": "imagenet"}, [16, 16, 8, 4, 2, 2, 1, 1, 1]),
        ("swin-t", {"width": 8, "patch_size": 2}, [16, 16, 8, 4, 2]),
    ],
)
def test_maps_of_32x32_images_have_the_sides_of_their_stages(
    name: str, options: dict[str, object], expected: list[int]
) -> None:
    network = build(name, 4, (3, 32, 32), **options)
    assert sides(network, 32) == expected
    assert len(network.stages) == len(expected)


def theirs(name: str) -> nn.Module:
    """A network of torchvision with weights and batch statistics that are not the initial ones."""
    torch.manual_seed(1)
    if name == "vit-b16":
        network = import_torchvision("models.vision_transformer").VisionTransformer(
            64, 16, 2, 2, 128, 512, num_classes=7
        )
        nn.init.normal_(network.heads.head.weight)
    elif name == "swin-t":
        network = import_torchvision("models.swin_transformer").SwinTransformer(
            [4, 4], 32, [2, 2, 6, 2], [1, 2, 4, 8], [7, 7], num_classes=7
        )
    else:
        network = getattr(import_torchvision("models"), name.replace("-", "_"))(num_classes=7)
    for norm in network.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.1)
            nn.init.normal_(norm.running_mean, std=0.1)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    return network.eval()


OPTIONS: dict[str, dict[str, object]] = {
    "resnet18": {"stem": "imagenet"},
    "resnet34": {"stem": "imagenet"},
    "resnet50": {"stem": "imagenet"},
    "efficientnet-b0": {"stem": "imagenet"},
    "swin-t": {"width": 32},
    "vit-b16": {"width": 128, "depth": 2},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_torchvisions_weights_load_and_give_torchvisions_outputs(tmp_path: Path, name: str) -> None:
    model = theirs(name)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    network = build(name, 7, (3, 64, 64), **OPTIONS[name]).eval()
    report = load_weights(network, tmp_path / "weights.pth")
    assert report.missing == report.unexpected == report.mismatched == []
    x = pictures(2, 64)
    with torch.no_grad():
        torch.testing.assert_close(network(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_head_of_another_size_keeps_its_weights_and_is_reported(tmp_path: Path, name: str) -> None:
    torch.save(theirs(name).state_dict(), tmp_path / "weights.pth")
    network = build(name, 3, (3, 64, 64), **OPTIONS[name])
    before = network.classifier.weight.clone()
    report = load_weights(network, tmp_path / "weights.pth")
    assert [each.split(":")[0] for each in report.mismatched] == ["classifier.bias", "classifier.weight"]
    assert torch.equal(network.classifier.weight, before)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "efficientnet-b0"])
def test_what_does_not_fit_the_small_stem_is_refused_or_fits(tmp_path: Path, name: str) -> None:
    torch.save(theirs(name).state_dict(), tmp_path / "weights.pth")
    network = build(name, 7, (3, 32, 32), stem="small")
    if name == "efficientnet-b0":  # its stems differ in their stride only
        assert load_weights(network, tmp_path / "weights.pth").missing == []
        return
    with pytest.raises(DataError, match="--stem imagenet") as caught:
        load_weights(network, tmp_path / "weights.pth")
    assert "conv1.weight: (64, 3, 7, 7), (64, 3, 3, 3)" in str(caught.value)


def test_weights_of_other_depths_are_refused(tmp_path: Path) -> None:
    torch.save(theirs("resnet34").state_dict(), tmp_path / "weights.pth")
    with pytest.raises(DataError, match="nothing was loaded"):
        load_weights(build("resnet18", 7, (3, 64, 64), stem="imagenet"), tmp_path / "weights.pth")


def test_positions_of_a_vision_transformer_are_interpolated_to_another_image_size(tmp_path: Path) -> None:
    model = theirs("vit-b16")
    ramp = torch.arange(4.0).repeat(4)  # grows from left to right over 4x4 patches
    with torch.no_grad():
        model.encoder.pos_embedding[0, 1:] = ramp[:, None]
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    network = build("vit-b16", 7, (3, 128, 128), **OPTIONS["vit-b16"])
    assert load_weights(network, tmp_path / "weights.pth").missing == []
    positions = network.encoder.pos_embedding
    assert torch.equal(positions[:, 0], model.encoder.pos_embedding[:, 0])
    grid = positions[0, 1:, 5].view(8, 8)
    torch.testing.assert_close(grid, grid[:1].expand(8, -1))
    assert (grid[0].diff() > 0).all()
    assert grid[0].mean().item() == pytest.approx(1.5, abs=1e-4)


def test_cifar_weights_of_resnet32_load_under_their_usual_names(tmp_path: Path) -> None:
    source = build("resnet32", 10, (3, 32, 32))
    state = {}
    for key, value in source.state_dict().items():
        for number in range(3):
            key = key.replace(f"layers.{number}.", f"layer{number + 1}.")
        state["module." + key.replace("classifier.", "linear.")] = torch.rand_like(value.float())
    torch.save({"state_dict": state}, tmp_path / "weights.pth")
    network = build("resnet32", 10, (3, 32, 32))
    assert load_weights(network, tmp_path / "weights.pth").missing == []
    assert torch.equal(network.classifier.weight, state["module.linear.weight"])
    assert torch.equal(network.layers[2][4].conv2.weight, state["module.layer3.4.conv2.weight"])


def test_the_shortcut_without_parameters_takes_every_other_pixel_and_adds_channels_of_zeros() -> None:
    x = torch.randn(2, 4, 6, 6)
    out = PaddedShortcut(4, 8, 2)(x)
    assert torch.equal(out[:, 2:6], x[:, :, ::2, ::2])
    assert out.shape == (2, 8, 3, 3)
    assert not out[:, :2].any()
    assert not out[:, 6:].any()
    assert torch.equal(PaddedShortcut(4, 4, 1)(x), x)


@pytest.mark.parametrize("name", ["efficientnet-b0", "swin-t"])
def test_blocks_are_left_out_at_random_in_training_only(name: str) -> None:
    network, x = build(name, 4, (3, 32, 32), width=8, drop_path=0.9), pictures(4, 32)
    with torch.no_grad():
        assert torch.equal(network.eval()(x), network(x))
        network.train().freeze_batch_norm()
        assert not torch.equal(network(x), network(x))
        network = build(name, 4, (3, 32, 32), width=8, drop_path=0.0).train()
        network.freeze_batch_norm()
        assert torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("swin-t", {"width": 12}),
        ("swin-t", {"width": 104}),
        ("vit-b16", {"width": 131}),
        ("vit-b16", {"patch_size": 5}),
    ],
)
def test_sizes_that_cannot_be_built_are_refused(name: str, options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=f"--backbone {name}"):
        build(name, 4, (3, 32, 32), **options)


def test_an_unknown_stem_is_refused() -> None:
    with pytest.raises(UsageError, match="neither small nor imagenet"):
        parse_args(["--model", "sgd", "--dataset", "seq-digits", "--backbone", "resnet18", "--stem", "large"])
