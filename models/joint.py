"""Joint training on all tasks at once: the upper bound."""

from __future__ import annotations

from torch import Tensor

from models.utils.continual_model import ContinualModel


class Joint(ContinualModel):
    """Sees the union of all tasks as one session: configs/models/joint.yaml sets `--joint`, and the stream gives it."""

    NAME = "joint"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "grade-il", "group-il"]

    def observe(
        self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None, **extras: Tensor
    ) -> float:
        return self.step(self.loss(self.net(inputs), labels))
