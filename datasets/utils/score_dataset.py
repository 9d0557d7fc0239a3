"""Base of the streams that bring samples with a quality score: continual action quality assessment."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datasets.utils import scenarios
from datasets.utils.continual_dataset import ContinualDataset, Samples
from datasets.utils.scenarios import Split
from utils.args import positive, true_or_false
from utils.conf import derive_seed
from utils.errors import UsageError
from utils.losses import score_mse


class ScoreDataset(ContinualDataset):
    """A stream of grades (intervals of the score axis) or of groups, with one real-valued output.

    Attributes:
        SCORE_RANGE: (lowest, highest) possible score, in the data set's own unit.
        HAS_GROUPS: whether `load_samples` gives groups, so that --tasks_by group works.
        OFFICIAL_STRIDE: how MAGR's released code picks few-shot samples on this data set, "floor" or "exact".
        TEST_SHOTS: default number of test samples of a few-shot session.
    """

    SETTING = "grade-il"
    N_CLASSES = 1
    N_CLASSES_PER_TASK = 1
    OPTION_DEFAULTS = {"buffer_scope": "session"}
    SCORE_RANGE: tuple[float, float]
    HAS_GROUPS = False
    OFFICIAL_STRIDE = "floor"
    TEST_SHOTS = 20

    def __init__(self, args: Namespace) -> None:
        self.tasks_by = getattr(args, "tasks_by", "grade")
        self.fewshot = bool(getattr(args, "fewshot", False))
        if self.tasks_by == "group":
            self._check_grouping(args)
        self.SETTING = self.resolve_setting(args)
        n_parts = (
            self.n_groups(args) if self.tasks_by == "group" else getattr(args, "n_tasks", None) or type(self).N_TASKS
        )
        if n_parts < 1:
            raise UsageError(f"--n_tasks {n_parts}: at least one task is needed")
        self.n_parts = n_parts
        joint = bool(getattr(args, "joint", False))
        self.N_TASKS = 1 if joint else n_parts + int(self.fewshot)
        super().__init__(args)

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        group = parser.add_argument_group("score stream")
        group.add_argument(
            "--tasks_by",
            choices=["grade", "group"],
            default="grade",
            help="cut tasks along the score axis, or one task for each group (sport, exercise, person)",
        )
        group.add_argument(
            "--fewshot",
            type=true_or_false,
            default=False,
            help="True: a base session over the whole range, then a few samples of each grade; False: full grades",
        )
        group.add_argument(
            "--num_samples_per_task",
            "--train_shots",
            type=positive,
            default=20,
            help="training samples of a few-shot session",
        )
        group.add_argument(
            "--test_shots", type=positive, help="test samples of a few-shot session (default: as published)"
        )
        group.add_argument(
            "--protocol",
            choices=["default", "official"],
            default="default",
            help="official: the splits of MAGR's released code, quirks included; default: grades from training scores",
        )
        group.add_argument(
            "--score_scale",
            choices=["unit", "raw"],
            default="unit",
            help="scores as methods see them: scaled to [0, 1] by the published range, or as judged",
        )
        group.add_argument(
            "--score_head",
            choices=["linear", "mlp", "gaussian"],
            default="mlp",
            help="regressor on the features: linear, MLP, or MLP with a variance from which training samples",
        )
        group.add_argument(
            "--sample_scores",
            choices=["train", "always"],
            default="train",
            help="gaussian head: draw the score in training only, or also at test time as MAGR's released code does",
        )
        return parser

    @classmethod
    def resolve_setting(cls, args: Namespace) -> str:
        return "group-il" if getattr(args, "tasks_by", "grade") == "group" else "grade-il"

    @classmethod
    def n_groups(cls, args: Namespace) -> int:
        """Number of groups under these arguments, known before any data is read."""
        raise NotImplementedError

    def group_names(self) -> list[str] | None:
        """Order of the groups; None for alphabetical."""
        return None

    def _check_grouping(self, args: Namespace) -> None:
        if not self.HAS_GROUPS:
            raise UsageError(f"--tasks_by group: {self.NAME} has no groups; use --tasks_by grade")
        if self.fewshot:
            raise UsageError("--tasks_by group has no base session; use --fewshot False")
        if getattr(args, "protocol", "default") == "official":
            raise UsageError("--protocol official cuts grades; use it with --tasks_by grade")
        if getattr(args, "n_tasks", None) not in (None, self.n_groups(args)):
            raise UsageError(
                f"--tasks_by group makes {self.n_groups(args)} tasks here, one a group; leave out --n_tasks"
            )

    def make_split(self, samples: Samples) -> Split:
        if self.tasks_by == "group":
            assert samples.train_groups is not None
            assert samples.test_groups is not None
            split = scenarios.group_incremental(samples.train_groups, samples.test_groups, self.group_names())
        else:
            shots: dict[str, Any] = {
                "fewshot": self.fewshot,
                "train_shots": getattr(self.args, "num_samples_per_task", 20),
                "test_shots": getattr(self.args, "test_shots", None) or self.TEST_SHOTS,
            }
            scores = (samples.train_targets, samples.test_targets, self.n_parts)
            if getattr(self.args, "protocol", "default") == "official":
                split = scenarios.grade_incremental_official(*scores, **shots, stride=self.OFFICIAL_STRIDE)
            else:
                split = scenarios.grade_incremental(*scores, **shots)
        order = scenarios.task_order(
            len(split.names),
            getattr(self.args, "task_order", "ascending"),
            getattr(self.args, "custom_task_order", None),
            derive_seed(getattr(self.args, "seed", 0), "task order"),
            base=self.fewshot,
        )
        return split.reordered(order)

    def convert_targets(self, targets: np.ndarray) -> Tensor:
        low, scale = self._offset_and_scale
        return torch.from_numpy((np.asarray(targets, dtype=np.float64) - low) / scale).float()

    def to_scores(self, outputs: np.ndarray) -> np.ndarray:
        """Network outputs, or labels, back in the data set's own unit; float64."""
        low, scale = self._offset_and_scale
        return np.asarray(outputs, dtype=np.float64) * scale + low

    def get_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        return score_mse

    @property
    def _offset_and_scale(self) -> tuple[float, float]:
        if getattr(self.args, "score_scale", "unit") == "raw":
            return 0.0, 1.0
        low, high = self.SCORE_RANGE
        return low, high - low
