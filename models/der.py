"""Dark experience replay: what the network once said about a sample is replayed with it."""

from __future__ import annotations

from argparse import ArgumentParser

import torch.nn.functional as F
from torch import Tensor

from models.utils.continual_model import ContinualModel
from utils.args import add_rehearsal_args, from_zero


class DER(ContinualModel):
    """L = l(f(x), y) + alpha ||f(x') - z'||^2, with x' from a reservoir and z' the outputs when x' was stored.

    On score streams the outputs are the scores themselves. Labels are stored for second stages (--stage2) and not
    replayed.

    Source: P. Buzzega et al., Dark experience for general continual learning, NeurIPS 2020, section 3.
    """

    NAME = "der"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "general-continual", "grade-il", "group-il"]
    # The class counts of a loss are those of the stream alone: no label is drawn from the memory.
    n_replayed = 0

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add_rehearsal_args(parser)
        parser.add_argument("--alpha", type=from_zero, default=0.3, help="weight of the replayed outputs")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.buffer = self.make_buffer()

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        outputs = self.net(inputs)
        loss = self.loss(outputs, labels)
        if not self.buffer.is_empty():
            replayed, _, logits = self.buffer.get_data(self.minibatch_size, transform=self.transform)
            distillation = F.mse_loss(self.net(replayed), logits)
            loss = loss + self.args.alpha * distillation
            self.log(loss_distillation=distillation)
        value = self.step(loss)
        self.buffer.add_data(not_aug_inputs, labels=labels, logits=outputs)
        return value
