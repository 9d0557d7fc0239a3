"""Base of the streams that bring samples with a quality score: continual action quality assessment."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from backbone.utils.heads import HEADS
from backbone.utils.weights import public_pixel_scale
from datasets.utils import scenarios
from datasets.utils.continual_dataset import ContinualDataset, Samples
from datasets.utils.scenarios import Split
from utils.args import interval, positive, true_or_false
from utils.conf import derive_seed
from utils.errors import DataError, UsageError
from utils.losses import score_mse
from utils.score_distribution import ScoreDistributionLoss, expected_scores


class ScoreDataset(ContinualDataset):
    """A stream of grades (intervals of the score axis) or of groups, with one real-valued output.

    Attributes:
        SCORE_RANGE: published (lowest, highest) score, in the data set's own unit; None to take the training scores'.
        EXECUTION_RANGE: likewise of the scores divided by the difficulty.
        HAS_GROUPS: whether `load_samples` gives groups, so that --tasks_by group works.
        HAS_DIFFICULTY: whether it gives degrees of difficulty, so that --use_difficulty works.
        OFFICIAL_STRIDE: how MAGR's released code picks few-shot samples on this data set, "floor" or "exact".
        TEST_SHOTS: default number of test samples of a few-shot session.
        PUBLISHED_END: what MAGR's experiments scale the range's upper end to, its lower end to 0; 0: scores as judged.
    """

    SETTING = "grade-il"
    N_CLASSES = 1
    N_CLASSES_PER_TASK = 1
    OPTION_DEFAULTS = {"buffer_scope": "session"}
    SCORE_RANGE: tuple[float, float] | None = None
    EXECUTION_RANGE: tuple[float, float] | None = None
    HAS_GROUPS = False
    HAS_DIFFICULTY = False
    OFFICIAL_STRIDE = "floor"
    TEST_SHOTS = 20
    PUBLISHED_END = 0.0

    def __init__(self, args: Namespace) -> None:
        self.tasks_by = getattr(args, "tasks_by", "grade")
        self.fewshot = bool(getattr(args, "fewshot", False))
        if self.tasks_by == "group":
            self._check_grouping(args)
        self.uses_difficulty = bool(getattr(args, "use_difficulty", False))
        if self.uses_difficulty and not self.HAS_DIFFICULTY:
            raise UsageError(f"--use_difficulty: {self.NAME} gives no degrees of difficulty")
        self.SETTING = self.resolve_setting(args)
        super().__init__(args)
        n_parts = getattr(args, "n_tasks", None)
        if n_parts is None:
            n_parts = len(self.group_names()) if self.tasks_by == "group" else type(self).N_TASKS
        if n_parts < 1:
            raise UsageError(f"--n_tasks {n_parts}: at least one task is needed")
        self.n_parts = n_parts
        self.N_TASKS = 1 if self._is_joint else n_parts + int(self.fewshot)

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        group = parser.add_argument_group("score stream")
        group.add_argument(
            "--tasks_by",
            choices=["grade", "group"],
            default="grade",
            help="cut tasks along the score axis, or one task for each group (sport, dive type, person); --n_tasks "
            "unites neighbouring groups",
        )
        group.add_argument(
            "--fewshot",
            type=true_or_false,
            default=False,
            help="True: a base session over the whole range, then a few samples of each task; False: full tasks",
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
            choices=["unit", "raw", "published"],
            default="unit",
            help="scores as methods see them: scaled to [0, 1] by the score range, as judged, or as in MAGR's "
            "experiments (aqa7: scaled to [0, 100], else as judged)",
        )
        group.add_argument(
            "--score_range", type=interval, help="lowest and highest score, e.g. 0,100 (default: as published)"
        )
        group.add_argument(
            "--use_difficulty",
            type=true_or_false,
            default=False,
            help="predict the execution, score / difficulty; results are in final scores either way",
        )
        group.add_argument(
            "--score_head",
            type=_score_head,
            choices=HEADS,
            default="mlp",
            help="regressor on the features: linear, MLP (also called mean), MLP with a variance from which training "
            "samples, or with a distribution over scores (USDL)",
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
    def check_options(cls, args: Namespace) -> None:
        """As of every stream. Public weights of C3D bring the `--pixel_scale` that they were trained with, unless
        another was chosen."""
        super().check_options(args)
        weights, sources = getattr(args, "backbone_weights", None), getattr(args, "sources", {})
        if weights and args.backbone == "c3d" and sources.get("pixel_scale") == "default" and Path(weights).is_file():
            scale = public_pixel_scale(Path(weights))
            if scale:
                args.pixel_scale, sources["pixel_scale"] = scale, f"public weights {weights}"

    def group_names(self) -> list[str]:
        """The groups in the order of their tasks; may read annotations, but no sample."""
        raise NotImplementedError

    def _check_grouping(self, args: Namespace) -> None:
        if not self.HAS_GROUPS:
            raise UsageError(f"--tasks_by group: {self.NAME} has no groups; use --tasks_by grade")
        if getattr(args, "protocol", "default") == "official":
            raise UsageError("--protocol official cuts grades; use it with --tasks_by grade")

    def make_split(self, samples: Samples) -> Split:
        scores = (samples.train_targets, samples.test_targets)
        self._check_scores(samples.train_targets)
        shots = (
            getattr(self.args, "num_samples_per_task", 20),
            getattr(self.args, "test_shots", None) or self.TEST_SHOTS,
        )
        if self.tasks_by == "group":
            assert samples.train_groups is not None
            assert samples.test_groups is not None
            split = scenarios.group_incremental(samples.train_groups, samples.test_groups, self.group_names())
            split = scenarios.merge_tasks(split, self.n_parts)
            if self.fewshot:
                scenarios.check_tasks(split, self.NAME)
                split = scenarios.with_base_session(split, *scores, *shots)
        elif getattr(self.args, "protocol", "default") == "official":
            split = scenarios.grade_incremental_official(
                *scores, self.n_parts, self.fewshot, *shots, stride=self.OFFICIAL_STRIDE
            )
        else:
            split = scenarios.grade_incremental(*scores, self.n_parts, self.fewshot, *shots)
        order = scenarios.task_order(
            len(split.names),
            getattr(self.args, "task_order", "ascending"),
            getattr(self.args, "custom_task_order", None),
            derive_seed(getattr(self.args, "seed", 0), "task order"),
            base=self.fewshot,
        )
        return split.reordered(order)

    def _check_scores(self, scores: np.ndarray) -> None:
        given = getattr(self.args, "score_range", None)
        n_outside = int(((scores < given[0]) | (scores > given[1])).sum()) if given else 0
        if given and n_outside:
            raise UsageError(
                f"--score_range {given[0]:g},{given[1]:g}: {n_outside} of {len(scores)} training scores lie outside; "
                f"those of {self.NAME} go from {scores.min():g} to {scores.max():g}"
            )
        if self.tasks_by == "grade" and self.n_parts > 1 and len(scores) and scores.min() == scores.max():
            raise DataError(
                f"{self.NAME}: every training sample has the score {scores[0]:g}, which makes no {self.n_parts} grades"
            )

    def convert_targets(self, targets: np.ndarray, difficulty: np.ndarray | None = None) -> Tensor:
        low, scale = self._offset_and_scale
        values = np.asarray(targets, dtype=np.float64)
        if self.uses_difficulty:
            values = values / np.asarray(difficulty, dtype=np.float64)
        return torch.from_numpy((values - low) / scale).float()

    def to_scores(self, outputs: np.ndarray, difficulty: np.ndarray | None = None) -> np.ndarray:
        """Network outputs, or labels, back in the data set's own unit.

        Args:
            outputs: (n,) or (n, 1); with a distribution head (n, bins), of which the mean is taken.
            difficulty: (n,) what execution is multiplied by with --use_difficulty.

        Returns:
            float64, (n,) or (n, 1).
        """
        low, scale = self._offset_and_scale
        values = np.asarray(outputs, dtype=np.float64)
        if values.ndim == 2 and values.shape[1] > 1:
            values = expected_scores(torch.from_numpy(values), *self.network_range).numpy()
        values = values * scale + low
        if not self.uses_difficulty:
            return values
        factors = np.asarray(difficulty, dtype=np.float64)
        return values * (factors if values.ndim == 1 else factors[:, None])

    def get_loss(self) -> Callable[[Tensor, Tensor], Tensor]:
        if getattr(self.args, "score_head", None) == "usdl":
            return ScoreDistributionLoss(*self.network_range)
        return score_mse

    @property
    def score_range(self) -> tuple[float, float]:
        """Lowest and highest score: of --score_range, as published, or of the training samples."""
        given = getattr(self.args, "score_range", None)
        return (given[0], given[1]) if given else self.SCORE_RANGE or self._training_range(divided=False)

    @property
    def _regressed_range(self) -> tuple[float, float]:
        """Of what the network predicts, final scores or execution, in the data set's own unit."""
        if self.uses_difficulty:
            return self.EXECUTION_RANGE or self._training_range(divided=True)
        return self.score_range

    def _training_range(self, divided: bool) -> tuple[float, float]:
        scores, difficulty = self.samples.train_targets, self.samples.train_difficulty
        values = scores / difficulty if divided and difficulty is not None else scores
        low, high = float(values.min()), float(values.max())
        if low == high:
            raise DataError(f"{self.NAME}: every training sample has the score {low:g}; there is nothing to learn")
        return low, high

    @property
    def _offset_and_scale(self) -> tuple[float, float]:
        if not self._is_scaled:
            return 0.0, 1.0
        low, high = self._regressed_range
        return low, (high - low) / self.network_range[1]

    @property
    def network_range(self) -> tuple[float, float]:
        """Lowest and highest score as methods see them."""
        if not self._is_scaled:
            return self._regressed_range
        return (0.0, 1.0 if getattr(self.args, "score_scale", "unit") == "unit" else self.PUBLISHED_END)

    @property
    def _is_scaled(self) -> bool:
        """Whether methods see scores from 0 on, whatever the data set's range."""
        scale = getattr(self.args, "score_scale", "unit")
        return scale == "unit" or (scale == "published" and self.PUBLISHED_END > 0)


def _score_head(name: str) -> str:
    return "mlp" if name == "mean" else name
