"""Networks that give features and outputs. `--backbone NAME` finds `@register_backbone("NAME")` in this folder.

A backbone file registers a factory: a function with typed arguments. Arguments without a default (`num_classes`,
`input_shape`) come from the stream, and `backbone_weights`, from the option, where the factory reads the file itself;
every argument with a default is a command line option of the same name, its help text taken from
`Annotated[type, "help"]`. A third entry converts and checks what is given, where the type alone would
not do: whole numbers are at least 1 unless it says otherwise.
"""

from __future__ import annotations

import enum
import inspect
import math
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from utils.args import positive, true_or_false
from utils.errors import UsageError
from utils.plugins import activate
from utils.registry import Registry, imports_explained, normalise

REGISTRY = Registry("backbone", "backbone")
Pixels = tuple[tuple[float, float, float], tuple[float, float, float]]
# Mean and standard deviation of the pixels (0 to 1) of red, green and blue that CLIP was trained on.
CLIP_PIXELS: Pixels = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
_PIXELS: dict[str, Pixels | None] = {}


class ReturnTypes(enum.StrEnum):
    """What `forward` of a network can return, by the names that methods of Mammoth use."""

    OUT = "out"
    FEATURES = "features"
    BOTH = "both"
    FULL = "full"


RETURN_TYPES = tuple(kind.value for kind in ReturnTypes)


