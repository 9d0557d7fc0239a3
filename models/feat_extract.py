"""Feature extraction: after the first task only heads are learnt."""

from __future__ import annotations

import math
from argparse import ArgumentParser

from torch import Tensor

from models.utils.task_heads import TaskHeads
from utils.args import positive_number


class FeatureExtraction(TaskHeads):
    """The features of the first task serve all others, each of which trains a head of its own on them.

    Nothing old moves, batch-norm statistics included, so no class is ever told apart worse from others of its task. The
    head is linear, or what the backbone has; the paper's has two layers of 4,096 units. On score streams the one head
    learns on.

    Source: the comparison in Z. Li, D. Hoiem, Learning without forgetting, TPAMI 40(12), 2018; five times the rate of
    training the whole network.
    """

    NAME = "feat-extract"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        TaskHeads.get_parser(parser)
        parser.add_argument(
            "--warmup_lr_mult", type=positive_number, default=5.0, help="learning rate of a head alone, times lr"
        )
        return parser

    @property
    def n_warm_up(self) -> float:
        return math.inf if self.current_task > 0 else 0

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        outputs, _ = self.outputs_and_features(inputs)
        return self.step(self.new_loss(outputs, labels))
