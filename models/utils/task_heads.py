"""A head for every task, trained alone at first and then with the rest of the network, at rates of its own."""

from __future__ import annotations

import math
from argparse import ArgumentParser
from typing import Any

import torch
from torch import Tensor, nn

from datasets.utils.continual_dataset import SCORE_SETTINGS, ContinualDataset
from models.utils.continual_model import ContinualModel
from utils.args import not_negative, positive_number, share, true_or_false
from utils.conf import named_generator
from utils.errors import UsageError


class TaskHeads(ContinualModel):
    """Base of LwF and of what it is compared with.

    On class streams the outputs of a task's classes are its head. Heads are rows of one layer, which is the same as
    layers of their own: a softmax over a slice gives no gradient to other rows, and what weight decay or momentum would
    do to rows that are not being trained is undone after every step. Those are always the rows of classes to come, in
    a warm-up and without `trains_old_heads` also those of past classes. On score streams all tasks share one head.

    A later task may begin with a warm-up, a training of its own of the head alone: everything else, batch-norm
    statistics included, stays as it is, and the optimiser begins anew after it. Its epochs are the first of n_epochs; a
    share of them is rounded down, but to no less than one. --debug_mode, whose tasks have one epoch, leaves it out.

    Raises:
        UsageError: epochs are given as a share where none are counted, or the warm-up takes all of them; or a head of
            one class is to be learnt alone.
    """

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add = parser.add_argument_group("heads of tasks").add_argument
        add("--xavier_head", type=true_or_false, default=False, help="classes: a new head is Xavier normal, bias 0")
        add("--later_lr_mult", type=positive_number, default=1.0, help="learning rate after the first task, times lr")
        add(
            "--lr_drops",
            type=share,
            nargs="*",
            default=[],
            help="shares of each phase, warm-up or not, after which the rate falls to lr_gamma of it, e.g. 0.75",
        )
        add("--base_lr_drops", type=share, nargs="*", help="those of the first task (default: lr_drops)")
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        self.is_score = dataset.SETTING in SCORE_SETTINGS
        by_share = {name: self._option(name, None) for name in ("warmup_epochs", "lr_drops", "base_lr_drops")}
        given = [f"--{name}" for name, value in by_share.items() if value and not isinstance(value, int)]
        if given and self._option("fitting_mode", "epochs") in ("iters", "time"):
            raise UsageError(
                f"{', '.join(given)}: a share of the epochs of a task, which --fitting_mode {args.fitting_mode} knows "
                "nothing of. Leave it out (--lr_drops without a value), or give --warmup_epochs a whole number"
            )
        self._check_warm_up()
        smallest = min(end - first for first, end in map(self.get_offsets, range(self.n_tasks)))
        if not self.is_score and smallest < 2 and not self.compares_heads:
            raise UsageError(
                f"a softmax over one class is always 1: {self.NAME} on tasks of one class {self.ONE_CLASS}"
            )

    def _check_warm_up(self) -> None:
        wanted, n_epochs = self._option("warmup_epochs", 0), self._option("n_epochs", 0)
        mode = self._option("fitting_mode", "epochs")
        if self.n_tasks > 1 and n_epochs and mode not in ("iters", "time") and self._epochs_of(wanted) >= n_epochs:
            raise UsageError(
                f"--warmup_epochs {wanted:g} leaves none of the {n_epochs} epochs of a task for more than its head: "
                "the epochs of the warm-up are part of --n_epochs. Raise --n_epochs, or lower --warmup_epochs"
            )

    ONE_CLASS = "learns nothing; choose a smaller --n_tasks"

    @property
    def compares_heads(self) -> bool:
        """Whether losses go over several heads at once, so that one of a single class can be learnt."""
        return False

    @property
    def trains_old_heads(self) -> bool:
        return False

    @property
    def n_warm_up(self) -> float:
        """Epochs of the current task that train the head alone; there are none in the first task."""
        return self._epochs_of(self._option("warmup_epochs", 0)) if self.current_task > 0 else 0

    def _epochs_of(self, wanted: int | float) -> int:
        """Epochs of a warm-up of a number of epochs or a share of those of a later task."""
        if not wanted or self._option("debug_mode", False):
            return 0
        return max(math.floor(wanted * self.args.n_epochs), 1) if isinstance(wanted, float) else wanted

    @property
    def is_warm_up(self) -> bool:
        return self.task_epoch < self.n_warm_up

    @property
    def is_preparing(self) -> bool:
        """In a warm-up, unless it is the whole task."""
        return self.is_warm_up and math.isfinite(self.n_warm_up)

    def begin_task(self, dataset: ContinualDataset) -> None:
        if self.args.xavier_head and not self.is_score and (self.current_task == 0 or self.n_past_classes > 0):
            first, end = self.get_offsets()
            layer = self.output_layer
            drawn = torch.empty(end - first, layer.in_features)
            nn.init.xavier_normal_(drawn, generator=named_generator(self.args.seed, "new head", self.current_task))
            with torch.no_grad():
                layer.weight[first:end] = drawn.to(layer.weight)
                if layer.bias is not None:
                    layer.bias[first:end] = 0

    def begin_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        if epoch > 0:
            # As a factor, so that a scheduler's doings stay.
            for group in self.opt.param_groups:
                group["lr"] *= self.rate(epoch) / self.rate(epoch - 1)
        if epoch == self.n_warm_up:
            self.opt.state.clear()
        if self.is_warm_up:
            self.net.eval()
            self.net.classifier.train()

    def rate(self, epoch: int) -> float:
        """Learning rate in an epoch of the current task, times lr."""
        is_first, is_warm_up, n_epochs = self.current_task == 0, epoch < self.n_warm_up, self.dataset.get_epochs()
        start, end = (0, min(self.n_warm_up, n_epochs)) if is_warm_up else (self.n_warm_up, n_epochs)
        drops = self.args.lr_drops
        if is_first and self.args.base_lr_drops is not None:
            drops = self.args.base_lr_drops
        n_drops = sum(epoch - start >= round(drop * (end - start)) for drop in drops)
        rate: float = self._option("lr_gamma", 0.1) ** n_drops * (1.0 if is_first else self.args.later_lr_mult)
        return rate * self._option("warmup_lr_mult", 1.0) if is_warm_up else rate

    def get_optimizer(self, params: Any = None, lr: float | None = None) -> torch.optim.Optimizer | None:
        optimizer = super().get_optimizer(params, lr)
        for group in optimizer.param_groups if optimizer is not None else []:
            group["lr"] *= self.rate(self.task_epoch)
        return optimizer

    def outputs_and_features(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Of the network; in a warm-up with a gradient for the head alone."""
        if not self.is_warm_up:
            return self.net(inputs, returnt="both")
        with torch.no_grad():
            features = self.net(inputs, returnt="features")
        return self.net.classifier(features), features

    def new_loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The stream's loss, on class streams over the head of the current task."""
        if self.is_score:
            return self.loss(outputs, labels)
        first, end = self.get_offsets()
        return self.loss(outputs[:, first:end], labels - first)

    @property
    def output_layer(self) -> nn.Linear:
        """The layer whose rows are the heads."""
        return [module for module in self.net.classifier.modules() if isinstance(module, nn.Linear)][-1]

    def step(self, loss: Tensor) -> float:
        if self.is_score:
            return super().step(loss)
        first, end = self.get_offsets()
        if self.trains_old_heads and not self.is_warm_up:
            first = 0
        parameters = list(self.output_layer.parameters())
        before = [parameter.detach().clone() for parameter in parameters]
        value = super().step(loss)
        with torch.no_grad():
            for parameter, kept in zip(parameters, before, strict=True):
                parameter[:first], parameter[end:] = kept[:first], kept[end:]
        return value


def add_warm_up_args(parser: ArgumentParser) -> None:
    """For methods whose later tasks may begin with a warm-up."""
    add = parser.add_argument_group("warm-up").add_argument
    add(
        "--warmup_epochs",
        type=epochs_or_share,
        default=0,
        help="of the n_epochs of a later task, the first that train the head alone: a number, or with a point a share, "
        "e.g. 0.5",
    )
    add("--warmup_lr_mult", type=positive_number, default=1.0, help="their learning rate, times that of the task")


def epochs_or_share(text: str) -> int | float:
    """A whole number of epochs, or with a point a share of them."""
    return share(text) if "." in str(text) else not_negative(text)
