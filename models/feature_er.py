"""Feature-ER: experience replay of features instead of samples."""

from __future__ import annotations

from argparse import ArgumentParser

from torch import Tensor

from models.utils.feature_replay import FeatureReplay
from utils.args import from_zero


class FeatureER(FeatureReplay):
    """L = l(g(f(x)), y) + alpha l(g(h), y'), with features h that earlier sessions stored, replayed as they are.

    Nothing keeps stored features where the network's are: what MAGR does about that is measured against this. The less
    the network moves after the first session (--backbone_lr_scale, 0.1 by default, 0 to stop), the longer they are
    good for.
    """

    NAME = "feature-er"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        FeatureReplay.get_parser(parser)
        parser.add_argument("--alpha", type=from_zero, default=1.0, help="weight of replay")
        return parser

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        loss = self.loss(self.net(inputs), labels)
        if not self.buffer.is_empty():
            features, replayed_labels, *_ = self.buffer.get_data(self.minibatch_size)
            replay = self.loss(self.net.classifier(features), replayed_labels)
            loss = loss + self.args.alpha * replay
            self.log(loss_replay=replay)
        return self.step(loss)
