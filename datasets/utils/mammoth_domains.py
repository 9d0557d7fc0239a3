"""Streams written for Mammoth whose tasks share all classes: each task has data sets of its own."""

from __future__ import annotations

import functools
from argparse import Namespace

import numpy as np

from datasets.utils.augment import Transform
from datasets.utils.continual_dataset import Samples
from datasets.utils.domain_dataset import DomainDataset
from datasets.utils.scenarios import Split
from datasets.utils.written_source import WrittenSource
from datasets.utils.written_stream import Written
from utils.errors import DataError, UsageError


class MammothDomains(Written, DomainDataset):
    """Asks another stream for the two data sets of every task, and takes each sample as these give it.

    A data set gives (input, label, input not augmented), for testing (input, label). What memories keep is the third,
    which the stream's own `get_transform` makes inputs of. Transforms that draw their change when they are first
    called draw it when the data is opened; others draw from the global generators, in the process of the run.
    """

    def __init__(self, args: Namespace) -> None:
        n_tasks, whole = getattr(args, "n_tasks", None), type(self).N_TASKS
        if n_tasks and n_tasks > whole:
            raise UsageError(f"--n_tasks {n_tasks}: {self.NAME} has {whole} tasks")
        super().__init__(args)
        self._transform, self._normalization = (
            Transform([functools.partial(self.by_method, name)])
            for name in ("get_transform", "get_normalization_transform")
        )

    def load_samples(self) -> Samples:
        pairs = []
        for number in range(len(self.order)):
            vars(self.written).pop("whole_data", None)
            loaders = self.written.get_data_loaders()
            pairs.append(vars(self.written).get("whole_data") or tuple(loader.dataset for loader in loaders))
            self.written.c_task = number
        train, test = self.sources_of(pairs)
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
