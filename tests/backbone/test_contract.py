"""What every registered backbone promises to methods, whatever its architecture."""

from argparse import ArgumentParser, Namespace
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
import torch
from torch import Tensor, nn

from backbone import REGISTRY, RETURN_TYPES, ContinualBackbone, get_backbone, get_backbone_parser
from tests.backbone.clip_files import small_model, weights_file
from utils.errors import TrainingError, UsageError
from utils.gradients import flat_gradient, trained_parameters

NAMES = list(REGISTRY.modules())  # every file of the folder; not what other tests register at run time
CLIP_BACKBONES = ["c3d", "i3d", "mc3-18", "r2plus1d-18", "r3d-18"]
IMAGE_BACKBONES = ["efficientnet-b0", "resnet18", "resnet32", "resnet34", "resnet50", "swin-t", "vit", "vit-b16"]
PUBLISHED_CLIPS = ["clip-vit-b16", "clip-vit-b32", "clip-vit-l14"]  # they need weights; a small model stands in here
# They bring 8x8 images down to one value, of which there are no batch statistics.
TO_ONE_PIXEL = [(name, (1, 8, 8)) for name in ("resnet18", "resnet34", "resnet50")]
N_CLASSES = 5
BATCH = 3
# Shapes of the streams: digits, CIFAR-10, UI-PRMD, JIGSAWS (or features of windows), rendered dives, several windows.
SHAPES = [(1, 8, 8), (3, 32, 32), (4, 60), (76, 128), (3, 16, 56, 56), (3, 18, 40, 40)]
UNFIT = [
    *[(name, shape) for name in IMAGE_BACKBONES for shape in [(7,), (4, 60), (3, 16, 56, 56)]],
    *[(name, (1, 8, 8)) for name in ("efficientnet-b0", "swin-t", "vit", "vit-b16")],
    *[(name, (3, 32, 48)) for name in ("vit", "vit-b16")],
    *[
        (name, shape)
        for name in [*PUBLISHED_CLIPS, "clip-tiny"]
        for shape in [(7,), (4, 60), (3, 16, 56, 56), (4, 8, 8)]
    ],
    *[("temporal", shape) for shape in [(7,), (3, 32, 32), (3, 16, 56, 56)]],
    *[(name, shape) for name in CLIP_BACKBONES for shape in [(7,), (4, 60), (3, 32, 32)]],
    *[("clip-features", shape) for shape in [(7,), (3, 32, 32), (3, 16, 56, 56)]],
]


def build(
    name: str, shape: tuple[int, ...], seed: int = 0, num_classes: int = N_CLASSES, **more: object
) -> ContinualBackbone:
    torch.manual_seed(seed)
    if name in PUBLISHED_CLIPS:
        more = {"clip_model": small_model(), "backbone_weights": weights_file(), **more}
    return get_backbone(Namespace(backbone=name, num_classes=num_classes, input_shape=shape, width=8, **more))


def learning(network: nn.Module) -> dict[str, nn.Parameter]:
    """What trains; the rest of a CLIP is frozen."""
    return {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}


def has_batch_norm(network: nn.Module) -> bool:
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules())


def fits(name: str, shape: tuple[int, ...]) -> bool:
    try:
        build(name, shape)
    except UsageError:
        return False
    return True


def batch_of(shape: tuple[int, ...], n: int = BATCH) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(1))


FITTING = [(name, shape) for name in NAMES for shape in SHAPES if fits(name, shape)]
every_backbone = pytest.mark.parametrize(("name", "shape"), FITTING)


def test_every_backbone_fits_some_stream() -> None:
    assert {name for name, _ in FITTING} == set(NAMES)
    others = {"clip-features", "clip-tiny", "mlp", "mnistmlp", "temporal"}
    assert {*CLIP_BACKBONES, *IMAGE_BACKBONES, *PUBLISHED_CLIPS, *others} <= set(NAMES)


