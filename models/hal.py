"""Hindsight anchor learning: points that would be forgotten most are kept where they are."""

from __future__ import annotations

import copy
from argparse import ArgumentParser

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.utils.continual_dataset import SCORE_SETTINGS, ContinualDataset
from models.utils.continual_model import ContinualModel
from utils.args import add_offer_args, add_rehearsal_args, from_zero, share
from utils.buffer import Buffer
from utils.conf import named_generator
from utils.gradients import flat_gradient, trained_parameters, with_gradient
from utils.reptile import reptile

ANCHOR_STEPS = 100


class HAL(ContinualModel):
    """L = l(f(x), y) + hal_lambda |f(e) - f~(e)|^2, with x from the batch and a reservoir, e all anchors so far.

    f~ is the network after a plain gradient step on l: what the step would do to the anchors counts against it.

    When a task ends it leaves an anchor for each of its classes (on score streams, one for its mean score), made by
    gradient steps from noise: e minimises l(f(e), y) - l(f_M(e), y) + gamma |phi(e) - phi_t|^2. f_M, a copy of f that
    went once over the buffer, stands for a network that has forgotten; phi are features, phi_t their running mean over
    the batches of the task, of which each leaves a share of beta. An empty buffer makes no anchors.

    Source: A. Chaudhry et al., Using hindsight to anchor past knowledge in continual learning, AAAI 2021, section 3.
    """

    NAME = "hal"
    COMPATIBILITY = ["class-il", "task-il", "domain-il", "grade-il", "group-il"]
    phi: Tensor

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add_rehearsal_args(parser)
        add_offer_args(parser)
        parser.add_argument("--hal_lambda", type=from_zero, default=0.1, help="weight of the change at the anchors")
        parser.add_argument("--beta", type=share, default=0.5, help="share of the mean embedding that a batch leaves")
        parser.add_argument("--gamma", type=from_zero, default=0.1, help="weight of the mean embedding in an anchor")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.buffer = self.make_buffer()
        n_anchors = sum(end - first for first, end in map(self.get_offsets, range(self.n_tasks)))
        self.anchors = Buffer(n_anchors, self.device, "fill")
        self.register_buffer("phi", torch.zeros(self.net.feature_dim, device=self.device))

    def begin_task(self, dataset: ContinualDataset) -> None:
        self.phi.zero_()

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        all_inputs, all_labels = inputs, labels
        if not self.buffer.is_empty():
            replayed, replayed_labels = self.buffer.get_data(self.minibatch_size, transform=self.transform)
            all_inputs, all_labels = torch.cat([inputs, replayed]), torch.cat([labels, replayed_labels])
        loss = self.loss(self.net(all_inputs), all_labels)
        value = self.step(loss if self.anchors.is_empty() else self.anchored(loss))
        with torch.no_grad():
            embedding = self.net(inputs, returnt="features").mean(0)
            self.phi.mul_(self.args.beta).add_(embedding, alpha=1 - self.args.beta)
        if self.is_offered(epoch):
            self.buffer.add_data(not_aug_inputs, labels=labels)
        return value

    def anchored(self, loss: Tensor) -> Tensor:
        """The loss with the change at the anchors that a step on it alone would make."""
        parameters = trained_parameters(self.net)
        gradient = flat_gradient(loss, parameters)
        loss = with_gradient(loss, parameters, gradient)
        if not gradient.isfinite().all():
            # Refused by the step; along it there would be no way back.
            return loss
        rates = {p: group["lr"] for group in self.opt.param_groups for p in group["params"]}
        anchors, _ = self.anchors.get_all_data()
        with torch.no_grad(), reptile(parameters, 0.0):
            for parameter, part in zip(parameters, gradient.split([p.numel() for p in parameters]), strict=True):
                parameter.sub_(rates[parameter] * part.view_as(parameter))
            target = self.net(anchors)
        change = F.mse_loss(self.net(anchors), target)
        self.log(loss_stream=loss, loss_anchors=change)
        return loss + self.args.hal_lambda * change

    def end_task(self, dataset: ContinualDataset) -> None:
        if self.buffer.is_empty():
            return
        assert dataset.train_loader is not None
        targets = dataset.train_loader.dataset.targets
        labels = targets.mean().view(1) if dataset.SETTING in SCORE_SETTINGS else targets.unique()
        labels = labels.to(self.device)
        anchors = self.make_anchors(labels)
        # Network inputs, not samples: what counts the labels of a memory is not to count theirs.
        self.anchors.add_data(anchors, anchor_labels=labels)

    def make_anchors(self, labels: Tensor) -> Tensor:
        """An anchor for each label, in the form of network inputs."""
        forgetful = self.forgetful()
        network = copy.deepcopy(self.net).requires_grad_(False).eval()
        sample = self.buffer.get_data_by_index(torch.zeros(1), transform=self.normalization_transform)[0]
        generator = named_generator(getattr(self.args, "seed", 0), "anchors", self.current_task)
        anchors = torch.rand(len(labels), *sample.shape[1:], generator=generator).to(self.device).requires_grad_()
        optimizer = torch.optim.SGD([anchors], lr=self.args.lr)
        for _ in range(ANCHOR_STEPS):
            outputs, features = network(anchors, returnt="both")
            # Losses are means over samples; every anchor has an objective of its own.
            forgetting = len(labels) * (self.loss(forgetful(anchors), labels) - self.loss(outputs, labels))
            objective = self.args.gamma * (features - self.phi).square().sum() - forgetting
            optimizer.zero_grad()
            objective.backward()
            optimizer.step()
        return anchors.detach()

    def forgetful(self) -> torch.nn.Module:
        """f_M: the network after plain gradient steps over the buffer, once."""
        network = copy.deepcopy(self.net)
        optimizer = torch.optim.SGD(network.parameters(), lr=self.args.lr)
        for slots in torch.randperm(len(self.buffer), generator=self.buffer.generator).split(self.minibatch_size):
            inputs, labels = self.buffer.get_data_by_index(slots, transform=self.transform)
            optimizer.zero_grad()
            self.loss(network(inputs), labels).backward()
            optimizer.step()
        return network.requires_grad_(False).eval()
