"""Weights in the layouts of public files load completely, or nothing is loaded and the differences are listed."""

from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from backbone import ContinualBackbone, get_backbone
from backbone.utils.weights import WRAPPERS, load_weights
from utils.errors import DataError

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


@pytest.mark.parametrize(("name", "shape"), [("mlp", (1, 8, 8)), ("resnet18", (3, 32, 32)), ("temporal", (4, 60))])
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


def test_weights_of_another_width_are_refused_with_both_shapes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    wide = get_backbone(Namespace(backbone="c3d", num_classes=N_PUBLIC, input_shape=SHAPE, width=4))
    torch.save(flat(wide), tmp_path / "weights.pth")
    assert "conv1.bias: (4,), (2,)" in refusal(c3d(seed=2), tmp_path / "weights.pth")


@pytest.mark.parametrize("lost", ["conv3b.weight", "fc6.bias"])
def test_one_missing_entry_of_the_body_is_refused_by_name(tmp_path: Path, lost: str) -> None:
    state = flat(c3d(seed=1))
    del state[lost]
    torch.save(state, tmp_path / "weights.pth")
    assert f"missing (1): {lost}" in refusal(c3d(seed=2), tmp_path / "weights.pth")


def test_one_left_over_entry_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({**flat(c3d(seed=1)), "conv6.weight": torch.zeros(2)}, tmp_path / "weights.pth")
    assert "unexpected (1): conv6.weight" in refusal(c3d(seed=2), tmp_path / "weights.pth")


def test_an_array_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "weights.npz", conv1=np.zeros(3))
    refusal(c3d(seed=2), tmp_path / "weights.npz")
