"""Experience replay with asymmetric cross-entropy: new classes are not learnt at the cost of old ones."""

from __future__ import annotations

from argparse import ArgumentParser

import torch
from torch import Tensor

from models.utils.continual_model import ContinualModel
from utils.args import add_offer_args, add_rehearsal_args


class ERACE(ContinualModel):
    """L = l(f(x), y; classes of the batch) + l(f(x'), y'; all classes seen), with x' from a reservoir.

    New samples do not push down the outputs of classes that are absent from their batch, so their features need not
    move away from where those of old classes are. Outputs of classes still to come take part in the loss of the batch,
    as in the released code. The first task has no old classes: it is learnt with the plain loss, without replay.

    Source: L. Caccia et al., New insights on reducing abrupt representation change in online continual learning, ICLR
    2022, section 4.
    """

    NAME = "er-ace"
    COMPATIBILITY = ["class-il", "task-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add_rehearsal_args(parser)
        add_offer_args(parser)
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.buffer = self.make_buffer()

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        outputs = self.net(inputs)
        if self.current_task == 0:
            loss = self.loss(outputs, labels)
        else:
            loss = self.loss(outputs.masked_fill(self.absent_classes(labels), -torch.inf), labels)
            if not self.buffer.is_empty():
                replayed, targets = self.buffer.get_data(self.minibatch_size, transform=self.transform)
                replay = self.loss(self.net(replayed)[:, : self.n_seen_classes], targets)
                self.log(loss_stream=loss, loss_replay=replay)
                loss = loss + replay
        value = self.step(loss)
        if self.is_offered(epoch):
            self.buffer.add_data(not_aug_inputs, labels=labels)
        return value

    def absent_classes(self, labels: Tensor) -> Tensor:
        """(num_classes,) whether a class has been seen, but is not in the batch."""
        absent = torch.arange(self.num_classes, device=labels.device) < self.n_seen_classes
        absent[labels] = False
        return absent
