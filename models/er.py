"""Experience replay."""

from __future__ import annotations

from argparse import ArgumentParser

import torch
from torch import Tensor

from models.utils.continual_model import ContinualModel
from utils.args import add_offer_args, add_rehearsal_args


class ER(ContinualModel):
    """Each step learns from the batch and from samples drawn from a reservoir of past ones.

    Source: A. Chaudhry et al., On tiny episodic memories in continual learning, arXiv:1902.10486, 2019.
    """

    NAME = "er"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "general-continual", "grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add_rehearsal_args(parser)
        add_offer_args(parser)
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.buffer = self.make_buffer()

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        all_inputs, all_labels = inputs, labels
        if not self.buffer.is_empty():
            replayed, replayed_labels = self.buffer.get_data(self.minibatch_size, transform=self.transform)
            all_inputs, all_labels = torch.cat([inputs, replayed]), torch.cat([labels, replayed_labels])
        loss = self.step(self.loss(self.net(all_inputs), all_labels))
        if self.is_offered(epoch):
            self.buffer.add_data(not_aug_inputs, labels=labels)
        return loss
