"""Base of the streams whose tasks share all classes and differ in how their images look."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

import numpy as np
from torch import Tensor

from datasets.utils import scenarios
from datasets.utils.continual_dataset import Samples
from datasets.utils.image_changes import ChangedSource
from datasets.utils.labelled_dataset import LabelledDataset
from datasets.utils.scenarios import Split
from utils.conf import derive_seed


class DomainDataset(LabelledDataset):
    """Every task has all classes and all samples, each time changed in another way.

    A stream derives from this and from what reads its images (datasets/utils/image_sets.py), in this order, and says
    what changes them. Buffers and methods see the changed samples only.

    Attributes:
        order: number of the change of every task, in order of arrival.
    """

    SETTING = "domain-il"
    N_TASKS = 20

    def __init__(self, args: Namespace) -> None:
        n_tasks = getattr(args, "n_tasks", None) or type(self).N_TASKS
        self.seed: int = getattr(args, "seed", 0)
        self.order = scenarios.task_order(
            n_tasks,
            getattr(args, "task_order", "ascending"),
            getattr(args, "custom_task_order", None),
            derive_seed(self.seed, "task order"),
        )
        self.N_TASKS = 1 if getattr(args, "joint", False) else n_tasks
        self.N_CLASSES_PER_TASK = self.N_CLASSES
        super().__init__(args)

    def change(self, number: int) -> tuple[str, Callable[[Tensor], Tensor]]:
        """Name of a change, and the change of raw images (B, C, H, W); numbers count from 0."""
        raise NotImplementedError

    def load_samples(self) -> Samples:
        samples = super().load_samples()
        changes = [self.change(number)[1] for number in range(len(self.order))]
        samples.train, samples.test = (ChangedSource(part, changes) for part in (samples.train, samples.test))
        samples.train_targets = np.tile(samples.train_targets, len(changes))
        samples.test_targets = np.tile(samples.test_targets, len(changes))
        return samples

    def make_split(self, samples: Samples) -> Split:
        n_tasks = len(self.order)
        train, test = (np.split(np.arange(len(part)), n_tasks) for part in (samples.train, samples.test))
        keep = self.kept_samples(samples.train_targets[train[0]])
        if keep is not None:
            # The same images in every task.
            train = [part[keep] for part in train]
        return Split(train, test, [self.change(number)[0] for number in range(n_tasks)]).reordered(self.order)

    def _validation_seed(self, task: int) -> int:
        # The same images in every task: what is held out of one must not be learnt from in another.
        return derive_seed(self.seed, "validation")
