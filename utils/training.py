"""The loop: for every task, for every epoch, for every batch, observe; evaluate; record."""

from __future__ import annotations

import resource
import time
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from datasets.utils.continual_dataset import SEMI_SUPERVISED
from utils.checkpoints import load_checkpoint, module_modes, save_checkpoint, set_module_modes
from utils.conf import get_rng_state, set_rng_state
from utils.early_stopping import EarlyStopping
from utils.errors import DataError, StorageError
from utils.evaluate import evaluate as evaluate
from utils.evaluate import mask_classes as mask_classes
from utils.registry import imports_explained
from utils.results import Results
from utils.run import Run

if TYPE_CHECKING:
    from datasets.utils.continual_dataset import ContinualDataset
    from models.utils.continual_model import ContinualModel
    from utils.callbacks import Callback


class Loop:
    """Trains a method on a stream. Its position is part of the checkpoint, so it can begin anywhere.

    Attributes:
        task, epoch, batch: what comes next.
        step: batches observed since the beginning, over all tasks.
        in_task, in_epoch: whether the task and the epoch that come next have begun already.
        stopped: whether a callback has ended the task before its last epoch.
    """

    def __init__(
        self, model: ContinualModel, dataset: ContinualDataset, args: Namespace, run: Run, callbacks: Sequence[Callback]
    ) -> None:
        self.model, self.dataset, self.args, self.run, self.callbacks = model, dataset, args, run, list(callbacks)
        if args.fitting_mode == "early_stopping":
            self.callbacks.insert(0, EarlyStopping(args))
        dataset.gives_unlabelled = SEMI_SUPERVISED in model.COMPATIBILITY
        self.results = Results(dataset, type(model))
        self.scheduler: Any = None
        self.task = self.epoch = self.batch = 0
        self.in_task = self.in_epoch = self.started = self.stopped = False
        self.pass_number = 0
        self.step = 0
        self.sums: dict[str, list[float]] = {}
        self.peak_memory: dict[str, int] = {}
        self.seconds_before = self.task_seconds_before = 0.0
        self.began = self.task_began = time.monotonic()
        self.save_is_proven = False

    @imports_explained()
    def train(self) -> Results:
        """Run to the end, or to `--stop_after`."""
        if not self.started:
            if not self.args.loadcheck:
                self.results.measure_untrained(self.model)
            self.started = True
        self.emit("train_begin")
        while self.task < min(self.args.stop_after or self.dataset.N_TASKS, self.dataset.N_TASKS):
            if not self.in_task:
                self.enter_task()
            while self.in_epoch or not self.task_is_over:
                self.train_epoch()
            self.leave_task()
        self.emit("train_end")
        return self.results

    def enter_task(self) -> None:
        self.task_seconds_before, self.task_began = 0.0, time.monotonic()
        self.dataset.get_data_loaders()
        if self.is_skipped:
            # The weights know this task already: the method's hooks would store and project its samples again.
            self.model.current_task = self.task
        else:
            self.model.meta_begin_task(self.dataset)
            self.scheduler = self.dataset.get_scheduler(self.model, self.args)
        self.epoch, self.in_task, self.stopped = 0, True, False
        self.emit("task_begin")

    def train_epoch(self) -> None:
        loader, model = self.dataset.train_loader, self.model
        assert loader is not None
        if not self.in_epoch:
            model.net.train()
            model.meta_begin_epoch(self.epoch, self.dataset)
            self.batch, self.pass_number, self.in_epoch = 0, loader.passes, True
            self.sums = {}
            batches = loader.iterate(stop=self.dataset.n_batches)
        else:
            passes = loader.passes
            loader.passes = self.pass_number
            batches = loader.iterate(self.batch, self.dataset.n_batches)
            loader.passes = passes
        # An epoch that has begun has a batch, however late it is.
        while not (self.sums and self.budget_is_spent) and (following := next(batches, None)) is not None:
            number, batch = following
            loss = model.meta_observe(*batch, epoch=self.epoch)
            for name, value in {"loss": loss, **model.logged}.items():
                total, n = self.sums.get(name, (0.0, 0))
                self.sums[name] = [total + value, n + 1]
            self.batch, self.step = number + 1, self.step + 1
            self.emit("batch_end", loss=loss)
        if not self.sums:
            raise DataError(f"no training sample of {self.dataset.names[self.task]} could be read")
        model.meta_end_epoch(self.epoch, self.dataset)
        if self.scheduler is not None:
            self.scheduler.step()
        means = {name: total / n for name, (total, n) in self.sums.items()}
        self.run.record(event="epoch", task=self.task, epoch=self.epoch, **means)
        self.epoch, self.in_epoch = self.epoch + 1, False
        self.emit("epoch_end", loss=means["loss"])

    def leave_task(self) -> None:
        if self.is_skipped:
            self.results.skip_session()
        else:
            self.emit("task_trained")
            self.model.meta_end_task(self.dataset)
            predictions = self.results.measure_session(self.model)
            self.run.write_session(self.results, predictions)
            self.run.record(event="session", **self.results.sessions[-1])
        self.task, self.epoch, self.in_task = self.task + 1, 0, False
        self.emit("task_end")

    @property
    def task_is_over(self) -> bool:
        """Whether no further epoch of the task begins."""
        if self.args.fitting_mode in ("iters", "time") and not self.args.debug_mode:
            return self.is_skipped or self.budget_is_spent
        return self.is_skipped or self.stopped or self.epoch >= self.dataset.get_epochs()

    @property
    def budget_is_spent(self) -> bool:
        """Whether the task has had its iterations or its time, where that is what limits it."""
        if self.args.fitting_mode == "iters":
            return self.model.task_iteration >= self.args.n_iters
        return self.args.fitting_mode == "time" and self.task_seconds >= self.args.fitting_time

    @property
    def n_planned_batches(self) -> int | None:
        """Batches of the task, at most; None where a time limits it."""
        if self.args.fitting_mode == "time":
            return None
        epochs = 0 if self.is_skipped else self.dataset.get_epochs()
        planned = epochs * self.dataset.n_batches
        return min(planned, self.args.n_iters) if self.args.fitting_mode == "iters" else planned

    @property
    def is_skipped(self) -> bool:
        """Whether `--start_from` leaves the task out."""
        return self.task < self.args.start_from

    @property
    def seconds(self) -> float:
        """Time spent so far, over all parts of a resumed run."""
        return self.seconds_before + time.monotonic() - self.began

    @property
    def task_seconds(self) -> float:
        """Time since the task began, over all parts of a resumed run."""
        return self.task_seconds_before + time.monotonic() - self.task_began

    def measure_memory(self) -> dict[str, int]:
        """Largest resident memory of the process and largest allocation on the GPU so far, in bytes, over all parts."""
        now = {"peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}
        if self.model.device.type == "cuda":
            now["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated(self.model.device)
        self.peak_memory |= {name: max(value, self.peak_memory.get(name, 0)) for name, value in now.items()}
        return self.peak_memory

    def emit(self, event: str, **values: Any) -> None:
        """Tell every callback."""
        for callback in self.callbacks:
            getattr(callback, f"on_{event}")(self, **values)

    # Stopping and going on

    _POSITION = ("task", "epoch", "batch", "in_task", "in_epoch", "started", "stopped", "pass_number", "step", "sums")

    def save(self) -> None:
        """Write the checkpoint that `--resume` reads."""
        loader, opt = self.dataset.train_loader, self.model._opt
        path = self.run.path / "checkpoint.pt"
        save_checkpoint(
            path,
            {
                "position": {name: getattr(self, name) for name in self._POSITION},
                "passes": loader.passes if loader is not None else 0,
                "model": self.model.state_dict(),
                "modes": module_modes(self.model),
                "opt": opt.state_dict() if opt is not None else None,
                "scheduler": self.scheduler.state_dict() if self.scheduler is not None else None,
                "dataset": self.dataset.state_dict(),
                "results": self.results.state_dict(),
                "callbacks": {type(part).__name__: state for part in self.callbacks if (state := part.state_dict())},
                "n_records": self.run.n_records,
                "cost": {"seconds": self.seconds, "task_seconds": self.task_seconds, **self.measure_memory()},
                "rng": get_rng_state(),
            },
        )
        if not self.save_is_proven:
            # A method may keep state that can be written but not read back; better to hear of it now than at a resume.
            load_checkpoint(path)
            self.save_is_proven = True

    def restore(self) -> None:
        """Go to where the checkpoint was written; to the beginning if the run was stopped before the first one.

        Raises:
            StorageError: the checkpoint is damaged or does not fit the run's configuration.
        """
        path = self.run.path / "checkpoint.pt"
        if not self.run.has_checkpoint:
            self.run.rewind_records(0)
            return
        state = load_checkpoint(path)
        for name, value in state["position"].items():
            setattr(self, name, value)
        self.run.rewind_records(state["n_records"])
        self.results.load_state_dict(state["results"])
        for part in self.callbacks:
            if type(part).__name__ in state.get("callbacks", {}):
                part.load_state_dict(state["callbacks"][type(part).__name__])
        self.dataset.load_state_dict(state["dataset"])
        if self.dataset.train_loader is not None:
            self.dataset.train_loader.passes = state["passes"]
        try:
            self.model.load_state_dict(state["model"])
            set_module_modes(self.model, state["modes"])
            if state["opt"] is not None:
                optimizer = self.model.get_optimizer()
                assert optimizer is not None
                optimizer.load_state_dict(state["opt"])
                self.model.opt = optimizer
            if state["scheduler"] is not None:
                self.scheduler = self.dataset.get_scheduler(self.model, self.args)
                self.scheduler.load_state_dict(state["scheduler"])
                self.model.opt.load_state_dict(state["opt"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise StorageError(f"{path} does not fit this run: {error}") from error
        self.peak_memory = dict(state["cost"])
        self.seconds_before = self.peak_memory.pop("seconds")
        self.task_seconds_before = self.peak_memory.pop("task_seconds", 0.0)
        self.began = self.task_began = time.monotonic()
        set_rng_state(state["rng"])
