"""A task's samples together with exemplars of past classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.utils.loader import TaskData


class JoinedData(TaskData):
    """Samples of a task, followed by exemplars, all on the CPU; a loader draws from both alike.

    Within what is read at once, the task's samples come first.

    Attributes:
        own: the task's samples.
        examples: (m, ...) raw exemplars.

    Args:
        labels: (m,) of the exemplars; also what counts as their true labels.
    """

    def __init__(self, own: TaskData, examples: Tensor, labels: Tensor) -> None:
        super().__init__(own.source, own.indices, torch.cat([own.targets, labels]))
        self.true_targets = torch.cat([own.true_targets, labels])
        self.own = own
        self.examples = examples

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, positions: Any) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        positions = np.atleast_1d(np.asarray(positions))
        is_own = positions < len(self.own)
        stored = torch.from_numpy(positions[~is_own])
        raw, problems = self.examples[stored - len(self.own)], list[str]()
        if is_own.any():
            own, _, found, problems, *_ = self.own[positions[is_own]]
            if len(found):
                raw, stored = torch.cat([own, raw]), torch.cat([found, stored])
        return raw, self.targets[stored], stored, problems


def first_of_each_class(labels: Tensor, m: int) -> Tensor:
    """Indices of the first m samples of every class, class by class; all of a class that has fewer."""
    return torch.cat([(labels == label).nonzero().view(-1)[:m] for label in labels.unique()])
