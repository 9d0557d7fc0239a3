"""Function distance regularisation: what the network said when a task ended is what it should still say."""

from __future__ import annotations

from argparse import ArgumentParser

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.continual_model import ContinualModel
from utils.args import add_rehearsal_args
from utils.episodes import even_shares, first_samples


class FDR(ContinualModel):
    """After a step on the batch, a step that lowers mean |p(x') - p'(x')|, with x' from the memory.

    p are the class probabilities, p' those at the end of the task that x' is from, of the sample as it is. With one
    output there are no probabilities; then p is the score.

    The memory of a task is a random draw from its samples, taken when it ends. All tasks so far share the buffer
    evenly: those before give up places. The last session stores nothing. Labels are stored for second stages
    (--stage2), not replayed.

    Source: A. Benjamin, D. Rolnick, K. Kording, Measuring and regularizing networks in function space, ICLR 2019; the
    two steps are those of P. Buzzega et al., NeurIPS 2020.
    """

    NAME = "fdr"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "grade-il", "group-il"]
    # The class counts of a loss are those of the stream alone: no label is drawn from the memory.
    n_replayed = 0

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add_rehearsal_args(parser)
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.buffer = self.make_buffer("fill")

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        value = self.step(self.loss(self.net(inputs), labels))
        if self.buffer.is_empty():
            return value
        replayed, _, recorded, _ = self.buffer.get_data(self.minibatch_size, transform=self.transform)
        distance = (said(self.net(replayed)) - said(recorded)).norm(dim=1).mean()
        self.log(loss_stream=value, loss_distance=distance)
        return value + self.step(distance)

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        if self.current_task == self.n_tasks - 1:
            return
        shares = even_shares(self.buffer_capacity, self.current_task + 1)
        if not self.buffer.is_empty():
            examples, labels, recorded, tasks = self.buffer.get_all_data()
            self.buffer.empty()
            for task, share in enumerate(shares[:-1]):
                kept = (tasks == task).nonzero().view(-1)[:share]
                self.buffer.add_data(
                    examples[kept], labels=labels[kept], logits=recorded[kept], task_labels=tasks[kept]
                )
        self.net.eval()
        assert dataset.train_loader is not None
        for _, labels, raw in first_samples(dataset.train_loader, shares[-1]):
            outputs = self.net(self.normalization_transform(raw))
            of_task = torch.full((len(labels),), self.current_task)
            self.buffer.add_data(raw, labels=labels, logits=outputs, task_labels=of_task)


def said(outputs: Tensor) -> Tensor:
    """(B, K) class probabilities, or the score itself where there is one output."""
    return F.softmax(outputs, dim=1) if outputs.shape[1] > 1 else outputs
