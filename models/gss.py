"""Gradient-based sample selection: a memory whose samples pull the network in different directions."""

from __future__ import annotations

from argparse import ArgumentParser
from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from models.utils.continual_model import ContinualModel
from utils.args import add_offer_args, add_rehearsal_args, positive
from utils.checkpoints import evaluation_mode
from utils.errors import TrainingError
from utils.gradients import flat_gradient, trained_parameters
from utils.gss_buffer import FIRST_SCORE, LOWEST_SCORE, contested_place


class GSS(ContinualModel):
    """Experience replay from a memory that prefers samples with gradients unlike those of the others (GSS-Greedy).

    A sample's score is 1 + the largest cosine between the gradient of its loss and those of samples drawn from the
    memory. A full memory is open to scores below 1 only: a place i is drawn in proportion to the scores C stored, and
    given to the new sample, of score c, with probability C_i / (C_i + c). The draw is made once for each batch.

    Gradients are of the network in evaluation mode, of clean views, one backward pass each.

    Source: R. Aljundi et al., Gradient based sample selection for online continual learning, NeurIPS 2019, algorithm 2.
    """

    NAME = "gss"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "general-continual", "grade-il", "group-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add_rehearsal_args(parser)
        add_offer_args(parser)
        parser.add_argument(
            "--batch_num", type=positive, default=1, help="steps, each with a new draw, for every batch"
        )
        parser.add_argument(
            "--gss_minibatch_size", type=positive, help="stored samples to compare with (default: minibatch_size)"
        )
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.buffer = self.make_buffer("fill")

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        losses = []
        for _ in range(self.args.batch_num):
            all_inputs, all_labels = inputs, labels
            if not self.buffer.is_empty():
                replayed, replayed_labels, _ = self.buffer.get_data(self.minibatch_size, transform=self.transform)
                all_inputs, all_labels = torch.cat([inputs, replayed]), torch.cat([labels, replayed_labels])
            losses.append(self.step(self.loss(self.net(all_inputs), all_labels)))
        if self.buffer_capacity and self.is_offered(epoch):
            self.offer(not_aug_inputs, labels)
        return sum(losses) / len(losses)

    def offer(self, raw: Tensor, labels: Tensor) -> None:
        """Fill free places, then let the samples that are left compete for the others, one after the other."""
        scores = self.scores(raw, labels)
        n_free = self.buffer_capacity - len(self.buffer)
        self.buffer.add_data(raw[:n_free], labels=labels[:n_free], scores=scores[:n_free])
        stored, offered, generator = cast(Tensor, self.buffer.scores).cpu(), scores.cpu(), self.buffer.generator
        taken: dict[int, int] = {}
        for i in range(n_free, len(raw)):
            if offered[i] < 1:
                slot = contested_place(stored, offered[i], generator)
                if slot >= 0:
                    taken[slot], stored[slot] = i, offered[i]
        slots, new = (torch.tensor(list(part), dtype=torch.long, device=raw.device) for part in (taken, taken.values()))
        for name, values in {"examples": raw, "labels": labels, "scores": scores}.items():
            getattr(self.buffer, name)[slots] = values[new]

    def scores(self, raw: Tensor, labels: Tensor) -> Tensor:
        """(B,) 1 + largest cosine between a sample's gradient and those of a draw from the memory."""
        if self.buffer.is_empty():
            return torch.full((len(raw),), FIRST_SCORE, device=raw.device)
        size = self.args.gss_minibatch_size or self.minibatch_size
        examples, targets, _ = self.buffer.get_data(size, transform=self.normalization_transform)
        with evaluation_mode(self.net):
            memory = torch.stack(list(self.directions(examples, targets)))
            new = self.directions(self.normalization_transform(raw), labels)
            cosines = torch.stack([(memory @ direction).max() for direction in new])
        if not cosines.isfinite().all():
            raise TrainingError(
                f"gss: gradients are not finite in task {self.current_task + 1}, epoch {self.task_epoch + 1}. "
                "Lower --lr or set --clip_grad"
            )
        return (1 + cosines).clamp(min=LOWEST_SCORE)

    def directions(self, inputs: Tensor, labels: Tensor) -> Iterator[Tensor]:
        """(P,) gradient of each sample's loss, of length 1."""
        parameters = trained_parameters(self.net)
        for sample, label in zip(inputs.split(1), labels.split(1), strict=True):
            yield F.normalize(flat_gradient(self.loss(self.net(sample), label), parameters), dim=0)
