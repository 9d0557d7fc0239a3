"""Samples that data sets of torchvision's form give one by one: inputs, and what memories keep of them."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.utils.loader import TaskData
from datasets.utils.sources import digest
from utils.conf import randomness_apart
from utils.errors import DataError


class WrittenSource:
    """The samples of several data sets of torchvision's form, one after the other.

    Attributes:
        targets: (n,) labels.
        first: position of the first sample of each data set.
        as_tested: the same samples with the transforms of test data, where the data sets can be given these.

    Args:
        parts: the data sets.
        stream: its name, for messages.
        is_training: whether a sample has to have a third value.

    Raises:
        DataError: one has no targets, or none for each sample, or others than its samples have; or a training sample
            has no third value.
    """

    def __init__(self, parts: Sequence[Any], stream: str, is_training: bool) -> None:
        self.parts, self.stream = list(parts), stream
        self.as_tested: WrittenSource | None = None
        self.targets = np.concatenate([self._targets_of(part, is_training) for part in parts])
        self.first = np.cumsum([0, *(len(part) for part in parts)])[:-1]

    def _targets_of(self, part: Any, is_training: bool) -> np.ndarray:
        kind = f"{self.stream}: a data set of type {type(part).__name__}"
        if not hasattr(part, "targets") or len(part.targets) != len(part):
            raise DataError(f"{kind} has no target for each sample")
        targets = np.asarray(part.targets, dtype=np.int64)
        change = getattr(part, "target_transform", None)
        if change is not None:
            targets = np.asarray([int(change(target)) for target in targets.tolist()], dtype=np.int64)
        if not len(part):
            return targets
        # A change that is drawn at its first use is drawn here.
        sample = part[0]
        if len(sample) < 3 and is_training:
            raise DataError(
                f"{kind} gives {len(sample)} values of a training sample, without the third: the sample as it is "
                "before augmentation"
            )
        if int(sample[1]) != targets[0]:
            raise DataError(f"{kind} gives its first sample the label {int(sample[1])}, and its targets {targets[0]}")
        return targets

    def let_be_tested(self, tests: Sequence[Any]) -> None:
        """Make `as_tested`, with the transforms of these data sets, one for each part."""
        if all(hasattr(part, "transform") for part in [*self.parts, *tests]):
            twins = [copy.copy(part) for part in self.parts]
            for twin, test in zip(twins, tests, strict=True):
                twin.transform = test.transform
            self.as_tested = WrittenSource(twins, self.stream, is_training=False)

    def __len__(self) -> int:
        return len(self.targets)

    def by_part(self) -> list[np.ndarray]:
        """Positions of the samples of each data set."""
        return np.split(np.arange(len(self)), self.first[1:])

    def read(self, indices: np.ndarray) -> tuple[Tensor, list[int], list[str]]:
        return self.both(indices)[1], list(range(len(indices))), []

    def both(self, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        """(inputs, samples as they are before augmentation; where a data set does not give these, the inputs).

        Raises:
            DataError: they are not of one shape.
        """
        parts = np.searchsorted(self.first, indices, side="right") - 1
        given = [self.parts[part][int(index - self.first[part])] for part, index in zip(parts, indices, strict=True)]
        inputs, plain = ([torch.as_tensor(sample[i if len(sample) > 2 else 0]) for sample in given] for i in (0, 2))
        for values in (inputs, plain):
            shapes = sorted({tuple(value.shape) for value in values})
            if len(shapes) > 1:
                raise DataError(f"{self.stream}: samples of one batch have the shapes {' and '.join(map(str, shapes))}")
        return torch.stack(inputs), torch.stack(plain)

    def fingerprint(self) -> str:
        arrays = [np.asarray(part.data) for part in self.parts if is_array(getattr(part, "data", None))]
        # Of a run that goes on, draws must not move the generators that have just been put back.
        with randomness_apart(0):
            firsts = [self.both(self.first[i : i + 1])[1].numpy() for i in range(len(self.first))]
        return digest(*arrays, self.targets, *firsts)


def is_array(values: Any) -> bool:
    """Whether the samples of a data set are numbers in one array; others (names of files) it has to read itself."""
    try:
        return values is not None and (isinstance(values, Tensor) or np.asarray(values).dtype.kind in "uifb")
    except ValueError:  # arrays of several shapes
        return False


class WrittenData(TaskData):
    """Samples of a `WrittenSource`, whose inputs their data set makes."""

    source: WrittenSource

    def __getitem__(self, positions: Any) -> Any:
        positions = np.atleast_1d(np.asarray(positions))
        inputs, plain = self.source.both(self.indices[positions])
        read = torch.from_numpy(positions)
        return plain, self.targets[read], read, [], inputs