@every_backbone
def test_shapes_of_every_return_type(name: str, shape: tuple[int, ...]) -> None:
    network, x = build(name, shape).eval(), batch_of(shape)
    with torch.no_grad():
        out, features = network(x), network(x, returnt="features")
        full_out, maps = network(x, returnt="full")
    assert out.shape == full_out.shape == (BATCH, network.num_outputs) == (BATCH, N_CLASSES)
    assert features.shape == (BATCH, network.feature_dim)
    assert isinstance(maps, list)
    assert maps
    assert all(isinstance(each, Tensor) and each.ndim >= 2 for each in maps)
    assert len(network.stages) == len(set(network.stages)) == len(maps)


@every_backbone
def test_return_types_agree_with_one_another(name: str, shape: tuple[int, ...]) -> None:
    network, x = build(name, shape).eval(), batch_of(shape)
    with torch.no_grad():
        out, features = network(x), network(x, returnt="features")
        both_out, both_features = network(x, returnt="both")
        full_out, _ = network(x, returnt="full")
        assert torch.equal(both_out, out)
        assert torch.equal(both_features, features)
        assert torch.equal(full_out, out)
        assert torch.equal(network.classifier(features), out)
    assert out.std() > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("returnt", ["feature", "", "all", None])
def test_unknown_return_type_is_refused(name: str, returnt: str | None) -> None:
    shape = next(shape for fitting, shape in FITTING if fitting == name)
    with pytest.raises(ValueError, match=", ".join(RETURN_TYPES)):
        build(name, shape)(batch_of(shape), returnt=returnt)


@every_backbone
def test_a_batch_of_one_is_evaluated_as_in_a_larger_batch(name: str, shape: tuple[int, ...]) -> None:
    network, x = build(name, shape).eval(), batch_of(shape)
    with torch.no_grad():
        torch.testing.assert_close(network(x[:1]), network(x)[:1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "shape"), [each for each in FITTING if each not in TO_ONE_PIXEL])
def test_a_batch_of_one_can_be_trained_on(name: str, shape: tuple[int, ...]) -> None:
    network = build(name, shape).train()
    network(batch_of(shape, n=1)).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in learning(network).values())


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        *[(name, shape, {}) for name, shape in TO_ONE_PIXEL],
        ("resnet32", (1, 4, 4), {}),
        ("resnet18", (3, 32, 32), {"stem": "imagenet"}),
        ("efficientnet-b0", (3, 32, 32), {"stem": "imagenet"}),
    ],
)
def test_one_image_that_comes_down_to_one_pixel_is_not_trained_on(
    name: str, shape: tuple[int, ...], options: dict[str, object]
) -> None:
    network = build(name, shape, **options).train()
    with pytest.raises(TrainingError, match="--batch_size"):
        network(batch_of(shape, n=1))
    network(batch_of(shape, n=2))
    assert network.eval()(batch_of(shape, n=1)).shape == (1, N_CLASSES)


@every_backbone
def test_gradients_reach_every_parameter(name: str, shape: tuple[int, ...]) -> None:
    network = build(name, shape).train()
    torch.nn.functional.cross_entropy(network(batch_of(shape)), torch.tensor([0, 1, 2])).backward()
    parameters = learning(network)
    assert [key for key, parameter in parameters.items() if parameter.grad is None or not parameter.grad.any()] == []
    assert len(parameters) == len([*network.parameters()]) or name.startswith("clip-")


@every_backbone
def test_gradients_are_vectors_in_the_order_of_the_parameters(name: str, shape: tuple[int, ...]) -> None:
    """Whatever layout a layer prefers: it may give its gradients in that one too."""
    network, x = build(name, shape).eval(), batch_of(shape)
    flat = flat_gradient(network(x).square().sum(), trained_parameters(network))
    network(x).square().sum().backward()
    in_pieces = [parameter.grad.flatten() for parameter in trained_parameters(network)]
    assert torch.equal(flat, torch.cat(in_pieces))
    assert all(each.is_contiguous() for each in network.get_grads_list())


@every_backbone
def test_gradients_reach_the_input(name: str, shape: tuple[int, ...]) -> None:
    x = batch_of(shape).requires_grad_()
    build(name, shape).eval()(x, returnt="features").square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert x.grad.any()


