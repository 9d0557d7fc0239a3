"""Experiment trackers: `Tracking` decides what of a run is logged, a writer for each tracker how.

Everything is logged against `step`, the number of batches observed since the beginning of the run. A tracker never
decides whether a run succeeds: the first call that fails switches its writer off with a message, and training goes on
to the same bits.
"""

from __future__ import annotations

import json
import math
import sys
import uuid
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from utils.callbacks import Callback
from utils.config import as_dict
from utils.errors import Interrupted, RunError, StorageError, UsageError
from utils.files import write_text
from utils.run import read_json
from utils.stored_runs import StoredRun
from utils.wandb_offline import what_is_missing

if TYPE_CHECKING:
    from argparse import Namespace

    from matplotlib.figure import Figure

    from utils.training import Loop

EVERY_BATCHES = 10
INIT_SECONDS = 30
FINISH_SECONDS = 60


def check_installed(args: Namespace) -> None:
    """Refuse a run that could not be tracked as it was asked to be.

    Raises:
        UsageError: TensorBoard is asked for and not installed.
    """
    if args.tensorboard and find_spec("tensorboard") is None:
        raise UsageError("--tensorboard needs tensorboard: pip install -r requirements-sweeps.txt")


class Tracking(Callback):
    """Logs a run to wandb (`--wandb_project`) and TensorBoard (`--tensorboard`)."""

    def __init__(self, args: Namespace) -> None:
        self.kinds: list[type[WandbWriter] | type[TensorBoardWriter]] = []
        if args.wandb_project and not args.nowand and args.wandb_mode != "disabled":
            self.kinds.append(WandbWriter)
        if args.tensorboard:
            self.kinds.append(TensorBoardWriter)
        self.writers: list[WandbWriter | TensorBoardWriter] = []
        self.sums: dict[str, tuple[float, int]] = {}
        self.step = 0
        self.draws = True

    def on_train_begin(self, loop: Loop) -> None:
        for kind in self.kinds:
            try:
                self.writers.append(kind(loop))
            except Exception as error:
                _say(f"{kind.name} is left out, it did not start: {_reason(error)}")

    def on_batch_end(self, loop: Loop, loss: float) -> None:
        if not self.writers:
            return
        values = {"loss": loss, **loop.model.logged}
        if loop.model._opt is not None:
            values["learning_rate"] = loop.model._opt.param_groups[0]["lr"]
        for name, value in values.items():
            total, n = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + value, n + 1)
        self.step = loop.step
        if loop.step % EVERY_BATCHES == 0:
            self._flush()

    def on_epoch_end(self, loop: Loop, loss: float) -> None:
        means = {f"epoch/{name}": total / n for name, (total, n) in loop.sums.items()}
        self._tell("scalars", means | {"epoch/epoch": float(loop.epoch), "epoch/task": float(loop.task + 1)}, loop.step)

    def on_task_end(self, loop: Loop) -> None:
        figures = loop.results.sessions[-1] if loop.results.sessions else {}
        if not self.writers or figures.get("session") != loop.task - 1:
            return
        names = loop.dataset.names
        self._tell("scalars", flat(figures, names, "session/"), loop.step)
        for name in loop.results.matrices:
            matrix = loop.results.matrix(name).tolist()
            rows = [[i, *(None if math.isnan(cell) else cell for cell in row)] for i, row in enumerate(matrix)]
            self._tell("table", f"R_{name}", ["session", *names], rows, loop.step)
        try:
            for name, pixels in draw(loop) if self.draws else ():
                self._tell("image", name, pixels, loop.step)
        except Exception as error:
            self.draws = False
            _say(f"figures are left out of the logs: {_reason(error)}")

    def on_train_end(self, loop: Loop) -> None:
        self._tell("summary", flat(loop.results.summary(), loop.dataset.names), loop.step)

    def close(self, error: BaseException | None) -> None:
        self._flush()
        self._tell("close", error)

    def _flush(self) -> None:
        means = {f"batch/{name}": total / n for name, (total, n) in self.sums.items()}
        self.sums = {}
        if means:
            self._tell("scalars", means, self.step)

    def _tell(self, what: str, *values: Any) -> None:
        for writer in list(self.writers):
            try:
                getattr(writer, what)(*values)
            except Exception as error:
                self.writers.remove(writer)
                _say(f"{writer.name} is switched off, training is not affected: {_reason(error)}")


