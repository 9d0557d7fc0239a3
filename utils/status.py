"""Progress of loops that a method runs by itself, within a task."""

from __future__ import annotations

import sys
import time


class ProgressBar:
    """One line on the terminal, written anew at every step; nothing where the output is no terminal.

    Args:
        joint: whether the loop is over all tasks at once.
        verbose: False to stay silent.
        update_every: steps between two lines.
    """

    def __init__(self, joint: bool = False, verbose: bool = True, update_every: int = 1) -> None:
        self.joint, self.verbose, self.update_every = joint, verbose, max(update_every, 1)
        self.began = time.monotonic()

    def prog(self, i: int, max_iter: int, epoch: int | str, task_number: int | str, loss: float) -> None:
        """Say that step i of max_iter is done."""
        if i == 0:
            self.began = time.monotonic()
        is_last = i + 1 >= max_iter
        if not self.verbose or not sys.stderr.isatty() or (i % self.update_every and not is_last):
            return
        rate = (i + 1) / max(time.monotonic() - self.began, 1e-9)
        task = "joint" if self.joint else f"task {task_number}"
        text = f"\r{task}, epoch {epoch}: {i + 1}/{max_iter}, {rate:.1f} steps/s, loss {loss:.4f} "
        print(text, end="\n" if is_last else "", file=sys.stderr, flush=True)


_bar = ProgressBar()


def progress_bar(i: int, max_iter: int, epoch: int | str, task_number: int | str, loss: float) -> None:
    """`ProgressBar.prog` of a bar that all loops share."""
    _bar.prog(i, max_iter, epoch, task_number, loss)
