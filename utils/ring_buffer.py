"""A memory of the newest samples."""

from __future__ import annotations

import torch

from utils.buffer import Buffer


class RingBuffer(Buffer):
    """First in, first out.

    Args:
        buffer_size: capacity in samples.
        device: where the content lives.
        n_tasks: tasks of the stream; the memory has no share for each.
        mode: "ring".
    """

    def __init__(
        self, buffer_size: int, device: str | torch.device = "cpu", n_tasks: int | None = None, mode: str = "ring"
    ) -> None:
        super().__init__(buffer_size, device, mode)
