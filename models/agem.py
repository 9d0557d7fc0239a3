"""Averaged gradient episodic memory: no step may raise the mean loss on what is remembered of past tasks."""

from __future__ import annotations

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.averaged_gem import AveragedGEM
from utils.episodes import even_shares, first_samples
from utils.gradient_slots import project as project


class AGEM(AveragedGEM):
    """The constraint of `AveragedGEM`, on a draw from the memories of all past tasks together.

    The memory of a task is a random draw from its samples, taken when it ends. The buffer is shared evenly among the
    sessions but the last.

    Source: A. Chaudhry et al., Efficient lifelong learning with A-GEM, ICLR 2019, section 4 and algorithm 2.
    """

    NAME = "agem"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "grade-il", "group-il"]

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.buffer = self.make_buffer("fill")

    def end_task(self, dataset: ContinualDataset) -> None:
        if self.current_task == self.n_tasks - 1:
            return
        share = even_shares(self.buffer_capacity, self.n_tasks - 1)[self.current_task]
        assert dataset.train_loader is not None
        for _, labels, raw in first_samples(dataset.train_loader, share):
            self.buffer.add_data(raw, labels=labels)
