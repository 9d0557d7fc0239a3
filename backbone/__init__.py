"""Networks that give features and outputs. `--backbone NAME` finds `@register_backbone("NAME")` in this folder.

A backbone file registers a factory: a function with typed arguments. Arguments without a default (`num_classes`,
`input_shape`) come from the stream; every argument with a default is a command line option of the same name, its help
text taken from `Annotated[type, "help"]`. A third entry converts and checks what is given, where the type alone would
not do: whole numbers are at least 1 unless it says otherwise.
"""

from __future__ import annotations

import inspect
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import torch
from torch import Tensor, nn

from utils.args import positive, true_or_false
from utils.errors import UsageError
from utils.registry import Registry

REGISTRY = Registry("backbone", "backbone")
RETURN_TYPES = ("out", "features", "both", "full")


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


def register_backbone(name: str) -> Callable[[Callable[..., ContinualBackbone]], Callable[..., ContinualBackbone]]:
    """Decorator that registers a backbone factory, a function, under a name."""

    def add(factory: Callable[..., ContinualBackbone]) -> Callable[..., ContinualBackbone]:
        REGISTRY.add(name, factory)
        return factory

    return add


def get_backbone_names() -> list[str]:
    """Names of all backbones."""
    return REGISTRY.names()


def get_backbone_parser(name: str, parser: ArgumentParser) -> ArgumentParser:
    """Add an option for every argument of the factory that has a default."""
    group = parser.add_argument_group(f"backbone {name}")
    for parameter, kind, text in _options(_factory(name)):
        group.add_argument(f"--{parameter.name}", type=kind, default=parameter.default, help=text)
    return parser


def get_backbone(args: Namespace) -> ContinualBackbone:
    """Build `args.backbone` for the stream described by `args.num_classes` and `args.input_shape`.

    Initial weights come from the global generator. `args.score_head` replaces the head by a regressor,
    `args.backbone_weights` loads a checkpoint and prints what did not fit.

    Raises:
        UsageError: unknown backbone, or one that does not take inputs of this shape.
        DataError: the checkpoint does not fit.
    """
    from backbone.utils.heads import score_head
    from backbone.utils.weights import load_weights
    from utils.score_distribution import N_BINS

    factory = _factory(args.backbone)
    given = {name: getattr(args, name) for name in inspect.signature(factory).parameters if hasattr(args, name)}
    try:
        network = factory(**given)
    except ValueError as error:
        raise UsageError(f"--backbone {args.backbone}: {error}") from error
    if getattr(args, "score_head", None):
        sample = getattr(args, "sample_scores", "train")
        if sample == "always" and args.score_head != "gaussian":
            raise UsageError("--sample_scores always needs --score_head gaussian; the others have nothing to sample")
        network.num_outputs = N_BINS if args.score_head == "usdl" else 1
        network.classifier = score_head(args.score_head, network.feature_dim, sample)
    if getattr(args, "backbone_weights", None):
        print(load_weights(network, Path(args.backbone_weights)))
    return network


def _factory(name: str) -> Callable[..., ContinualBackbone]:
    return REGISTRY.get(name)  # type: ignore[return-value]


def _options(factory: Callable[..., Any]) -> list[tuple[inspect.Parameter, Any, str | None]]:
    hints = get_type_hints(factory, include_extras=True)
    options = []
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.default is parameter.empty:
            continue
        annotation, text, converter = hints.get(parameter.name, str), None, []
        if get_origin(annotation) is Annotated:
            annotation, text, *converter = get_args(annotation)
        kind = converter[0] if converter else {bool: true_or_false, int: positive}.get(annotation, annotation)
        options.append((parameter, kind, text))
    return options


@torch.no_grad()
def count_parameters(module: nn.Module) -> int:
    """Number of parameters, trained or not."""
    return sum(parameter.numel() for parameter in module.parameters())
