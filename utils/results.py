"""The task matrix of a run, and the figures that follow from it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from utils import metrics
from utils.evaluate import SHARED_SETTINGS, Predictions, class_figures, predict, score_figures
from utils.open_evaluation import encodings_of, flexible_figures, open_figures, transfer_figures

if TYPE_CHECKING:
    from datasets.utils.continual_dataset import ContinualDataset
    from models.utils.continual_model import ContinualModel


class Results:
    """Evaluates sessions and keeps their figures.

    Attributes:
        sessions: figures of every session so far, by name; of open-vocabulary methods also `open_figures` and
            `flexible_figures`.
        matrices: for each per-task metric ("class_il" and "task_il", "class_il" alone where all tasks share their
            classes, "task_il" alone for a method that needs to know the task, or "srcc") its R, (sessions, tasks), NaN
            where unmeasured. On score streams the row of session t also has the next task, measured before it is
            learnt.
        untrained: r0, the per-task metric of the untrained model; score streams only.
    """

    def __init__(self, dataset: ContinualDataset, method: type[ContinualModel]) -> None:
        self.dataset = dataset
        self.is_score = hasattr(dataset, "to_scores")
        self.per_task: tuple[str, ...] = ("class_il", "task_il")
        if self.is_score or dataset.SETTING in SHARED_SETTINGS:
            self.per_task = ("srcc",) if self.is_score else ("class_il",)
        elif method.needs_task():
            self.per_task = ("task_il",)
        self.main = self.per_task[0]
        self.sessions: list[dict[str, Any]] = []
        self.matrices: dict[str, list[list[float]]] = {}
        self.untrained: list[float] = []

    def measure_untrained(self, model: ContinualModel) -> None:
        """Fill r0, which forward transfer is measured against."""
        if self.is_score:
            self.untrained = [
                self._figures([predict(model, self.dataset, task)], 0)["srcc"][0] for task in range(self.n_tasks)
            ]

    def measure_session(self, model: ContinualModel) -> list[Predictions]:
        """Evaluate after a session; returns the predictions on all tasks seen, and on the next one (score streams)."""
        seen = self.dataset.seen_tasks
        encodings = encodings_of(model)
        predictions = [predict(model, self.dataset, task, encodings) for task in seen]
        figures = self._figures(predictions, self.n_seen_classes)
        if encodings is not None and model.args.open_evaluation:
            figures |= open_figures(encodings.model, self.dataset, encodings)
            figures |= flexible_figures(encodings.model, self.dataset, encodings, model.args.open_sets)
        following = [task for task in (len(seen),) if self.is_score and task < self.n_tasks]
        ahead = [predict(model, self.dataset, task) for task in following]
        for name in self.per_task:
            row = figures[name] + [self._figures([part], 0)[name][0] for part in ahead]
            self.matrices.setdefault(name, []).append(row + [math.nan] * (self.n_tasks - len(row)))
        self.sessions.append({"session": self.dataset.current_task, **figures})
        return predictions + ahead

    def measure_seen(self, model: ContinualModel) -> dict[str, Any]:
        """Figures of an evaluation in the middle of a task; nothing is kept."""
        return self._figures(
            [predict(model, self.dataset, task) for task in self.dataset.seen_tasks], self.n_seen_classes
        )

    def skip_session(self) -> None:
        """Leave the rows of a session that was not trained empty."""
        for name in self.per_task:
            self.matrices.setdefault(name, []).append([math.nan] * self.n_tasks)

    @property
    def n_seen_classes(self) -> int:
        """Classes of the stream so far. The method is not asked: older ones of Mammoth count tasks themselves, and have
        the next one's number when a session is evaluated."""
        return self.dataset.get_offsets(self.dataset.current_task)[1]

    @property
    def n_tasks(self) -> int:
        return self.dataset.n_test_tasks

    def matrix(self, name: str | None = None) -> np.ndarray:
        """R of a metric, (sessions, tasks); the stream's main metric by default."""
        return np.asarray(self.matrices.get(name or self.main, []), dtype=np.float64).reshape(-1, self.n_tasks)

    def summary(self) -> dict[str, Any]:
        """The figures after the last session, and forgetting and transfer over all; NaN where undefined.

        acc_incremental is the average incremental accuracy of iCaRL (Rebuffi et al., CVPR 2017) and of most papers
        after it: the mean over sessions of the accuracy on all test samples of the classes seen by then.
        """
        figures = dict(self.sessions[-1]) if self.sessions else {}
        for name in self.matrices:
            matrix = self.matrix(name)
            figures[f"{name}_forgetting"] = metrics.forgetting(matrix)
            figures[f"{name}_bwt"] = metrics.backward_transfer(matrix)
        # Sessions of a run that an older version began may lack it.
        if self.sessions and all("acc_all" in session for session in self.sessions):
            is_whole = len(self.matrix()) == len(self.sessions)
            figures["acc_incremental"] = (
                metrics.nan_mean([session["acc_all"] for session in self.sessions]) if is_whole else math.nan
            )
        figures |= transfer_figures(self.sessions, self.dataset)
        if self.is_score:
            figures["srcc_fwt"] = metrics.forward_transfer(self.matrix(), self.untrained)
            figures["srcc_aft_published"] = metrics.forgetting_published(self.matrix()) if self.sessions else math.nan
        return figures

    def state_dict(self) -> dict[str, Any]:
        return {"sessions": self.sessions, "matrices": self.matrices, "untrained": self.untrained}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.sessions, self.matrices, self.untrained = state["sessions"], state["matrices"], state["untrained"]

    def _figures(self, predictions: list[Predictions], n_seen_classes: int) -> dict[str, Any]:
        if self.is_score:
            return score_figures(predictions, self.dataset.score_range)  # type: ignore[attr-defined]
        return class_figures(predictions, n_seen_classes, self.per_task)
