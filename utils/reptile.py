"""Reptile: keep only a share of the way that learning led."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def reptile(parameters: Iterable[nn.Parameter], share: float) -> Iterator[None]:
    """What is learnt within the block counts in part: theta <- theta_0 + share (theta - theta_0) at its end.

    Blocks may be nested. MER's within-batch Reptile is a block around the steps of a round, its across-batch Reptile
    one around all rounds. Only parameters go back; the state of an optimiser and batch-norm statistics do not.

    Args:
        parameters: theta; theta_0 is what they are when the block begins. If it ends with an exception they stay.
        share: 1 keeps everything, 0 nothing.

    Source: A. Nichol, J. Achiam, J. Schulman, On first-order meta-learning algorithms, arXiv:1803.02999, 2018.
    """
    parameters = list(parameters)
    start = [parameter.detach().clone() for parameter in parameters]
    yield
    with torch.no_grad():
        for parameter, origin in zip(parameters, start, strict=True):
            parameter.copy_(torch.lerp(origin, parameter, share))