class WandbWriter:
    """Weights & Biases. Asks for no login; goes offline where there is no key or no server."""

    name = "wandb"

    def __init__(self, loop: Loop) -> None:
        import wandb

        self.wandb, args, path = wandb, loop.args, loop.run.path.resolve()
        mode = args.wandb_mode
        # Silent from the start, or it reports where it found the key.
        known = wandb.setup(wandb.Settings(silent=True)).settings
        if mode == "online" and (missing := what_is_missing(known)):
            mode = "offline"
            _say(f"wandb goes offline: {missing}. Upload later with: python scripts/wandb_sync.py {loop.run.path}")
        settings = wandb.Settings(silent=True, console="off", reinit="create_new", init_timeout=INIT_SECONDS)
        settings.finish_timeout, settings.finish_timeout_raises = FINISH_SECONDS, True
        tags = [loop.dataset.NAME, args.model, loop.dataset.SETTING]
        options = {
            "project": args.wandb_project,
            "entity": args.wandb_entity,
            "name": args.wandb_name or path.name,
            "id": run_id(path, args.wandb_project, args.wandb_entity),
            "resume": "allow",
            "dir": str(path),
            "config": {**as_dict(args), "environment": read_json(path / "environment.json")},
            "tags": tags + ["stand-in"] * loop.dataset.IS_STAND_IN,
            "group": f"{args.model}-{loop.dataset.NAME}",
            "job_type": "train",
            "settings": settings,
        }
        try:
            self.run = wandb.init(mode=mode, **options)
        except Exception as error:
            if mode == "offline":
                raise
            _say(f"wandb goes offline: {_reason(error)}")
            # The attempt still occupies the id.
            wandb.teardown()
            self.run = wandb.init(mode="offline", **options)
        # wandb's own step only counts what is logged: after a resumption it says nothing about training.
        self.run.define_metric("batch")
        self.run.define_metric("*", step_metric="batch")

    def scalars(self, values: dict[str, float], step: int) -> None:
        self.run.log({**values, "batch": step})

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self.run.log({name: self.wandb.Image(pixels), "batch": step})

    def table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        table = self.wandb.Table(columns=list(columns), data=list(rows))
        # Bound beforehand it is a file of the run, as images are. Otherwise wandb makes it an artifact, and asks the
        # server about that while training waits.
        table.bind_to_run(self.run, name, step)
        self.run.log({name: table, "batch": step})

    def summary(self, values: dict[str, float], step: int) -> None:
        self.run.summary.update(values)

    def close(self, error: BaseException | None) -> None:
        code = exit_code(error)
        if isinstance(error, Interrupted) and code != 130:
            # A scheduler took the machine away, not the user: a W&B sweep may start the run again.
            self.run.mark_preempting()
        try:
            self.run.finish(exit_code=code)
        except TimeoutError as late:
            rest = f"wandb sync --include-online {Path(self.run.dir).parent}"
            raise StorageError(f"not all was uploaded within {FINISH_SECONDS} s; later: {rest}") from late


class TensorBoardWriter:
    """Event files in RUN/tensorboard."""

    name = "tensorboard"

    def __init__(self, loop: Loop) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What a crashed part logged after its last checkpoint is about to be logged again.
        purge = loop.step + 1 if loop.args.resume else None
        self.writer = SummaryWriter(str(loop.run.path / "tensorboard"), purge_step=purge, flush_secs=10)
        rows = [f"|{key}|{value}|" for key, value in as_dict(loop.args).items()]
        self.writer.add_text("config", "\n".join(["|option|value|", "|---|---|", *rows]), loop.step)

    def scalars(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def image(self, name: str, pixels: np.ndarray, step: int) -> None:
        self.writer.add_image(name, pixels, step, dataformats="HWC")

    def table(self, name: str, columns: list[str], rows: list[list[Any]], step: int) -> None:
        lines = [columns, ["---"] * len(columns), *rows]
        text = ["|" + "|".join("" if cell is None else str(cell) for cell in line) + "|" for line in lines]
        self.writer.add_text(name, "\n".join(text), step)

    def summary(self, values: dict[str, float], step: int) -> None:
        self.scalars({f"summary/{name}": value for name, value in values.items()}, step)

    def close(self, error: BaseException | None) -> None:
        self.writer.close()


def run_id(path: Path, project: str, entity: str | None) -> str:
    """The wandb id of the run in a folder: made once, then read from its wandb.json."""
    known = read_json(path / "wandb.json")
    current = {"id": known.get("id") or uuid.uuid4().hex[:12], "project": project, "entity": entity}
    if current != known:
        write_text(path / "wandb.json", json.dumps(current, indent=1) + "\n")
    return str(current["id"])


def flat(figures: dict[str, Any], names: list[str], prefix: str = "") -> dict[str, float]:
    """One number per name: `prefix` + name for single figures, "<figure>/<task>" for figures of every task; undefined
    ones are left out."""
    values: dict[str, Any] = {}
    for key, value in figures.items():
        if isinstance(value, list | tuple):
            values |= {f"{key}/{name}": item for name, item in zip(names, value, strict=False)}
        else:
            values[prefix + key] = value
    numbers = {key: float(value) for key, value in values.items() if isinstance(value, int | float)}
    return {key: value for key, value in numbers.items() if math.isfinite(value)}


def draw(loop: Loop) -> Iterator[tuple[str, np.ndarray]]:
    """The figures of the latest session: task matrices, on score streams predictions against truth.

    Raises:
        UsageError: matplotlib is not installed.
    """
    from utils.figures import scatter_figure, task_matrix_figure

    results, names, session = loop.results, loop.dataset.names, loop.task - 1
    for name in results.matrices:
        yield f"matrix/{name}", pixels(task_matrix_figure(results.matrix(name), names, f"{name} [%]"))
    if results.is_score:
        found = StoredRun(loop.run.path).predictions(session)
        # The next task is measured as well, for forward transfer; it is not part of the pooled figures.
        seen = found["task"] < len(results.sessions[-1][results.main])
        outputs, truth, task = (found[key][seen] for key in ("outputs", "truth", "task"))
        yield "predictions", pixels(scatter_figure(outputs, truth, task, names, f"after session {session + 1}"))


def pixels(figure: Figure) -> np.ndarray:
    """A figure as (height, width, 3) bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def exit_code(error: BaseException | None) -> int:
    """What main.py exits with for what ended the loop."""
    if error is None:
        return 0
    return error.exit_code if isinstance(error, RunError) else 130 if isinstance(error, KeyboardInterrupt) else 1


def _reason(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError):
        return f"{error.name} is not installed (pip install {error.name})"
    return f"{type(error).__name__}: {error}" if not isinstance(error, RunError) else str(error)


def _say(message: str) -> None:
    print(message, file=sys.stderr)
