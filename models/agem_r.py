"""A-GEM with a reservoir, which needs no boundaries between tasks."""

from __future__ import annotations

from argparse import ArgumentParser

from torch import Tensor

from models.utils.averaged_gem import AveragedGEM
from utils.args import add_offer_args


class AGEMR(AveragedGEM):
    """The constraint of `AveragedGEM`, on a draw from a reservoir of all samples so far, those of this task included.

    Source: P. Buzzega et al., Dark experience for general continual learning, NeurIPS 2020, section 4 (A-GEM-R), after
    A. Chaudhry et al., Efficient lifelong learning with A-GEM, ICLR 2019.
    """

    NAME = "agem-r"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "general-continual", "grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        AveragedGEM.get_parser(parser)
        add_offer_args(parser)
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.buffer = self.make_buffer()

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        value = super().observe(inputs, labels, not_aug_inputs, epoch)
        if self.is_offered(epoch):
            self.buffer.add_data(not_aug_inputs, labels=labels)
        return value
