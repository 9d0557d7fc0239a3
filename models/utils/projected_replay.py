"""Base of MAGR and MAGR++: stored features follow the network through a projector."""

from __future__ import annotations

import copy
from argparse import ArgumentParser

import torch
import torch.nn.functional as F
from torch import Tensor

from backbone.utils.projector import PROJECTORS, make_projector
from datasets.utils.continual_dataset import ContinualDataset
from models.utils.feature_replay import FeatureReplay
from utils.args import from_zero, positive, positive_number, true_or_false
from utils.errors import UsageError
from utils.graph_regularizer import BLOCKS, DIVERGENCES, SCALES, graph_regularizer


class ProjectedReplay(FeatureReplay):
    """The parts of MAGR's objective L = L_D + L_M + lambda_P L_P + lambda_R L_R (Zhou et al., ECCV 2024, equation 1).

    Attributes:
        old_net: f', the network at the end of the session before, frozen.
        projector: p, from the features of the old network to those of the present one.
        projects: whether there is one; without it stored features are replayed as they are and L_P is left out.
    """

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        FeatureReplay.get_parser(parser)
        add = parser.add_argument_group("projector").add_argument
        add("--lambda_p", "--alpha", type=from_zero, default=1.0, help="weight of the projector's loss L_P")
        add("--projector", choices=PROJECTORS, default="residual", help="h + MLP(h), MLP(h), or none")
        add("--projector_hidden", type=positive, default=256, help="hidden units of the projector")
        add(
            "--projector_init",
            choices=["identity", "random"],
            default="identity",
            help="how a residual projector starts; a plain one starts random",
        )
        add("--projector_relu", type=true_or_false, default=False, help="the released code's ReLU on the residual")
        add = parser.add_argument_group("graph regulariser, see utils/graph_regularizer.py").add_argument
        add("--lambda_r", "--beta", type=from_zero, default=1.0, help="weight of the graph regulariser L_R")
        add("--graph_scale", choices=SCALES, default="minmax", help="of angles and score gaps")
        add("--graph_divergence", choices=DIVERGENCES, default="kl", help="between angles and score gaps")
        add("--graph_tau", type=positive_number, default=0.2, help="temperature of --graph_scale minmax")
        add("--graph_blocks", choices=BLOCKS, default="all", help="joint matrix, its four parts, or all five")
        add("--base_regularizer", choices=["none", "features"], default="none", help="L_R in the first session")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        if self.net.feature_dim < 2:
            raise UsageError(f"{self.NAME} compares angles between features: the backbone needs at least two of them")
        self.old_net = copy.deepcopy(self.net).requires_grad_(False).eval()
        self.projects = args.projector != "none"
        self.projector = make_projector(
            args.projector,
            self.net.feature_dim,
            args.projector_hidden,
            args.projector_init == "identity",
            args.projector_relu,
        ).to(self.device)

    def first_objective(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """L_D of the first session, with L_R on its features if asked for."""
        outputs, features = self.net(inputs, returnt="both")
        loss = self.loss(outputs, labels)
        self.log(loss_d=loss)
        if self.args.base_regularizer == "features":
            loss = loss + self.args.lambda_r * self.regularize(features, labels, n_old=0)
        return loss

    def objective(self, inputs: Tensor, labels: Tensor, features: Tensor) -> Tensor:
        """Equation 1, in the sessions after the first.

        Args:
            features: (B, feature_dim) of the inputs, by the present network; without gradients it is frozen.
        """
        loss = self.loss(self.net.classifier(features), labels)  # L_D
        self.log(loss_d=loss)
        if self.projects:
            alignment = F.mse_loss(self.projected(inputs), features.detach())  # L_P
            loss = loss + self.args.lambda_p * alignment
            self.log(loss_p=alignment)
        n_old = 0
        if not self.buffer.is_empty():
            replayed, replayed_labels = self.replay()
            replay = self.loss(self.net.classifier(replayed), replayed_labels)  # L_M
            loss = loss + replay
            self.log(loss_m=replay)
            features, labels = torch.cat([replayed, features]), torch.cat([replayed_labels, labels])
            n_old = len(replayed)
        graph = self.regularize(features, labels, n_old)  # L_R
        self.log(loss_r=graph)
        return loss + self.args.lambda_r * graph

    def projected(self, inputs: Tensor) -> Tensor:
        """p(f'(x)), (B, feature_dim); only p has gradients."""
        with torch.no_grad():
            features = self.old_net(inputs, returnt="features")
        return self.projector(features)

    def replay(self) -> tuple[Tensor, Tensor]:
        """p(h) of drawn stored features, (R, feature_dim), and their labels (R,)."""
        features, labels, *_ = self.buffer.get_data(self.minibatch_size)
        return self.projector(features), labels

    def regularize(self, features: Tensor, labels: Tensor, n_old: int) -> Tensor:
        """L_R of the run's configuration; with n_old = 0 there are no blocks, only the joint matrix."""
        args = self.args
        return graph_regularizer(
            features,
            labels,
            n_old,
            args.graph_scale,
            args.graph_divergence,
            args.graph_tau,
            args.graph_blocks,
        )

    @torch.no_grad()
    def end_task(self, dataset: ContinualDataset) -> None:
        """Move what is stored to where the network is, store this session's share, keep the network as the old one."""
        if self.current_task > 0 and not self.buffer.is_empty():
            features, *_ = self.buffer.get_all_data()
            self.buffer.replace("examples", self.projector(features))
        super().end_task(dataset)
        self.old_net.load_state_dict(self.net.state_dict())
