"""Weights in the layouts of public files load completely, or nothing is loaded and the differences are listed."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from backbone import ContinualBackbone, get_backbone
from backbone.utils.weights import WRAPPERS, load_weights, public_pixel_scale
from utils.errors import DataError
from utils.torchvision_import import import_torchvision

SHAPE = (3, 16, 56, 56)
N_PUBLIC = 7  # outputs of the network that the file comes from; Sports-1M has 487
CONVOLUTIONS = ["conv1", "conv2", "conv3a", "conv3b", "conv4a", "conv4b", "conv5a", "conv5b"]
State = dict[str, Tensor]


def c3d(seed: int, num_classes: int = N_PUBLIC, **more: object) -> ContinualBackbone:
    torch.manual_seed(seed)
    args = Namespace(backbone="c3d", num_classes=num_classes, input_shape=SHAPE, width=2, **more)
    return get_backbone(args).eval()


def features(network: ContinualBackbone) -> Tensor:
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        return network(x, returnt="features")


def flat(network: ContinualBackbone) -> State:
    """Layers by name, as in c3d.pickle."""
    layers = {name: getattr(network, name) for name in [*CONVOLUTIONS, "fc6"]}
    layers |= {"fc7": network.classifier[1], "fc8": network.classifier[4]}
    return {f"{name}.{entry}": value for name, layer in layers.items() for entry, value in layer.state_dict().items()}


def sequential(network: ContinualBackbone) -> State:
    """Layers by position and without fc8, as in c3d-pretrained.pth."""
    positions = ["features.0", "features.3", "features.6", "features.8", "features.11", "features.13", "features.16"]
    names = dict(zip([*positions, "features.18"], CONVOLUTIONS, strict=True))
    names |= {"classifier.0": "fc6", "classifier.3": "fc7"}
    state = flat(network)
    return {f"{ours}.{entry}": state[f"{name}.{entry}"] for ours, name in names.items() for entry in ("weight", "bias")}


def ours(network: ContinualBackbone) -> State:
    return network.state_dict()


LAYOUTS = {"flat": flat, "sequential": sequential, "ours": ours}
WRAPPINGS: dict[str, Callable[[State], object]] = {
    "plain": lambda state: state,
    "module. prefix": lambda state: {f"module.{key}": value for key, value in state.items()},
    "module.backbone. prefix": lambda state: {f"module.backbone.{key}": value for key, value in state.items()},
    **{f"under {wrapper}": lambda state, wrapper=wrapper: {wrapper: state, "epoch": 3} for wrapper in WRAPPERS},
    "state_dict and prefix": lambda state: {"state_dict": {f"module.{key}": value for key, value in state.items()}},
}


@pytest.mark.parametrize("wrapping", WRAPPINGS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_public_layout_gives_the_features_of_its_network(tmp_path: Path, layout: str, wrapping: str) -> None:
    source, network = c3d(seed=1), c3d(seed=2)
    torch.save(WRAPPINGS[wrapping](LAYOUTS[layout](source)), tmp_path / "weights.pth")
    report = load_weights(network, tmp_path / "weights.pth")
    assert torch.equal(features(network), features(source))
    expected_missing = ["classifier.4.bias", "classifier.4.weight"] if layout == "sequential" else []
    assert report.missing == expected_missing
    assert report.unexpected == report.mismatched == []
    assert len(report.loaded) == (20 if layout == "sequential" else 22)
    if layout != "sequential":
        assert all(torch.equal(value, source.state_dict()[key]) for key, value in network.state_dict().items())


class FlatC3D(nn.Module):
    """The network of c3d.pickle under its names; 1/16 of the filters unless told otherwise."""

    def __init__(self, width: int = 4, n_outputs: int = N_PUBLIC) -> None:
        super().__init__()
        channels = [3, *(width * factor for factor in (1, 2, 4, 4, 8, 8, 8, 8))]
        for i, name in enumerate(CONVOLUTIONS):
            self.add_module(name, nn.Conv3d(channels[i], channels[i + 1], (3, 3, 3), padding=(1, 1, 1)))
        self.fc6 = nn.Linear(128 * width, 64 * width)
        self.fc7 = nn.Linear(64 * width, 64 * width)
        self.fc8 = nn.Linear(64 * width, n_outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool3d(F.relu(self.conv1(x)), (1, 2, 2), (1, 2, 2))
        x = F.max_pool3d(F.relu(self.conv2(x)), (2, 2, 2), (2, 2, 2))
        x = F.max_pool3d(F.relu(self.conv3b(F.relu(self.conv3a(x)))), (2, 2, 2), (2, 2, 2))
        x = F.max_pool3d(F.relu(self.conv4b(F.relu(self.conv4a(x)))), (2, 2, 2), (2, 2, 2))
        x = F.max_pool3d(F.relu(self.conv5b(F.relu(self.conv5a(x)))), (2, 2, 2), (2, 2, 2), (0, 1, 1))
        fc6 = F.relu(self.fc6(x.flatten(1)))
        return self.fc8(F.relu(self.fc7(fc6))), fc6


class SequentialC3D(nn.Module):
    """The network of c3d-pretrained.pth under its names: layers by position, no fc8; returns (fc7, fc6)."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        n_in = 3
        for stage, (factors, kernel) in enumerate([((1,), 1), ((2,), 2), ((4, 4), 2), ((8, 8), 2), ((8, 8), 2)]):
            for factor in factors:
                layers += [nn.Conv3d(n_in, factor * width, 3, padding=1), nn.ReLU()]
                n_in = factor * width
            padding = (0, 1, 1) if stage == 4 else 0
            layers.append(nn.MaxPool3d((kernel, 2, 2), (kernel, 2, 2), padding))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(
            *[nn.Linear(128 * width, 64 * width), nn.ReLU(), nn.Dropout()],
            *[nn.Linear(64 * width, 64 * width), nn.ReLU(), nn.Dropout()],
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fc6 = self.classifier[:2](self.features(x).flatten(1))
        return self.classifier[2:](fc6), fc6


def full_c3d(num_classes: int, width: int = 4, seed: int = 2) -> ContinualBackbone:
    torch.manual_seed(seed)
    shape = (3, 16, 112, 112)
    return get_backbone(Namespace(backbone="c3d", num_classes=num_classes, input_shape=shape, width=width)).eval()


def test_a_file_like_c3d_pickle_gives_the_outputs_of_its_network(tmp_path: Path) -> None:
    source, network, x = FlatC3D().eval(), full_c3d(N_PUBLIC), torch.rand(2, 3, 16, 112, 112)
    torch.save(source.state_dict(), tmp_path / "c3d.pickle", _use_new_zipfile_serialization=False)
    report = load_weights(network, tmp_path / "c3d.pickle")
    assert len(report.loaded) == 22
    assert report.missing == report.unexpected == report.mismatched == []
    with torch.no_grad():
        (out, fc6), (expected, expected_fc6) = network(x, returnt="both"), source(x)
    torch.testing.assert_close(fc6, expected_fc6)
    torch.testing.assert_close(out, expected)


def test_a_file_like_c3d_pretrained_gives_fc6_and_fc7_of_its_network(tmp_path: Path) -> None:
    source, network, x = SequentialC3D().eval(), full_c3d(N_PUBLIC), torch.rand(2, 3, 16, 112, 112)
    torch.save(source.state_dict(), tmp_path / "c3d-pretrained.pth")
    report = load_weights(network, tmp_path / "c3d-pretrained.pth")
    assert len(report.loaded) == 20
    assert report.missing == ["classifier.4.bias", "classifier.4.weight"]
    with torch.no_grad():
        fc6, (expected, expected_fc6) = network(x, returnt="features"), source(x)
        torch.testing.assert_close(fc6, expected_fc6)
        torch.testing.assert_close(network.classifier[:4](fc6), expected)


@pytest.mark.filterwarnings("ignore:.*no-op")
def test_the_public_files_of_c3d_fit_key_by_key_at_full_size(tmp_path: Path) -> None:
    shapes = {"conv1": (64, 3), "conv2": (128, 64), "conv3a": (256, 128), "conv3b": (256, 256), "conv4a": (512, 256)}
    shapes |= {"conv4b": (512, 512), "conv5a": (512, 512), "conv5b": (512, 512)}
    published = {f"{name}.weight": (*shape, 3, 3, 3) for name, shape in shapes.items()}
    published |= {"fc6.weight": (4096, 8192), "fc7.weight": (4096, 4096), "fc8.weight": (487, 4096)}
    published |= {key.replace("weight", "bias"): shape[:1] for key, shape in published.items()}
    positions = dict(zip([*CONVOLUTIONS, "fc6", "fc7"], [0, 3, 6, 8, 11, 13, 16, 18, 0, 3], strict=True))
    by_position = {
        f"{'features' if 'conv' in name else 'classifier'}.{positions[name]}.{entry}": shape
        for (name, entry), shape in ((tuple(key.split(".")), shape) for key, shape in published.items())
        if name != "fc8"
    }
    with torch.device("meta"):
        network = full_c3d(487, width=64)
    for layout, n_loaded in ((published, 22), (by_position, 20)):
        # One number for every tensor, repeated by its strides: the shapes of the published file in a few kilobytes.
        torch.save({key: torch.zeros(()).expand(shape) for key, shape in layout.items()}, tmp_path / "c3d")
        report = load_weights(network, tmp_path / "c3d")
        assert len(report.loaded) == n_loaded == len(layout)
        assert report.unexpected == report.mismatched == []


def test_a_file_in_the_format_before_torch_1_6_loads(tmp_path: Path) -> None:
    source, network = c3d(seed=1), c3d(seed=2)
    torch.save(flat(source), tmp_path / "c3d.pickle", _use_new_zipfile_serialization=False)
    assert load_weights(network, tmp_path / "c3d.pickle").missing == []
    assert torch.equal(features(network), features(source))


def test_the_last_layer_that_a_file_lacks_keeps_its_initial_weights(tmp_path: Path) -> None:
    source, network = c3d(seed=1), c3d(seed=2)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.save(sequential(source), tmp_path / "c3d-pretrained.pth")
    load_weights(network, tmp_path / "c3d-pretrained.pth")
    assert torch.equal(network.classifier[4].weight, before["classifier.4.weight"])
    assert torch.equal(network.classifier[1].weight, source.classifier[1].weight)
    assert not torch.equal(network.conv1.weight, before["conv1.weight"])


@pytest.mark.parametrize("layout", ["flat", "ours"])
def test_a_head_of_another_size_is_named_and_kept(tmp_path: Path, layout: str) -> None:
    source, network = c3d(seed=1), c3d(seed=2, num_classes=3)
    before = network.classifier[4].weight.clone()
    torch.save(LAYOUTS[layout](source), tmp_path / "weights.pth")
    report = load_weights(network, tmp_path / "weights.pth")
    assert report.mismatched == ["classifier.4.bias: (7,), (3,)", "classifier.4.weight: (7, 128), (3, 128)"]
    assert report.missing == report.unexpected == []
    assert torch.equal(network.classifier[4].weight, before)
    assert torch.equal(features(network), features(source))
    assert "classifier.4.weight: (7, 128), (3, 128)" in str(report)


@pytest.mark.parametrize("kind", ["linear", "mlp", "gaussian"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_score_head_takes_the_features_and_reports_the_rest(tmp_path: Path, layout: str, kind: str) -> None:
    source, network = c3d(seed=1), c3d(seed=2, num_classes=1, score_head=kind)
    before = {key: value.clone() for key, value in network.classifier.state_dict().items()}
    torch.save(LAYOUTS[layout](source), tmp_path / "weights.pth")
    report = load_weights(network, tmp_path / "weights.pth")
    assert torch.equal(features(network), features(source))
    body = [key for key in network.state_dict() if not key.startswith("classifier.")]
    assert sorted(report.loaded) == sorted(body)
    differing = [line.split(":")[0] for line in report.mismatched]
    assert all(key.startswith("classifier.") for key in [*report.missing, *report.unexpected, *differing])
    assert "classifier.1.weight" in report.unexpected
    assert all(torch.equal(value, before[key]) for key, value in network.classifier.state_dict().items())


def test_a_saved_score_head_loads_back_completely(tmp_path: Path) -> None:
    source = c3d(seed=1, num_classes=1, score_head="mlp")
    network = c3d(seed=2, num_classes=1, score_head="mlp")
    torch.save(source.state_dict(), tmp_path / "ours.pth")
    report = load_weights(network, tmp_path / "ours.pth")
    assert report.missing == report.unexpected == report.mismatched == []
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in network.state_dict().items())


def test_the_backbone_weights_option_loads_and_prints_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = c3d(seed=1)
    torch.save(sequential(source), tmp_path / "weights.pth")
    network = c3d(seed=2, backbone_weights=str(tmp_path / "weights.pth"))
    assert torch.equal(features(network), features(source))
    printed = capsys.readouterr().out
    assert "20 tensors loaded" in printed
    assert "missing (2): classifier.4.bias, classifier.4.weight" in printed


@pytest.mark.parametrize("wrapping", ["plain", "module. prefix", "under state_dict"])
@pytest.mark.parametrize(("layout", "scale"), [("flat", "c3d"), ("sequential", "c3d"), ("ours", None)])
def test_public_files_of_c3d_tell_the_scale_of_their_pixels(
    tmp_path: Path, layout: str, scale: str | None, wrapping: str
) -> None:
    torch.save(WRAPPINGS[wrapping](LAYOUTS[layout](c3d(seed=1))), tmp_path / "weights.pth")
    assert public_pixel_scale(tmp_path / "weights.pth") == scale


SMALL = {
    "mlp": (1, 8, 8),
    **dict.fromkeys(("resnet18", "resnet32", "resnet34", "resnet50"), (3, 32, 32)),
    **dict.fromkeys(("efficientnet-b0", "swin-t", "vit-b16"), (3, 32, 32)),
    "temporal": (4, 60),
    "clip-features": (4, 10),
    **dict.fromkeys(("c3d", "i3d", "mc3-18", "r2plus1d-18", "r3d-18"), (3, 8, 40, 40)),
}


@pytest.mark.parametrize(("name", "shape"), [*SMALL.items()])
def test_other_backbones_load_their_own_weights_back(tmp_path: Path, name: str, shape: tuple[int, ...]) -> None:
    networks = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        networks.append(get_backbone(Namespace(backbone=name, num_classes=4, input_shape=shape, width=8)))
    source, network = networks
    source.train()(torch.randn(4, *shape))
    torch.save({"state_dict": source.state_dict()}, tmp_path / "ours.pth")
    report = load_weights(network, tmp_path / "ours.pth")
    assert report.missing == report.unexpected == report.mismatched == []
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in network.state_dict().items())


def test_old_files_without_batch_counters_load(tmp_path: Path) -> None:
    args = Namespace(backbone="resnet18", num_classes=4, input_shape=(3, 32, 32), width=4)
    source, network = get_backbone(args), get_backbone(args)
    state = {key: value for key, value in source.state_dict().items() if "num_batches" not in key}
    torch.save(state, tmp_path / "old.pth")
    assert load_weights(network, tmp_path / "old.pth").missing == []
    assert torch.equal(network.conv1.weight, source.conv1.weight)


# Refusals: the network stays as it was


def refusal(network: ContinualBackbone, path: Path) -> str:
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(DataError) as caught:
        load_weights(network, path)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"PK", b"<html>404</html>", b"conv1.weight: 3\n", bytes(1000)])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert "cannot read the weights" in refusal(c3d(seed=2), path)


