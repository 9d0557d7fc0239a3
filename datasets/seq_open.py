"""Several data sets in sequence, in one shape: what open-vocabulary methods learn one after the other."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from datasets.utils import scenarios
from datasets.utils.class_dataset import ClassDataset, check_n_tasks
from datasets.utils.continual_dataset import Samples
from datasets.utils.evaluation_sets import EvaluationSet, stream_set
from datasets.utils.image_sets import Images
from datasets.utils.named_sets import ImageSet, JoinedSource, in_memory, parse_set, set_list
from datasets.utils.scenarios import Split
from datasets.utils.sources import Source
from utils.args import positive, positive_number
from utils.conf import derive_seed
from utils.errors import UsageError


class SequentialOpen(Images, ClassDataset):
    """The data sets of --sources: each is one task (--increment task), or is cut into --n_tasks tasks by its classes.

    Sources are cifar10, cifar100, tinyimg, mnist and digits, or folder:PLACE with PLACE/train/<class>/<image> and
    PLACE/test/ (or val/) likewise; folder:PLACE=NAME gives it another name than its folder's. `--data_root DIR` holds
    them under their names, or each has its own place (cifar10:PLACE). With --increment data all of them are learnt
    together: every task brings a part of every class of every source.

    A class is a class of one source: two sources may have classes of one text, which open-vocabulary methods take for
    one label, with the prompt of the source that brings it first. Every image is read as a square of --image_size
    pixels (bicubic), grey ones with their channel repeated. They are not augmented, and scaled by ImageNet's statistics
    unless the backbone wants others.

    Source: Z. Zhu et al., Anytime continual learning for open vocabulary classification, ECCV 2024.

    Attributes:
        sources: the data sets, in the order of --sources.
    """

    NAME = "seq-open"
    N_TASKS = 5
    MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    OPTION_DEFAULTS = {"increment": "task"}

    def __init__(self, args: Namespace) -> None:
        self.root = Path(args.data_root) if getattr(args, "data_root", None) else None
        self.sources = [ImageSet(entry, args, self.root) for entry in args.source_sets]
        self._ends = np.cumsum([source.n_classes for source in self.sources])
        self.N_CLASSES = int(self._ends[-1])
        self.size: int = args.image_size
        super().__init__(args)

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        ClassDataset.get_parser(parser)
        # `sources` in the values of a run says where each came from.
        parser.add_argument(
            "--sources",
            dest="source_sets",
            metavar="SETS",
            type=set_list,
            default=["digits"],
            help="data sets in sequence, e.g. cifar10,folder:/flowers",
        )
        parser.add_argument("--image_size", type=positive, default=32, help="pixels of a side of every image")
        parser.add_argument(
            "--memory_gib",
            type=positive_number,
            default=2.0,
            help="keep the training or test images of all sources in memory if they take no more than this, in GiB",
        )
        return parser

    @property
    def input_shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    @property
    def sets_root(self) -> Path | None:
        return self.root

    def divide_classes(self, args: Namespace) -> list[int]:
        n_tasks, sizes = getattr(args, "n_tasks", None), [source.n_classes for source in self.sources]
        if self.increment == "task":
            return check_n_tasks(n_tasks, sizes)
        n_tasks = n_tasks or type(self).N_TASKS
        for source in self.sources:
            if source.n_classes < n_tasks:
                raise UsageError(f"--n_tasks {n_tasks}: {source.name} has {source.n_classes} classes, a task needs one")
        return [len(part) for size in sizes for part in np.array_split(np.arange(size), n_tasks)]

    def arrange_classes(self, args: Namespace) -> np.ndarray:
        if len(self.sources) == 1:
            return super().arrange_classes(args)
        if getattr(args, "custom_class_order", None) is not None:
            raise UsageError("--custom_class_order is for a single source; say the order of several with --sources")
        return np.concatenate(
            [
                (end - source.n_classes)
                + scenarios.class_order(
                    source.n_classes, args.permute_classes, seed=derive_seed(args.seed, "class order", source.name)
                )
                for source, end in zip(self.sources, self._ends, strict=True)
            ]
        )

    @classmethod
    def check_options(cls, args: Namespace) -> None:
        super().check_options(args)
        if getattr(args, "base_classes", None):
            raise UsageError("--base_classes: seq-open has no larger first task; leave it out")

    @classmethod
    def trained_names(cls, args: Namespace) -> set[str]:
        return {parse_set(entry)[0] for entry in args.source_sets}

    def load_samples(self) -> Samples:
        (train, train_targets, problems), (test, test_targets, more) = (self._open(part) for part in ("train", "test"))
        names = [text for source in self.sources for text in source.texts]
        for source in self.sources:
            source.close()
        problems = list(dict.fromkeys(problems + more))
        return Samples(train, test, train_targets, test_targets, names=names, problems=problems)

    def _open(self, part: str) -> tuple[Source, np.ndarray, list[str]]:
        opened = [source.open_lazily(part, self.input_shape) for source in self.sources]
        first_classes = self._ends - [source.n_classes for source in self.sources]
        labels = np.concatenate([labels + first for (_, labels, _), first in zip(opened, first_classes, strict=True)])
        limit = int(self.args.memory_gib * 1024**3)
        source, kept, problems = in_memory(JoinedSource([source for source, _, _ in opened]), self.input_shape, limit)
        return source, labels[kept], [problem for *_, of_source in opened for problem in of_source] + problems

    def make_split(self, samples: Samples) -> Split:
        split = super().make_split(samples)
        if self.increment == "data":
            return split
        names = [source.name for source in self.sources]
        if self.increment == "class":
            n_tasks = len(split.names) // len(names)
            names = [f"{name} {i + 1}/{n_tasks}" for name in names for i in range(n_tasks)]
        return Split(split.train, split.test, [names[i] for i in self.task_positions])

    def texts(self, names: Sequence[str]) -> list[str]:
        return list(names)

    @property
    def label_prompts(self) -> list[tuple[str, ...]]:
        known: dict[str, tuple[str, ...]] = {}
        sources = np.searchsorted(self._ends, self.class_order, side="right")
        return [
            known.setdefault(text, self.sources[source].prompts)
            for text, source in zip(self.label_texts, sources, strict=True)
        ]

    def trained_sets(self) -> list[EvaluationSet]:
        return [
            stream_set(self, source.name, self._arrival[end - source.n_classes : end])
            for source, end in zip(self.sources, self._ends, strict=True)
        ]
