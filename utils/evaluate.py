"""From a model and a stream to predictions, and from predictions to the figures of a session."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from utils import metrics
from utils.checkpoints import evaluation_mode
from utils.conf import derive_seed, randomness_apart
from utils.errors import DataError, TrainingError, UsageError
from utils.open_evaluation import Encodings, encodings_of

if TYPE_CHECKING:
    from torch import Tensor

    from datasets.utils.continual_dataset import ContinualDataset
    from models.utils.continual_model import ContinualModel
    from models.utils.open_vocabulary import OpenVocabularyModel

# Settings whose tasks share all classes: there is no task-IL accuracy beside the one.
SHARED_SETTINGS = ("domain-il", "general-continual")


@dataclass
class Predictions:
    """What a model said about the evaluation samples of one task.

    Attributes:
        task: position of the task in the stream.
        outputs: (n, num_outputs) float32: logits, or scores in the data set's own unit.
        truth: (n,) labels in order of arrival, or scores in the data set's own unit.
        classes: (first, end) classes of the task.
        train_counts: (C,) training samples of every class of the stream, where it has a long tail.
        chosen: (n,) classes that an open-vocabulary method chose when it was asked, by figure: "class_il" among the
            classes seen, "task_il" among those of the task. Nothing where they follow from the outputs.
    """

    task: int
    outputs: np.ndarray
    truth: np.ndarray
    classes: tuple[int, int]
    train_counts: np.ndarray | None = None
    chosen: dict[str, np.ndarray] = field(default_factory=dict)

    def class_il(self, n_seen_classes: int) -> np.ndarray:
        """(n,) what is said among all classes seen so far."""
        return self.chosen["class_il"] if self.chosen else self.outputs[:, :n_seen_classes].argmax(1)

    def task_il(self) -> np.ndarray:
        """(n,) what is said among the classes of the sample's own task."""
        first, end = self.classes
        return self.chosen["task_il"] if self.chosen else first + self.outputs[:, first:end].argmax(1)


def told_task(model: ContinualModel, dataset: ContinualDataset, task: int) -> tuple[int, ...]:
    """What a model is given beside the samples of a task: its number, if `forward` takes it, else nothing.

    After joint training, which was one task, it is the first.
    """
    # A network alone, which is no method, may be asked too.
    return (min(task, dataset.current_task),) if getattr(model, "takes_task", bool)() else ()


@torch.no_grad()
def predict(
    model: ContinualModel, dataset: ContinualDataset, task: int, encodings: Encodings | None = None
) -> Predictions:
    """Run the model, in evaluation mode, over the evaluation samples of a task.

    An open-vocabulary method is asked once for each figure, with its candidates. A method whose `forward` takes the
    task (`takes_task`) is told it; after joint training, which was one task, the first.

    Args:
        encodings: of an open-vocabulary method, known so far.

    Raises:
        TrainingError: an output is not finite.
        DataError: no sample of the task could be read.
    """
    outputs, truth, positions, encoded = [], [], [], []
    if encodings is None:
        encodings = encodings_of(model)
    seed = derive_seed(getattr(dataset.args, "seed", 0), "evaluate", dataset.current_task, task)
    loader = dataset.test_loader(task)
    told = told_task(model, dataset, task)
    # A model that samples at test time must not take from the generators of training.
    with evaluation_mode(model), randomness_apart(seed):
        for inputs, labels, *_ in loader:
            if encodings is None:
                outputs.append(model(inputs, *told).float().reshape(len(labels), -1).cpu())
            else:
                encoded.append(encodings.of_batch(loader, inputs))
                outputs.append(encodings.model.class_outputs(encoded[-1]).float().cpu())
            truth.append(labels.cpu())
            positions.append(loader.positions)
    if not outputs:
        raise DataError(f"{dataset.NAME}: no evaluation sample of {dataset.names[task]} could be read")
    values, targets = torch.cat(outputs).numpy(), torch.cat(truth).numpy()
    if not np.isfinite(values).all():
        raise TrainingError(
            f"the outputs on {dataset.names[task]} are not finite: the network has diverged. "
            "Lower --lr or set --clip_grad"
        )
    if hasattr(dataset, "to_scores"):
        data, shown = loader.dataset, torch.cat(positions).numpy()
        assert data.scores is not None
        values = dataset.to_scores(values, None if data.difficulty is None else data.difficulty[shown])
        # Back from the labels, scores would be rounded, and equal ones no longer be equal.
        values, targets = values.astype(np.float32), data.scores[shown]
    is_long_tailed = getattr(dataset, "is_long_tailed", False)
    counts = np.asarray(dataset.cls_num_list) if is_long_tailed else None  # type: ignore[attr-defined]
    classes = dataset.evaluation_offsets(task)
    chosen = {}
    if encodings is not None:
        ranges = {"class_il": (0, model.n_seen_classes), "task_il": classes}
        chosen = {name: _chosen(encodings.model, encoded, targets, *ends) for name, ends in ranges.items()}
    return Predictions(task, values, targets, classes, counts, chosen)


def _chosen(model: OpenVocabularyModel, encoded: list[Tensor], truth: np.ndarray, first: int, end: int) -> np.ndarray:
    """(n,) the classes that a model chooses from some of them; of classes with the same text the true one."""
    chosen = torch.cat([model.choose_class(part, first, end) for part in encoded]).cpu().numpy()
    texts = np.array(model.class_texts, dtype=object)
    return np.where(texts[chosen] == texts[truth], truth, chosen)