class ContinualBackbone(nn.Module):
    """A feature extractor with a head.

    Subclasses implement `feature_maps` and call `super().__init__` with the size of their features.

    Attributes:
        feature_dim: size of what enters the head.
        num_outputs: size of what leaves it.
        classifier: the head, (B, feature_dim) -> (B, num_outputs); a regressor on score streams.
        stages: names of the intermediate maps, in order.
    """

    stages: list[str]

    def __init__(self, feature_dim: int, num_outputs: int) -> None:
        super().__init__()
        self.feature_dim = feature_dim
        self.num_outputs = num_outputs
        self.classifier: nn.Module = nn.Linear(feature_dim, num_outputs)

    def feature_maps(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Features (B, feature_dim) and the intermediate maps, from the input on."""
        raise NotImplementedError

    def head_parameters(self) -> list[nn.Parameter]:
        """What the head trains."""
        return list(self.classifier.parameters())

    def trunk_parameters(self) -> list[nn.Parameter]:
        """What everything before the head trains."""
        head = {id(parameter) for parameter in self.head_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in head]

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(self.parameters()).device

    def get_params(self) -> Tensor:
        """(P,) all parameters, as one vector with their graph."""
        return parameters_to_vector(self.parameters())

    @torch.no_grad()
    def set_params(self, new_params: Tensor) -> None:
        """Take all parameters from a vector in the order of `get_params`.

        Raises:
            ValueError: it has another length.
        """
        self._check_length(new_params)
        vector_to_parameters(new_params.detach().clone(), self.parameters())

    def get_grads_list(self) -> list[Tensor]:
        """The gradient of every parameter, flat; zeros where there is none."""
        return [torch.zeros_like(p).view(-1) if p.grad is None else p.grad.detach().view(-1) for p in self.parameters()]

    def get_grads(self) -> Tensor:
        """(P,) gradients of all parameters, as one vector."""
        return torch.cat(self.get_grads_list())

    def set_grads(self, new_grads: Tensor) -> None:
        """Take all gradients from a vector in the order of `get_grads`; what is frozen has none, so that no optimiser
        moves it.

        Raises:
            ValueError: it has another length.
        """
        self._check_length(new_grads)
        sizes = [parameter.numel() for parameter in self.parameters()]
        for parameter, gradient in zip(self.parameters(), new_grads.detach().split(sizes), strict=True):
            if parameter.requires_grad:
                parameter.grad = gradient.view_as(parameter).clone()

    def _check_length(self, vector: Tensor) -> None:
        expected = count_parameters(self)
        if vector.shape != (expected,):
            raise ValueError(
                f"a vector of {expected} entries is needed, one for each parameter, not {tuple(vector.shape)}"
            )

    def freeze_batch_norm(self) -> None:
        """Keep batch-norm statistics as they are until the next `train()`; scale and shift still learn."""
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()

    def forward(self, x: Tensor, returnt: str = "out") -> Any:
        """Run the network.

        Args:
            x: a batch of normalised inputs.
            returnt: "out" for head outputs (B, num_outputs), "features" for what enters the head (B, feature_dim),
                "both" for (out, features), "full" for (out, list of intermediate maps).

        Raises:
            ValueError: any other `returnt`.
        """
        if returnt not in RETURN_TYPES:
            raise ValueError(f"returnt must be one of {', '.join(RETURN_TYPES)}, not {returnt!r}")
        features, maps = self.feature_maps(x)
        if returnt == "features":
            return features
        out = self.classifier(features)
        if returnt == "out":
            return out
        return (out, features) if returnt == "both" else (out, maps)


class MammothBackbone(ContinualBackbone):
    """Base of networks written for Mammoth: they make their own `classifier` and implement `forward(x, returnt)`."""

    def __init__(self, **kwargs: Any) -> None:
        nn.Module.__init__(self)

    @property
    def device(self) -> torch.device:
        """Where the parameters are; a network that notes this itself may do so, without effect."""
        return next(self.parameters()).device

    @device.setter
    def device(self, device: Any) -> None:
        pass

    def forward(self, x: Tensor, returnt: str = "out") -> Any:
        raise NotImplementedError


def xavier(m: nn.Module) -> None:
    """Glorot initialisation with the gain of ReLU for linear layers and convolutions, biases 0; for `Module.apply`."""
    if isinstance(m, nn.Linear | nn.Conv2d):
        nn.init.xavier_uniform_(m.weight, gain=nn.init.calculate_gain("relu"))
        if m.bias is not None:
            nn.init.zeros_(m.bias)


def num_flat_features(x: Tensor) -> int:
    """Numbers in one sample of a batch."""
    return math.prod(x.shape[1:])


def register_backbone(
    name: str, pixels: Pixels | None = None
) -> Callable[[Callable[..., ContinualBackbone]], Callable[..., ContinualBackbone]]:
    """Decorator that registers a backbone factory, a function, under a name.

    Args:
        name: for `--backbone`.
        pixels: what `pixel_statistics` answers.
    """

    def add(factory: Callable[..., ContinualBackbone]) -> Callable[..., ContinualBackbone]:
        REGISTRY.add(name, factory)
        _PIXELS[normalise(name)] = pixels
        return factory

    return add


def pixel_statistics(name: str) -> Pixels | None:
    """Mean and standard deviation of red, green and blue (pixels from 0 to 1) that a backbone wants its images
    normalised with; None where it is content with those of the stream.

    Raises:
        UsageError: no such backbone.
    """
    _factory(name)
    return _PIXELS.get(normalise(name))


def get_backbone_names() -> list[str]:
    """Names of all backbones."""
    return REGISTRY.names()


def get_backbone_parser(name: str, parser: ArgumentParser) -> ArgumentParser:
    """Add an option for every argument of the factory that has a default."""
    group = parser.add_argument_group(f"backbone {name}")
    for parameter, kind, text in _options(_factory(name)):
        group.add_argument(f"--{parameter.name}", type=kind, default=parameter.default, help=text)
    return parser


@imports_explained()
def get_backbone(args: Namespace) -> ContinualBackbone:
    """Build `args.backbone` for the stream described by `args.num_classes` and `args.input_shape`.

    Initial weights come from the global generator. `args.score_head` replaces the head by a regressor,
    `args.backbone_weights` loads a checkpoint and prints what did not fit, unless the factory takes it to do so itself.

    Raises:
        UsageError: unknown backbone, or one that does not take inputs of this shape.
        DataError: the checkpoint does not fit.
    """
    from backbone.utils.heads import score_head
    from backbone.utils.weights import load_weights
    from utils.class_heads import class_head
    from utils.score_distribution import N_BINS

    activate(getattr(args, "plugin", None) or [])
    factory = _factory(args.backbone)
    stream = {"input_size": math.prod(args.input_shape), "output_size": args.num_classes}
    known = {**stream, "backbone_weights": None, **vars(args)}
    parameters = {
        n: p
        for n, p in inspect.signature(factory).parameters.items()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    }
    unknown = [name for name, p in parameters.items() if name not in known and p.default is p.empty]
    if unknown:
        raise UsageError(
            f"--backbone {args.backbone} asks for {', '.join(unknown)} without a default; a stream gives num_classes, "
            "input_shape, input_size and output_size"
        )
    try:
        network = factory(**{name: known[name] for name in parameters if name in known})
    except ValueError as error:
        raise UsageError(f"--backbone {args.backbone}: {error}") from error
    if isinstance(network, MammothBackbone):
        _note_sizes(network)
    if getattr(args, "score_head", None):
        sample = getattr(args, "sample_scores", "train")
        if sample == "always" and args.score_head != "gaussian":
            raise UsageError("--sample_scores always needs --score_head gaussian; the others have nothing to sample")
        network.num_outputs = N_BINS if args.score_head == "usdl" else 1
        network.classifier = score_head(args.score_head, network.feature_dim, sample)
    head = class_head(args, network)
    if head is not None:
        network.classifier = head
    if known["backbone_weights"] and "backbone_weights" not in parameters:
        print(load_weights(network, Path(args.backbone_weights)))
    return network


def _note_sizes(network: MammothBackbone) -> None:
    """Tell the sizes of features and outputs by the head, as far as the network does not."""
    for name, attribute in (("feature_dim", "in_features"), ("num_outputs", "out_features")):
        if not hasattr(network, name) and hasattr(getattr(network, "classifier", None), attribute):
            setattr(network, name, getattr(network.classifier, attribute))


def _factory(name: str) -> Callable[..., ContinualBackbone]:
    return REGISTRY.get(name)  # type: ignore[return-value]


def _options(factory: Callable[..., Any]) -> list[tuple[inspect.Parameter, Any, str | None]]:
    typed = vars(factory).get("__init__", factory) if isinstance(factory, type) else factory
    hints = get_type_hints(typed, include_extras=True)
    options = []
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.default is parameter.empty:
            continue
        plain = str if parameter.default is None else type(parameter.default)
        annotation, text, converter = hints.get(parameter.name, plain), None, []
        if get_origin(annotation) is Annotated:
            annotation, text, *converter = get_args(annotation)
        if not isinstance(annotation, type):
            annotation = plain
        kind = converter[0] if converter else {bool: true_or_false, int: positive}.get(annotation, annotation)
        options.append((parameter, kind, text))
    return options


@torch.no_grad()
def count_parameters(module: nn.Module) -> int:
    """Number of parameters, trained or not."""
    return sum(parameter.numel() for parameter in module.parameters())
