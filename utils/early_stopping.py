"""Early stopping: end a task when validation no longer improves, and go back to where it was best."""

from __future__ import annotations

import copy
from argparse import Namespace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from utils import metrics
from utils.callbacks import Callback
from utils.checkpoints import evaluation_mode
from utils.conf import derive_seed, randomness_apart
from utils.evaluate import mask_classes, told_task
from utils.fitting import improves

if TYPE_CHECKING:
    from datasets.utils.continual_dataset import ContinualDataset
    from models.utils.continual_model import ContinualModel
    from utils.training import Loop

HIGHER_IS_BETTER = {"loss": False, "accuracy": True, "srcc": True}


@torch.no_grad()
def measure_validation(model: ContinualModel, dataset: ContinualDataset, metric: str) -> float:
    """A figure of the held-out samples: the stream's loss, the class-IL accuracy in percent, or the SRCC in percent.

    Of a method that needs to know the task, accuracy is task-IL.

    Nothing about the model and no random generator is changed by it.
    """
    seed = derive_seed(getattr(dataset.args, "seed", 0), "validate", dataset.current_task)
    outputs, labels, scores, difficulty = [], [], [], []
    # The answer among few candidates is not the one among all with the others struck out.
    asks = hasattr(model, "choose_class") and metric == "accuracy"
    loaders = dataset.validation_loaders
    with evaluation_mode(model), randomness_apart(seed):
        for task, loader in zip(dataset.seen_tasks[-len(loaders) :], loaders, strict=True):
            told = told_task(model, dataset, task)
            for inputs, targets in loader:
                outputs.append(_chosen(model, inputs) if asks else model(inputs, *told).float())
                if metric == "accuracy" and model.needs_task():
                    mask_classes(outputs[-1], dataset, task)
                labels.append(targets)
                if metric == "srcc":
                    data, shown = loader.dataset, loader.positions.numpy()
                    assert data.scores is not None
                    scores.append(data.scores[shown])
                    difficulty.append(data.difficulty[shown] if data.difficulty is not None else np.ones(len(shown)))
    predicted, truth = torch.cat(outputs), torch.cat(labels)
    if metric == "loss":
        return float(model.loss(predicted, truth))
    if metric == "accuracy":
        chosen = predicted if asks else predicted[:, : model.n_seen_classes].argmax(1)
        return metrics.accuracy(chosen.cpu(), truth.cpu())
    to_scores = dataset.to_scores  # type: ignore[attr-defined]
    values = to_scores(predicted.reshape(len(truth), -1).cpu().numpy(), np.concatenate(difficulty))
    return 100 * metrics.srcc(values[:, 0], np.concatenate(scores))


def _chosen(model: Any, inputs: Tensor) -> Tensor:
    return model.choose_class(model.encode(model.net.tokens(inputs)), 0, model.n_seen_classes)


class EarlyStopping(Callback):
    """Ends a task when validation no longer improves, and takes the method back to where it was best.

    Back means all of its state: weights, buffer, counters, as at the end of that epoch. Epochs of a warm-up that
    prepares the task are not evaluated: the task can neither end in one nor go back to it.

    Attributes:
        best: figure of the best evaluation of the task, None before the first.
        best_epoch: its epoch, counted from 0.
        waited: evaluations since.
    """

    def __init__(self, args: Namespace) -> None:
        self.patience, self.metric = args.early_stopping_patience, args.early_stopping_metric
        self.epsilon, self.every = args.early_stopping_epsilon, args.early_stopping_freq
        self._forget()

    def _forget(self) -> None:
        self.best: float | None = None
        self.best_epoch = -1
        self.waited = 0
        self._kept: dict[str, Any] | None = None

    def on_epoch_end(self, loop: Loop, loss: float) -> None:
        if loop.epoch % self.every or loop.model.is_preparing:
            return
        value = measure_validation(loop.model, loop.dataset, self.metric)
        if improves(value, self.best, self.epsilon, HIGHER_IS_BETTER[self.metric]):
            self.best, self.best_epoch, self.waited = value, loop.epoch - 1, 0
            self._kept = copy.deepcopy(loop.model.state_dict())
        else:
            self.waited += 1
        loop.stopped = self.waited >= self.patience
        loop.run.record(event="validation", task=loop.task, epoch=loop.epoch - 1, **{self.metric: value})

    def on_task_trained(self, loop: Loop) -> None:
        if self._kept is not None:
            loop.model.load_state_dict(self._kept)
            loop.run.record(event="best", task=loop.task, epoch=self.best_epoch, **{self.metric: self.best})
        self._forget()

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "best_epoch": self.best_epoch, "waited": self.waited, "kept": self._kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.best_epoch, self.waited = state["best"], state["best_epoch"], state["waited"]
        self._kept = state["kept"]
