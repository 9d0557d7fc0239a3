"""What cuts across the loop: each callback listens to its events; how training goes, only early stopping changes."""

from __future__ import annotations

import signal
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from utils.checkpoints import save_checkpoint
from utils.errors import STOP_SIGNALS, Interrupted
from utils.run import Run
from utils.tables import HEADLINES

if TYPE_CHECKING:
    from utils.training import Loop


class Callback:
    """Events of the loop; override what you need."""

    def on_train_begin(self, loop: Loop) -> None:
        """Before the first batch of this process; also on a resumed run."""

    def on_task_begin(self, loop: Loop) -> None:
        """After the method's begin_task."""

    def on_batch_end(self, loop: Loop, loss: float) -> None:
        """After every observe."""

    def on_epoch_end(self, loop: Loop, loss: float) -> None:
        """After every epoch, with its mean loss."""

    def on_task_trained(self, loop: Loop) -> None:
        """After the last batch of a task, before the method's end_task; not for a task that is skipped."""

    def on_task_end(self, loop: Loop) -> None:
        """After the method's end_task and the evaluation; `loop.task` is the next task already."""

    def on_train_end(self, loop: Loop) -> None:
        """After the last task."""

    def close(self, error: BaseException | None) -> None:
        """When this process leaves the loop, whatever the reason: `error` is what ended it, None at the end."""

    def state_dict(self) -> dict[str, Any]:
        """What the checkpoint must hold for a resumed run, as plain values and tensors."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""


@contextmanager
def closing(callbacks: Sequence[Callback]) -> Iterator[None]:
    """Tell every callback how the block ended."""
    error: BaseException | None = None
    try:
        yield
    except BaseException as caught:
        error = caught
        raise
    finally:
        for callback in callbacks:
            callback.close(error)


class Progress(Callback):
    """A bar for each task, and its figures when it is done."""

    def __init__(self, silent: bool) -> None:
        self.silent = silent
        self.bar: tqdm | None = None

    def on_train_begin(self, loop: Loop) -> None:
        if loop.in_task:
            self.on_task_begin(loop)

    def on_task_begin(self, loop: Loop) -> None:
        name = "all tasks" if loop.args.joint else loop.dataset.names[loop.task]
        title = f"{name} ({loop.task + 1}/{loop.dataset.N_TASKS})"
        self.bar = tqdm(
            total=loop.n_planned_batches,
            initial=0 if loop.is_skipped else loop.model.task_iteration,
            desc=title,
            unit="batch",
            disable=self.silent,
            leave=True,
            mininterval=0.5,
        )

    def on_batch_end(self, loop: Loop, loss: float) -> None:
        assert self.bar is not None
        if not self.bar.disable and self.bar.n % 10 == 0:
            self.bar.set_postfix(epoch=loop.epoch + 1, loss=f"{loss:.4g}", refresh=False)
        self.bar.update()

    def on_task_end(self, loop: Loop) -> None:
        if self.bar is not None:
            self.bar.close()
        figures = loop.results.sessions[-1] if loop.results.sessions else {}
        shown = ", ".join(
            f"{key} {value:.2f}"
            for key, value in figures.items()
            # The parts of an open-vocabulary method have a figure each: those are for metrics.jsonl.
            if isinstance(value, float) and (key in HEADLINES or not key.startswith("open_"))
        )
        tqdm.write(f"after session {loop.task}: {shown}", file=sys.stdout)


class Checkpoints(Callback):
    """Writes the checkpoint for `--resume` every so many seconds, after every task, and when asked to stop.

    The first Ctrl-C, SIGTERM or SIGUSR1 lets the current batch end, saves and raises `Interrupted`; a second Ctrl-C
    stops at once, and the run goes on from the checkpoint before.
    """

    def __init__(self, every_seconds: float) -> None:
        self.every_seconds = every_seconds
        self.last = time.monotonic()
        self.received: int | None = None
        self.previous = {number: signal.signal(number, self._note) for number in STOP_SIGNALS}

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
        print("\nstopping after this batch ...", file=sys.stderr)

    def on_batch_end(self, loop: Loop, loss: float) -> None:
        if self.received is not None or time.monotonic() - self.last >= self.every_seconds:
            self._save(loop)

    def on_epoch_end(self, loop: Loop, loss: float) -> None:
        if self.received is not None:
            self._save(loop)

    def on_task_end(self, loop: Loop) -> None:
        self._save(loop)

    def _save(self, loop: Loop) -> None:
        loop.save()
        self.last = time.monotonic()
        if self.received is not None:
            name = signal.Signals(self.received).name
            raise Interrupted(f"stopped by {name}; continue with: --resume {loop.run.path}", self.received)

    def close(self, error: BaseException | None) -> None:
        """Give the signals back to whoever had them."""
        for number, handler in self.previous.items():
            signal.signal(number, handler)


class KeepWeights(Callback):
    """`--savecheck`: the method's weights after every task or after the last, for `--loadcheck`."""

    def __init__(self, args: Namespace, run: Run) -> None:
        self.every_task = args.savecheck == "task"
        self.folder = Path(args.checkpoint_path) / run.path.name if args.checkpoint_path else run.path / "checkpoints"

    def on_task_end(self, loop: Loop) -> None:
        if self.every_task:
            self._keep(loop, f"task-{loop.task}.pt")

    def on_train_end(self, loop: Loop) -> None:
        self._keep(loop, "last.pt")

    def _keep(self, loop: Loop, name: str) -> None:
        save_checkpoint(self.folder / name, {"model": loop.model.state_dict(), "task": loop.task})


class EvaluateEpochs(Callback):
    """`--eval_epochs N`: figures on all tasks seen so far, every N epochs, in metrics.jsonl."""

    def __init__(self, every: int) -> None:
        self.every = every

    def on_epoch_end(self, loop: Loop, loss: float) -> None:
        if loop.epoch % self.every == 0:
            figures = loop.results.measure_seen(loop.model)
            loop.run.record(event="evaluation", task=loop.task, epoch=loop.epoch - 1, **figures)
