"""Streams written for Mammoth whose tasks share all classes: each task has data sets of its own."""

from __future__ import annotations

import functools
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.utils import scenarios
from datasets.utils.augment import Transform
from datasets.utils.continual_dataset import Samples
from datasets.utils.labelled_dataset import LabelledDataset
from datasets.utils.loader import StreamLoader, TaskData
from datasets.utils.scenarios import Split
from datasets.utils.sources import digest
from datasets.utils.written_stream import Written, overrides
from utils.augmentations import sample_by_sample
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
            Transform([functools.partial(self._apply, name)])
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

    def _apply(self, name: str, batch: Tensor, generator: torch.Generator) -> Tensor:
        transform = getattr(self.written, name)() if overrides(self.written_class, name) else None
        return batch if transform is None else sample_by_sample(batch, transform)

    def _stream_loader(self, data: TaskData, transform: Transform, *args: Any, **kwargs: Any) -> StreamLoader:
        loader = super()._stream_loader(data, transform, *args, **kwargs)
        if transform is self._transform or data.source is self.samples.test:
            loader.dataset = WrittenData(
                data.source, data.indices, data.targets, data.difficulty, data.scores, data.true_targets
            )
            loader.num_workers = 0
        return loader


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
    """The samples of a task of a `MammothDomains`, whose inputs their data set makes."""

    source: WrittenSource

    def __getitem__(self, positions: Any) -> Any:
        positions = np.atleast_1d(np.asarray(positions))
        inputs, plain = self.source.both(self.indices[positions])
        read = torch.from_numpy(positions)
        return plain, self.targets[read], read, [], inputs
