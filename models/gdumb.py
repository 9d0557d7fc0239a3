"""GDumb: keep a balanced memory, then learn from nothing but that."""

from __future__ import annotations

from argparse import ArgumentParser

import torch
from torch import Tensor

from backbone import get_backbone
from datasets.utils.continual_dataset import ContinualDataset
from models.utils.continual_model import ContinualModel
from utils.args import add_buffer_args, positive, positive_number
from utils.augmentations import cutmix_data
from utils.batch_norm import bn_track_stats
from utils.class_losses import counts_of
from utils.conf import derive_seed, randomness_apart
from utils.errors import UsageError

FIRST_EPOCH = 0.1


class GDumb(ContinualModel):
    """A greedily balanced memory; at the end of every task a network is trained on it from scratch.

    The stream itself trains nothing; the loss that is recorded is of the network as it stands, which is untrained until
    the first task ends.

    The fitting is `--fitting_epochs` passes over the memory: the first at a tenth of `--maxlr`, the others at rates
    that fall along a cosine from `--maxlr` to `--minlr`, anew after 1, 2, 4, ... epochs. With `--cutmix_alpha` half of
    the batches are mixed.

    Source: A. Prabhu, P. Torr, P. Dokania, GDumb: a simple approach that questions our progress in continual learning,
    ECCV 2020. Rates: I. Loshchilov, F. Hutter, SGDR, ICLR 2017.
    """

    NAME = "gdumb"
    COMPATIBILITY = ["class-il", "task-il"]

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        add_buffer_args(parser)
        add = parser.add_argument_group("fitting").add_argument
        add("--maxlr", type=positive_number, default=0.05, help="highest learning rate")
        add("--minlr", type=positive_number, default=0.0005, help="lowest learning rate")
        add("--fitting_epochs", type=positive, default=256, help="passes over the memory")
        add(
            "--cutmix_alpha", type=positive_number, help="mix with shares from Beta(alpha, alpha) (default: do not mix)"
        )
        return parser

    def __init__(self, backbone, loss, args, transform, dataset) -> None:  # type: ignore[no-untyped-def]
        super().__init__(backbone, loss, args, transform, dataset)
        if args.cutmix_alpha and len(dataset.input_shape) != 3:
            raise UsageError(f"--cutmix_alpha cuts rectangles out of images, which {dataset.NAME} has none of")
        self.buffer = self.make_buffer("class-balanced")

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        # In later epochs of a task these samples have been offered already.
        if not epoch:
            self.buffer.add_data(not_aug_inputs, labels=labels)
        with torch.no_grad(), bn_track_stats(self.net, False):
            return float(self.loss(self.net(inputs), labels))

    def end_task(self, dataset: ContinualDataset) -> None:
        if self.buffer.is_empty():
            return
        # Whatever draws in the fitting, it takes nothing from the generators of the stream.
        seed = derive_seed(getattr(self.args, "seed", 0), "gdumb", self.current_task)
        with randomness_apart(seed), counts_of(self.loss, self.buffer.get_all_data()[1]):
            self.fit_anew()

    def fit_anew(self) -> None:
        """Train a fresh network on the memory."""
        self.net.load_state_dict(get_backbone(self.args).state_dict())
        self.net.train()
        with self.optimizer_apart():
            for rate in self.rates():
                for group in self.opt.param_groups:
                    group["lr"] = rate
                for slots in torch.randperm(len(self.buffer)).split(self.args.batch_size):
                    self.fit(*self.buffer.get_data_by_index(slots, transform=self.transform))

    def fit(self, inputs: Tensor, labels: Tensor) -> None:
        """A step on a batch of the memory."""
        alpha = self.args.cutmix_alpha
        if alpha is None:
            self.step(self.loss(self.net(inputs), labels))
            return
        inputs, labels, pasted, share = cutmix_data(inputs, labels, alpha)
        outputs = self.net(inputs)
        self.step(share * self.loss(outputs, labels) + (1 - share) * self.loss(outputs, pasted))

    def rates(self) -> list[float]:
        """The learning rate of every epoch of the fitting."""
        low, high, n = self.args.minlr, self.args.maxlr, self.args.fitting_epochs
        rates, period = [FIRST_EPOCH * high], 1
        while len(rates) < n:
            way = torch.arange(period, dtype=torch.float64) / period
            rates += (low + (high - low) * (1 + (torch.pi * way).cos()) / 2).tolist()
            period *= 2
        return rates[:n]
