"""Batch normalisation without a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def bn_track_stats(module: nn.Module, condition: bool = True) -> Iterator[None]:
    """Within the block, passes in training mode leave the running statistics as they are, unless `condition`."""
    layers = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    before = [layer.track_running_stats for layer in layers]
    if not condition:
        for layer in layers:
            layer.track_running_stats = False
    try:
        yield
    finally:
        for layer, value in zip(layers, before, strict=True):
            layer.track_running_stats = value
