"""Feature-MER: meta-experience replay of features instead of samples."""

from __future__ import annotations

from argparse import ArgumentParser

from torch import Tensor

from models.utils.feature_replay import FeatureReplay
from utils.args import positive
from utils.gradients import trained_parameters
from utils.reptile import reptile


class FeatureMER(FeatureReplay):
    """MER with features from earlier sessions in the place of replayed samples; they pass through the head only.

    For every batch of the stream there are `batch_num` rounds. A round draws `minibatch_size` stored features, makes
    one step of the optimiser for every `batch_size` of them and one more for the batch of the stream, then keeps only
    `beta` of the way from where it began (within-batch Reptile). When all rounds are over, `gamma` of the way from
    where the first began is kept (across-batch Reptile). As in feature-er, nothing keeps stored features where the
    network's are.

    Source: M. Riemer et al., Learning to learn without forgetting by maximizing transfer and minimizing interference,
    ICLR 2019, algorithm 1.
    """

    NAME = "feature-mer"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        FeatureReplay.get_parser(parser)
        parser.add_argument("--batch_num", type=positive, default=3, help="rounds of replay for every batch")
        parser.add_argument("--beta", type=float, default=0.5, help="share of the way that a round goes")
        parser.add_argument("--gamma", type=float, default=1.0, help="share of the way that all rounds go")
        return parser

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        parameters, losses = trained_parameters(self.net), []
        with reptile(parameters, self.args.gamma):
            for _ in range(self.args.batch_num):
                with reptile(parameters, self.args.beta):
                    for features, targets in self.replay():
                        losses.append(self.step(self.loss(self.net.classifier(features), targets)))
                    losses.append(self.step(self.loss(self.net(inputs), labels)))
        return sum(losses) / len(losses)

    def replay(self) -> list[tuple[Tensor, Tensor]]:
        """Drawn features and labels, in groups of the batch size."""
        if self.buffer.is_empty():
            return []
        features, labels, *_ = self.buffer.get_data(self.minibatch_size)
        size = self.dataset.get_batch_size()
        return list(zip(features.split(size), labels.split(size), strict=True))