@pytest.mark.parametrize("content", [b"hello world\n", b"a,b,c\n1,2,3\n"])
def test_a_text_file_that_starts_like_a_pickle_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    assert "cannot read the weights" in refusal(c3d(seed=2), path)


def test_an_absent_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    refusal(c3d(seed=2), tmp_path / "nowhere.pth")
    refusal(c3d(seed=2), tmp_path)


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("share", [0.001, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path: Path, share: float, new_format: bool) -> None:
    path = tmp_path / "weights.pth"
    torch.save(flat(c3d(seed=1)), path, _use_new_zipfile_serialization=new_format)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "cannot read the weights" in refusal(c3d(seed=2), path)


@pytest.mark.parametrize("length", [1, 300, 500])
def test_a_file_cut_within_the_pickle_of_the_old_format_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "c3d.pickle"
    torch.save(flat(c3d(seed=1)), path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[:length])
    assert "cannot read the weights" in refusal(c3d(seed=2), path)


@pytest.mark.parametrize("content", [[1, 2], {}, {"state_dict": {}}, {"epoch": 3}, {"conv1.weight": "lost"}, 5])
def test_a_file_without_a_state_dict_is_refused(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "weights.pth")
    assert "holds no state dict" in refusal(c3d(seed=2), tmp_path / "weights.pth")


def test_a_dict_of_tensors_under_numbers_is_refused(tmp_path: Path) -> None:
    torch.save({0: torch.zeros(2), 1: torch.zeros(3)}, tmp_path / "weights.pth")
    refusal(c3d(seed=2), tmp_path / "weights.pth")


def test_a_pickled_network_is_refused_instead_of_executed(tmp_path: Path) -> None:
    torch.save(c3d(seed=1), tmp_path / "weights.pth")
    assert "cannot read the weights" in refusal(c3d(seed=2), tmp_path / "weights.pth")


def test_weights_of_another_backbone_are_refused_with_the_differences(tmp_path: Path) -> None:
    resnet = get_backbone(Namespace(backbone="resnet18", num_classes=4, input_shape=(3, 32, 32), width=2))
    torch.save(resnet.state_dict(), tmp_path / "weights.pth")
    message = refusal(c3d(seed=2), tmp_path / "weights.pth")
    assert "nothing was loaded" in message
    assert "conv1.weight: (2, 3, 3, 3), (2, 3, 3, 3, 3)" in message
    assert "missing (" in message
    assert "unexpected (" in message
    assert "bn1.bias" in message


@pytest.mark.parametrize("name", [name for name in SMALL if name != "c3d"])
def test_a_file_of_another_backbone_of_ours_is_recognised(tmp_path: Path, name: str) -> None:
    args = Namespace(backbone=name, num_classes=4, input_shape=SMALL[name], width=8)
    torch.save({"state_dict": get_backbone(args).state_dict()}, tmp_path / "weights.pth")
    assert f"(--backbone {name}).\n" in refusal(c3d(seed=2), tmp_path / "weights.pth")


@pytest.mark.parametrize("name", [name for name in SMALL if name != "c3d"])
@pytest.mark.parametrize("layout", [flat, sequential])
def test_public_files_of_c3d_are_recognised_by_every_other_backbone(
    tmp_path: Path, layout: Callable[[ContinualBackbone], State], name: str
) -> None:
    torch.save({f"module.{key}": value for key, value in layout(c3d(seed=1)).items()}, tmp_path / "c3d.pickle")
    network = get_backbone(Namespace(backbone=name, num_classes=4, input_shape=SMALL[name], width=8))
    assert "The file looks like C3D (--backbone c3d).\n" in refusal(network, tmp_path / "c3d.pickle")


@pytest.mark.parametrize(
    ("keys", "looks_like"),
    [
        ({"Mixed_3b.b0.conv3d.weight": (64, 192, 1, 1, 1)}, "I3D (--backbone i3d)"),
        ({"mixed_3b.branch_0.conv3d.weight": (64, 192, 1, 1, 1)}, "I3D (--backbone i3d)"),
        ({"stem.0.weight": (45, 3, 1, 7, 7), "layer1.0.conv1.0.0.weight": (144, 64, 1, 3, 3)}, "R(2+1)D-18"),
        ({"layer1.0.conv1.weight": (64, 64, 3, 3)}, "a ResNet of torchvision for images"),
        ({"module.base_model.layer1.0.conv1.net.weight": (64, 64, 3, 3)}, "a TSM ResNet"),
        ({"blocks.0.conv.conv_t.weight": (24, 3, 1, 3, 3)}, "X3D"),
        ({"visual.class_embedding": (768,)}, "CLIP"),
        ({"anything.weight": (3, 3)}, None),
        ({"features.18.weight": (512, 512, 3, 3)}, None),
    ],
)
def test_public_files_are_recognised_by_their_names(
    tmp_path: Path, keys: dict[str, tuple[int, ...]], looks_like: str | None
) -> None:
    torch.save({key: torch.zeros(shape) for key, shape in keys.items()}, tmp_path / "weights.pth")
    message = refusal(c3d(seed=2), tmp_path / "weights.pth")
    assert f"looks like {looks_like}" in message if looks_like else "looks like" not in message


@pytest.mark.parametrize("name", ["r3d_18", "mc3_18"])
def test_files_of_torchvision_are_told_apart(tmp_path: Path, name: str) -> None:
    with torch.device("meta"):
        state = getattr(import_torchvision("models.video"), name)(weights=None).state_dict()
    state = {key: torch.zeros((), dtype=value.dtype).expand(value.shape) for key, value in state.items()}
    torch.save(state, tmp_path / "weights.pth")
    other = {"r3d_18": "mc3-18", "mc3_18": "r3d-18"}[name]
    network = get_backbone(Namespace(backbone=other, num_classes=400, input_shape=(3, 8, 40, 40)))
    assert f"--backbone {name.replace('_', '-')})" in refusal(network, tmp_path / "weights.pth")


def test_a_file_that_is_all_head_and_fits_nowhere_is_refused(tmp_path: Path) -> None:
    torch.save({"classifier.weight": torch.zeros(3, 9), "classifier.bias": torch.zeros(3)}, tmp_path / "weights.pth")
    args = Namespace(backbone="clip-features", num_classes=4, input_shape=(5, 10), depth=0)
    assert "0 tensors loaded" in refusal(get_backbone(args), tmp_path / "weights.pth")


@pytest.mark.parametrize("copies", [("module.", "net."), ("", "backbone.")])
def test_a_file_that_holds_two_networks_is_refused(tmp_path: Path, copies: tuple[str, str]) -> None:
    state = {f"{prefix}{key}": value for prefix in copies for key, value in flat(c3d(seed=1)).items()}
    torch.save(state, tmp_path / "weights.pth")
    message = refusal(c3d(seed=2), tmp_path / "weights.pth")
    assert "holds more than one network: without their prefixes, 22 of its 44 entries" in message


def test_weights_of_another_width_are_refused_with_both_shapes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    wide = get_backbone(Namespace(backbone="c3d", num_classes=N_PUBLIC, input_shape=SHAPE, width=4))
    torch.save(flat(wide), tmp_path / "weights.pth")
    message = refusal(c3d(seed=2), tmp_path / "weights.pth")
    assert "conv1.bias: (4,), (2,)" in message
    assert "The names fit, the shapes do not: another --width" in message
    assert "looks like" not in message


@pytest.mark.parametrize("lost", ["conv3b.weight", "fc6.bias"])
def test_one_missing_entry_of_the_body_is_refused_by_name(tmp_path: Path, lost: str) -> None:
    state = flat(c3d(seed=1))
    del state[lost]
    torch.save(state, tmp_path / "weights.pth")
    message = refusal(c3d(seed=2), tmp_path / "weights.pth")
    assert f"missing (1): {lost}" in message
    assert "The names fit" not in message


def test_one_left_over_entry_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({**flat(c3d(seed=1)), "conv6.weight": torch.zeros(2)}, tmp_path / "weights.pth")
    assert "unexpected (1): conv6.weight" in refusal(c3d(seed=2), tmp_path / "weights.pth")


def test_an_array_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "weights.npz", conv1=np.zeros(3))
    refusal(c3d(seed=2), tmp_path / "weights.npz")
