"""Intermediate maps of a network: finding one, and how far apart two networks are there."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from backbone import ContinualBackbone
from utils.divergences import js_divergence
from utils.errors import UsageError
from utils.registry import nearest

DISTANCES = ("mse", "js")


def find_stage(net: ContinualBackbone, text: str) -> int | float:
    """A stage by its name, its number from 0 on, or as a share of the depth; for `stage_index`.

    Args:
        net: names and numbers need one that names its maps in a list `stages`.
        text: e.g. "mixed_3c", "6" or "0.33". A number without a point counts stages, one with a point is a share.

    Returns:
        The number, or the share.

    Raises:
        UsageError: the network has no such stage; those it has are named.
    """
    stages: Any = getattr(net, "stages", None)
    names = stages if isinstance(stages, list) else []
    if text in names:
        return names.index(text)
    known = f"this backbone has the stages {', '.join(names)}" if names else "this backbone does not name its stages"
    if text.isdecimal():
        if int(text) < len(names):
            return int(text)
        raise UsageError(f"stage {text}: {known}; give a number below {len(names)}, or a share of the depth like 0.33")
    try:
        share = float(text)
    except ValueError:
        close = nearest(text, names)
        hint = f"did you mean {', '.join(close)}?" if close else f"{known}; a share of the depth like 0.33 always works"
        raise UsageError(f"unknown stage '{text}'; {hint}") from None
    if not 0 < share <= 1:
        raise UsageError(f"stage {text}: a share of the depth is above 0 and at most 1.0")
    return share


def stage_index(stage: int | float, n_maps: int) -> int:
    """Which of `n_maps` maps a stage is: a number stands for itself, a share for the last map within it, or the first.

    A third of 3 maps is map 0, of 6 maps map 1.
    """
    if isinstance(stage, int):
        return stage
    return max(math.floor(stage * n_maps), 1) - 1


def map_distance(maps: Tensor, others: Tensor, distance: str = "mse") -> Tensor:
    """How far apart two networks are in one of their maps of the same batch.

    Args:
        maps, others: (N, ...) each.
        distance: "mse", the mean squared difference; "js", the Jensen-Shannon divergence between the softmaxed maps,
            the last two axes of maps over place (N, C, ..., H, W) averaged before, mean over rows.

    Returns:
        Scalar.

    Raises:
        ValueError: unknown distance.
    """
    if distance == "mse":
        return F.mse_loss(maps, others)
    if distance == "js":
        rows = ((m.mean((-2, -1)) if m.ndim >= 4 else m).flatten(1) for m in (maps, others))
        return js_divergence(*(F.log_softmax(row, dim=1) for row in rows)).mean()
    raise ValueError(f"distance must be one of {', '.join(DISTANCES)}, not {distance!r}")