@every_backbone
def test_state_dict_round_trip_reproduces_the_outputs(name: str, shape: tuple[int, ...]) -> None:
    network, other, x = build(name, shape, seed=0), build(name, shape, seed=1), batch_of(shape)
    if has_batch_norm(network):
        network.train()(x)
    network.eval()
    other.eval()
    with torch.no_grad():
        assert not torch.equal(other(x), network(x))
        other.load_state_dict(network.state_dict())
        assert torch.equal(other(x), network(x))


@pytest.mark.parametrize(("name", "shape"), [each for each in FITTING if has_batch_norm(build(*each))])
def test_frozen_batch_norm_keeps_its_statistics_and_learns_scale_and_shift(name: str, shape: tuple[int, ...]) -> None:
    network, x = build(name, shape), batch_of(shape)
    network.train().freeze_batch_norm()
    before = {key: value.clone() for key, value in network.named_buffers()}
    network(x).square().sum().backward()
    assert all(torch.equal(value, before[key]) for key, value in network.named_buffers())
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert all(norm.weight.grad.any() and norm.bias.grad.any() for norm in norms)
    network.train()(x)
    assert not any(torch.equal(value, before[key]) for key, value in network.named_buffers())


@every_backbone
def test_trunk_and_head_share_the_parameters(name: str, shape: tuple[int, ...]) -> None:
    network = build(name, shape)
    trunk, head = network.trunk_parameters(), network.head_parameters()
    assert {id(each) for each in [*trunk, *head]} == {id(each) for each in network.parameters()}
    assert len(trunk) + len(head) == len([*network.parameters()])
    x = batch_of(shape)
    with torch.no_grad():
        features, out = network.eval()(x, returnt="features"), network(x)
        for parameter in head:
            parameter.add_(1)
        assert torch.equal(network(x, returnt="features"), features)
        assert not torch.equal(network(x), out)


@pytest.mark.parametrize("name", NAMES)
def test_initial_weights_come_from_the_global_generator(name: str) -> None:
    shape = next(shape for fitting, shape in FITTING if fitting == name)
    first, again, other = (build(name, shape, seed=seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@pytest.mark.parametrize(("name", "shape"), UNFIT)
def test_a_shape_that_does_not_fit_is_refused(name: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=f"--backbone {name}: it takes"):
        build(name, shape)


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("mlp", (4,), {"depth": 0}),
        ("temporal", (4, 60), {"depth": 0}),
        ("temporal", (4, 60), {"width": 6}),
        ("c3d", (3, 16, 56, 56), {"dropout": 1.5}),
        ("i3d", (3, 16, 56, 56), {"dropout": 1.5}),
        ("clip-features", (4, 60), {"depth": -1}),
        ("clip-tiny", (3, 32, 32), {"width": 100}),
        ("clip-tiny", (3, 32, 32), {"patch_size": 5}),
        ("clip-tiny", (3, 32, 32), {"depth": 2, "trained_blocks": 3}),
    ],
)
def test_impossible_sizes_are_refused(name: str, shape: tuple[int, ...], options: dict[str, object]) -> None:
    args = {"width": 8, **options}
    with pytest.raises(UsageError, match=f"--backbone {name}"):
        get_backbone(Namespace(backbone=name, num_classes=2, input_shape=shape, **args))


def test_an_unknown_backbone_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="resnet18"):
        get_backbone(Namespace(backbone="resnet81", num_classes=2, input_shape=(3, 32, 32)))


# Heads of score streams


@pytest.mark.parametrize("kind", ["linear", "mlp", "gaussian"])
@every_backbone
def test_a_score_head_gives_one_output(name: str, shape: tuple[int, ...], kind: str) -> None:
    torch.manual_seed(0)
    network, x = build(name, shape, num_classes=1, score_head=kind).eval(), batch_of(shape)
    with torch.no_grad():
        out, features = network(x, returnt="both")
        assert out.shape == (BATCH, 1) == (BATCH, network.num_outputs)
        assert torch.equal(network.classifier(features), out)


