"""The folder of a run.

| file | content |
|---|---|
| config.yaml | the resolved configuration, each value with its origin; `--config` repeats the run |
| environment.json | command, versions, commit, hardware; for each resumption what was different |
| changes.diff | what the code differed in from that commit, if in anything |
| status.json | running, finished, stopped, interrupted or failed, why, and who said so |
| metrics.jsonl | one JSON object a line: the split, losses of epochs, figures of sessions, the summary |
| R_<metric>.csv | the task matrix |
| predictions/session-<t>.npz | outputs and truth of every evaluation sample, and what open-vocabulary methods chose |
| summary.json | the final figures and what the run cost |
| checkpoint.pt | everything `--resume` needs |
| wandb.json, wandb/ | id of the wandb run, and what it logged |
| tensorboard/ | event files of `--tensorboard` |
| log.txt | what the run printed, where a launcher started it |
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import platform
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.args import TURNED_ON
from utils.conf import n_cores
from utils.config import dump_config, read_yaml
from utils.errors import DataError, StorageError, UsageError
from utils.evaluate import Predictions
from utils.files import append_line, exclusive_lock, write_atomically, write_text
from utils.registry import ROOT
from utils.results import Results

TIME_FORMAT = "%Y-%m-%dT%H:%M:%S%z"
CODE_SUFFIXES = {".py", ".yaml", ".yml", ".toml", ".txt", ".sh", ".cfg"}
LARGEST_NEW_FILE = 200_000


class Run:
    """Writes into a run's folder.

    Args:
        path: the folder; it exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.n_records = 0

    @classmethod
    def create(cls, args: Namespace) -> Run:
        """Make the folder of a new run and store its configuration and environment.

        Raises:
            UsageError: `--run_dir` names a folder with a run in it.
            StorageError: the folder cannot be made.
        """
        if args.run_dir:
            path = Path(args.run_dir)
            if (path / "config.yaml").exists():
                raise UsageError(f"--run_dir {path} holds a run already; continue it with --resume, or name another")
        else:
            stamp = time.strftime("%Y%m%d-%H%M%S")
            folder = Path(args.base_path) / "runs" / args.dataset / args.model
            names = (
                f"{stamp}-seed{args.seed}-{os.getpid()}{suffix}" for suffix in ("", *(f"-{i}" for i in range(2, 999)))
            )
            path = next(folder / name for name in names if not (folder / name).exists())
        try:
            path.mkdir(parents=True, exist_ok=bool(args.run_dir))
        except OSError as error:
            raise StorageError(f"cannot make the run folder {path}: {error}") from error
        run = cls(path)
        write_text(path / "config.yaml", dump_config(args))
        write_text(path / "environment.json", _json(environment()))
        changes = uncommitted_changes()
        if changes:
            write_text(path / "changes.diff", changes)
        return run

    @classmethod
    def reopen(cls, path: str) -> Run:
        """The folder of a run that was stopped.

        Raises:
            UsageError: there is no run in it, or it has ended.
        """
        run = cls(Path(path))
        if not (run.path / "config.yaml").exists():
            raise UsageError(f"--resume {path}: no run there (no config.yaml)")
        if run.status().get("state") == "finished":
            raise UsageError(f"--resume {path}: this run has ended; its figures are in {run.path / 'summary.json'}")
        return run

    @property
    def has_checkpoint(self) -> bool:
        """Whether `--resume` would go on in the middle, not from the beginning."""
        return (self.path / "checkpoint.pt").exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from running in this folder."""
        with exclusive_lock(self.path / ".lock", f"another process is running in {self.path}"):
            for leftover in self.path.rglob(".*.part"):
                leftover.unlink()
            yield

    def note_resumption(self, args: Namespace, data: str | None = None) -> None:
        """Add to environment.json what is different now from where the run began.

        What was turned on is noted there, as `turned_on`, and in config.yaml, so that it stays on.

        Args:
            args: the run's configuration.
            data: digest of the data, if it is another one than the run began with.
        """
        known = read_json(self.path / "environment.json")
        differs = {name: value for name, value in environment().items() if known.get(name) != value}
        if data is not None:
            differs["data"] = data
        stored = read_yaml(self.path / "config.yaml")
        turned_on = [name for name in TURNED_ON if getattr(args, name, False) and not stored.get(name)]
        if turned_on:
            differs["turned_on"] = turned_on
        known["resumed"] = [*known.get("resumed", []), differs]
        write_text(self.path / "environment.json", _json(known))
        if turned_on:
            text = (self.path / "config.yaml").read_text(encoding="utf-8")
            kept = [line for line in text.splitlines() if line.partition(":")[0] not in turned_on]
            lines = [*kept, *(f"{name}: true  # turned on by --resume" for name in turned_on)]
            write_text(self.path / "config.yaml", "\n".join(lines) + "\n")

    def check_split(self, tasks: Sequence[dict[str, Any]]) -> None:
        """Make sure that the tasks have as many samples as when the run began: memories know samples by their place.

        Raises:
            DataError: one has not; it is named.
        """
        for then, now in zip(self.recorded_split()["tasks"], tasks, strict=True):
            for part in ("train", "test"):
                if then[part] != now[part]:
                    raise DataError(
                        f"{now['task']} has {now[part]} {part}ing samples, this run began with {then[part]}. Restore "
                        "the files that are missing, or start the run anew"
                    )

    def recorded_split(self) -> dict[str, Any]:
        """What was noted of the data when the run began: `data`, its digest, and `tasks`."""
        with (self.path / "metrics.jsonl").open(encoding="utf-8") as file:
            return next(record for record in map(json.loads, file) if record["event"] == "split")

    def record(self, **values: Any) -> None:
        """Append one object to metrics.jsonl. Values that do not repeat (times) do not belong there."""
        append_line(self.path / "metrics.jsonl", json.dumps(_plain(values)))
        self.n_records += 1

    def rewind_records(self, n_records: int) -> None:
        """Drop everything after the first `n_records` objects, which a checkpoint knows about."""
        path = self.path / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        if len(lines) < n_records:
            raise StorageError(f"{path} has {len(lines)} records, the checkpoint knows {n_records}; the file was cut")
        write_text(path, "".join(lines[:n_records]))
        self.n_records = n_records

    def write_session(self, results: Results, predictions: Sequence[Predictions]) -> None:
        """Store the task matrix so far and a session's predictions."""
        for name in results.matrices:
            text = io.StringIO()
            table = csv.writer(text, lineterminator="\n")
            table.writerow(["session", *results.dataset.names])
            for session, row in enumerate(results.matrices[name]):
                table.writerow([session, *("" if math.isnan(value) else repr(value) for value in row)])
            write_text(self.path / f"R_{name}.csv", text.getvalue())
        arrays: dict[str, Any] = {
            "outputs": np.concatenate([part.outputs for part in predictions]),
            "truth": np.concatenate([part.truth for part in predictions]),
            "task": np.concatenate([np.full(len(part.truth), part.task) for part in predictions]),
        }
        for name in predictions[0].chosen:
            arrays[name] = np.concatenate([part.chosen[name] for part in predictions])
        target = self.path / "predictions" / f"session-{results.dataset.current_task}.npz"
        write_atomically(target, lambda file: np.savez_compressed(file, **arrays))

    def write_summary(self, summary: dict[str, Any]) -> None:
        write_text(self.path / "summary.json", _json(summary))

    def set_status(self, state: str, message: str = "") -> None:
        """Store the state, why, and which process on which machine said so, when."""
        place = {"host": platform.node(), "process": os.getpid(), "time": time.strftime(TIME_FORMAT)}
        write_text(self.path / "status.json", _json({"state": state, "message": message, **place}))

    def status(self) -> dict[str, Any]:
        """Content of status.json; empty if there is none or a crash cut it."""
        return read_json(self.path / "status.json")


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file with an object in it; empty if there is none or a crash cut it."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def environment() -> dict[str, Any]:
    """What a run depends on besides its configuration and data."""
    found = distributions()
    versions = {name: part.version for part in found if (name := part.metadata["Name"])}
    return {
        "command": [sys.executable, *sys.argv],
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cores": n_cores(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "host": platform.node(),
        "slurm_job": os.environ.get("SLURM_JOB_ID", ""),
        "packages": dict(sorted(versions.items(), key=lambda item: item[0].lower())),
        "commit": _git("rev-parse", "HEAD").strip(),
        "uncommitted_changes": bool(_git("status", "--porcelain")),
        "started": time.strftime(TIME_FORMAT),
    }


def uncommitted_changes() -> str:
    """What the code differs in from the commit, as a patch for `git apply`: changes of tracked files, and untracked
    files of code (`CODE_SUFFIXES`, up to `LARGEST_NEW_FILE` bytes each)."""
    parts = [_git("diff", "HEAD", "--binary")]
    for name in _git("ls-files", "--others", "--exclude-standard", "-z").split("\0"):
        path = ROOT / name
        if path.suffix in CODE_SUFFIXES and path.is_file() and path.stat().st_size <= LARGEST_NEW_FILE:
            parts.append(_git("diff", "--no-index", "--", os.devnull, name, accept=(0, 1)))
    return "".join(parts)


def _git(*words: str, accept: Sequence[int] = (0,)) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode in accept else ""


def _plain(value: Any) -> Any:
    """Values that JSON has: NaN, which it has not, becomes null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | range):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        return _plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _json(value: Any) -> str:
    return json.dumps(_plain(value), indent=1) + "\n"
