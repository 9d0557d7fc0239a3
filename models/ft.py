"""Fine-tuning with a head for every task: what LwF is without what the old network said."""

from __future__ import annotations

from argparse import ArgumentParser

from torch import Tensor

from models.utils.task_heads import TaskHeads, add_warm_up_args


class FineTuning(TaskHeads):
    """Each task trains the network and a head of its own, the heads of past tasks stay as they are.

    The first --warmup_epochs of every later task train the new head alone. Unlike `sgd`, whose loss goes over all
    classes, this loses old tasks by what happens to the features only. On score streams the one head learns on.

    Source: the comparison in Z. Li, D. Hoiem, Learning without forgetting, TPAMI 40(12), 2018.
    """

    NAME = "ft"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        TaskHeads.get_parser(parser)
        add_warm_up_args(parser)
        return parser

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        outputs, _ = self.outputs_and_features(inputs)
        return self.step(self.new_loss(outputs, labels))
