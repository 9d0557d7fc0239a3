"""TOPIC: keep the arrangement of the features and the outputs on what was seen before."""

from __future__ import annotations

import copy
from argparse import ArgumentParser

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.continual_model import ContinualModel
from utils.args import add_offer_args, add_rehearsal_args, from_zero
from utils.triplets import score_triplet_loss


class TOPIC(ContinualModel):
    """L = l(f(x), y) + lambda_t L_T + lambda_o ||f(x') - f'(x')||^2, after topology-preserving incremental learning.

    L_T is a triplet loss on the features of the batch and of replayed samples, where positive and negative differ in
    how near their scores are to the anchor's (utils/triplets.py). x' are the replayed samples of earlier sessions, f'
    is the network at the end of the session before. Memory is a reservoir of raw samples.

    The paper is about classes: a neural gas, a graph grown over the features, is its memory, and its losses hold the
    nodes in place and draw samples to nodes of their class. Triplets and old outputs on raw replay are what MAGR's
    comparison made of it for scores; all details here (the distance, which triplets, where old outputs come from) are
    ours.

    Source: X. Tao et al., Few-shot class-incremental learning, CVPR 2020; comparison: K. Zhou et al., MAGR, ECCV 2024.
    """

    NAME = "topic"
    COMPATIBILITY = ["grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add_rehearsal_args(parser)
        add_offer_args(parser)
        parser.add_argument("--lambda_t", type=from_zero, default=0.1, help="weight of the triplet loss")
        parser.add_argument("--triplet_margin", type=float, default=0.1, help="margin of squared distances, 0 to 4")
        parser.add_argument("--lambda_o", type=from_zero, default=1.0, help="weight of the old network's outputs")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.old_net = copy.deepcopy(self.net).requires_grad_(False).eval()
        self.buffer = self.make_buffer()

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        outputs, features = self.net(inputs, returnt="both")
        loss = self.loss(outputs, labels)
        scores = labels
        if not self.buffer.is_empty():
            replayed, replayed_scores, sessions = self.buffer.get_data(self.minibatch_size, transform=self.transform)
            new_outputs, new_features = self.net(replayed, returnt="both")
            features, scores = torch.cat([features, new_features]), torch.cat([scores, replayed_scores])
            earlier = sessions < self.current_task
            if earlier.any():
                with torch.no_grad():
                    old_outputs = self.old_net(replayed[earlier])
                distillation = F.mse_loss(new_outputs[earlier], old_outputs)
                loss = loss + self.args.lambda_o * distillation
                self.log(loss_distillation=distillation)
        triplets = score_triplet_loss(features, scores, self.args.triplet_margin)
        self.log(loss_triplet=triplets)
        value = self.step(loss + self.args.lambda_t * triplets)
        if self.is_offered(epoch):
            sessions = torch.full((len(labels),), self.current_task)
            self.buffer.add_data(not_aug_inputs, labels=labels, task_labels=sessions)
        return value

    def end_task(self, dataset: ContinualDataset) -> None:
        self.old_net.load_state_dict(self.net.state_dict())
