"""Holding out training samples of data sets in the form of torchvision's."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch


def get_train_val(
    train: Any, test_transform: Callable[[Any], Any] | None, dataset: str, val_perc: float = 0.1
) -> tuple[Any, Any]:
    """Divide a data set at random, by a generator that its name seeds: the same samples in every run.

    Args:
        train: with `data` and `targets`; its `transform` is replaced in the held-out part.
        test_transform: of the held-out samples.
        dataset: the name of the data set.
        val_perc: share to hold out.

    Returns:
        (what is left to train on, held-out samples), of the same type.
    """
    n = len(train.data)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(sum(map(ord, dataset)))).numpy()
    n_held = int(val_perc * n)
    parts = []
    for chosen in (order[n_held:], order[:n_held]):
        part = copy.copy(train)
        part.data, part.targets = train.data[chosen], np.asarray(train.targets)[chosen]
        parts.append(part)
    parts[1].transform = test_transform
    return parts[0], parts[1]
