"""Sequential fine-tuning: the lower bound."""

from __future__ import annotations

from torch import Tensor

from models.utils.continual_model import ContinualModel


class SGD(ContinualModel):
    """Trains on each task in turn and does nothing against forgetting."""

    NAME = "sgd"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "general-continual", "grade-il", "group-il"]

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        return self.step(self.loss(self.net(inputs), labels))
