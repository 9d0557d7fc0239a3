"""What a stream offers to the loop and to methods."""

from __future__ import annotations

import math
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.utils import scenarios
from datasets.utils.augment import Denormalize, Operation, ToFloat, Transform
from datasets.utils.evaluation_sets import (
    EvaluationSet,
    first_tasks,
    held_out_set,
    label_words,
    stream_set,
    with_first_prompts,
)
from datasets.utils.loader import Readers, StreamLoader, TaskData
from datasets.utils.masked_loaders import MammothDatasetWrapper as MammothDatasetWrapper
from datasets.utils.masked_loaders import fix_class_names_order as fix_class_names_order
from datasets.utils.masked_loaders import store_masked_loaders as store_masked_loaders
from datasets.utils.named_sets import ImageSet
from datasets.utils.scenarios import Split
from datasets.utils.sources import Source, digest
from datasets.utils.training_labels import (
    asymmetric_noise,
    check_labels,
    confusions,
    labelled,
    symmetric_noise,
    tasks_by_given_label,
)
from utils.conf import derive_seed, get_device, randomness_apart
from utils.errors import UsageError
from utils.fitting import check_fitting, evaluated_on
from utils.unused_options import check_unused

SCORE_SETTINGS = ("grade-il", "group-il")
# What a method declares beside its settings if it learns from samples without a label too.
SEMI_SUPERVISED = "cssl"
UNLABELLED = -1
DEBUG_BATCHES = 5
SETTINGS = ("class-il", "task-il", "domain-il", "general-continual", *SCORE_SETTINGS)


@dataclass(frozen=True)
class _Arranged:
    """What a run takes of the samples: tasks, held-out training samples of each, targets as training is given them, and
    which samples of each task keep their label."""

    split: Split
    held_out: list[np.ndarray]
    targets: np.ndarray
    labelled: list[np.ndarray]


