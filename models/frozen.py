"""Learn the first task, then nothing more: what continual learning must beat to have learnt anything."""

from __future__ import annotations

import torch
from torch import Tensor

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.continual_model import ContinualModel


class Frozen(ContinualModel):
    """Trains on the first task (the base session of a few-shot stream) and keeps its network as it is from then on.

    On score streams a strong baseline: a base session holds most of the data and spans all scores. Classes that come
    later are never recognised, so it is not offered there.
    """

    NAME = "frozen"
    COMPATIBILITY = ["domain-il", "grade-il", "group-il"]

    def begin_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        # Batch-norm statistics are part of what stays.
        self.net.train(self.current_task == 0)

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        if self.current_task == 0:
            return self.step(self.loss(self.net(inputs), labels))
        with torch.no_grad():
            return float(self.loss(self.net(inputs), labels))
