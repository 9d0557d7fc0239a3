"""iCaRL: exemplars, distilled binary classifiers, and the nearest mean of exemplars as the answer."""

from __future__ import annotations

import copy
from argparse import ArgumentParser

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.exemplar_replay import ExemplarReplay
from utils.args import from_zero
from utils.binary_distillation import distilled_binary_cross_entropy

# Squared distances between vectors of length 1 are at most 4.
FARTHER_THAN_ANY = 5.0


class ICaRL(ExemplarReplay):
    """Each output is a binary classifier; past classes learn what the old network says, on new samples and exemplars.

    The answer is minus the squared distance between the features and the mean of a class's exemplars, all of length 1.
    Until every class seen has a mean (within a task, or with fewer places in the buffer than classes) the answer is the
    network's.

    Source: S.-A. Rebuffi et al., iCaRL: incremental classifier and representation learning, CVPR 2017.
    """

    NAME = "icarl"
    COMPATIBILITY = ["class-il", "task-il"]
    OWN_LOSS = True
    class_means: Tensor
    has_mean: Tensor

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        ExemplarReplay.get_parser(parser)
        parser.add_argument("--wd_reg", type=from_zero, default=0.0, help="weight of the squared norm of parameters")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.old_net = copy.deepcopy(self.net).requires_grad_(False).eval()
        shape = (self.num_classes, self.net.feature_dim)
        self.register_buffer("class_means", torch.zeros(shape, device=self.device))
        self.register_buffer("has_mean", torch.zeros(self.num_classes, dtype=torch.bool, device=self.device))

    def begin_task(self, dataset: ContinualDataset) -> None:
        super().begin_task(dataset)
        self.old_net.load_state_dict(self.net.state_dict())

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        with torch.no_grad():
            old_outputs = self.old_net(inputs)[:, : self.n_past_classes]
        outputs = self.net(inputs)[:, : self.n_seen_classes]
        loss = distilled_binary_cross_entropy(outputs, labels, old_outputs)
        if self.args.wd_reg:
            loss = loss + self.args.wd_reg * parameters_to_vector(self.net.parameters()).square().sum()
        return self.step(loss)

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        super().end_task(dataset)
        self.has_mean.zero_()
        if self.buffer.is_empty():
            return
        examples, labels = self.buffer.get_all_data()
        features = self.clean_features(examples)
        for label in labels.unique():
            self.class_means[label] = F.normalize(features[labels == label].mean(0), dim=0)
            self.has_mean[label] = True

    def forward(self, x: Tensor) -> Tensor:
        """(B, N_CLASSES): minus squared distances to the means, or the network's outputs."""
        if not self.has_mean[: self.n_seen_classes].all():
            return self.net(x)
        features = F.normalize(self.net(x, returnt="features"), dim=1)
        # Between vectors of length 1.
        distances = 2 - 2 * features @ self.class_means.T
        return -distances.masked_fill(~self.has_mean, FARTHER_THAN_ANY)
