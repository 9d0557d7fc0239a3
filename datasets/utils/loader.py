"""Batches of one task: read raw, moved to the device once, augmented and normalised there."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from datasets.utils.sources import Source
from utils.conf import named_generator
from utils.errors import RunError

Batch = tuple[Tensor, ...]


class TaskData(Dataset):
    """The samples of one task, raw. Indexed by a list of positions, it reads them as one batch.

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
        raw, kept, problems = self.source.read(self.indices[positions])
        positions = torch.from_numpy(positions[kept])
        return raw, self.targets[positions], positions, problems


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
        self._workers: DataLoader | None = None
        self._workers_busy = False
        self._order_for_workers: list[Tensor] = []

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
        for number, (raw, targets, positions, problems) in enumerate(self._read(batches), start):
            for problem in problems:
                self.on_problem(problem)
            if not len(raw):
                continue
            raw = raw.to(self.device, non_blocking=True)
            targets = targets.to(self.device, non_blocking=True)
            inputs = (self.dataset.transform or self.transform)(raw)
            self.positions = positions
            extras = [values[positions].to(self.device, non_blocking=True) for values in self.dataset.fields.values()]
            yield number, ((inputs, targets, raw, *extras) if self.training else (inputs, targets))

    def _read(self, batches: list[Tensor]) -> Iterator[Any]:
        # Worker processes serve one pass at a time; a pass inside a pass is read here.
        if not self.num_workers or self._workers_busy:
            for positions in batches:
                yield self.dataset[positions]
            return
        if self._workers is None:
            self._workers = DataLoader(
                _Picklable(self.dataset),
                sampler=self._order_for_workers,
                batch_size=None,
                num_workers=self.num_workers,
                persistent_workers=True,
                pin_memory=self.device.type == "cuda",
                # Workers seed their generators from this one; the default would draw from the global generator.
                generator=torch.Generator().manual_seed(0),
            )
        self._workers_busy = True
        try:
            self._order_for_workers[:] = batches
            for item in self._workers:
                if isinstance(item, RunError):
                    # A new one: the worker's own, kept alive by its traceback, would hold the workers for seconds.
                    raise type(item)(*item.args)
                yield item
        finally:
            self._workers_busy = False


class _Picklable(Dataset):
    """Hands an error meant for the user back as a value: torch would wrap it in the traceback of the worker."""

    def __init__(self, data: TaskData) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, positions: Any) -> Any:
        try:
            return self.data[positions]
        except RunError as error:
            return error
