"""MAGR: replaying features that are projected to where the network has moved."""

from __future__ import annotations

import copy
from argparse import ArgumentParser
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from backbone.utils.projector import ResidualProjector
from datasets.utils.continual_dataset import ContinualDataset
from models.utils.continual_model import ContinualModel
from utils.args import add_rehearsal_args, positive, positive_number, true_or_false
from utils.errors import UsageError
from utils.graph_regularizer import BLOCKS, DIVERGENCES, SCALES, graph_regularizer
from utils.selection import ordered_uniform


class MAGR(ContinualModel):
    """Manifold-aligned graph regularisation for continual action quality assessment (Zhou et al., ECCV 2024).

    Equation 1: L = L_D + L_M + lambda_P L_P + lambda_R L_R. The buffer holds features, not samples. A projector p
    learns the step from the previous network's features to the present ones (L_P), replayed features pass through it
    (L_M), and a graph loss arranges old and new features by their scores (L_R). Only net(x) is used at test time.

    The defaults are the recommended ones; configs/magr-paper.yaml and configs/magr-released.yaml select the choices
    of the paper and of the authors' code.
    """

    NAME = "magr"
    COMPATIBILITY = ["grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add_rehearsal_args(parser)
        group = parser.add_argument_group("magr")
        add = group.add_argument
        add("--lambda_p", "--alpha", type=float, default=1.0, help="weight of the projector's loss L_P")
        add("--lambda_r", "--beta", type=float, default=1.0, help="weight of the graph regulariser L_R")
        add("--graph_scale", choices=SCALES, default="minmax", help="see utils/graph_regularizer.py")
        add("--graph_divergence", choices=DIVERGENCES, default="kl", help="see utils/graph_regularizer.py")
        add("--graph_tau", type=positive_number, default=0.2, help="temperature of --graph_scale minmax")
        add("--graph_blocks", choices=BLOCKS, default="all", help="joint matrix, its four parts, or all five")
        add("--base_regularizer", choices=["none", "features"], default="none", help="L_R in the first session")
        add("--projector_hidden", type=positive, default=256, help="hidden units of the projector")
        add("--projector_init", choices=["identity", "random"], default="identity", help="how the projector starts")
        add("--projector_relu", type=true_or_false, default=False, help="the released code's ReLU on the residual")
        add(
            "--selection",
            choices=["ordered-uniform", "random"],
            default="ordered-uniform",
            help="what a session stores",
        )
        add("--stored_view", choices=["clean", "augmented"], default="clean", help="view whose features are stored")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        if self.net.feature_dim < 2:
            raise UsageError("magr compares angles between features: the backbone needs at least two of them")
        self.old_net = copy.deepcopy(self.net).requires_grad_(False).eval()
        self.projector = ResidualProjector(
            self.net.feature_dim, args.projector_hidden, args.projector_init == "identity", args.projector_relu
        ).to(self.device)
        self.buffer = self.make_buffer("fill")

    def get_parameters(self) -> list[dict[str, Any]]:
        if self.current_task == 0:
            return [{"params": list(self.net.parameters())}]
        # Weight decay would pull the projector back to the identity, and in the first session kill it.
        return [
            {"params": self.net.trunk_parameters(), "lr": self.args.lr * self.args.backbone_lr_scale},
            {"params": self.net.head_parameters()},
            {"params": list(self.projector.parameters()), "weight_decay": 0.0},
        ]

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        outputs, features = self.net(inputs, returnt="both")
        loss = self.loss(outputs, labels)  # L_D
        self.log(loss_d=loss)
        if self.current_task == 0:
            if self.args.base_regularizer == "features":
                loss = loss + self.args.lambda_r * self.regularize(features, labels, n_old=0)
            return self.step(loss)

        with torch.no_grad():
            old_features = self.old_net(inputs, returnt="features")
        alignment = F.mse_loss(self.projector(old_features), features.detach())  # L_P
        loss = loss + self.args.lambda_p * alignment
        self.log(loss_p=alignment)
        n_old = 0
        if not self.buffer.is_empty():
            stored, stored_labels, *_ = self.buffer.get_data(self.minibatch_size)
            replayed = self.projector(stored)
            replay = self.loss(self.net.classifier(replayed), stored_labels)  # L_M
            loss = loss + replay
            self.log(loss_m=replay)
            features, labels = torch.cat([replayed, features]), torch.cat([stored_labels, labels])
            n_old = len(replayed)
        graph = self.regularize(features, labels, n_old)  # L_R
        self.log(loss_r=graph)
        return self.step(loss + self.args.lambda_r * graph)

    def regularize(self, features: Tensor, labels: Tensor, n_old: int) -> Tensor:
        """L_R of the run's configuration."""
        args = self.args
        return graph_regularizer(
            features, labels, n_old, args.graph_scale, args.graph_divergence, args.graph_tau, args.graph_blocks
        )

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        self.net.eval()
        if self.current_task > 0 and not self.buffer.is_empty():
            features, *_ = self.buffer.get_all_data()
            self.buffer.replace("examples", self.projector(features))
        if self.current_task < self.n_tasks - 1:
            self.store_session(dataset)
        self.old_net.load_state_dict(self.net.state_dict())

    def store_session(self, dataset: ContinualDataset) -> None:
        """Store features of this session's share of the buffer; the first sessions take what does not divide evenly."""
        share, remainder = divmod(self.buffer_capacity, self.n_tasks - 1)
        share += self.current_task < remainder
        assert dataset.train_loader is not None
        data = dataset.train_loader.dataset
        if self.args.selection == "random":
            chosen = torch.randperm(len(data), generator=self.buffer.generator)[:share]
        else:
            chosen = ordered_uniform(data.targets, share)
        if not len(chosen):
            print(f"magr: session {self.current_task + 1} stores nothing, the buffer has fewer places than sessions")
            return
        view = self.normalization_transform if self.args.stored_view == "clean" else self.transform
        for part in chosen.split(self.args.batch_size):
            raw, labels, _, _ = data[part.tolist()]
            if len(labels):
                features = self.net(view(raw.to(self.device)), returnt="features")
                self.buffer.add_data(features, labels=labels, task_labels=torch.full((len(labels),), self.current_task))
