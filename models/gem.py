"""Gradient episodic memory: no step may raise the loss on what is remembered of past tasks."""

from __future__ import annotations

from argparse import ArgumentParser

import torch
from torch import Tensor, nn

from datasets.utils.continual_dataset import ContinualDataset
from models.utils.continual_model import ContinualModel
from utils.args import add_buffer_args, from_zero
from utils.episodes import even_shares, first_samples
from utils.errors import TrainingError
from utils.gradient_slots import overwrite_grad as overwrite_grad
from utils.gradient_slots import project2cone2 as project2cone2
from utils.gradient_slots import store_grad as store_grad
from utils.gradients import flat_gradient, project_gradient, trained_parameters, with_gradient


class GEM(ContinualModel):
    """A gradient that would raise the loss on a past task's memory makes way for the nearest one that raises none.

    The memory of a task is a random draw from its samples, taken when it ends, and every step looks at all of it. The
    buffer is shared evenly among the sessions but the last. Optimisers other than plain SGD step elsewhere than along
    the gradient they are given, and may raise those losses a little.

    Source: D. Lopez-Paz, M. Ranzato, Gradient episodic memory for continual learning, NeurIPS 2017, section 3.
    """

    NAME = "gem"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add_buffer_args(parser)
        parser.add_argument("--gamma", type=from_zero, default=0.5, help="smallest weight of a past task's gradient")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.buffer = self.make_buffer("fill")

    @property
    def n_replayed(self) -> int:
        """Samples of the memory that a step looks at: all."""
        return len(self.buffer)

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        if self.buffer.is_empty():
            return self.step(self.loss(self.net(inputs), labels))
        parameters = trained_parameters(self.net)
        past = self.past_gradients(parameters)
        loss = self.loss(self.net(inputs), labels)
        gradient = flat_gradient(loss, parameters)
        products = past @ gradient
        if not products.isfinite().all():
            raise TrainingError(
                f"gem: gradients are not finite in task {self.current_task + 1}, epoch {self.task_epoch + 1}. "
                "Lower --lr or set --clip_grad"
            )
        self.log(violated=(products < 0).float().mean())
        if (products < 0).any():
            gradient = project_gradient(gradient, past, self.args.gamma)
        return self.step(with_gradient(loss, parameters, gradient))

    def past_gradients(self, parameters: list[nn.Parameter]) -> Tensor:
        """(past tasks with a memory, P) gradients of the losses on each."""
        examples, labels, tasks = self.buffer.get_all_data(transform=self.transform)
        return torch.stack(
            [
                flat_gradient(self.loss(self.net(examples[tasks == task]), labels[tasks == task]), parameters)
                for task in tasks.unique()
            ]
        )

    def end_task(self, dataset: ContinualDataset) -> None:
        if self.current_task == self.n_tasks - 1:
            return
        share = even_shares(self.buffer_capacity, self.n_tasks - 1)[self.current_task]
        assert dataset.train_loader is not None
        for _, labels, raw in first_samples(dataset.train_loader, share):
            self.buffer.add_data(raw, labels=labels, task_labels=torch.full((len(labels),), self.current_task))
