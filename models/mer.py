"""Meta-experience replay: Reptile over batches that mix the stream with a reservoir."""

from __future__ import annotations

from argparse import ArgumentParser

from torch import Tensor

from models.utils.continual_model import ContinualModel
from utils.args import add_offer_args, add_rehearsal_args, positive
from utils.gradients import trained_parameters
from utils.reptile import reptile


class MER(ContinualModel):
    """Steps on replayed and new samples one after the other, then goes only part of the way that they led.

    For every batch of the stream there are `batch_num` rounds. A round draws `minibatch_size` samples from the
    reservoir, makes one step of the optimiser for every `batch_size` of them and one more for the batch of the stream,
    then keeps only `beta` of the way from where it began (within-batch Reptile). When all rounds are over, `gamma` of
    the way from where the first began is kept (across-batch Reptile).

    With --batch_size 1 this is algorithm 1 of the paper with s = batch_num and k = minibatch_size + 1. With larger
    batches a batch stands wherever the paper has a sample.

    Source: M. Riemer et al., Learning to learn without forgetting by maximizing transfer and minimizing interference,
    ICLR 2019, algorithm 1.
    """

    NAME = "mer"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "general-continual", "grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add_rehearsal_args(parser)
        add_offer_args(parser)
        parser.add_argument("--batch_num", type=positive, default=3, help="rounds of replay for every batch")
        parser.add_argument("--beta", type=float, default=0.5, help="share of the way that a round goes")
        parser.add_argument("--gamma", type=float, default=1.0, help="share of the way that all rounds go")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.buffer = self.make_buffer()

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        parameters, losses = trained_parameters(self.net), []
        with reptile(parameters, self.args.gamma):
            for _ in range(self.args.batch_num):
                with reptile(parameters, self.args.beta):
                    for examples, targets in [*self.replay(), (inputs, labels)]:
                        losses.append(self.step(self.loss(self.net(examples), targets)))
        if self.is_offered(epoch):
            self.buffer.add_data(not_aug_inputs, labels=labels)
        return sum(losses) / len(losses)

    def replay(self) -> list[tuple[Tensor, Tensor]]:
        """Drawn samples and labels, in groups of the batch size."""
        if self.buffer.is_empty():
            return []
        examples, labels = self.buffer.get_data(self.minibatch_size, transform=self.transform)
        size = self.dataset.get_batch_size()
        return list(zip(examples.split(size), labels.split(size), strict=True))