class Denormalization(Transform):
    """The inverse of a normalisation.

    Attributes:
        mean, std: (C,) of the normalisation, 0 and 1 where there is none.

    Args:
        operations: called in turn.
        n_channels: C of the samples.
    """

    def __init__(self, operations: Sequence[Operation], n_channels: int) -> None:
        super().__init__(operations)
        found = [(step.mean, step.std) for step in operations if isinstance(step, Denormalize)]
        self.mean, self.std = found[0] if found else (torch.zeros(n_channels), torch.ones(n_channels))


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
        OPTION_DEFAULTS: the stream's defaults for options that only some methods have, e.g. buffer_scope; those of its
            bases hold too.
        TAKES_FEATURES: whether --features can replace its samples.
        PROMPTS: sentences with {} for the text of a class, which together describe an image of it.
        CONFUSIONS: what classes are mistaken for under asymmetric label noise, by name, where that is published for the
            stream.
        IS_STAND_IN: whether it only replaces absent data and is none of the field's.
        SHUFFLED: whether every pass over a task has an order of its own; else samples come in the order of the split.
        gives_unlabelled: whether training loaders hold samples without a label (`UNLABELLED`, or NaN for a score) too;
            set before the first task, for methods that declare `SEMI_SUPERVISED`.
        current_task: index of the current task, -1 before the first. c_task: the same, by its name in Mammoth.
        train_loader: of the current task.
        names: one word per task, for tables.
        held_out: data sets that are never trained on, as `--held_out` names them.
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
    SHUFFLED = True
    TAKES_FEATURES = False
    PROMPTS: tuple[str, ...] = ("a photo of a {}.",)
    CONFUSIONS: dict[str, str] = {}

    def __init__(self, args: Namespace) -> None:
        if getattr(args, "features", None) and not self.TAKES_FEATURES:
            raise UsageError(f"--features: {self.NAME} is no stream of videos")
        self.check_options(args)
        self.args = args
        self.device = get_device(args)
        self.gives_unlabelled = False
        self.current_task = self.c_task = -1
        self.train_loader: StreamLoader | None = None
        self.skipped: list[str] = []
        self._samples: Samples | None = None
        self._arranged: _Arranged | None = None
        self._evaluation_sets: list[EvaluationSet] | None = None
        self._readers: list[tuple[Source, Readers]] = []
        seed = getattr(args, "seed", 0)
        self.held_out = [ImageSet(entry, args, self.sets_root) for entry in getattr(args, "held_out", None) or []]
        self._transform = Transform([*self.augmentations(), *self.normalization()], derive_seed(seed, "augment"))
        self._normalization = Transform(self.normalization())

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Add the stream's own options."""
        return parser

    @classmethod
    def option_defaults(cls) -> dict[str, Any]:
        """`OPTION_DEFAULTS` of the stream and of all its bases."""
        parts = (vars(base).get("OPTION_DEFAULTS", {}) for base in reversed(cls.__mro__))
        return {name: value for part in parts for name, value in part.items()}

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

    @classmethod
    def check_options(cls, args: Namespace) -> None:
        """Refuse options that do not fit the stream, or one another, before any data is read.

        Raises:
            UsageError: what does not fit, and what to do.
        """
        is_score = cls.resolve_setting(args) in SCORE_SETTINGS
        check_unused(args)
        check_fitting(args, is_score)
        check_labels(args, is_score)

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
        self.current_task = self.c_task = task
        arranged = self._arrangement
        indices, keep_label = arranged.split.train[task], arranged.labelled[task]
        if self._is_joint:
            indices, keep_label = np.concatenate(arranged.split.train), np.concatenate(arranged.labelled)
        if not self.gives_unlabelled:
            indices, keep_label = indices[keep_label], keep_label[keep_label]
        self.train_loader = self._loader("train", indices, ("order", task), keep_label)
        return self.train_loader, self.test_loader(task)

    def test_loader(self, task: int) -> StreamLoader:
        """Loader over the evaluation samples of any task, seen or not."""
        return self._loader(self.evaluated_on, self.split.test[task])

    @property
    def validation_loaders(self) -> list[StreamLoader]:
        """Loaders over what `--validation` holds out of the current task, or with `--validation_mode complete` of all
        tasks so far: what a method may look at while it learns."""
        held = self._arrangement.held_out
        complete = getattr(self.args, "validation_mode", "current") == "complete" or self._is_joint
        return [
            self._loader("validation", held[task]) for task in (self.seen_tasks if complete else [self.current_task])
        ]

    @property
    def evaluated_on(self) -> str:
        """Which samples the figures of the run are of: "validation" or "test"."""
        return evaluated_on(self.args)

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
    def is_long_tailed(self) -> bool:
        """Whether training data was made unequal in size by class."""
        return False

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
        return self._arrangement.split

    @property
    def training_targets(self) -> np.ndarray:
        """(n,) targets of the training samples as training is given them: with `--label_noise`, some are wrong."""
        return self._arrangement.targets

    @property
    def _arrangement(self) -> _Arranged:
        if self._arranged is None:
            self._arranged = self._arrange(self.samples)
        return self._arranged

    def _arrange(self, samples: Samples) -> _Arranged:
        whole, targets = self.make_split(samples), samples.train_targets
        scenarios.check_tasks(whole, self.NAME)
        train, test, held_out = whole.train, whole.test, []
        percent = getattr(self.args, "validation", None)
        if percent:
            # Spread over unequal classes, the smallest would have none.
            divide = scenarios.hold_out_by_class if self.is_long_tailed else scenarios.hold_out
            parts = [divide(part, targets, percent, self._validation_seed(task)) for task, part in enumerate(train)]
            train, held_out = [part for part, _ in parts], [held for _, held in parts]
            test = held_out if self.evaluated_on == "validation" else test
        rate = getattr(self.args, "noise_rate", None)
        if rate:
            targets = self._with_noise(samples, np.unique(np.concatenate(train)), rate)
            if self.SETTING in ("class-il", "task-il"):
                classes = [np.unique(samples.train_targets[part]) for part in whole.train]
                train = tasks_by_given_label(train, classes, targets)
        share, by_class = getattr(self.args, "label_perc", 1.0), getattr(self.args, "label_perc_by_class", 1.0)
        keep_label = [
            labelled(targets[part], min(share, by_class), self._seed_of("labelled", task), by_class < 1)
            for task, part in enumerate(train)
        ]
        return _Arranged(Split(train, test, whole.names), held_out, targets, keep_label)

    def _with_noise(self, samples: Samples, chosen: np.ndarray, rate: float) -> np.ndarray:
        targets, seed = samples.train_targets.copy(), self._seed_of("label noise")
        if getattr(self.args, "label_noise", None) == "asymmetric":
            mistaken_for = confusions(self.N_CLASSES, samples.names, self.CONFUSIONS)
            targets[chosen] = asymmetric_noise(targets[chosen], mistaken_for, rate, seed)
        else:
            targets[chosen] = symmetric_noise(targets[chosen], self.N_CLASSES, rate, seed)
        return targets

    @property
    def samples(self) -> Samples:
        if self._samples is None:
            # What reading imports may draw from the global generators, and does so once in a process.
            with randomness_apart(self._seed_of("samples")):
                self._samples = self.load_samples()
            for problem in self._samples.problems:
                self.report_skipped(problem)
        return self._samples

    def describe(self) -> list[dict[str, Any]]:
        """What each task holds: name, number of training and evaluation samples, lowest and highest training target.

        With `--label_noise` also the number of wrong labels, with `--label_perc` the number of labelled samples.
        """
        rows: list[dict[str, Any]] = []
        arranged = self._arrangement
        for name, train, test, keep_label in zip(
            self.names, self.split.train, self.split.test, arranged.labelled, strict=True
        ):
            targets = arranged.targets[train]
            rows.append(
                {"task": name, "train": len(train), "test": len(test), "low": targets.min(), "high": targets.max()}
            )
            if getattr(self.args, "noise_rate", None) is not None:
                rows[-1]["wrong_labels"] = int((targets != self.samples.train_targets[train]).sum())
            if not keep_label.all():
                rows[-1]["labelled"] = int(keep_label.sum())
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

    def get_denormalization_transform(self) -> Denormalization:
        """Normalised batch -> floats on the raw scale ([0, 1] for images)."""
        return Denormalization(self.denormalization(), self.input_shape[0])

    def get_epochs(self) -> int:
        """Epochs of the current task: at most, with early stopping; begun, for a number of iterations; with a time,
        what --n_epochs says, for whoever needs a plan."""
        if getattr(self.args, "fitting_mode", "epochs") == "iters" and not getattr(self.args, "debug_mode", False):
            return math.ceil(self.args.n_iters / max(self.n_batches, 1))
        base = getattr(self.args, "base_epochs", None)
        return base if base is not None and self.current_task == 0 else self.args.n_epochs

    @property
    def n_batches(self) -> int:
        """Batches of an epoch of the current task."""
        n = 0 if self.train_loader is None else len(self.train_loader)
        return min(n, DEBUG_BATCHES) if getattr(self.args, "debug_mode", False) else n

    def get_iters(self) -> int | None:
        """Batches of every task, where their number limits it."""
        return getattr(self.args, "n_iters", None)

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
        kind, n_warm = getattr(args, "lr_scheduler", None), getattr(args, "lr_warmup", 0)
        if (kind is None and not n_warm) or model.opt is None:
            return None
        parts: list[torch.optim.lr_scheduler.LRScheduler] = []
        if n_warm:
            # Epoch e of N, counted from 1, has e/N of the rate.
            parts.append(torch.optim.lr_scheduler.LinearLR(model.opt, 1 / n_warm, 1, total_iters=n_warm - 1))
        if kind == "cosine":
            parts.append(torch.optim.lr_scheduler.CosineAnnealingLR(model.opt, T_max=max(self.get_epochs(), 1)))
        elif kind == "multistep":
            if not args.lr_milestones:
                raise UsageError("--lr_scheduler multistep needs --lr_milestones, e.g. --lr_milestones 30 40")
            of_base = getattr(args, "base_lr_milestones", None)
            milestones = of_base if of_base and self.current_task == 0 else args.lr_milestones
            parts.append(torch.optim.lr_scheduler.MultiStepLR(model.opt, milestones, gamma=args.lr_gamma))
        return parts[0] if len(parts) == 1 else torch.optim.lr_scheduler.ChainedScheduler(parts)

    # What open-vocabulary methods use

    @property
    def class_names(self) -> list[str]:
        """Names of the classes in order of arrival; none on streams of scores."""
        return []

    def get_class_names(self) -> list[str]:
        """`class_names`, as methods of Mammoth ask for them."""
        return self.class_names

    def get_prompt_templates(self) -> list[str]:
        """`PROMPTS`, as methods of Mammoth ask for them."""
        return list(self.PROMPTS)

    def texts(self, names: Sequence[str]) -> list[str]:
        """What classes of these names are called in a sentence."""
        return [label_words(name) for name in names]

    @property
    def label_texts(self) -> list[str]:
        """The text of every class in order of arrival. Classes of one text are one label to open-vocabulary methods.

        Raises:
            UsageError: the stream's classes have no names.
        """
        texts = self.texts(self.class_names)
        if not texts or not all(text.strip() for text in texts):
            raise UsageError(
                f"{self.NAME} has no names of classes, which texts would follow from; choose another stream"
            )
        return texts

    @property
    def label_prompts(self) -> list[tuple[str, ...]]:
        """The sentences of every class, in order of arrival."""
        return [self.PROMPTS] * len(self.label_texts)

    def evaluation_sets(self) -> list[EvaluationSet]:
        """Every data set of the stream with all its classes, whether or not they have arrived; then held-out ones.

        Their samples are those that figures are of: test data, or with `--validation` what it holds out, of held-out
        data sets too. A text keeps the sentences of the data set that brings it first. They are opened once.

        Raises:
            UsageError: the stream's classes have no names.
        """
        if self._evaluation_sets is None:
            trained = self.trained_sets()
            held_out = [held_out_set(self, images) for images in self.held_out]
            self._evaluation_sets = with_first_prompts([*trained, *held_out], self.label_texts, self.label_prompts)
        return self._evaluation_sets

    def trained_sets(self) -> list[EvaluationSet]:
        """The data sets that the stream is made of: itself, unless overridden."""
        return [stream_set(self, self.NAME, np.arange(self.N_CLASSES))]

    @property
    def sets_root(self) -> Path | None:
        """The folder of the data sets in `held_out` that are named without a place; None for those of their streams."""
        return None

    def evaluation_loader(self, source: Source, indices: np.ndarray, labels: Tensor) -> StreamLoader:
        """Loader of (inputs, labels, raw samples) in the order of `indices`, inputs normalised as for evaluation."""
        return self._stream_loader(
            TaskData(source, indices, labels), self.get_normalization_transform(), with_raw=True, shuffled=False
        )

    def tasks_of_classes(self) -> np.ndarray:
        """(N_CLASSES,) training task that brings each class first."""
        if self._is_joint:
            return np.zeros(self.N_CLASSES, dtype=np.int64)
        targets = self.samples.train_targets
        return first_tasks([self.convert_targets(targets[part]).numpy() for part in self.split.train], self.N_CLASSES)

    # What keeps the run in order

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

    def _validation_seed(self, task: int) -> int:
        """Of the draw of the samples that `--validation` holds out of a task."""
        return self._seed_of("validation", task)

    def _seed_of(self, *names: Any) -> int:
        return derive_seed(getattr(self.args, "seed", 0), *names)

    @property
    def _is_joint(self) -> bool:
        return bool(getattr(self.args, "joint", False))

    def _loader(
        self, part: str, indices: np.ndarray, names: tuple[Any, ...] = (), keep_label: np.ndarray | None = None
    ) -> StreamLoader:
        samples, training = self.samples, part == "train"
        source, targets, difficulty = (
            (samples.test, samples.test_targets, samples.test_difficulty)
            if part == "test"
            else (samples.train, samples.train_targets, samples.train_difficulty)
        )
        targets, difficulty = targets[indices], None if difficulty is None else difficulty[indices]
        scores = targets if self.SETTING in SCORE_SETTINGS else None
        true = given = self.convert_targets(targets, difficulty)
        if keep_label is not None:
            given = self.convert_targets(self.training_targets[indices], difficulty)
            given[torch.from_numpy(~keep_label)] = math.nan if given.is_floating_point() else UNLABELLED
        return self._stream_loader(
            TaskData(source, indices, given, difficulty, scores, true),
            self.get_transform() if training else self.get_normalization_transform(),
            with_raw=training,
            shuffled=training and (self.SHUFFLED or self._is_joint),
            names=names,
        )

    def _stream_loader(
        self, data: TaskData, transform: Transform, with_raw: bool, shuffled: bool, names: tuple[Any, ...] = ()
    ) -> StreamLoader:
        return StreamLoader(
            data,
            batch_size=self.get_batch_size(),
            transform=transform,
            device=self.device,
            training=with_raw,
            shuffled=shuffled,
            seed_names=(getattr(self.args, "seed", 0), *names),
            num_workers=getattr(self.args, "num_workers", 0),
            on_problem=self.report_skipped,
            readers=self._readers_of(data.source),
        )

    def _readers_of(self, source: Source) -> Readers | None:
        """The processes that read a source, for all tasks and evaluations of a run; None with --num_workers 0."""
        num_workers = getattr(self.args, "num_workers", 0)
        if not num_workers:
            return None
        for known, readers in self._readers:
            if known is source:
                return readers
        self._readers.append((source, Readers(source.read, num_workers, self.device.type == "cuda")))
        return self._readers[-1][1]
