"""What a method is, and what is set for it."""

from __future__ import annotations

import math
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from backbone import ContinualBackbone
from datasets.utils.augment import Transform
from datasets.utils.continual_dataset import ContinualDataset
from utils.buffer import Buffer
from utils.conf import derive_seed, get_device
from utils.errors import TrainingError, UsageError

OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class ContinualModel(nn.Module):
    """Base of all methods: implement `observe`, and `begin_task` and `end_task` where needed.

    Everything a method needs to go on after a stop must be in `state_dict()`: parameters, buffers, submodules that
    exist from the constructor on, and whatever a subclass adds to `get_extra_state`.

    Attributes:
        NAME: as in --model.
        COMPATIBILITY: settings the method works in.
        net: the backbone. opt: the optimiser, anew for every task.
        loss: loss(outputs, labels). transform: raw batch -> network input, augmented.
        normalization_transform: raw batch -> network input, not augmented.
        args, device, dataset: of the run.
        task_iteration, epoch_iteration: batches seen in this task, in this epoch.
        logged: what `log` was given in the current batch.

    Args:
        backbone: the network, moved to the run's device.
        loss: of the stream.
        args: the run's resolved configuration.
        transform: of the stream.
        dataset: the stream.
    """

    NAME: str
    COMPATIBILITY: list[str]

    def __init__(
        self,
        backbone: ContinualBackbone,
        loss: Callable[..., Tensor],
        args: Namespace,
        transform: Callable[[Tensor], Tensor] | None,
        dataset: ContinualDataset,
    ) -> None:
        super().__init__()
        self.args = args
        self.device = get_device(args)
        self.net = backbone.to(self.device)
        self.loss = loss
        self.dataset = dataset
        self.transform: Callable[[Tensor], Tensor] = transform if transform is not None else Transform([])
        self.normalization_transform = dataset.get_normalization_transform()
        self.current_task = 0
        self.n_tasks = dataset.N_TASKS
        self.num_classes = dataset.N_CLASSES
        self.task_iteration = 0
        self.epoch_iteration = 0
        self.logged: dict[str, float] = {}
        self._opt: Any = None

    @staticmethod
    def get_parser(parser: ArgumentParser) -> ArgumentParser:
        """Add the method's own options."""
        return parser

    # What a method implements

    def observe(self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, epoch: int | None = None) -> float:
        """Learn from a batch.

        Args:
            inputs: network inputs, on the device.
            labels: (B,) classes (int64) or scores (float32).
            not_aug_inputs: the raw samples, on the device; what a buffer stores.
            epoch: of the current task.

        Returns:
            The loss.
        """
        raise NotImplementedError

    def begin_task(self, dataset: ContinualDataset) -> None:
        """Called before the first batch of a task; `dataset.train_loader` is the task's."""

    def end_task(self, dataset: ContinualDataset) -> None:
        """Called after the last batch of a task."""

    def begin_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        """Called before the first batch of an epoch."""

    def end_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        """Called after the last batch of an epoch."""

    def forward(self, x: Tensor) -> Tensor:
        """Head outputs for network inputs."""
        return self.net(x)

    # What a method uses

    def get_parameters(self) -> Iterator[nn.Parameter] | list[dict[str, Any]]:
        """What the optimiser trains: parameters, or parameter groups with their own options.

        The features learn at `--backbone_lr_scale` times the rate of the head once the first task is over.
        """
        scale = self._option("backbone_lr_scale", 1.0)
        if scale == 1.0 or self.current_task == 0:
            return self.net.parameters()
        return [
            {"params": self.net.trunk_parameters(), "lr": self.args.lr * scale},
            {"params": self.net.head_parameters()},
        ]

    def get_optimizer(self, params: Any = None, lr: float | None = None) -> torch.optim.Optimizer | None:
        """The optimiser of the run's configuration over `get_parameters()`, or over `params`."""
        params = list(self.get_parameters() if params is None else params)
        if not params:
            return None
        options: dict[str, Any] = {
            "lr": self.args.lr if lr is None else lr,
            "weight_decay": self._option("optim_wd", 0.0),
        }
        name = self._option("optimizer", "sgd")
        if name == "sgd":
            options |= {"momentum": self._option("optim_mom", 0.0), "nesterov": self._option("optim_nesterov", False)}
        try:
            return OPTIMIZERS[name](params, **options)
        except ValueError as error:
            raise UsageError(f"--optimizer {name}: {error}") from error

    @property
    def opt(self) -> Any:
        """The optimiser; made when first needed, so that a subclass's constructor is done by then."""
        if self._opt is None:
            self._opt = self.get_optimizer()
        return self._opt

    @opt.setter
    def opt(self, optimizer: torch.optim.Optimizer | None) -> None:
        self._opt = optimizer

    def make_buffer(self, sample_selection_strategy: str = "reservoir") -> Buffer:
        """A replay buffer of `buffer_capacity` samples with a generator of its own."""
        seed = derive_seed(self._option("seed", 0), "buffer")
        return Buffer(self.buffer_capacity, self.device, sample_selection_strategy, seed=seed)

    @property
    def buffer_capacity(self) -> int:
        """Samples the buffer holds: buffer_size, times the sessions but the last with `--buffer_scope session`."""
        if self._option("buffer_scope", "total") == "session":
            return self.args.buffer_size * max(self.n_tasks - 1, 1)
        return self.args.buffer_size

    @property
    def minibatch_size(self) -> int:
        """Replayed samples a step."""
        return self.dataset.get_minibatch_size()

    def step(self, loss: Tensor) -> float:
        """Backpropagate and update; returns the loss as a number.

        Raises:
            TrainingError: the loss is not finite; nothing is updated.
        """
        value = float(loss.detach())
        if not math.isfinite(value):
            raise TrainingError(
                f"the loss is {value} in task {self.current_task + 1}, epoch {self.task_epoch + 1}, batch "
                f"{self.epoch_iteration + 1}. Lower --lr, set --clip_grad, or look for samples that are not finite"
            )
        self.opt.zero_grad()
        loss.backward()
        limit = self._option("clip_grad", None)
        if limit:
            nn.utils.clip_grad_norm_([p for group in self.opt.param_groups for p in group["params"]], limit)
        self.opt.step()
        return value

    def log(self, **values: Tensor | float) -> None:
        """Record parts of the loss, or anything else about this batch, from within `observe`.

        Means over the epoch go to metrics.jsonl, values of batches to wandb and TensorBoard.

        Raises:
            ValueError: a name that the record of an epoch has already.
        """
        taken = sorted({"event", "task", "epoch", "loss"} & values.keys())
        if taken:
            raise ValueError(f"log: {', '.join(taken)} is recorded anyway; choose another name")
        self.logged |= {
            name: float(value.detach() if isinstance(value, Tensor) else value) for name, value in values.items()
        }

    def get_offsets(self, task: int | None = None) -> tuple[int, int]:
        """(first, end) output of a task's classes; of the current task by default."""
        return self.dataset.get_offsets(self.current_task if task is None else task)

    @property
    def n_past_classes(self) -> int:
        """Classes of the tasks before the current one."""
        return self.get_offsets()[0]

    @property
    def n_seen_classes(self) -> int:
        """Classes of the tasks up to the current one."""
        return self.get_offsets()[1]

    @property
    def n_classes_current_task(self) -> int:
        return self.n_seen_classes - self.n_past_classes

    @property
    def n_remaining_classes(self) -> int:
        return self.num_classes - self.n_seen_classes

    # What the loop calls

    def meta_begin_task(self, dataset: ContinualDataset) -> None:
        """Note the task, let the method prepare, make the optimiser for it."""
        self.current_task = dataset.current_task
        self.task_iteration = self.epoch_iteration = 0
        self.task_epoch = 0
        self.begin_task(dataset)
        self.opt = self.get_optimizer()

    def meta_end_task(self, dataset: ContinualDataset) -> None:
        self.end_task(dataset)

    def meta_begin_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        self.task_epoch = epoch
        self.epoch_iteration = 0
        self.begin_epoch(epoch, dataset)
        if self._option("freeze_bn", False):
            self.net.freeze_batch_norm()

    def meta_end_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        self.end_epoch(epoch, dataset)

    def meta_observe(
        self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, *extras: Tensor, epoch: int | None = None
    ) -> float:
        """Pass a batch of the loader to `observe` and count it.

        Raises:
            TrainingError: the loss that came back is not finite.
        """
        self.logged = {}
        loss = float(self.observe(inputs, labels, not_aug_inputs, epoch=epoch))
        self.task_iteration += 1
        self.epoch_iteration += 1
        if not math.isfinite(loss):
            raise TrainingError(
                f"{self.NAME}: observe returned {loss} in task {self.current_task + 1}, epoch {self.task_epoch + 1}"
            )
        return loss

    task_epoch = 0
    _COUNTERS = ("current_task", "task_iteration", "epoch_iteration", "task_epoch")

    def get_extra_state(self) -> dict[str, Any]:
        """Values beside tensors that a resumed run needs; a subclass adds its own to what this returns."""
        return {name: getattr(self, name) for name in self._COUNTERS}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        for name in self._COUNTERS:
            setattr(self, name, state[name])

    def _option(self, name: str, default: Any) -> Any:
        value = getattr(self.args, name, None)
        return default if value is None else value
