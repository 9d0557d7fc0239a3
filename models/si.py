"""Synaptic intelligence: parameters that reduced the loss of past tasks are held in place."""

from __future__ import annotations

from argparse import ArgumentParser

import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.continual_model import ContinualModel
from utils.args import from_zero, positive_number
from utils.gradients import flat_gradient, trained_parameters, with_gradient


class SI(ContinualModel):
    """L = l(f(x), y) + c sum Omega (theta - theta*)^2, with theta* where the last task ended.

    Along a task's path every parameter gathers omega = -sum g dtheta, its share in the decrease of the loss: g is the
    gradient of the stream's loss alone, before clipping, and dtheta what the optimiser really did. After the task Omega
    grows by omega / (Dtheta^2 + xi), Dtheta being how far the parameter has come.

    Source: F. Zenke et al., Continual learning through synaptic intelligence, ICML 2017, equations 3-5.
    """

    NAME = "si"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        parser.add_argument("--c", type=from_zero, default=1.0, help="weight of the penalty")
        parser.add_argument("--xi", type=positive_number, default=0.1, help="damping for parameters that hardly moved")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.anchor: Tensor
        self.importance: Tensor
        self.path: Tensor
        for name in ("anchor", "importance", "path"):
            self.register_buffer(name, torch.zeros_like(self.position()))

    def position(self) -> Tensor:
        """(P,) a copy of the trained parameters."""
        return parameters_to_vector(trained_parameters(self.net)).detach()

    def begin_task(self, dataset: ContinualDataset) -> None:
        self.anchor.copy_(self.position())
        self.path.zero_()

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        parameters = trained_parameters(self.net)
        loss = self.loss(self.net(inputs), labels)
        gradient = flat_gradient(loss, parameters)
        before = self.position()
        distance = parameters_to_vector(parameters) - self.anchor
        penalty = self.args.c * (self.importance * distance.square()).sum()
        self.log(penalty=penalty)
        value = self.step(with_gradient(loss, parameters, gradient) + penalty)
        self.path -= gradient * (self.position() - before)
        return value

    def end_task(self, dataset: ContinualDataset) -> None:
        moved = self.position() - self.anchor
        self.importance += self.path / (moved.square() + self.args.xi)
        # Where the loss rose along the path the penalty would reward moving on, without bound.
        self.importance.clamp_(min=0)
