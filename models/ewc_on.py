"""Online elastic weight consolidation."""

from __future__ import annotations

import math
from argparse import ArgumentParser

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from datasets.utils.continual_dataset import SCORE_SETTINGS, ContinualDataset
from models.utils.continual_model import ContinualModel
from utils.args import from_zero
from utils.gradients import mean_squared_gradient, trained_parameters


class OnlineEWC(ContinualModel):
    """L = l(f(x), y) + e_lambda / 2 |theta - theta*|^2 weighted by gamma F*, with theta* where the last task ended.

    After a task F* becomes gamma F* + F, with F the diagonal of the Fisher information: the mean over the task's
    samples, not augmented, network in evaluation mode, of the squared gradient of each one's log-likelihood. On class
    streams it is that of the label (the empirical Fisher information); with a distribution head the loss of the stream
    stands for it. A single output g is the mean of a Gaussian of scores: the gradient of the squared
    error (g - s)^2, squared, has the mean 2 (dg / dtheta)^2 over it. With the true scores in the place of that mean
    (the empirical one) F would vanish where the network fits, and e_lambda have to change with the unit of the scores.

    Mammoth's e_lambda is half of ours, its penalty is without gamma, and its Fisher information counts a sample by the
    likelihood of its label, so that samples which are fitted badly weigh less.

    Source: J. Schwarz et al., Progress & compress, ICML 2018; J. Kirkpatrick et al., Overcoming
    catastrophic forgetting in neural networks, PNAS 114(13), 2017.
    """

    NAME = "ewc-on"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        parser.add_argument("--e_lambda", type=from_zero, default=50.0, help="weight of the penalty")
        parser.add_argument(
            "--gamma", type=float, default=1.0, help="what is left of earlier tasks' Fisher information"
        )
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.anchor: Tensor
        self.fisher: Tensor
        start = parameters_to_vector(trained_parameters(self.net)).detach()
        self.register_buffer("anchor", start.clone())
        self.register_buffer("fisher", torch.zeros_like(start))

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        loss = self.loss(self.net(inputs), labels)
        if self.current_task > 0:
            penalty = self.args.e_lambda / 2 * self.distance()
            self.log(penalty=penalty)
            loss = loss + penalty
        return self.step(loss)

    def distance(self) -> Tensor:
        """Squared distance from where the last task ended, weighted by gamma F*."""
        position = parameters_to_vector(trained_parameters(self.net))
        return self.args.gamma * (self.fisher * (position - self.anchor).square()).sum()

    def log_likelihood(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What has the squared gradient that F is made of, up to its sign."""
        if outputs.shape[1] == 1 and self.dataset.SETTING in SCORE_SETTINGS:
            return math.sqrt(2) * outputs.sum()
        return self.loss(outputs, labels)

    def end_task(self, dataset: ContinualDataset) -> None:
        self.net.eval()
        assert dataset.train_loader is not None
        samples = ((self.normalization_transform(raw), labels) for _, labels, raw in dataset.train_loader)
        fisher = mean_squared_gradient(self.net, self.log_likelihood, samples)
        self.fisher.mul_(self.args.gamma).add_(fisher)
        self.anchor.copy_(parameters_to_vector(trained_parameters(self.net)).detach())
