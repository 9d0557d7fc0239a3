"""PODNet: pooled outputs distillation, and several proxies for each class."""

from __future__ import annotations

import copy
import math
from argparse import ArgumentParser

import torch
import torch.nn.functional as F
from torch import Tensor

from backbone import ContinualBackbone
from backbone.utils.cosine_head import CosineHead
from datasets.utils.continual_dataset import ContinualDataset
from models.utils.exemplar_replay import ExemplarReplay
from utils.args import from_zero, not_negative, positive, positive_number
from utils.errors import UsageError
from utils.selection import kmeans


class PODNet(ExemplarReplay):
    """L = L_NCA + sqrt(seen / new classes) (lambda_c POD_spatial + lambda_f POD_flat), with a local similarity head.

    With z = eta * similarity, L_NCA = max(0, log sum_{i != y} exp(z_i) - (z_y - eta margin)). POD_spatial compares the
    intermediate maps with those of the network before the task (`pooled_distance`), POD_flat = 1 - cos(f, f') the
    features.

    The margin's own eta is not learnt through: with a first task of few classes the shortest way to a small loss would
    be an eta below zero, which turns the order of the classes around.

    The proxies of a new class start at its samples nearest to the centres of k-means. At the end of a later task the
    head alone is trained on the exemplars, of every class equally many (--fitting_epochs).

    Source: A. Douillard et al., PODNet: pooled outputs distillation for small-tasks incremental learning, ECCV 2020.
    """

    NAME = "podnet"
    COMPATIBILITY = ["class-il", "task-il"]
    OWN_LOSS = True
    OWN_HEAD = CosineHead

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        ExemplarReplay.get_parser(parser)
        add = parser.add_argument_group("podnet").add_argument
        add("--lambda_c", type=from_zero, default=3.0, help="weight of the distance between maps")
        add("--lambda_f", type=from_zero, default=1.0, help="weight of the distance between features")
        add("--nb_proxy", type=positive, default=10, help="directions of each class")
        add("--nca_margin", type=float, default=0.6, help="by how much a class should be ahead of the others")
        add("--fitting_epochs", type=not_negative, default=20, help="epochs of the head on balanced exemplars")
        add("--lr_finetune", type=positive_number, default=0.05, help="learning rate of these epochs")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        if self.get_offsets(0)[1] < 2:
            raise UsageError("podnet sets a class apart from others: the first task needs at least two classes")
        if type(self.net).feature_maps is ContinualBackbone.feature_maps:
            raise UsageError(
                f"podnet compares intermediate maps, and --backbone {args.backbone} has no feature_maps; take another "
                "backbone, or another method"
            )
        self.take_head(CosineHead(self.net.feature_dim, self.num_classes, args.nb_proxy))
        self.old_net = copy.deepcopy(self.net).requires_grad_(False).eval()

    @property
    def head(self) -> CosineHead:
        assert isinstance(self.net.classifier, CosineHead)
        return self.net.classifier

    def begin_task(self, dataset: ContinualDataset) -> None:
        super().begin_task(dataset)
        self.old_net.load_state_dict(self.net.state_dict())
        if self.n_past_classes:
            self.imprint()

    @torch.no_grad()
    def imprint(self) -> None:
        """Let the proxies of the task's classes be features of their samples."""
        self.net.eval()
        for label in range(*self.get_offsets()):
            features = self.clean_features(self.samples_of(label))
            centres = features[kmeans(features, self.args.nb_proxy).to(self.device)]
            self.head.imprint(label, centres, self.n_past_classes)

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        features, maps = self.net.feature_maps(inputs)
        loss = self.nca(self.head(features)[:, : self.n_seen_classes], labels)
        if self.n_past_classes:
            with torch.no_grad():
                old_features, old_maps = self.old_net.feature_maps(inputs)
            spatial = torch.stack([pooled_distance(a, b) for a, b in zip(maps, old_maps, strict=True)]).mean()
            flat = (1 - F.cosine_similarity(features, old_features)).mean()
            self.log(loss_nca=loss, loss_maps=spatial, loss_features=flat)
            factor = math.sqrt(self.n_seen_classes / self.n_classes_current_task)
            loss = loss + factor * (self.args.lambda_c * spatial + self.args.lambda_f * flat)
        return self.step(loss)

    def nca(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """L_NCA of outputs (B, S) of the classes seen."""
        own = F.one_hot(labels, outputs.shape[1]).bool()
        others = outputs.masked_fill(own, -torch.inf).logsumexp(1)
        return F.relu(others - outputs[own] + self.head.scale.detach() * self.args.nca_margin).mean()

    def end_task(self, dataset: ContinualDataset) -> None:
        super().end_task(dataset)
        if self.n_past_classes:
            self.fit_head(self.args.fitting_epochs, self.args.lr_finetune, self.nca)


def pooled_distance(maps: Tensor, old_maps: Tensor) -> Tensor:
    """POD_spatial of one stage: Euclidean distance between pooled maps, mean over the batch.

    Squared activations are summed along each spatial axis in turn; the sums together are a vector of length 1. Squares
    and the length are the released code's, as is the distance without a square.

    Args:
        maps, old_maps: (B, C, ...) with any number of spatial axes; without one the activations are not summed.
    """
    pooled = []
    for values in (maps.square(), old_maps.square()):
        sums = [values.sum(axis).flatten(1) for axis in range(2, values.dim())] or [values]
        pooled.append(F.normalize(torch.cat(sums, dim=1), dim=1))
    return (pooled[0] - pooled[1]).norm(dim=1).mean()
