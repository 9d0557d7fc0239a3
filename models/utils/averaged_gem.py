"""Base of the methods whose steps may not raise the mean loss on what is remembered."""

from __future__ import annotations

import math
from argparse import ArgumentParser

from torch import Tensor

from models.utils.continual_model import ContinualModel
from utils.args import add_rehearsal_args
from utils.buffer import Buffer
from utils.errors import TrainingError
from utils.gradients import flat_gradient, project_gradient, trained_parameters, with_gradient


class AveragedGEM(ContinualModel):
    """A gradient g that would raise the loss on a draw from the memory loses the part that does.

    With g_ref the gradient on the draw: g - (g'g_ref / g_ref'g_ref) g_ref if g'g_ref < 0, else g. Optimisers other than
    plain SGD step elsewhere than along the gradient they are given, and may raise that loss a little.

    Attributes:
        buffer: what is remembered; a subclass makes and fills it.
    """

    buffer: Buffer

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add_rehearsal_args(parser)
        return parser

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        if self.buffer.is_empty():
            return self.step(self.loss(self.net(inputs), labels))
        parameters = trained_parameters(self.net)
        replayed, targets = self.buffer.get_data(self.minibatch_size, transform=self.transform)
        past = flat_gradient(self.loss(self.net(replayed), targets), parameters)
        loss = self.loss(self.net(inputs), labels)
        gradient = flat_gradient(loss, parameters)
        product = float(past @ gradient)
        if not math.isfinite(product):
            raise TrainingError(
                f"{self.NAME}: gradients are not finite in task {self.current_task + 1}, epoch {self.task_epoch + 1}. "
                "Lower --lr or set --clip_grad"
            )
        self.log(violated=product < 0)
        if product < 0:
            gradient = project_gradient(gradient, past[None])
        return self.step(with_gradient(loss, parameters, gradient))
