"""SLCA: learn the features slowly, then align the head with what all sessions looked like."""

from __future__ import annotations

from argparse import ArgumentParser

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.utils.continual_dataset import SCORE_SETTINGS, ContinualDataset
from models.utils.continual_model import ContinualModel
from utils.args import not_negative, positive, positive_number
from utils.conf import named_generator
from utils.features import extract_features
from utils.gaussians import JointGaussians


class SLCA(ContinualModel):
    """Slow learner with classifier alignment.

    Slow learner: after the first session the features learn at --backbone_lr_scale times the rate of the head.
    Alignment: every class leaves a Gaussian of its features behind; at the end of a session the head alone is trained
    on draws from the Gaussians of all classes so far, equally many of each. No sample is stored.

    Classes: in a session the loss goes over its own classes alone, in the alignment over all classes so far, with the
    logits of a sample scaled to the length 1 / --logit_temperature (the paper's logit normalisation). A session of one
    class, whose softmax is always 1, is learnt by the alignment alone.

    Scores have no classes, so there each session leaves one Gaussian, of features and score jointly, and a draw brings
    the score with it (utils/gaussians.py). A class is the case of a score that does not vary.

    Source: G. Zhang et al., SLCA: slow learner with classifier alignment for continual learning on a pre-trained model,
    ICCV 2023.
    """

    NAME = "slca"
    COMPATIBILITY = ["class-il", "task-il", "grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add = parser.add_argument_group("alignment").add_argument
        add("--align_steps", type=not_negative, default=100, help="steps of the head at the end of a session")
        add("--align_lr", type=positive_number, help="learning rate of these steps (default: lr)")
        add("--pseudo_samples", type=positive, default=20, help="draws from every Gaussian in such a step")
        add("--covariance_rank", type=positive, help="principal directions kept (default: all, the full covariance)")
        add("--shrinkage", type=float, default=1e-7, help="added to the variance of every feature")
        add("--logit_temperature", type=float, default=0.1, help="classes: of normalised logits; 0: as they are")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.is_score = dataset.SETTING in SCORE_SETTINGS
        dim = self.net.feature_dim
        rank = min(args.covariance_rank or dim, dim)
        n_gaussians = self.n_tasks if self.is_score else self.num_classes
        self.gaussians = JointGaussians(n_gaussians, dim, rank, args.shrinkage).to(self.device)

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        outputs = self.net(inputs)
        if self.is_score:
            return self.step(self.loss(outputs, labels))
        first, end = self.get_offsets()
        return self.step(self.loss(outputs[:, first:end], labels - first))

    def end_task(self, dataset: ContinualDataset) -> None:
        self.net.eval()
        assert dataset.train_loader is not None
        data = dataset.train_loader.dataset
        view = self.normalization_transform
        features, targets = extract_features(
            self.net, data, torch.arange(len(data)), view, self.args.batch_size, self.device
        )
        if self.is_score:
            self.gaussians.fit(self.current_task, features, targets)
        else:
            for label in targets.unique().tolist():
                self.gaussians.fit(label, features[targets == label], targets[targets == label])
        if self.current_task > 0:
            self.align()

    def align(self) -> None:
        """Train the head on pseudo-samples of all sessions so far."""
        generator = named_generator(self.args.seed, "slca", self.current_task)
        self.net.classifier.train()
        with self.optimizer_apart(self.net.head_parameters(), self.args.align_lr):
            for _ in range(self.args.align_steps):
                features, targets = self.gaussians.sample(self.seen, self.args.pseudo_samples, generator)
                self.step(self.alignment_loss(self.net.classifier(features), targets))
        self.net.classifier.eval()

    @property
    def seen(self) -> list[int]:
        """Gaussians that there are: those of the sessions so far, or of the classes that had samples in them."""
        if self.is_score:
            return list(range(self.current_task + 1))
        return self.gaussians.means.any(1).nonzero().flatten().tolist()

    def alignment_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The stream's loss on pseudo-samples; on classes over all classes so far."""
        if self.is_score:
            return self.loss(outputs, targets)
        logits = outputs[:, : self.n_seen_classes]
        if self.args.logit_temperature:
            logits = F.normalize(logits, dim=1) / self.args.logit_temperature
        return self.loss(logits, targets.long())
