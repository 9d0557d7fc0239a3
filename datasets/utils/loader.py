"""Batches of one task: read raw, moved to the device once, augmented and normalised there."""

from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datasets.utils.sources import Source
from utils.conf import named_generator
from utils.errors import STOP_SIGNALS, RunError

Batch = tuple[Tensor, ...]


class TaskData(Dataset):
    """The samples of one task, raw. Indexed by a list of positions, it reads them as one batch.

    A data set that makes the inputs itself gives them as a fifth value; no transform is applied then.

    Attributes:
        source: where the samples are.
        indices: (n,) positions in the source.
        targets: (n,) labels or scores, as methods are given them.
        difficulty: (n,) degrees of difficulty, where the stream has them.
        scores: (n,) float64 scores as judged, on score streams. Targets are scaled and rounded, which breaks ties.
        true_targets: (n,) what `targets` are without label noise and without missing labels, for analysis: those of a
            batch are `loader.dataset.true_targets[loader.positions]`.
        transform: of raw batches, in place of the loader's; None unless a method may set one (`OpenData`).
        fields: further values of every sample by name, (n, ...) tensors; none unless a method adds some (`OpenData`).
    """

    transform: Callable[[Tensor], Tensor] | None = None

    def __init__(
        self,
        source: Source,
        indices: np.ndarray,
        targets: Tensor,
        difficulty: np.ndarray | None = None,
        scores: np.ndarray | None = None,
        true_targets: Tensor | None = None,
    ) -> None:
        self.source = source
        self.indices = np.asarray(indices)
        self.targets = targets
        self.difficulty = difficulty
        self.scores = scores
        self.true_targets = targets if true_targets is None else true_targets
        self.fields: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def data(self) -> Any:
        """All samples in one array, in the layout of torchvision's data sets: uint8 images (n, H, W, C), or (n, H, W)
        of one channel; samples of other kinds as they are. Read when asked for.

        Raises:
            ValueError: a sample could not be read.
        """
        raw, _, problems = self.source.read(self.indices)
        if problems:
            raise ValueError(f"samples cannot be seen as one array, some are unreadable: {problems[0]}")
        if raw.dtype != torch.uint8 or raw.ndim != 4:
            return raw.numpy()
        return raw[:, 0].numpy() if raw.shape[1] == 1 else raw.permute(0, 2, 3, 1).numpy()

    def __getitem__(self, positions: Any) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """(raw samples, targets, positions within the task, messages about samples that could not be read)."""
        positions = np.atleast_1d(np.asarray(positions))
        return self.labelled(positions, *self.source.read(self.indices[positions]))

    def labelled(
        self, positions: np.ndarray, raw: Tensor, kept: list[int], problems: list[str]
    ) -> tuple[Tensor, Tensor, Tensor, list[str]]:
        """What reading these positions by a list gives, of what the source has read for them."""
        read = torch.from_numpy(positions[kept])
        return raw, self.targets[read], read, problems


class Readers:
    """Processes that read ahead, from the first pass on to the end of the run. They serve one pass at a time.

    Attributes:
        busy: whether they serve one now.

    Args:
        read: from an array of positions to what is there; called in the processes.
        num_workers: how many processes.
        pin_memory: whether tensors are to lie where a GPU can fetch them.
    """

    def __init__(self, read: Callable[[np.ndarray], Any], num_workers: int, pin_memory: bool) -> None:
        self.busy = False
        self._batches: list[np.ndarray] = []
        self._workers = DataLoader(
            _Picklable(read),
            sampler=self._batches,
            batch_size=None,
            num_workers=num_workers,
            persistent_workers=True,
            pin_memory=pin_memory,
            worker_init_fn=_leave_signals_to_the_run,
            # Workers seed their generators from this one; the default would draw from the global generator.
            generator=torch.Generator().manual_seed(0),
        )

    def read(self, batches: Sequence[np.ndarray]) -> Iterator[Any]:
        """What is at each of these arrays of positions, in turn."""
        self.busy = True
        try:
            self._batches[:] = batches
            for item in self._workers:
                if isinstance(item, RunError):
                    # A new one: the worker's own, kept alive by its traceback, would hold the workers for seconds.
                    raise type(item)(*item.args)
                yield item
        finally:
            self.busy = False


