"""Streams written for Mammoth whose tasks share all classes: each task has data sets of its own."""

from __future__ import annotations

import functools
from argparse import Namespace

import numpy as np
import torch
from torch import Tensor

from datasets.utils import scenarios
from datasets.utils.augment import Transform
from datasets.utils.continual_dataset import Samples
from datasets.utils.labelled_dataset import LabelledDataset
from datasets.utils.scenarios import Split
from datasets.utils.written_source import WrittenSource
from datasets.utils.written_stream import Written
from utils.conf import derive_seed
from utils.errors import DataError, UsageError


class MammothDomains(Written, LabelledDataset):
    """Asks another stream for the two data sets of every task, and takes each sample as these give it.

    A data set gives (input, label, input not augmented), for testing (input, label). What memories keep is the third,
    which the stream's own `get_transform` makes inputs of. Transforms that draw their change when they are first
    called draw it when the data is opened; others draw from the global generators, in the process of the run.
    """

    SETTING = "domain-il"

    def __init__(self, args: Namespace) -> None:
        whole = type(self).N_TASKS
        n_tasks = getattr(args, "n_tasks", None) or whole
        if n_tasks > whole:
            raise UsageError(f"--n_tasks {n_tasks}: {self.NAME} has {whole} tasks")
        self.order = scenarios.task_order(
            n_tasks,
            getattr(args, "task_order", "ascending"),
            getattr(args, "custom_task_order", None),
            derive_seed(getattr(args, "seed", 0), "task order"),
        )
        self.N_TASKS = 1 if getattr(args, "joint", False) else n_tasks
        self.N_CLASSES_PER_TASK = self.N_CLASSES
        super().__init__(args)
        self._transform, self._normalization = (
            Transform([functools.partial(self.by_method, name)])
            for name in ("get_transform", "get_normalization_transform")
        )

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.samples.train.read(np.zeros(1, dtype=np.int64))[0].shape[1:])

    def load_samples(self) -> Samples:
        pairs = []
        for number in range(len(self.order)):
            vars(self.written).pop("whole_data", None)
            loaders = self.written.get_data_loaders()
            pairs.append(vars(self.written).get("whole_data") or tuple(loader.dataset for loader in loaders))
            self.written.c_task = number
        train, test = (WrittenSource([pair[i] for pair in pairs], self.NAME, is_training=i == 0) for i in (0, 1))
        train.let_be_tested(test.parts)
        for part in (train, test):
            beyond = sorted({*np.unique(part.targets).tolist()} - {*range(self.N_CLASSES)})
            if beyond:
                raise DataError(f"{self.NAME}: label {beyond[0]}, but there are {self.N_CLASSES} classes")
        return Samples(train, test, train.targets, test.targets, names=self.written_names)

    def make_split(self, samples: Samples) -> Split:
        assert isinstance(samples.train, WrittenSource)
        assert isinstance(samples.test, WrittenSource)
        train, test = samples.train.by_part(), samples.test.by_part()
        for task, part in enumerate(train):
            keep = self.kept_samples(samples.train_targets[part])
            train[task] = part if keep is None else part[keep]
        return Split(train, test, [f"task {number + 1}" for number in range(len(train))]).reordered(self.order)

    @property
    def class_names(self) -> list[str]:
        return self.samples.names

    def convert_targets(self, targets: np.ndarray, difficulty: np.ndarray | None = None) -> Tensor:
        return torch.from_numpy(targets)

    def _validation_seed(self, task: int) -> int:
        # Where tasks are changes of the same images, what is held out of one must not be learnt from in another.
        return self._seed_of("validation")