def evaluate(model: ContinualModel, dataset: ContinualDataset, last: bool = False) -> tuple[list[float], list[float]]:
    """Accuracies as methods written for Mammoth ask for them, in the middle of a run; nothing is kept.

    Args:
        last: only of the newest task.

    Returns:
        (class-IL, task-IL) accuracies in percent, one for each task seen; class-IL is NaN where tasks have classes of
        their own and the method needs to know the task.

    Raises:
        UsageError: the stream has scores.
    """
    if hasattr(dataset, "to_scores"):
        raise UsageError(f"evaluate: it gives accuracies of classes, and {dataset.NAME} has scores")
    n_seen = dataset.get_offsets(dataset.current_task)[1]
    parts = [predict(model, dataset, task) for task in (dataset.seen_tasks[-1:] if last else dataset.seen_tasks)]
    known = getattr(model, "needs_task", bool)() and dataset.SETTING not in SHARED_SETTINGS
    class_il = [math.nan if known else metrics.accuracy(part.class_il(n_seen), part.truth) for part in parts]
    return class_il, [metrics.accuracy(part.task_il(), part.truth) for part in parts]


def mask_classes(outputs: Tensor, dataset: ContinualDataset, k: int) -> None:
    """Leave only the classes of a task to choose from: the outputs of all others become minus infinity, in place.

    Args:
        outputs: (B, N_CLASSES) logits.
        k: the task.
    """
    first, end = dataset.evaluation_offsets(k)
    outputs[:, :first] = -math.inf
    outputs[:, end:] = -math.inf


def class_figures(
    predictions: list[Predictions], n_seen_classes: int, accuracies: Sequence[str] = ("class_il", "task_il")
) -> dict[str, Any]:
    """Accuracies in percent from one pass over the logits.

    Class-IL takes the largest logit among all classes seen so far, task-IL among the classes of the sample's own task;
    open-vocabulary methods were asked for both.

    Args:
        accuracies: which there are: class_il alone where all tasks share their classes, and the two are one, task_il
            alone of a method that needs to know the task.

    Returns:
        class_il, task_il: one per task; class_il_mean, task_il_mean: over tasks. Where there is class_il, over classes,
        whatever their task: acc_all, accuracy over all samples; acc_bal, mean over classes; acc_worst, lowest accuracy;
        macro_f1. Where the training data has a long tail as well, acc_many, acc_med and acc_few: mean accuracy of the
        classes with more than 100, 20 to 100, and fewer than 20 training samples; acc_gap: acc_many less acc_few, in
        points; acc_per_class: by number of the class, in order of arrival.
    """
    figures: dict[str, Any] = {}
    for name in accuracies:
        said = [part.task_il() if name == "task_il" else part.class_il(n_seen_classes) for part in predictions]
        values = [metrics.accuracy(answer, part.truth) for answer, part in zip(said, predictions, strict=True)]
        figures |= {name: values, f"{name}_mean": metrics.nan_mean(values)}
    return figures | (_figures_by_class(predictions, n_seen_classes) if "class_il" in accuracies else {})


def _figures_by_class(predictions: list[Predictions], n_seen_classes: int) -> dict[str, Any]:
    predicted = np.concatenate([part.class_il(n_seen_classes) for part in predictions])
    truth = np.concatenate([part.truth for part in predictions])
    recall = metrics.recalls(predicted, truth, n_seen_classes)
    figures: dict[str, Any] = {
        "acc_all": metrics.accuracy(predicted, truth),
        "acc_bal": metrics.nan_mean(recall),
        "acc_worst": float(np.nanmin(recall)),
        "macro_f1": metrics.macro_f1(predicted, truth),
    }
    counts = predictions[0].train_counts
    if counts is not None:
        groups = metrics.shot_accuracies(recall, counts[:n_seen_classes])
        figures |= {f"acc_{name}": value for name, value in groups.items()}
        # By name: a list is taken for one value of every task.
        by_class = {str(label): value for label, value in enumerate(recall.tolist())}
        figures |= {"acc_gap": groups["many"] - groups["few"], "acc_per_class": by_class}
    return figures


def score_figures(predictions: list[Predictions], score_range: tuple[float, float]) -> dict[str, Any]:
    """Figures of a session on a score stream.

    Returns:
        srcc: one per task, percent; srcc_pooled: of the union of all samples, percent (the headline of MAGR's
        papers); srcc_mean: over tasks; relative_l2 with the data set's range; relative_l2_published with the range of
        the samples at hand; mae in score units.
    """
    predicted = np.concatenate([part.outputs[:, 0] for part in predictions])
    truth = np.concatenate([part.truth for part in predictions])
    per_task = [100 * metrics.srcc(part.outputs[:, 0], part.truth) for part in predictions]
    return {
        "srcc": per_task,
        "srcc_pooled": 100 * metrics.srcc(predicted, truth),
        "srcc_mean": metrics.nan_mean(per_task),
        "relative_l2": metrics.relative_l2(predicted, truth, score_range),
        "relative_l2_published": metrics.relative_l2(predicted, truth),
        "mae": metrics.mean_absolute_error(predicted, truth),
    }
