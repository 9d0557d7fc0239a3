"""LwF.MC: learning without forgetting as iCaRL's paper compared with it, without exemplars."""

from __future__ import annotations

import copy
from argparse import ArgumentParser

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.continual_model import ContinualModel
from utils.args import from_zero
from utils.binary_distillation import distilled_binary_cross_entropy


class LwFMC(ContinualModel):
    """One head for all classes, each output a binary classifier; past classes learn what the old network says of them.

    The old network sees the same view as the new one. No past sample is kept.

    Source: S.-A. Rebuffi et al., iCaRL: incremental classifier and representation learning, CVPR 2017, section 4.1,
    after Z. Li, D. Hoiem, Learning without forgetting, ECCV 2016.
    """

    NAME = "lwf-mc"
    COMPATIBILITY = ["class-il", "task-il"]
    OWN_LOSS = True

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        parser.add_argument("--wd_reg", type=from_zero, default=0.0, help="weight of the squared norm of parameters")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.old_net = copy.deepcopy(self.net).requires_grad_(False).eval()

    def begin_task(self, dataset: ContinualDataset) -> None:
        self.old_net.load_state_dict(self.net.state_dict())

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        with torch.no_grad():
            old_outputs = self.old_net(inputs)[:, : self.n_past_classes]
        outputs = self.net(inputs)[:, : self.n_seen_classes]
        loss = distilled_binary_cross_entropy(outputs, labels, old_outputs)
        if self.args.wd_reg:
            loss = loss + self.args.wd_reg * parameters_to_vector(self.net.parameters()).square().sum()
        return self.step(loss)
