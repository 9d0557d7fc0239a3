"""What a stream offers to the loop and to methods."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.utils import scenarios
from datasets.utils.augment import Operation, ToFloat, Transform
from datasets.utils.loader import StreamLoader, TaskData
from datasets.utils.scenarios import Split
from datasets.utils.sources import Source, digest
from utils.conf import derive_seed, get_device
from utils.errors import UsageError

SCORE_SETTINGS = ("grade-il", "group-il")
DEBUG_BATCHES = 5
SETTINGS = ("class-il", "task-il", "domain-il", "general-continual", *SCORE_SETTINGS)


@dataclass
class Samples:
    """What a stream reads from its files: two sources and what is known about their samples.

    Attributes:
        train, test: sources; the same object if one source holds both.
        train_targets, test_targets: (n,) int64 labels, or float64 scores in the data set's own unit.
        train_groups, test_groups: (n,) group names where the stream has groups.
        train_difficulty, test_difficulty: (n,) degrees of difficulty, float64, where scores are execution times that.
        names: class names in the order of the original labels.
        problems: messages about samples that were left out while reading.
    """

    train: Source
    test: Source
    train_targets: np.ndarray
    test_targets: np.ndarray
    train_groups: np.ndarray | None = None
    test_groups: np.ndarray | None = None
    train_difficulty: np.ndarray | None = None
    test_difficulty: np.ndarray | None = None
    names: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class ContinualDataset:
    """A stream of tasks. Constructing one reads no data; the first access to a task does.

    A new stream derives from `ClassDataset` or `ScoreDataset` (datasets/utils), and says what its samples are
    (`load_samples`), their shape (`input_shape`), and how they are augmented and normalised.

    Attributes:
        NAME: as in --dataset.
        SETTING: one of `SETTINGS`.
        N_TASKS: number of tasks; N_CLASSES: outputs of the head (1 for scores);
        N_CLASSES_PER_TASK: number, or list with one number per task.
        OPTION_DEFAULTS: the stream's defaults for options that only some methods have, e.g. buffer_scope.
        TAKES_FEATURES: whether --features can replace its samples.
        IS_STAND_IN: whether it only replaces absent data and is none of the field's.
        current_task: index of the current task, -1 before the first.
        train_loader: of the current task.
        names: one word per task, for tables.
        skipped: messages about samples that could not be read and were left out.

    Args:
        args: the run's resolved configuration.
    """

    NAME: str
    SETTING: str
    N_TASKS: int
    N_CLASSES: int
    N_CLASSES_PER_TASK: int | list[int]
    OPTION_DEFAULTS: dict[str, Any] = {}
    IS_STAND_IN = False
    TAKES_FEATURES = False

    def __init__(self, args: Namespace) -> None:
        if getattr(args, "features", None) and not self.TAKES_FEATURES:
            raise UsageError(f"--features: {self.NAME} is no stream of videos")
        self.args = args
        self.device = get_device(args)
        self.current_task = -1
        self.train_loader: StreamLoader | None = None
        self.skipped: list[str] = []
        self._samples: Samples | None = None
        self._split: Split | None = None
        seed = getattr(args, "seed", 0)
        self._transform = Transform([*self.augmentations(), *self.normalization()], derive_seed(seed, "augment"))
        self._normalization = Transform(self.normalization())

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Add the stream's own options."""
        return parser

    @classmethod
    def resolve_name(cls, options: dict[str, Any]) -> str:
        """The stream that really runs, given what the user asked for; only a stream with a stand-in overrides this.

        Args:
            options: data_source, data_root and base_path, where given.

        Raises:
            UsageError: a stand-in is asked for and there is none.
        """
        if options.get("data_source") == "mini":
            raise UsageError(f"--data_source mini: {cls.NAME} has no stand-in, it is always the real data")
        return cls.NAME

    @classmethod
    def resolve_setting(cls, args: Namespace) -> str:
        """The setting the stream will have under these arguments, known before any data is read."""
        return cls.SETTING

    # What a stream is made of

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one sample, without the batch dimension."""
        raise NotImplementedError

    def load_samples(self) -> Samples:
        """Open the data; called once.

        Raises:
            DataError: it is missing or broken.
        """
        raise NotImplementedError

    def make_split(self, samples: Samples) -> Split:
        """Divide the samples into tasks."""
        raise NotImplementedError

    def convert_targets(self, targets: np.ndarray, difficulty: np.ndarray | None = None) -> Tensor:
        """Targets as methods see them.

        Args:
            targets: (n,) in the data set's own unit.
            difficulty: (n,) degrees of difficulty, where the data set has them.
        """
        raise NotImplementedError

    def get_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        """loss(outputs, labels) -> scalar."""
        raise NotImplementedError

    def augmentations(self) -> Sequence[Operation]:
        """Batch operations of training, before normalisation."""
        return ()

    def normalization(self) -> Sequence[Operation]:
        """Batch operations that bring raw samples to the scale of the network."""
        return (ToFloat(),)

    def denormalization(self) -> Sequence[Operation]:
        """Inverse of the normalisation of float samples."""
        return ()

    # What methods and the loop use

    def get_data_loaders(self) -> tuple[StreamLoader, StreamLoader]:
        """Move to the next task; returns its (train_loader, test_loader).

        Raises:
            IndexError: there is no further task.
        """
        if self.current_task + 1 >= self.N_TASKS:
            raise IndexError(f"{self.NAME} has {self.N_TASKS} tasks; there is none after the last")
        return self.set_task(self.current_task + 1)

    def set_task(self, task: int) -> tuple[StreamLoader, StreamLoader]:
        """Jump to a task, as `get_data_loaders` does to the next one."""
        self.current_task = task
        indices = self.split.train if not self._is_joint else [np.concatenate(self.split.train)]
        self.train_loader = self._loader("train", indices[task], training=True, names=("order", task))
        return self.train_loader, self.test_loader(task)

    def test_loader(self, task: int) -> StreamLoader:
        """Loader over the evaluation samples of any task, seen or not."""
        return self._loader("test", self.split.test[task], training=False, names=())

    @property
    def test_loaders(self) -> list[StreamLoader]:
        """Evaluation loaders of all tasks seen so far."""
        return [self.test_loader(task) for task in self.seen_tasks]

    @property
    def seen_tasks(self) -> range:
        """Tasks whose training data has been reached; all of them as soon as a joint stream has begun."""
        if self._is_joint and self.current_task >= 0:
            return range(len(self.split.test))
        return range(self.current_task + 1)

    @property
    def n_test_tasks(self) -> int:
        """Number of evaluation sets: N_TASKS, or all original tasks of a joint stream."""
        return len(self.split.test)

    @property
    def names(self) -> list[str]:
        return self.split.names

    @property
    def split(self) -> Split:
        """Training and evaluation indices of every task; opens the data on first use."""
        if self._split is None:
            split = self.make_split(self.samples)
            scenarios.check_tasks(split, self.NAME)
            percent = getattr(self.args, "validation", None)
            if percent:
                targets, seed = self.samples.train_targets, getattr(self.args, "seed", 0)
                parts = [
                    scenarios.hold_out(train, targets, percent, derive_seed(seed, "validation", task))
                    for task, train in enumerate(split.train)
                ]
                split = Split([train for train, _ in parts], [held for _, held in parts], split.names)
            self._split = split
        return self._split

    @property
    def samples(self) -> Samples:
        if self._samples is None:
            self._samples = self.load_samples()
            for problem in self._samples.problems:
                self.report_skipped(problem)
        return self._samples

    def describe(self) -> list[dict[str, Any]]:
        """What each task holds: name, number of training and evaluation samples, lowest and highest training target."""
        rows = []
        for name, train, test in zip(self.names, self.split.train, self.split.test, strict=True):
            targets = self.samples.train_targets[train]
            rows.append(
                {"task": name, "train": len(train), "test": len(test), "low": targets.min(), "high": targets.max()}
            )
        return rows

    def fingerprint(self) -> str:
        """A digest of all samples and targets, whatever the split; equal where the data is equal."""
        samples = self.samples
        sources = [samples.train] if samples.test is samples.train else [samples.train, samples.test]
        return digest(
            *(source.fingerprint() for source in sources),
            *(samples.train_targets, samples.test_targets, samples.train_groups, samples.test_groups, samples.names),
            *(part for part in (samples.train_difficulty, samples.test_difficulty) if part is not None),
        )

    def get_offsets(self, task: int | None = None) -> tuple[int, int]:
        """(first, end) output of the classes that a training task brings; the current task by default."""
        return 0, self.N_CLASSES

    def evaluation_offsets(self, task: int) -> tuple[int, int]:
        """(first, end) output of the classes in an evaluation set; differs from `get_offsets` on joint streams."""
        return 0, self.N_CLASSES

    def get_backbone(self) -> str:
        """Name of the backbone of this run."""
        return self.args.backbone

    def get_transform(self) -> Transform:
        """Raw batch -> augmented, normalised batch."""
        return self._transform

    def get_normalization_transform(self) -> Transform:
        """Raw batch -> normalised batch, without augmentation."""
        return self._normalization

    def get_denormalization_transform(self) -> Transform:
        """Normalised batch -> floats on the raw scale ([0, 1] for images)."""
        return Transform(self.denormalization())

    def get_epochs(self) -> int:
        """Epochs for the current task."""
        base = getattr(self.args, "base_epochs", None)
        return base if base is not None and self.current_task == 0 else self.args.n_epochs

    @property
    def n_batches(self) -> int:
        """Batches of an epoch of the current task."""
        n = 0 if self.train_loader is None else len(self.train_loader)
        return min(n, DEBUG_BATCHES) if getattr(self.args, "debug_mode", False) else n

    def get_batch_size(self) -> int:
        return self.args.batch_size

    def get_minibatch_size(self) -> int:
        """Replayed samples a step; the batch size unless set."""
        return getattr(self.args, "minibatch_size", None) or self.args.batch_size

    def get_scheduler(self, model: Any, args: Namespace) -> torch.optim.lr_scheduler.LRScheduler | None:
        """A learning-rate scheduler over the epochs of the current task, or None.

        Raises:
            UsageError: multistep without --lr_milestones.
        """
        if getattr(args, "lr_scheduler", None) is None or model.opt is None:
            return None
        if args.lr_scheduler == "cosine":
            return torch.optim.lr_scheduler.CosineAnnealingLR(model.opt, T_max=max(self.get_epochs(), 1))
        if not args.lr_milestones:
            raise UsageError("--lr_scheduler multistep needs --lr_milestones, e.g. --lr_milestones 30 40")
        return torch.optim.lr_scheduler.MultiStepLR(model.opt, args.lr_milestones, gamma=args.lr_gamma)

    def report_skipped(self, message: str) -> None:
        """Note, once, that a sample was left out; the count is part of the run's results."""
        if message not in self.skipped:
            self.skipped.append(message)
            print(f"skipped: {message}", file=sys.stderr)

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is, for a checkpoint; loaders are the loop's to restore."""
        return {
            "current_task": self.current_task,
            "augment_generator": self._transform.generator.get_state(),
            "skipped": list(self.skipped),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put the stream where `state_dict` was taken."""
        if state["current_task"] >= 0:
            self.set_task(state["current_task"])
        self._transform.generator.set_state(state["augment_generator"])
        self.skipped = list(state["skipped"])

    @property
    def _is_joint(self) -> bool:
        return bool(getattr(self.args, "joint", False))

    def _loader(self, part: str, indices: np.ndarray, training: bool, names: tuple[Any, ...]) -> StreamLoader:
        validating = part == "test" and bool(getattr(self.args, "validation", None))
        samples = self.samples
        source, targets, difficulty = (
            (samples.train, samples.train_targets, samples.train_difficulty)
            if part == "train" or validating
            else (samples.test, samples.test_targets, samples.test_difficulty)
        )
        targets, difficulty = targets[indices], None if difficulty is None else difficulty[indices]
        scores = targets if self.SETTING in SCORE_SETTINGS else None
        return StreamLoader(
            TaskData(source, indices, self.convert_targets(targets, difficulty), difficulty, scores),
            batch_size=self.get_batch_size(),
            transform=self.get_transform() if training else self.get_normalization_transform(),
            device=self.device,
            training=training,
            seed_names=(getattr(self.args, "seed", 0), *names),
            num_workers=getattr(self.args, "num_workers", 0),
            on_problem=self.report_skipped,
        )
