"""A memory of the newest samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from utils.buffer import Buffer
from utils.errors import UsageError


class RingBuffer(Buffer):
    """First in, first out; with `n_tasks`, within the share of the current task, so that other tasks keep theirs.

    A method that gives tasks their shares sets `task_number` when one begins. The places of a task follow those that
    are taken by then: sample n of task t goes to slot t * buffer_portion_size + n % buffer_portion_size, if the tasks
    before have filled their shares.

    Attributes:
        task_number: the task whose share is being filled.
        buffer_portion_size: places of a share; of the whole memory, without `n_tasks`.

    Args:
        buffer_size: capacity in samples.
        device: where the content lives.
        n_tasks: tasks of the stream, each of which has an equal share; None for one share.
        mode: "ring".

    Raises:
        UsageError: there is not a place for every task.
    """

    def __init__(
        self, buffer_size: int, device: str | torch.device = "cpu", n_tasks: int | None = None, mode: str = "ring"
    ) -> None:
        super().__init__(buffer_size, device, mode)
        self.buffer_portion_size = buffer_size // (n_tasks or 1)
        if buffer_size and not self.buffer_portion_size:
            raise UsageError(
                f"a buffer of {buffer_size} has no place for each of {n_tasks} tasks: give --buffer_size {n_tasks} "
                "or more"
            )
        self._task_number = self._share_start = self._n_offered = 0

    @property
    def task_number(self) -> int:
        return self._task_number

    @task_number.setter
    def task_number(self, task: int) -> None:
        if task != self._task_number:
            self._task_number, self._share_start, self._n_offered = int(task), self.n_stored, 0

    def empty(self) -> None:
        super().empty()
        self._share_start = self._n_offered = 0

    def add_data(
        self,
        examples: Tensor,
        labels: Tensor | None = None,
        logits: Tensor | None = None,
        task_labels: Tensor | None = None,
        **more: Tensor,
    ) -> Tensor:
        """As `Buffer.add_data`; of a batch that is larger than the share the last ones stay."""
        optional = {"labels": labels, "logits": logits, "task_labels": task_labels}
        given = {"examples": examples, **{name: value for name, value in optional.items() if value is not None}, **more}
        n, n_seen, share = len(examples), self.num_seen_examples, self.buffer_portion_size
        if not share or share == self.buffer_size:
            return super().add_data(**given)
        slots = torch.full((n,), -1)
        try:
            first = 0
            while first < n:
                # Up to the end of the share, which the base class knows nothing of: to it, the memory is one ring.
                place = (self._n_offered + first) % share
                end = min(first + share - place, n)
                self.num_seen_examples = self._share_start + place
                part = {name: values[first:end] if len(values) == n else values for name, values in given.items()}
                slots[first:end] = super().add_data(**part)
                first = end
        finally:
            self.num_seen_examples = n_seen
        self.num_seen_examples += n
        self._n_offered += n
        slots[: max(n - share, 0)] = -1
        return slots

    def get_extra_state(self) -> dict[str, Any]:
        return {**super().get_extra_state(), "share": [self._task_number, self._share_start, self._n_offered]}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        super().set_extra_state(state)
        self._task_number, self._share_start, self._n_offered = state["share"]
