"""Long-tailed training data: how many samples of each class stay, and which. Pure functions of arrays."""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import ArrayLike

from datasets.utils.scenarios import Indices

PROFILES = ("exp", "step")


def imbalance(text: str | float) -> float:
    """Size of the smallest class over that of the largest; a number above 1 is read as its inverse (100 is 0.01)."""
    factor = float(text)
    if not 0 < factor < float("inf"):
        raise argparse.ArgumentTypeError(f"{factor:g} is not above 0")
    return factor if factor <= 1 else 1 / factor


def class_sizes(n_max: float, n_classes: int, profile: str, ratio: float, step_frac: float = 0.5) -> list[int]:
    """Samples of each class of a long-tailed data set, the largest class first.

    exp: n_i = floor(n_max ratio^(i / (C-1))). step: n_max for all but the last round(C step_frac) classes, which have
    floor(n_max ratio). No class has fewer than 1.

    Args:
        n_max: size of the largest class.
        profile: one of `PROFILES`.
        ratio: size of the smallest class over that of the largest.
        step_frac: share of the classes that are small in a step.

    Source: K. Cao et al., Learning imbalanced datasets with label-distribution-aware margin loss, NeurIPS 2019; Y. Cui
    et al., Class-balanced loss based on effective number of samples, CVPR 2019.
    """
    if profile == "exp":
        sizes = [n_max * ratio ** (i / max(n_classes - 1.0, 1.0)) for i in range(n_classes)]
    else:
        n_small = round(n_classes * step_frac)
        sizes = [float(n_max)] * (n_classes - n_small) + [n_max * ratio] * n_small
    return [max(int(size), 1) for size in sizes]


def subsample(labels: ArrayLike, sizes: ArrayLike, seed: int = 0) -> Indices:
    """Positions, ascending, of sizes[c] random samples of every class c; all of a class that has no more.

    The draw is that of the published data sets: one stream of NumPy's older generator shuffles the positions of class
    after class, and the first of each stay.

    Args:
        labels: (n,) integers that index `sizes`.
    """
    labels, sizes = np.asarray(labels), np.asarray(sizes)
    generator = np.random.RandomState(seed)
    kept = []
    for label in np.unique(labels):
        positions = np.flatnonzero(labels == label)
        generator.shuffle(positions)
        kept.append(positions[: sizes[label]])
    return np.sort(np.concatenate(kept)) if kept else np.arange(0)
