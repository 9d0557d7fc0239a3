"""SLCA: learn the features slowly, then align the head with what all sessions looked like."""

from __future__ import annotations

from argparse import ArgumentParser

import torch
from torch import Tensor

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.continual_model import ContinualModel
from utils.args import not_negative, positive, positive_number
from utils.conf import named_generator
from utils.features import extract_features
from utils.gaussians import JointGaussians


class SLCA(ContinualModel):
    """Slow learner with classifier alignment, for scores.

    Slow learner: after the first session the features learn at --backbone_lr_scale times the rate of the head.
    Alignment: every session leaves a Gaussian behind; at its end the head alone is trained on draws from the Gaussians
    of all sessions so far, equally many of each. No sample is stored.

    The paper classifies and keeps a Gaussian of the features of each class. Scores have no classes, so ours is one of
    features and score jointly for each session, and a draw brings the score with it (utils/gaussians.py). The paper's
    normalisation of logits has no counterpart here.

    Source: G. Zhang et al., SLCA: slow learner with classifier alignment for continual learning on a pre-trained model,
    ICCV 2023.
    """

    NAME = "slca"
    COMPATIBILITY = ["grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add = parser.add_argument_group("alignment").add_argument
        add("--align_steps", type=not_negative, default=100, help="steps of the head at the end of a session")
        add("--align_lr", type=positive_number, help="learning rate of these steps (default: lr)")
        add("--pseudo_samples", type=positive, default=20, help="draws from every session's Gaussian in such a step")
        add("--covariance_rank", type=positive, help="principal directions kept (default: all, the full covariance)")
        add("--shrinkage", type=float, default=1e-7, help="added to the variance of every feature")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        dim = self.net.feature_dim
        rank = min(args.covariance_rank or dim, dim)
        self.gaussians = JointGaussians(self.n_tasks, dim, rank, args.shrinkage).to(self.device)

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        return self.step(self.loss(self.net(inputs), labels))

    def end_task(self, dataset: ContinualDataset) -> None:
        self.net.eval()
        assert dataset.train_loader is not None
        data = dataset.train_loader.dataset
        view = self.normalization_transform
        features, scores = extract_features(
            self.net, data, torch.arange(len(data)), view, self.args.batch_size, self.device
        )
        self.gaussians.fit(self.current_task, features, scores)
        if self.current_task > 0:
            self.align()

    def align(self) -> None:
        """Train the head on pseudo-samples of all sessions so far."""
        generator = named_generator(self.args.seed, "slca", self.current_task)
        # The optimiser of the session stays the model's own: a checkpoint after the session holds its state.
        of_session, self.opt = self.opt, self.get_optimizer(self.net.head_parameters(), self.args.align_lr)
        self.net.classifier.train()
        for _ in range(self.args.align_steps):
            features, scores = self.gaussians.sample(range(self.current_task + 1), self.args.pseudo_samples, generator)
            self.step(self.loss(self.net.classifier(features), scores))
        self.net.classifier.eval()
        self.opt = of_session
