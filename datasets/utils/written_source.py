"""Samples that data sets of torchvision's form give one by one: inputs, and what memories keep of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.utils.loader import TaskData
from datasets.utils.sources import digest
from utils.errors import DataError


class WrittenSource:
    """The samples of several data sets of torchvision's form, one after the other.

    Attributes:
        targets: (n,) labels.
        first: position of the first sample of each data set.

    Args:
        parts: the data sets.
        stream: its name, for messages.
        is_training: whether a sample has to have a third value.

    Raises:
        DataError: one has no targets, or none for each sample; or a training sample has no third value.
    """

    def __init__(self, parts: Sequence[Any], stream: str, is_training: bool) -> None:
        self.parts = list(parts)
        targets = []
        for part in parts:
            if not hasattr(part, "targets") or len(part.targets) != len(part):
                raise DataError(f"{stream}: a data set of type {type(part).__name__} has no target for each sample")
            targets.append(np.asarray(part.targets, dtype=np.int64))
            if len(part) and len(part[0]) < 3 and is_training:
                raise DataError(
                    f"{stream}: a data set of type {type(part).__name__} gives {len(part[0])} values of a training "
                    "sample, without the third: the sample as it is before augmentation"
                )
        self.targets = np.concatenate(targets)
        self.first = np.cumsum([0, *(len(part) for part in parts)])[:-1]

    def __len__(self) -> int:
        return len(self.targets)

    def by_part(self) -> list[np.ndarray]:
        """Positions of the samples of each data set."""
        return np.split(np.arange(len(self)), self.first[1:])

    def read(self, indices: np.ndarray) -> tuple[Tensor, list[int], list[str]]:
        return self.both(indices)[1], list(range(len(indices))), []

    def both(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """(inputs, samples as they are before augmentation; where a data set does not give these, the inputs)."""
        parts = np.searchsorted(self.first, indices, side="right") - 1
        given = [self.parts[part][int(index - self.first[part])] for part, index in zip(parts, indices, strict=True)]
        inputs, plain = ([torch.as_tensor(sample[i if len(sample) > 2 else 0]) for sample in given] for i in (0, 2))
        return torch.stack(inputs), torch.stack(plain)

    def fingerprint(self) -> str:
        arrays = [np.asarray(part.data) for part in self.parts if hasattr(part, "data")]
        firsts = self.both(self.first)[1].numpy()
        return digest(*(values for values in arrays if values.dtype.kind in "uifb"), self.targets, firsts)


class WrittenData(TaskData):
    """Samples of a `WrittenSource`, whose inputs their data set makes."""

    source: WrittenSource

    def __getitem__(self, positions: Any) -> Any:
        positions = np.atleast_1d(np.asarray(positions))
        inputs, plain = self.source.both(self.indices[positions])
        read = torch.from_numpy(positions)
        return plain, self.targets[read], read, [], inputs