class StreamLoader:
    """Iterates over one task.

    Training loaders yield (inputs, labels, not_aug_inputs, *extras): inputs after `transform`, on the device;
    not_aug_inputs is the raw batch on the device, not a copy; extras are the rows of the samples in `dataset.fields`.
    Test loaders (`training=False`) keep the order and yield (inputs, labels).

    The order of the i-th pass is a function of the seed, the task and i alone, so a pass can be taken up in its middle:
    set `passes` and call `iterate(start=number of the next batch)`.

    Attributes:
        positions: (B,) which samples of `dataset` are in the batch that was yielded last.

    Args:
        data: samples of the task.
        batch_size: samples a batch; the last batch may be smaller.
        transform: applied to the raw batch on the device.
        device: where batches go.
        training: with the raw batch, if True.
        shuffled: whether every pass has a random order; training loaders are unless told otherwise.
        seed_names: (seed, *names) that identify the order of this loader.
        num_workers: processes that read ahead; 0 reads in this process.
        readers: processes of the source that its loaders share; without them this loader starts `num_workers` of its
            own, as it does for data that is more than a selection from the source.
        on_problem: called with the message about each sample that could not be read.
    """

    def __init__(
        self,
        data: TaskData,
        batch_size: int,
        transform: Callable[[Tensor], Tensor],
        device: torch.device,
        training: bool,
        seed_names: Sequence[Any],
        num_workers: int = 0,
        on_problem: Callable[[str], None] | None = None,
        shuffled: bool | None = None,
        readers: Readers | None = None,
    ) -> None:
        self.dataset = data
        self.batch_size = batch_size
        self.transform = transform
        self.device = device
        self.training = training
        self.shuffled = training if shuffled is None else shuffled
        self.seed_names = tuple(seed_names)
        self.num_workers = num_workers
        self.on_problem = on_problem or (lambda message: None)
        self.passes = 0
        self.positions = torch.empty(0, dtype=torch.long)
        self._shared_readers = readers
        self._own_readers: Readers | None = None

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        return (batch for _, batch in self.iterate())

    def iterate(self, start: int = 0, stop: int | None = None) -> Iterator[tuple[int, Batch]]:
        """Begin the next pass at batch number `start`, end it before `stop`; yields (batch number, batch)."""
        order = self._order(self.passes)
        self.passes += 1
        return self._batches(list(order.split(self.batch_size))[start:stop] if len(order) else [], start)

    def _order(self, pass_number: int) -> Tensor:
        n = len(self.dataset)
        if not self.shuffled:
            return torch.arange(n)
        seed, *names = self.seed_names
        return torch.randperm(n, generator=named_generator(seed, *names, pass_number))

    def _batches(self, batches: list[Tensor], start: int) -> Iterator[tuple[int, Batch]]:
        for number, (raw, targets, positions, problems, *made) in enumerate(self._read(batches), start):
            for problem in problems:
                self.on_problem(problem)
            if not len(raw):
                continue
            raw = raw.to(self.device, non_blocking=True)
            targets = targets.to(self.device, non_blocking=True)
            if made:
                inputs = made[0].to(self.device, non_blocking=True)
            else:
                inputs = (self.dataset.transform or self.transform)(raw)
            self.positions = positions
            extras = [values[positions].to(self.device, non_blocking=True) for values in self.dataset.fields.values()]
            yield number, ((inputs, targets, raw, *extras) if self.training else (inputs, targets))

    def _read(self, batches: list[Tensor]) -> Iterator[Any]:
        data = self.dataset
        positions = [batch.numpy() for batch in batches]
        if self._shared_readers is not None and type(data) is TaskData:
            readers: Readers | None = self._shared_readers
            wanted = [data.indices[batch] for batch in positions]
        else:
            readers, wanted = self._readers_of_own(), positions
        if readers is None or readers.busy:
            # A pass inside a pass is read here.
            for batch in positions:
                yield data[batch]
            return
        for batch, item in zip(positions, readers.read(wanted), strict=True):
            yield data.labelled(batch, *item) if readers is self._shared_readers else item

    def _readers_of_own(self) -> Readers | None:
        if self.num_workers and self._own_readers is None:
            self._own_readers = Readers(self.dataset.__getitem__, self.num_workers, self.device.type == "cuda")
        return self._own_readers


def _leave_signals_to_the_run(worker: int) -> None:
    """A time limit or a preemption reaches all processes of a job. The run then ends with a checkpoint, for which the
    batch that it is at must still arrive; what ends this process is a SIGTERM of the run itself."""
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)

    def wait() -> None:
        while True:
            told = signal.sigwaitinfo(STOP_SIGNALS)
            if told.si_signo == signal.SIGTERM and told.si_pid == os.getppid():
                os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


class _Picklable(Dataset):
    """Hands an error meant for the user back as a value: torch would wrap it in the traceback of the worker."""

    def __init__(self, read: Callable[[np.ndarray], Any]) -> None:
        self.read = read

    def __getitem__(self, positions: Any) -> Any:
        try:
            return self.read(positions)
        except RunError as error:
            return error
