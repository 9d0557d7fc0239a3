"""A method on a small stream, driven by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import backbone
import datasets
import models
from utils.args import parse_args
from utils.conf import set_random_seed

SMALL = ["--dataset", "uiprmd", "--n_tasks", "3", "--n_epochs", "1", "--width", "8", "--depth", "3"]


@dataclass
class Driven:
    """What the loop does, one step at a time."""

    model: Any
    dataset: Any

    def begin(self) -> None:
        """Enter the next task and its first epoch."""
        self.dataset.get_data_loaders()
        self.model.meta_begin_task(self.dataset)
        self.begin_epoch(0)

    def begin_epoch(self, epoch: int) -> None:
        self.model.net.train()
        self.model.meta_begin_epoch(epoch, self.dataset)

    def learn(self, after_batch: Callable[[], Any] = lambda: None) -> list[float]:
        """All epochs of the task that has begun, without its end."""
        losses = []
        for epoch in range(self.dataset.get_epochs()):
            self.begin_epoch(epoch)
            for batch in self.dataset.train_loader:
                losses.append(self.model.meta_observe(*batch, epoch=epoch))
                after_batch()
        return losses

    def session(self) -> list[float]:
        """A whole task."""
        self.begin()
        losses = self.learn()
        self.model.meta_end_task(self.dataset)
        return losses

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """(inputs, labels, raw samples) of the first batch of a pass."""
        return next(iter(self.dataset.train_loader))

    def data(self) -> tuple[Tensor, Tensor]:
        """Raw samples and labels of the whole task."""
        data = self.dataset.train_loader.dataset
        return data[np.arange(len(data))][:2]

    def features(self, raw: Tensor) -> Tensor:
        """By the network in evaluation mode, of clean views."""
        self.model.net.eval()
        with torch.no_grad():
            return self.model.net(self.dataset.get_normalization_transform()(raw), returnt="features")


@pytest.fixture
def drive() -> Callable[..., Driven]:
    """Build a method before its first task; options are those of the command line, `change` alters the network."""

    def build(name: str, *options: str, change: Callable[[nn.Module], Any] = lambda net: None) -> Driven:
        args = parse_args(["--model", name, *SMALL, *options])
        dataset = datasets.get_dataset(args)
        set_random_seed(args.seed)
        net = backbone.get_backbone(args)
        change(net)
        return Driven(models.get_model(args, net, dataset.get_loss(), dataset.get_transform(), dataset), dataset)

    return build
