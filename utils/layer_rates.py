"""Learning rates that grow with the depth of a layer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from backbone import ContinualBackbone


def trunk_layers(net: ContinualBackbone) -> list[list[nn.Parameter]]:
    """Parameters of the layers before the head, from the input on.

    A layer is a child of the network in the order in which it was added, or of one of its ModuleLists; a layer without
    parameters does not count. Parameters of the network itself come before all layers.
    """
    wanted = {id(parameter) for parameter in net.trunk_parameters()}
    layers = [list(net.parameters(recurse=False)), *(list(layer.parameters()) for layer in _layers(net))]
    kept = [[parameter for parameter in layer if id(parameter) in wanted] for layer in layers]
    return [layer for layer in kept if layer]


def depth_graded(net: ContinualBackbone, lr: float, decay: float) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser: the deepest layer learns at `lr`, each before it at `decay` times the next."""
    layers = trunk_layers(net)
    return [{"params": layer, "lr": lr * decay ** (len(layers) - 1 - i)} for i, layer in enumerate(layers)]


def _layers(module: nn.Module) -> Iterator[nn.Module]:
    for child in module.children():
        if isinstance(child, nn.ModuleList):
            yield from _layers(child)
        else:
            yield child
