"""NC-FSCIL: features are led to directions that are fixed before learning."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.feature_replay import FeatureReplay
from utils.args import positive
from utils.conf import named_generator
from utils.errors import UsageError


class NCFSCIL(FeatureReplay):
    """Neural collapse for few-shot incremental learning, for scores.

    K nodes are spread evenly over the score range, ends included. Node k has a direction d_k; directions are random,
    orthonormal, and never trained. The target of a score between nodes k and k+1, a share w of the way, is the unit
    vector t = sqrt(1-w) d_k + sqrt(w) d_{k+1} (`--binning linear`), or the direction of the nearer node (`hard`, as in
    the comparison in MAGR's paper). A projection P after the features f learns the dot-regression loss

        L = 1/2 (cos(P(f(x)), t) - 1)^2.

    The score of x is the mean of the nodes with weights max(0, cos(P(f(x)), d_k))^2. At the target the cosines are
    sqrt(1-w) and sqrt(w), the weights 1-w and w, so the score is exact. The network's own head is not used.

    After the first session f is frozen, batch-norm statistics included, so stored features stay valid; P learns on from
    the batch and from replayed features. The paper is about classes, with the vertices of a simplex as directions and
    the mean feature of each class in memory. Nodes, targets between them, and the score are ours.

    Source: Y. Yang et al., Neural collapse inspired feature-classifier alignment for few-shot class-incremental
    learning, ICLR 2023.
    """

    NAME = "nc-fscil"
    COMPATIBILITY = ["grade-il", "group-il"]
    directions: Tensor
    nodes: Tensor

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        FeatureReplay.get_parser(parser)
        add = parser.add_argument_group("directions").add_argument
        add("--n_bins", type=positive, default=10, help="nodes on the score range, at least 2")
        add("--binning", choices=["linear", "hard"], default="linear", help="targets between nodes, or at the nearest")
        add("--projection_hidden", type=positive, default=256, help="hidden units of the projection")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        if self.net.num_outputs != 1:
            raise UsageError(f"--score_head {args.score_head}: nc-fscil has an output of its own; choose another head")
        if args.n_bins < 2:
            raise UsageError(f"--n_bins {args.n_bins}: a score lies between nodes, so there must be at least 2")
        self.low, self.high = dataset.network_range
        dim = max(self.net.feature_dim, args.n_bins)
        self.projection = nn.Sequential(
            nn.Linear(self.net.feature_dim, args.projection_hidden), nn.ReLU(), nn.Linear(args.projection_hidden, dim)
        ).to(self.device)
        drawn = torch.randn(dim, args.n_bins, generator=named_generator(args.seed, "nc-fscil"), dtype=torch.float64)
        self.register_buffer("directions", torch.linalg.qr(drawn)[0].T.float().to(self.device))
        self.register_buffer("nodes", torch.linspace(self.low, self.high, args.n_bins, device=self.device))

    def get_parameters(self) -> list[dict[str, Any]]:
        # After the first session the features get no gradient, and every optimiser leaves them alone.
        return [{"params": self.net.trunk_parameters()}, {"params": list(self.projection.parameters())}]

    def begin_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        self.net.train(self.current_task == 0)

    def forward(self, x: Tensor) -> Tensor:
        """Scores (B, 1)."""
        return self.score(self.net(x, returnt="features"))

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        with torch.set_grad_enabled(self.current_task == 0):
            features = self.net(inputs, returnt="features")
        if not self.buffer.is_empty():
            replayed, replayed_labels, *_ = self.buffer.get_data(self.minibatch_size)
            features, labels = torch.cat([features, replayed]), torch.cat([labels, replayed_labels])
        return self.step(self.dot_regression(features, labels))

    def dot_regression(self, features: Tensor, scores: Tensor) -> Tensor:
        """L of features (B, feature_dim) and scores (B,)."""
        cosine = (F.normalize(self.projection(features), dim=1) * self.targets(scores)).sum(1)
        return (cosine - 1).square().mean() / 2

    def targets(self, scores: Tensor) -> Tensor:
        """(B, dim) unit vectors of scores (B,); scores outside the range have those of its ends."""
        position = ((scores.float() - self.low) / (self.high - self.low)).clamp(0, 1) * (len(self.nodes) - 1)
        below = position.floor().long().clamp(max=len(self.nodes) - 2)
        share = (position - below)[:, None]
        if self.args.binning == "hard":
            share = share.round()
        return (1 - share).sqrt() * self.directions[below] + share.sqrt() * self.directions[below + 1]

    def score(self, features: Tensor) -> Tensor:
        """(B, 1) scores of features; the middle of the range where no direction is nearer than a right angle."""
        cosines = F.normalize(self.projection(features), dim=1) @ self.directions.T
        weights = cosines.relu().square() + 1e-12
        return (weights @ self.nodes / weights.sum(1)).unsqueeze(1)
