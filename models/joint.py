"""Joint training on all tasks at once: the upper bound."""

from __future__ import annotations

from torch import Tensor

from models.utils.continual_model import ContinualModel
from utils.errors import UsageError


class Joint(ContinualModel):
    """Sees the union of all tasks as one session: configs/models/joint.yaml sets `--joint`, and the stream gives it."""

    NAME = "joint"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "general-continual", "grade-il", "group-il"]

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        if not getattr(args, "joint", False):
            raise UsageError("--model joint without --joint True would be fine-tuning; leave out --joint, or use sgd")
        super().__init__(backbone, loss, args, transform, dataset)

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        return self.step(self.loss(self.net(inputs), labels))
