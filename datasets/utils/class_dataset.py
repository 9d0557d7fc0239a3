"""Base of the streams that bring new classes with every task."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.utils import scenarios
from datasets.utils.continual_dataset import ContinualDataset, Samples
from datasets.utils.scenarios import Split
from utils.args import int_list, positive, true_or_false
from utils.conf import derive_seed
from utils.errors import DataError, UsageError


class ClassDataset(ContinualDataset):
    """A stream of classes: task t brings classes get_offsets(t), relabelled in their order of arrival."""

    SETTING = "class-il"

    def __init__(self, args: Namespace) -> None:
        n_tasks = getattr(args, "n_tasks", None) or type(self).N_TASKS
        if not 1 <= n_tasks <= self.N_CLASSES:
            raise UsageError(f"--n_tasks {n_tasks}: {self.NAME} has {self.N_CLASSES} classes, a task needs one")
        sizes = [len(part) for part in np.array_split(np.arange(self.N_CLASSES), n_tasks)]
        seed = getattr(args, "seed", 0)
        classes = scenarios.class_order(
            self.N_CLASSES,
            permute=getattr(args, "permute_classes", False),
            custom=getattr(args, "custom_class_order", None),
            seed=derive_seed(seed, "class order"),
        )
        blocks = np.split(classes, np.cumsum(sizes)[:-1])
        order = scenarios.task_order(
            n_tasks,
            getattr(args, "task_order", "ascending"),
            getattr(args, "custom_task_order", None),
            derive_seed(seed, "task order"),
        )
        self.class_order = np.concatenate([blocks[i] for i in order])
        self.classes_per_task = [len(blocks[i]) for i in order]
        joint = bool(getattr(args, "joint", False))
        self.N_TASKS = 1 if joint else n_tasks
        self.N_CLASSES_PER_TASK = self.classes_per_task[0] if len(set(sizes)) == 1 else self.classes_per_task
        if joint:
            self.N_CLASSES_PER_TASK = self.N_CLASSES
        super().__init__(args)

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        parser.add_argument("--permute_classes", type=true_or_false, default=False, help="random order of classes")
        parser.add_argument(
            "--custom_class_order", type=int_list, help="order in which classes arrive: every label once, e.g. 3,1,0,2"
        )
        parser.add_argument(
            "--max_samples_per_class", type=positive, help="train on the first N images of every class (default: all)"
        )
        return parser

    def make_split(self, samples: Samples) -> Split:
        for part, targets in (("training", samples.train_targets), ("test", samples.test_targets)):
            absent = sorted({*range(self.N_CLASSES)} - {*np.unique(targets).tolist()})
            if absent:
                names = ", ".join(samples.names[label] if samples.names else str(label) for label in absent)
                raise DataError(f"{self.NAME}: no {part} sample of class {names}; check that the data is complete")
        train_labels = self._arrival[samples.train_targets]
        train = scenarios.class_incremental(train_labels, self.classes_per_task)
        limit = getattr(self.args, "max_samples_per_class", None)
        if limit:
            keep = scenarios.first_per_class(train_labels, limit)
            train = [np.intersect1d(part, keep) for part in train]
        test = scenarios.class_incremental(self._arrival[samples.test_targets], self.classes_per_task)
        return Split(train, test, [f"task {i + 1}" for i in range(len(train))])

    def describe(self) -> list[dict[str, Any]]:
        """As of every stream, and the classes of each task with their numbers of training samples."""
        rows = super().describe()
        for row, train in zip(rows, self.split.train, strict=True):
            labels, counts = np.unique(self._arrival[self.samples.train_targets[train]], return_counts=True)
            names = self.samples.names
            row["classes"] = [names[self.class_order[i]] if names else str(self.class_order[i]) for i in labels]
            row["class_counts"] = counts.tolist()
        return rows

    @property
    def _arrival(self) -> np.ndarray:
        """Position in the order of arrival of every original label."""
        return np.argsort(self.class_order)

    @property
    def class_names(self) -> list[str]:
        """Names in order of arrival."""
        return [self.samples.names[i] for i in self.class_order]

    def convert_targets(self, targets: np.ndarray, difficulty: np.ndarray | None = None) -> Tensor:
        return torch.from_numpy(self._arrival[targets])

    def get_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        return F.cross_entropy

    def get_offsets(self, task: int | None = None) -> tuple[int, int]:
        if self._is_joint:
            return 0, self.N_CLASSES
        return self.evaluation_offsets(max(self.current_task, 0) if task is None else task)

    def evaluation_offsets(self, task: int) -> tuple[int, int]:
        edges = np.concatenate([[0], np.cumsum(self.classes_per_task)])
        return int(edges[task]), int(edges[task + 1])
