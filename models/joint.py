"""Joint training on all tasks at once: the upper bound."""

from __future__ import annotations

from argparse import ArgumentParser

import torch
from torch import Tensor

from models.utils.continual_model import ContinualModel
from utils.args import true_or_false
from utils.errors import UsageError


class Joint(ContinualModel):
    """Sees the union of all tasks as one session: configs/models/joint.yaml sets `--joint`, and the stream gives it.

    With --task_heads the outputs of the classes of a task are its head: the softmax of a sample is over those of its
    own task alone. Heads are rows of one layer, so the others get no gradient from it. This is the joint training that
    LwF is compared with, by task-IL accuracy; there batches hold equally many samples of every task, here as many as
    there are.

    Source of --task_heads: Z. Li, D. Hoiem, Learning without forgetting, TPAMI 40(12), 2018.

    Raises:
        UsageError: --joint is not set; or --task_heads where tasks share their classes or one of them has a single one.
    """

    NAME = "joint"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "general-continual", "grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        parser.add_argument(
            "--task_heads",
            type=true_or_false,
            default=False,
            help="classes: a softmax over the classes of the sample's own task, to be compared by task-IL accuracy",
        )
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        if not getattr(args, "joint", False):
            raise UsageError("--model joint without --joint True would be fine-tuning; leave out --joint, or use sgd")
        super().__init__(backbone, loss, args, transform, dataset)
        self.task_of_class: Tensor | None = None
        if args.task_heads:
            self.task_of_class = self._tasks_of_classes()

    def _tasks_of_classes(self) -> Tensor:
        """(N_CLASSES,) the task that brought each class, had they come one after the other."""
        if self.dataset.SETTING not in ("class-il", "task-il"):
            raise UsageError(f"--task_heads: the tasks of {self.dataset.NAME} share their outputs; leave it out")
        ends = [self.dataset.evaluation_offsets(task) for task in range(self.dataset.n_test_tasks)]
        sizes = torch.tensor([end - first for first, end in ends], device=self.device)
        if sizes.min() < 2:
            raise UsageError(
                "--task_heads: a softmax over one class is always 1, and a task of one class learns nothing; choose a "
                "smaller --n_tasks"
            )
        return torch.arange(len(sizes), device=self.device).repeat_interleave(sizes)

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        outputs = self.net(inputs)
        if self.task_of_class is not None:
            of_others = self.task_of_class != self.task_of_class[labels][:, None]
            outputs = outputs.masked_fill(of_others, -torch.inf)
        return self.step(self.loss(outputs, labels))
