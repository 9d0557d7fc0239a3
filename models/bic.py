"""Bias correction: two numbers for each task, fitted to held-out samples, take back the favour for its classes."""

from __future__ import annotations

import copy
from argparse import ArgumentParser, ArgumentTypeError

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils import parameters_to_vector

from datasets.utils.continual_dataset import ContinualDataset
from datasets.utils.loader import TaskData
from models.utils.exemplar_replay import ExemplarReplay
from utils.args import from_zero, not_negative, positive_number, true_or_false
from utils.class_losses import counts_of
from utils.conf import named_generator
from utils.exemplars import JoinedData, first_of_each_class
from utils.losses import softened_cross_entropy


class BiC(ExemplarReplay):
    """Outputs z of a task's classes become alpha z + beta; alpha = 1 and beta = 0 until the task is over.

    Stage 1 trains the network with L = lambda L_KD + (1 - lambda) L_CE, lambda = past / seen classes; distillation is
    over the past classes. Stage 2, at the end of every task but the first, fits alpha and beta by cross-entropy to
    samples that stage 1 has not seen: of every class seen, equally many.

    --valset_split of a class's exemplars are held out, at least one, of which there must be two; where they are fewer,
    nothing is held out or corrected. At the end exemplars are taken from all of the task's samples.

    Source: Y. Wu et al., Large scale incremental learning, CVPR 2019.
    """

    NAME = "bic"
    COMPATIBILITY = ["class-il", "task-il"]
    alpha: Tensor
    beta: Tensor

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        ExemplarReplay.get_parser(parser)
        add = parser.add_argument_group("bias correction").add_argument
        add("--bic_epochs", type=not_negative, default=250, help="passes over the held-out samples")
        add("--bic_lr", type=positive_number, default=0.001, help="learning rate of alpha and beta, by Adam")
        add("--valset_split", type=share, default=0.1, help="part of the exemplars of a class that is held out")
        add("--temp", type=positive_number, default=2.0, help="temperature of distillation")
        add("--distill_after_bic", type=true_or_false, default=True, help="the old network's outputs are corrected too")
        add("--wd_reg", type=from_zero, default=0.0, help="weight of the squared norm of all parameters")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.old_net = copy.deepcopy(self.net).requires_grad_(False).eval()
        self.register_buffer("alpha", torch.ones(self.num_classes, device=self.device))
        self.register_buffer("beta", torch.zeros(self.num_classes, device=self.device))
        self.held_out: TaskData | None = None

    def begin_task(self, dataset: ContinualDataset) -> None:
        self.held_out = None
        super().begin_task(dataset)
        self.old_net.load_state_dict(self.net.state_dict())

    def join(self, own: TaskData, examples: Tensor, labels: Tensor) -> TaskData:
        """What stage 1 trains on; the rest becomes `held_out`."""
        counts = torch.cat([part.unique(return_counts=True)[1] for part in (labels, own.targets)])
        n = min(max(round(self.args.valset_split * int(counts[0])), 1), int(counts.min()) - 1)
        if not n:
            return super().join(own, examples, labels)
        generator = named_generator(self.args.seed, "bic", self.current_task)
        parts = []
        for targets in (own.targets, labels):
            order = torch.randperm(len(targets), generator=generator)
            held = torch.zeros(len(targets), dtype=torch.bool)
            held[order[first_of_each_class(targets[order], n)]] = True
            parts.append(held)
        self.held_out = _part(own, examples, labels, *parts)
        return _part(own, examples, labels, *(~held for held in parts))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N_CLASSES) corrected outputs."""
        return self.corrected(self.net(x))

    def corrected(self, outputs: Tensor) -> Tensor:
        """alpha z + beta."""
        return self.alpha * outputs + self.beta

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        outputs, past = self(inputs)[:, : self.n_seen_classes], self.n_past_classes
        loss = self.loss(outputs, labels)
        if past:
            with torch.no_grad():
                old_outputs = self.old_net(inputs)
                if self.args.distill_after_bic:
                    old_outputs = self.corrected(old_outputs)
            distillation = softened_cross_entropy(outputs[:, :past], old_outputs[:, :past], self.args.temp)
            self.log(loss_new=loss, loss_distillation=distillation)
            weight = past / self.n_seen_classes
            loss = (1 - weight) * loss + weight * distillation
        if self.args.wd_reg:
            loss = loss + self.args.wd_reg * parameters_to_vector(self.net.parameters()).square().sum()
        return self.step(loss)

    def end_task(self, dataset: ContinualDataset) -> None:
        if self.held_out is not None:
            self.fit_correction(self.held_out)
        super().end_task(dataset)

    def fit_correction(self, data: TaskData) -> None:
        """Stage 2."""
        self.net.eval()
        first, end = self.get_offsets()
        raw, labels, *_ = data[np.arange(len(data))]
        labels = labels.to(self.device)
        views = (self.normalization_transform(part.to(self.device)) for part in raw.split(self.args.batch_size))
        with torch.no_grad():
            outputs = torch.cat([self(view)[:, :end] for view in views])
        alpha, beta = (torch.full((), value, device=self.device, requires_grad=True) for value in (1.0, 0.0))
        optimizer = torch.optim.Adam([alpha, beta], self.args.bic_lr)
        generator = named_generator(self.args.seed, "bic fit", self.current_task)
        with counts_of(self.loss, labels):
            for _ in range(self.args.bic_epochs):
                for rows in torch.randperm(len(labels), generator=generator).split(self.args.batch_size):
                    old, new = outputs[rows, :first], outputs[rows, first:]
                    optimizer.zero_grad()
                    self.loss(torch.cat([old, alpha * new + beta], dim=1), labels[rows]).backward()
                    optimizer.step()
        self.alpha[first:end], self.beta[first:end] = alpha.detach(), beta.detach()


def share(text: str | float) -> float:
    """A number between 0 and 1, both excluded."""
    value = float(text)
    if not 0 < value < 1:
        raise ArgumentTypeError(f"{value:g} is not between 0 and 1")
    return value


def _part(own: TaskData, examples: Tensor, labels: Tensor, of_own: Tensor, of_exemplars: Tensor) -> TaskData:
    indices, targets, true = own.indices[of_own.numpy()], own.targets[of_own], own.true_targets[of_own]
    some = TaskData(own.source, indices, targets, true_targets=true)
    return JoinedData(some, examples[of_exemplars], labels[of_exemplars])
