"""Fine-tuning on the classes of the task alone."""

from __future__ import annotations

from torch import Tensor

from models.utils.continual_model import ContinualModel
from utils.errors import UsageError


class Finetune(ContinualModel):
    """Cross-entropy over the task's own classes; the outputs of all others are left out of it.

    `sgd` is the same with the outputs of all classes of the stream in the softmax, so that it unlearns the past ones
    by name; here they are forgotten only as the features drift.

    Source: the baseline "finetune" of D.-W. Zhou et al., PyCIL: a Python toolbox for class-incremental learning, 2023.
    """

    NAME = "finetune"
    COMPATIBILITY = ["class-il", "task-il"]

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        if any(end - first < 2 for first, end in map(self.get_offsets, range(self.n_tasks))):
            raise UsageError(
                "finetune: a softmax over the one class of a task is always 1 and teaches nothing; use sgd"
            )

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        first, end = self.get_offsets()
        return self.step(self.loss(self.net(inputs)[:, first:end], labels - first))
