"""What open-vocabulary methods are evaluated on: whole data sets, whose classes are texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from datasets.utils.loader import StreamLoader
from datasets.utils.named_sets import ImageSet
from datasets.utils.scenarios import hold_out
from utils.errors import UsageError

if TYPE_CHECKING:
    from datasets.utils.continual_dataset import ContinualDataset


@dataclass(frozen=True)
class EvaluationSet:
    """One data set with all its classes.

    Attributes:
        name: of the data set.
        loader: yields (inputs, labels, raw samples), in a fixed order; labels are positions in `labels`.
        labels: (n) text of every class.
        prompts: (n) sentences with {} for the text of each class.
        tasks: (n,) training task of the stream that brings each text first, the number of tasks where none does; None
            where the data set is never trained on.
    """

    name: str
    loader: StreamLoader
    labels: list[str]
    prompts: list[tuple[str, ...]]
    tasks: NDArray[np.int64] | None


def label_words(name: str) -> str:
    """The name of a class or a folder as words: underscores and hyphens are spaces."""
    return re.sub(r"[\s_-]+", " ", name).strip()


def first_tasks(labels_of_tasks: Sequence[ArrayLike], n_classes: int) -> NDArray[np.int64]:
    """(n_classes,) first task that has each class, the number of tasks where none has.

    Args:
        labels_of_tasks: labels of the samples of every task.
    """
    first = np.full(n_classes, len(labels_of_tasks), dtype=np.int64)
    for task, labels in reversed(list(enumerate(labels_of_tasks))):
        first[np.asarray(labels)] = task
    return first


def tasks_of_texts(texts: Sequence[str], tasks: ArrayLike) -> NDArray[np.int64]:
    """(n,) the earliest task of every text: classes of the same text are one label.

    Args:
        tasks: (n,) first task of every class.
    """
    tasks = np.asarray(tasks, dtype=np.int64)
    earliest: dict[str, int] = {}
    for text, task in zip(texts, tasks.tolist(), strict=True):
        earliest[text] = min(task, earliest.get(text, task))
    return np.array([earliest[text] for text in texts], dtype=np.int64)


def stream_set(dataset: ContinualDataset, name: str, classes: ArrayLike) -> EvaluationSet:
    """All evaluation samples of some classes of a stream, of every task.

    Args:
        name: of the set.
        classes: (n,) positions of its classes in order of arrival; place i of the set is class classes[i].
    """
    texts, prompts = dataset.label_texts, dataset.label_prompts
    classes, part = np.asarray(classes), dataset.evaluated_on
    samples, indices = dataset.samples, np.unique(np.concatenate(dataset.split.test))
    source, targets = (samples.test, samples.test_targets) if part == "test" else (samples.train, samples.train_targets)
    arrived = dataset.convert_targets(targets[indices]).numpy()
    place = np.full(dataset.N_CLASSES, -1)
    place[classes] = np.arange(len(classes))
    mine = place[arrived] >= 0
    loader = dataset.evaluation_loader(source, indices[mine], torch.from_numpy(place[arrived[mine]]))
    tasks = tasks_of_texts(texts, dataset.tasks_of_classes())[classes]
    return EvaluationSet(name, loader, [texts[i] for i in classes], [prompts[i] for i in classes], tasks)


def held_out_set(dataset: ContinualDataset, images: ImageSet) -> EvaluationSet:
    """A data set that the stream does not train on, in the shape of its samples.

    With `--validation` so many percent of its training data take the place of its test data, which nothing sees then.

    Raises:
        DataError: it is missing or broken.
        UsageError: the stream has no images.
    """
    if len(dataset.input_shape) != 3:
        raise UsageError(f"--held_out {images.name}: {dataset.NAME} has no images, which its method could compare")
    is_test = dataset.evaluated_on == "test"
    source, labels, problems = images.open("test" if is_test else "train", dataset.input_shape)
    for problem in problems:
        dataset.report_skipped(problem)
    indices = np.arange(len(labels))
    if not is_test:
        indices = hold_out(indices, labels, dataset.args.validation, seed=0)[1]
    loader = dataset.evaluation_loader(source, indices, torch.from_numpy(labels[indices]))
    return EvaluationSet(images.name, loader, images.texts, [images.prompts] * images.n_classes, None)


def with_first_prompts(
    sets: Sequence[EvaluationSet], texts: Sequence[str], prompts: Sequence[tuple[str, ...]]
) -> list[EvaluationSet]:
    """The sets with one prompt a text, that of its first appearance: in the stream, then in one set after the other.

    Args:
        texts, prompts: of the classes of the stream in order of arrival.
    """
    known: dict[str, tuple[str, ...]] = {}
    for text, prompt in zip(texts, prompts, strict=True):
        known.setdefault(text, prompt)
    return [
        replace(part, prompts=[known.setdefault(*pair) for pair in zip(part.labels, part.prompts, strict=True)])
        for part in sets
    ]