def score_network(kind: str, **more: object) -> ContinualBackbone:
    torch.manual_seed(0)
    return get_backbone(Namespace(backbone="mlp", num_classes=1, input_shape=(6,), width=8, score_head=kind, **more))


def test_sizes_of_the_score_heads() -> None:
    def sizes(kind: str) -> list[tuple[int, int]]:
        linear = [module for module in score_network(kind).classifier.modules() if isinstance(module, nn.Linear)]
        return [(layer.in_features, layer.out_features) for layer in linear]

    assert sizes("linear") == [(8, 1)]
    assert sizes("mlp") == [(8, 256), (256, 128), (128, 1)]
    assert sizes("gaussian") == [(8, 256), (256, 128), (128, 2)]


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_linear_and_mlp_heads_draw_nothing(kind: str) -> None:
    network, x = score_network(kind).train(), batch_of((6,))
    assert torch.equal(network(x), network(x))


@pytest.mark.parametrize(
    ("sample", "training", "draws"),
    [("train", True, True), ("train", False, False), ("always", True, True), ("always", False, True)],
)
def test_the_gaussian_head_draws_when_asked_to(sample: str, training: bool, draws: bool) -> None:
    network, x = score_network("gaussian", sample_scores=sample).train(training), batch_of((6,))
    assert torch.equal(network(x), network(x)) is not draws


def test_the_gaussian_head_samples_around_its_mean_with_its_variance() -> None:
    network = score_network("gaussian")
    features = network(batch_of((6,), n=1), returnt="features")
    with torch.no_grad():
        network.classifier.layers[-1].bias[1] = 2.0  # far from a variance of 1
        mean, log_variance = network.classifier.layers(features)[0]
        drawn = network.train().classifier(features.expand(20000, -1))
        assert torch.equal(network.eval().classifier(features)[0, 0], mean)
    deviation = (log_variance / 2).exp()
    assert abs(drawn.mean() - mean) < 5 * deviation / 20000**0.5
    assert abs(drawn.std() / deviation - 1) < 0.05


# Options


@pytest.mark.parametrize("name", NAMES)
def test_the_parser_offers_every_default_argument_with_its_help(name: str) -> None:
    factory = REGISTRY.get(name)
    parser = get_backbone_parser(name, ArgumentParser())
    actions = {action.dest: action for action in parser._actions if action.dest != "help"}
    hints = get_type_hints(factory, include_extras=True)
    defaults = factory.__defaults__ or ()
    names = factory.__code__.co_varnames[: factory.__code__.co_argcount][-len(defaults) :]
    assert defaults
    assert list(actions) == list(names)
    for option, default in zip(names, defaults, strict=True):
        assert get_origin(hints[option]) is Annotated
        kind, text, *_ = get_args(hints[option])
        assert actions[option].default == default
        assert actions[option].help == text
        assert text
        parsed = getattr(parser.parse_args([f"--{option}", str(default)]), option)
        assert parsed == default
        assert type(parsed) is kind


@pytest.mark.parametrize(
    ("line", "message"),
    [("--depth -1", "-1 is negative"), ("--width 0", "0 is not at least 1"), ("--depth x", "'x' is no whole number")],
)
def test_options_refuse_what_is_out_of_their_range(line: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = get_backbone_parser("clip-features", ArgumentParser())
    assert parser.parse_args(["--depth", "0"]).depth == 0
    with pytest.raises(SystemExit):
        parser.parse_args(line.split())
    assert message in capsys.readouterr().err


def test_parsed_options_reach_the_network() -> None:
    args = get_backbone_parser("mlp", ArgumentParser()).parse_args(["--width", "12", "--depth", "3"])
    network = get_backbone(Namespace(**vars(args), backbone="mlp", num_classes=2, input_shape=(1, 8, 8)))
    assert [tuple(layer.weight.shape) for layer in network.layers] == [(12, 64), (12, 12), (12, 12)]
