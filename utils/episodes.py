"""Dividing a memory among tasks, and drawing a task's part of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch.nn.functional as F
from torch import Tensor


def even_shares(capacity: int, n_tasks: int) -> list[int]:
    """Places of each task in a memory that is divided evenly; the first tasks take what is left over.

    Args:
        capacity: places altogether.
        n_tasks: at least 1.
    """
    share, remainder = divmod(capacity, n_tasks)
    return [share + (task < remainder) for task in range(n_tasks)]


def first_samples(loader: Iterable[tuple[Tensor, ...]], n: int) -> Iterator[tuple[Tensor, ...]]:
    """The batches of a pass up to its n-th sample, the last one cut: of a shuffled loader n samples drawn at random.

    Args:
        loader: batches, whose parts have a row for each sample.
        n: how many samples; all of a pass if it has fewer.
    """
    batches = iter(loader)
    while n > 0 and (batch := next(batches, None)) is not None:
        part = tuple(values[:n] for values in batch)
        n -= len(part[0])
        yield part


def rank_in_class(labels: Tensor) -> Tensor:
    """(B,) how many samples of the same class stand before each."""
    return F.one_hot(labels).cumsum(0).gather(1, labels.unsqueeze(1))[:, 0] - 1
