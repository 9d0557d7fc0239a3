"""Base of the streams that bring new classes with every task."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.utils import scenarios
from datasets.utils.continual_dataset import Samples
from datasets.utils.labelled_dataset import LabelledDataset
from datasets.utils.named_sets import parse_set, set_list
from datasets.utils.scenarios import Split
from utils.args import int_list, not_negative, true_or_false
from utils.conf import derive_seed
from utils.errors import DataError, UsageError

INCREMENTS = ("class", "data", "task")


class ClassDataset(LabelledDataset):
    """A stream of classes: task t brings classes get_offsets(t), relabelled in their order of arrival.

    With --base_classes the first task has that many classes, and the others are divided among --n_tasks tasks after it.

    With --increment data tasks share all classes, and each brings another part of the training data
    (`scenarios.data_incremental`); after each, all test data is asked about. With --increment task the data set is one
    task.

    Attributes:
        increment: one of `INCREMENTS`.
        task_positions: of the task that comes i-th, its position before --task_order.
    """

    SETTING = "class-il"

    def __init__(self, args: Namespace) -> None:
        self.increment: str = getattr(args, "increment", None) or "class"
        self.SETTING = self.resolve_setting(args)
        joint = bool(getattr(args, "joint", False))
        base = getattr(args, "base_classes", None) or 0
        sizes = [self.N_CLASSES] if self.increment == "data" else self.divide_classes(args)
        n_tasks = getattr(args, "n_tasks", None) or len(scenarios.DATA_SHARES)
        n_tasks = n_tasks if self.increment == "data" else len(sizes)
        self.task_positions = scenarios.task_order(
            n_tasks,
            getattr(args, "task_order", "ascending"),
            getattr(args, "custom_task_order", None),
            derive_seed(getattr(args, "seed", 0), "task order"),
            base=base > 0,
        )
        self.class_order, self.classes_per_task = self.arrange_classes(args), [self.N_CLASSES] * n_tasks
        if self.increment != "data":
            blocks = np.split(self.class_order, np.cumsum(sizes)[:-1])
            self.class_order = np.concatenate([blocks[i] for i in self.task_positions])
            self.classes_per_task = [len(blocks[i]) for i in self.task_positions]
        self.N_TASKS = 1 if joint else n_tasks
        self.N_CLASSES_PER_TASK = self.classes_per_task[0] if len(set(sizes)) == 1 else self.classes_per_task
        if joint:
            self.N_CLASSES_PER_TASK = self.N_CLASSES
        super().__init__(args)

    def divide_classes(self, args: Namespace) -> list[int]:
        """Classes of every task, before --task_order.

        Raises:
            UsageError: --n_tasks does not fit.
        """
        n_tasks = getattr(args, "n_tasks", None)
        if self.increment == "task":
            return check_n_tasks(n_tasks, [self.N_CLASSES])
        base = getattr(args, "base_classes", None) or 0
        n_tasks, n_divided = n_tasks or type(self).N_TASKS, self.N_CLASSES - base
        if not 1 <= n_tasks <= n_divided:
            rest = f"; --base_classes {base} leaves {max(n_divided, 0)} for the tasks after the first" if base else ""
            raise UsageError(f"--n_tasks {n_tasks}: {self.NAME} has {self.N_CLASSES} classes, a task needs one{rest}")
        return [base] * (base > 0) + [len(part) for part in np.array_split(np.arange(n_divided), n_tasks)]

    @classmethod
    def resolve_setting(cls, args: Namespace) -> str:
        return "domain-il" if getattr(args, "increment", None) == "data" else super().resolve_setting(args)

    @classmethod
    def check_options(cls, args: Namespace) -> None:
        super().check_options(args)
        increment, base = (getattr(args, name, None) for name in ("increment", "base_classes"))
        if base and increment in ("data", "task"):
            raise UsageError(
                f"--base_classes {base} makes a larger first task of classes, which --increment {increment} does not "
                "have; give --base_classes 0, or --increment class"
            )
        held_out = {parse_set(entry)[0] for entry in getattr(args, "held_out", None) or []}
        for name in sorted(held_out & cls.trained_names(args)):
            raise UsageError(
                f"--held_out {name}: {cls.NAME} trains on it; leave it out, or call another data set of this name "
                "otherwise (folder:PLACE=NAME)"
            )

    @classmethod
    def trained_names(cls, args: Namespace) -> set[str]:
        """Names, as in --held_out, of the data sets that the stream trains on."""
        return {cls.NAME, cls.NAME.removeprefix("seq-").removesuffix("-lt")}

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        LabelledDataset.get_parser(parser)
        parser.add_argument("--permute_classes", type=true_or_false, default=False, help="random order of classes")
        parser.add_argument(
            "--custom_class_order",
            type=int_list,
            help="order in which classes arrive: every label once, e.g. 3,1,0,2; goes before --permute_classes",
        )
        parser.add_argument(
            "--base_classes", type=not_negative, default=0, help="classes of a larger first task; n_tasks come after it"
        )
        parser.add_argument(
            "--increment",
            choices=INCREMENTS,
            default="class",
            help="what a task brings: classes, a part of the data of all classes (--n_tasks, 7 unless given: 2, 2, 4, "
            "8, 16, 32, 36 percent; another number: equal parts), or the whole data set",
        )
        parser.add_argument(
            "--held_out",
            type=set_list,
            help="data sets that are evaluated by open-vocabulary methods and never trained on, e.g. "
            "cifar100,folder:/flowers",
        )
        return parser

    def arrange_classes(self, args: Namespace) -> np.ndarray:
        """(N_CLASSES,) original labels in the order that the blocks of the tasks are cut from."""
        return scenarios.class_order(
            self.N_CLASSES,
            permute=getattr(args, "permute_classes", False),
            custom=getattr(args, "custom_class_order", None),
            seed=derive_seed(getattr(args, "seed", 0), "class order"),
        )

    def make_split(self, samples: Samples) -> Split:
        for part, targets in (("training", samples.train_targets), ("test", samples.test_targets)):
            absent = sorted({*range(self.N_CLASSES)} - {*np.unique(targets).tolist()})
            if absent:
                names = ", ".join(samples.names[label] if samples.names else str(label) for label in absent)
                raise DataError(f"{self.NAME}: no {part} sample of class {names}; check that the data is complete")
        keep = self.kept_samples(samples.train_targets)
        if self.increment == "data":
            return self._split_data(samples, np.arange(len(samples.train_targets)) if keep is None else keep)
        train = scenarios.class_incremental(self._arrival[samples.train_targets], self.classes_per_task)
        if keep is not None:
            train = [np.intersect1d(part, keep) for part in train]
        test = scenarios.class_incremental(self._arrival[samples.test_targets], self.classes_per_task)
        return Split(train, test, [f"task {i + 1}" for i in range(len(train))])

    def _split_data(self, samples: Samples, kept: np.ndarray) -> Split:
        n_tasks = len(self.task_positions)
        parts = scenarios.data_incremental(samples.train_targets[kept], n_tasks, self._seed_of("data parts"))
        test = [np.arange(len(samples.test_targets))] * n_tasks
        return Split([kept[part] for part in parts], test, [f"part {i + 1}" for i in range(n_tasks)]).reordered(
            self.task_positions
        )

    def describe(self) -> list[dict[str, Any]]:
        """As of every stream, and the classes of each task with their numbers of training samples."""
        rows = super().describe()
        for row, train in zip(rows, self.split.train, strict=True):
            labels, counts = np.unique(self._arrival[self.training_targets[train]], return_counts=True)
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
        names = self.samples.names
        return [names[i] for i in self.class_order] if names else []

    def convert_targets(self, targets: np.ndarray, difficulty: np.ndarray | None = None) -> Tensor:
        return torch.from_numpy(self._arrival[targets])

    def get_offsets(self, task: int | None = None) -> tuple[int, int]:
        if self._is_joint:
            return 0, self.N_CLASSES
        return self.evaluation_offsets(max(self.current_task, 0) if task is None else task)

    def evaluation_offsets(self, task: int) -> tuple[int, int]:
        if self.increment == "data":
            return 0, self.N_CLASSES
        edges = np.concatenate([[0], np.cumsum(self.classes_per_task)])
        return int(edges[task]), int(edges[task + 1])


def check_n_tasks(n_tasks: int | None, sizes: list[int]) -> list[int]:
    """The sizes of tasks that are whole data sets.

    Raises:
        UsageError: another number of tasks is asked for.
    """
    if n_tasks not in (None, len(sizes)):
        raise UsageError(
            f"--n_tasks {n_tasks}: with --increment task there are as many tasks as data sets; give --n_tasks "
            f"{len(sizes)} or leave it out"
        )
    return sizes
