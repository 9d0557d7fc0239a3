"""LUCIR: a unified classifier, in which no class is ahead by the length of its weights."""

from __future__ import annotations

import copy
import math
from argparse import ArgumentParser

import torch
import torch.nn.functional as F
from torch import Tensor

from backbone.utils.cosine_head import CosineHead
from datasets.utils.continual_dataset import ContinualDataset
from models.utils.exemplar_replay import ExemplarReplay
from utils.args import from_zero, not_negative, positive, positive_number, true_or_false


class LUCIR(ExemplarReplay):
    """L = L_CE + lambda L_G + lamda_mr L_MR, with a cosine head.

    L_G = 1 - cos(f, f'), f' the features of the network before the task; lambda = lamda_base sqrt(past / new classes).
    L_MR = mean over exemplars of past classes, and over the k_mr new classes nearest to each, of max(0, margin - cosine
    with its own class + cosine with the new one). The directions of past classes stay as they are.

    Directions of new classes start at the mean feature of the class. At the end of a later task the head alone is
    trained on the exemplars, of every class equally many (--fitting_epochs), past directions included.

    The paper takes the last ReLU off the network, so that features have either sign; here the backbone decides. As in
    the released code L_MR is a mean over the k_mr classes, where the paper has their sum.

    Source: S. Hou et al., Learning a unified classifier incrementally via rebalancing, CVPR 2019.
    """

    NAME = "lucir"
    COMPATIBILITY = ["class-il", "task-il"]
    OWN_HEAD = CosineHead

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        ExemplarReplay.get_parser(parser)
        add = parser.add_argument_group("lucir").add_argument
        add("--lamda_base", type=from_zero, default=5.0, help="weight of L_G where past and new classes are as many")
        add("--lamda_mr", type=from_zero, default=1.0, help="weight of L_MR")
        add("--k_mr", type=positive, default=2, help="new classes that an exemplar is kept away from")
        add("--mr_margin", type=float, default=0.5, help="by how much")
        add("--imprint_weights", type=true_or_false, default=True, help="new classes start at their mean feature")
        add("--fitting_epochs", type=not_negative, default=20, help="epochs of the head on balanced exemplars")
        add("--lr_finetune", type=positive_number, default=0.01, help="learning rate of these epochs")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.take_head(CosineHead(self.net.feature_dim, self.num_classes))
        self.old_net = copy.deepcopy(self.net).requires_grad_(False).eval()

    @property
    def head(self) -> CosineHead:
        assert isinstance(self.net.classifier, CosineHead)
        return self.net.classifier

    def begin_task(self, dataset: ContinualDataset) -> None:
        super().begin_task(dataset)
        self.old_net.load_state_dict(self.net.state_dict())
        if self.n_past_classes and self.args.imprint_weights:
            self.imprint()

    @torch.no_grad()
    def imprint(self) -> None:
        """Let the directions of the task's classes be their mean features; without a sample that has its label (few
        labels, --label_perc) a direction stays as it was drawn."""
        self.net.eval()
        for label in range(*self.get_offsets()):
            samples = self.samples_of(label)
            if len(samples):
                self.head.imprint(label, self.clean_features(samples).mean(0, keepdim=True), self.n_past_classes)

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        past = self.n_past_classes
        outputs, features = self.net(inputs, returnt="both")
        loss = self.loss(outputs[:, : self.n_seen_classes], labels)
        if not past:
            return self.step(loss)
        with torch.no_grad():
            old_features = self.old_net(inputs, returnt="features")
        less_forget = (1 - F.cosine_similarity(features, old_features)).mean()
        ranking = self.margin_ranking(self.head.similarity(features), labels)
        self.log(loss_new=loss, loss_features=less_forget, loss_ranking=ranking)
        weight = self.args.lamda_base * math.sqrt(past / self.n_classes_current_task)
        value = self.step(loss + weight * less_forget + self.args.lamda_mr * ranking)
        with torch.no_grad():
            # Whatever the optimiser made of momentum and weight decay.
            self.head.weight[:past] = self.old_net.get_parameter("classifier.weight")[:past]
        return value

    def margin_ranking(self, cosines: Tensor, labels: Tensor) -> Tensor:
        """L_MR of cosines (B, N_CLASSES) and labels (B,); 0 without exemplars."""
        first, end = self.get_offsets()
        of_past = labels < first
        if not of_past.any():
            return cosines.new_zeros(())
        own = cosines[of_past].gather(1, labels[of_past, None])
        nearest = cosines[of_past, first:end].topk(min(self.args.k_mr, end - first), dim=1).values
        return F.relu(self.args.mr_margin - own + nearest).mean()

    def end_task(self, dataset: ContinualDataset) -> None:
        super().end_task(dataset)
        if self.n_past_classes:
            self.fit_head(self.args.fitting_epochs, self.args.lr_finetune, self.loss)
