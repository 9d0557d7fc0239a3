"""What a method is, and what is set for it."""

from __future__ import annotations

import ast
import contextlib
import functools
import inspect
import math
import sys
import textwrap
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from backbone import ContinualBackbone
from datasets.utils.augment import Transform
from datasets.utils.continual_dataset import DEBUG_BATCHES, ContinualDataset
from datasets.utils.open_data import open_data
from utils.augmentations import OneOrMany
from utils.buffer import Buffer
from utils.class_losses import ClassLoss, sampled_counts
from utils.conf import derive_seed, get_device
from utils.errors import StorageError, TrainingError, UsageError
from utils.plain_state import PlainState
from utils.second_stage import second_stage
from utils.token_replay import TokenBuffer, TokenReplay, token_replay

# What methods of this project use and the base class of Mammoth's methods has not.
OURS = frozenset(
    {"step", "log", "make_buffer", "buffer_capacity", "minibatch_size", "optimizer_apart", "take_head", "is_offered"}
)
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class ContinualModel(nn.Module):
    """Base of all methods: implement `observe`, and `begin_task` and `end_task` where needed.

    Everything a method needs to go on after a stop must be in `state_dict()`: parameters, buffers, submodules that
    exist from the constructor on, and whatever a subclass adds to `get_extra_state`.

    A method written for Mammoth runs as it stands. It is told by a constructor that can do without `dataset`; a plugin
    is one too, unless it derives from a method of this project, or its constructor requires `dataset` and it uses what
    only this class offers (`OURS`). It gets what it expects: raw samples as floats in [0, 1]; a
    `train_loader.dataset` with `data`, `targets`, `transform` and samples by index (datasets/utils/open_data.py), to
    which fields for `observe` may be added; transforms that also take a single sample; an optimiser that stays if it
    made one itself. State that it keeps in plain attributes is part of the checkpoint as far as it is made of values
    and tensors (utils/plain_state.py); where it is not, a note says so and `--resume` refuses.

    Attributes:
        NAME: as in --model.
        COMPATIBILITY: settings the method works in.
        OWN_LOSS, OWN_HEAD: whether it learns a classifier by a loss, or with a head, of its own, so that --cls_loss,
            --cls_head and --stage2 cannot choose one. A head may be given by its type, which then has the second stages
            that there are for it.
        NEEDS_LINEAR_HEAD: whether heads that divide by the lengths of weight vectors do not go with it.
        net: the backbone. opt: the optimiser, anew for every task.
        loss: loss(outputs, labels). transform: raw batch -> network input, augmented.
        normalization_transform: raw batch -> network input, not augmented.
        token_replay: with --replay features; what the two transforms are then, and raw samples its codes.
        args, device, dataset: of the run.
        cpt: N_CLASSES_PER_TASK of the stream.
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
    OWN_LOSS = False
    OWN_HEAD: type[nn.Module] | bool = False
    NEEDS_LINEAR_HEAD = False

    def __init__(
        self,
        backbone: ContinualBackbone,
        loss: Callable[..., Tensor],
        args: Namespace,
        transform: Callable[[Tensor], Tensor] | None,
        dataset: ContinualDataset | None = None,
    ) -> None:
        super().__init__()
        dataset = vars(self).get("dataset") if dataset is None else dataset
        if dataset is None:
            raise TypeError(f"{type(self).__name__}: no stream; pass dataset=, or build it with models.get_model")
        self.args = args
        self.device = get_device(args)
        self.net = backbone.to(self.device)
        self.loss = loss
        self.dataset = dataset
        self.transform: Callable[[Tensor], Tensor] = transform if transform is not None else Transform([])
        self.normalization_transform: Callable[[Tensor], Tensor] = dataset.get_normalization_transform()
        if self.is_mammoth_style():
            n_dims = len(dataset.input_shape)
            self.transform = OneOrMany(self.transform, n_dims)
            self.normalization_transform = OneOrMany(self.normalization_transform, n_dims)
            self.original_transform = self.transform
            self.N_TASKS, self.N_CLASSES, self.SETTING = dataset.N_TASKS, dataset.N_CLASSES, dataset.SETTING
        self.current_task = 0
        self.n_tasks = dataset.N_TASKS
        self.num_classes = dataset.N_CLASSES
        self.cpt = dataset.N_CLASSES_PER_TASK
        self.task_iteration = 0
        self.epoch_iteration = 0
        self.logged: dict[str, float] = {}
        self._opt: Any = None
        self.second_stage = second_stage(self)
        self.token_replay: TokenReplay | None = token_replay(self)
        if self.token_replay is not None:
            self.transform = self.normalization_transform = self.token_replay
        self._opt_was_set = self._opt_is_own = False
        self._plain_state: PlainState | None = None

    @classmethod
    @functools.cache
    def is_mammoth_style(cls) -> bool:
        """Whether the method is written for Mammoth; see above."""
        owner = next(base for base in cls.__mro__ if "__init__" in vars(base))
        if owner is ContinualModel:
            return cls.__module__.startswith("plugin_")
        dataset = inspect.signature(vars(owner)["__init__"]).parameters.get("dataset")
        if dataset is None or dataset.default is not dataset.empty:
            return True
        classes = [
            base for base in cls.__mro__[: cls.__mro__.index(ContinualModel)] if issubclass(base, ContinualModel)
        ]
        return all(base.__module__.startswith("plugin_") for base in classes) and not any(map(_uses_ours, classes))

    @classmethod
    @functools.cache
    def takes_task(cls) -> bool:
        """Whether `forward` is to be given the task of the samples, by its number: as its second argument, one that it
        cannot do without or, in a method that does not declare class-il, one that is called after the task."""
        second = list(inspect.signature(cls.forward).parameters.values())[2:3]
        return any(
            part.kind in (part.POSITIONAL_ONLY, part.POSITIONAL_OR_KEYWORD)
            and (part.default is part.empty or ("task" in part.name and "class-il" not in cls.COMPATIBILITY))
            for part in second
        )

    @classmethod
    def needs_task(cls) -> bool:
        """Whether it has no answer among the classes of all tasks: it does not declare class-il, or takes the task."""
        return "class-il" not in cls.COMPATIBILITY or cls.takes_task()

    def constructed(self, dataset: ContinualDataset) -> None:
        """Called by `models.get_model` when the constructor is done."""
        # Some methods of Mammoth make a stream of their own in the constructor.
        self.dataset = dataset
        self._opt_is_own = self._opt_was_set
        if self.is_mammoth_style():
            self._plain_state = PlainState(self)

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
        """Head outputs for network inputs; after a task with --stage2 those of the classifier made for evaluation."""
        if self.second_stage is not None and self.second_stage.is_of(self.current_task):
            return self.second_stage(self.net(x, returnt="features"))
        return self.net(x)

    @property
    def is_preparing(self) -> bool:
        """Whether the current epoch only prepares the task, so that early stopping is not to judge by it."""
        return False

    # What a method uses

    def take_head(self, head: nn.Module) -> None:
        """Let the network end in a head of the method's own, of the type `OWN_HEAD`; for the constructor."""
        self.net.classifier = head.to(self.device)
        self.second_stage = second_stage(self)

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
        decay = self._option("base_optim_wd", None) if self.current_task == 0 else None
        options: dict[str, Any] = {
            "lr": self.args.lr if lr is None else lr,
            "weight_decay": self._option("optim_wd", 0.0) if decay is None else decay,
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
        self._opt_was_set = True

    @contextlib.contextmanager
    def optimizer_apart(self, params: Any = None, lr: float | None = None) -> Iterator[None]:
        """Another optimiser for the block, as `get_optimizer` makes it. That of the task stays the model's own: a
        checkpoint after the task holds its state."""
        of_task, self.opt = self.opt, self.get_optimizer(params, lr)
        try:
            yield
        finally:
            self.opt = of_task

    def make_buffer(self, sample_selection_strategy: str = "reservoir") -> Buffer:
        """A replay buffer of `buffer_capacity` samples with a generator of its own."""
        seed = derive_seed(self._option("seed", 0), "buffer")
        if self.token_replay is not None:
            return TokenBuffer(
                self.token_replay, self.buffer_capacity, self.device, sample_selection_strategy, seed=seed
            )
        return Buffer(self.buffer_capacity, self.device, sample_selection_strategy, seed=seed)

    @property
    def buffer_capacity(self) -> int:
        """Samples the buffer holds: buffer_size, times the sessions but the last with `--buffer_scope session`."""
        if self._option("buffer_scope", "total") == "session":
            return self.args.buffer_size * max(self.n_tasks - 1, 1)
        return self.args.buffer_size

    def is_offered(self, epoch: int | None) -> bool:
        """Whether samples of this epoch are offered to the memory (--offer_epochs)."""
        return not epoch or self._option("offer_epochs", "first") == "every"

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

    def autolog_wandb(self, local_variables: dict[str, Any], extra: dict[str, Any] | None = None) -> None:
        """Mammoth's way to record a step: every number among the local variables whose name has "loss" in it."""
        named = {name: value for name, value in local_variables.items() if "loss" in name.lower() and name != "loss"}
        for name, value in {**named, **(extra or {})}.items():
            if isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1):
                self.log(**{name: value})

    def get_offsets(self, task: int | None = None) -> tuple[int, int]:
        """(first, end) output of a task's classes; of the current task by default."""
        return self.dataset.get_offsets(self.current_task if task is None else task)

    compute_offsets = get_offsets

    def get_debug_iters(self) -> int:
        """Batches of an epoch with `--debug_mode`."""
        return DEBUG_BATCHES

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
        if self.is_mammoth_style():
            open_data(dataset.train_loader)
        self._opt_was_set = False
        self.begin_task(dataset)
        self._opt_is_own |= self._opt_was_set and self.is_mammoth_style()
        if not self._opt_is_own:
            self._opt = self.get_optimizer()

    def meta_end_task(self, dataset: ContinualDataset) -> None:
        self.end_task(dataset)
        # Older methods of Mammoth count tasks themselves, and have the next one's number by now.
        self.current_task = dataset.current_task
        if self.second_stage is not None:
            self.second_stage.fit(self)
        lost = self._lost_state()
        if lost and self.current_task == 0:
            print(
                f"note: {self.NAME} keeps {', '.join(lost)} where no checkpoint reaches: if this run is stopped, it "
                "cannot be continued with --resume",
                file=sys.stderr,
            )

    def meta_begin_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        self.task_epoch = epoch
        self.epoch_iteration = 0
        if isinstance(self.loss, ClassLoss):
            self.loss.begin_epoch(epoch, sampled_counts(self))
        self.begin_epoch(epoch, dataset)
        if self._option("freeze_bn", False):
            self.net.freeze_batch_norm()

    def meta_end_epoch(self, epoch: int, dataset: ContinualDataset) -> None:
        self.end_epoch(epoch, dataset)
        scheduler = getattr(self, "scheduler", None)
        if self.is_mammoth_style() and isinstance(scheduler, torch.optim.lr_scheduler.LRScheduler):
            scheduler.step()

    def meta_observe(
        self, inputs: Tensor, labels: Tensor, not_aug_inputs: Tensor, *extras: Tensor, epoch: int | None = None
    ) -> float:
        """Pass a batch of the loader to `observe` and count it.

        Raises:
            UsageError: what came back is no number.
            TrainingError: the loss that came back is not finite.
        """
        self.logged = {}
        if self.token_replay is not None:
            inputs, not_aug_inputs = self.token_replay.encode(not_aug_inputs)
        more = {"epoch": epoch, **self._named(extras)}
        function = getattr(self.observe, "__func__", self.observe)
        returned = self.observe(inputs, labels, not_aug_inputs, **_accepted(function, more))
        try:
            loss = float(returned)
        except (TypeError, ValueError, RuntimeError):
            shown = f"a tensor of shape {list(returned.shape)}" if isinstance(returned, Tensor) else repr(returned)
            raise UsageError(f"{self.NAME}: observe returned {shown}, not the loss of the batch: one number") from None
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
        state: dict[str, Any] = {name: getattr(self, name) for name in self._COUNTERS}
        if self._plain_state is not None:
            values, _ = self._plain_state.changed(self)
            state |= {"plain": values, "lost": self._lost_state(), "copies": self._plain_state.copies(self)}
            loader = self.dataset.train_loader
            state["data"] = open_data(loader).state() if loader is not None else None
        return state

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Put back what `get_extra_state` returned.

        Raises:
            StorageError: the method had state that no checkpoint could hold.
        """
        if state.get("lost"):
            raise StorageError(
                f"{self.NAME} kept {', '.join(state['lost'])} where no checkpoint reaches, so this run cannot be "
                "continued: start it anew. A method that is to be continued keeps its state in parameters, buffers, "
                "submodules or plain values"
            )
        if self._plain_state is not None:
            self._plain_state.restore(self, state.get("plain", {}), state.get("copies", []))
            loader = self.dataset.train_loader
            if loader is not None and state.get("data") is not None:
                open_data(loader).load_state(state["data"])
        for name in self._COUNTERS:
            setattr(self, name, state[name])

    def _lost_state(self) -> list[str]:
        """Names of what a resumed run would lack."""
        if self._plain_state is None:
            return []
        loader = self.dataset.train_loader
        was_set = loader is not None and open_data(loader).transform_was_set
        own = [name for name, is_own in (("opt", self._opt_is_own), ("transform of samples", was_set)) if is_own]
        return sorted({*self._plain_state.changed(self)[1], *own})

    def _named(self, extras: tuple[Tensor, ...]) -> dict[str, Tensor]:
        """The further tensors of a batch of the training loader by the names that they were added under."""
        loader = self.dataset.train_loader
        return dict(zip(loader.dataset.fields, extras, strict=True)) if extras and loader is not None else {}

    def _option(self, name: str, default: Any) -> Any:
        value = getattr(self.args, name, None)
        return default if value is None else value


def _uses_ours(cls: type) -> bool:
    """Whether a class reads an attribute of `OURS` from `self` that it does not set itself."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    except (OSError, TypeError, SyntaxError):
        return False  # made at run time: there is no text of it
    own = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "self"]
    read, written = ({node.attr for node in own if isinstance(node.ctx, kind)} for kind in (ast.Load, ast.Store))
    return bool(OURS & read - written - vars(cls).keys())


def _accepted(function: Callable[..., Any], values: dict[str, Any]) -> dict[str, Any]:
    """The keyword arguments that a function takes."""
    names = _keywords(function)
    return values if names is None else {name: value for name, value in values.items() if name in names}


@functools.cache
def _keywords(function: Callable[..., Any]) -> frozenset[str] | None:
    """Names of a function's parameters, None if it takes any; looked up once, as it is asked for at every batch."""
    parameters = inspect.signature(function).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    return None if takes_any else frozenset(parameters)
